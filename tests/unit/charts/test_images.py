"""The images cannot be built without a registry; what can be said of them without one is held here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.support.charts import ROOT

FILES = sorted((ROOT / "charts" / "images").glob("*.Dockerfile"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def lines(request: pytest.FixtureRequest) -> list[str]:
    """Instructions, each in one line."""
    path: Path = request.param
    text = re.sub(r"\\\n", " ", "\n".join(x for x in path.read_text().splitlines() if not x.startswith("#")))
    return [line for line in text.splitlines() if line]


def test_there_is_one_for_the_services_and_one_for_the_nodes() -> None:
    assert [path.stem for path in FILES] == ["control-plane", "node"]


def test_the_base_is_given_by_whoever_builds(lines: list[str]) -> None:
    assert lines[0] == "ARG PYTHON"
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert bases == ["${PYTHON}", "${PYTHON}"]


def test_what_is_copied_is_here(lines: list[str]) -> None:
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    names = [name for each in copied for name in each]
    assert [name for name in names if not (ROOT / name).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(names)
    assert {project["project"]["readme"], "pyproject.toml", "constraints.txt"} <= set(names)


def test_they_do_not_run_as_root_but_as_the_user_of_the_chart(lines: list[str]) -> None:
    last = max(at for at, line in enumerate(lines) if line.startswith("FROM "))
    assert [line for line in lines[last:] if line.startswith("USER")] == ["USER 10001:10001"]
    assert any("useradd --uid 10001" in line for line in lines[last:])


def test_the_last_stage_has_the_environment_and_no_source(lines: list[str]) -> None:
    last = max(at for at, line in enumerate(lines) if line.startswith("FROM "))
    copied = [line for line in lines[last:] if line.startswith("COPY")]
    assert copied == ["COPY --from=build /opt/headrace /opt/headrace"]
