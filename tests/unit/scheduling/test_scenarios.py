"""The scheduler follows its scenarios: scripts with recorded traces in tests/scenarios."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scripts import replay

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").glob("*.txt"))


def test_there_are_scenarios() -> None:
    assert SCENARIOS


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_a_scenario_leaves_the_recorded_trace(file: Path, request: pytest.FixtureRequest) -> None:
    recorded = file.read_text()
    replayed = replay(recorded)
    if request.config.getoption("--rewrite"):
        file.write_text(replayed)
    else:
        assert replayed == recorded
