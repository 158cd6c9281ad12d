"""The docs are true: what is generated is current, links lead somewhere, and what there is is mentioned."""

from __future__ import annotations

import inspect
import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controlplane import http
from controlplane.capacity import service as capacity
from controlplane.config import Configuration
from controlplane.embedded import plan
from controlplane.environments import core as environments_core
from controlplane.environments import service as environments
from controlplane.gateway import cluster
from controlplane.gateway.ray_jobs import mapping, states
from controlplane.monitoring import answers, door, writer
from controlplane.scheduling import explain
from controlplane.scheduling import service as scheduling
from controlplane.submission import service as submission
from events import messages, streams, subjects

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(DOCS.rglob("*.md")),
    *sorted((ROOT / "examples").glob("*.md")),
    *sorted((ROOT / "examples" / "submit").glob("*.md")),
]
CONTRACT = (DOCS / "concepts" / "contract.md").read_text()
OPERATING = (DOCS / "operating.md").read_text()
STATUS: tuple[Callable[..., Any], ...] = (
    submission.Door.on_asked_status,
    environments.Service.__init__,
    environments.Service._status,
    environments_core.Core.count,
    scheduling.Instance.status,
    explain.counters,
    answers._Answers.status,
    writer.Writer.__init__,
    door.Door.__init__,
    capacity.serve,
    cluster.statuses,
    http.Bounded.__init__,
)
"""The code that makes up what `hr.v1.ask.<service>.status` and the gateway answer."""
NO_COUNTERS = {"node", "reason", "answers", "version", "bus", "services", "gateway"}
NO_LETTERS = re.compile(r"[^\w\- ]")


def test_diagram_of_states_is_current() -> None:
    page = DOCS / "concepts" / "road.md"
    generate = runpy.run_path(str(ROOT / "scripts" / "diagram.py"))["page"]
    assert page.read_text() == generate(page.read_text()), "run python scripts/diagram.py"


def test_every_setting_is_documented() -> None:
    missing = [field.name for field in msgspec.structs.fields(Configuration) if f"`{field.name}`" not in OPERATING]
    assert missing == []


# -- the contract ------------------------------------------------------------------------------------------------------


def test_every_message_is_in_the_contract() -> None:
    bases = {messages.Request, messages.Fact, messages.QueueSettings}
    kinds = [kind for _, kind in inspect.getmembers(messages, inspect.isclass) if issubclass(kind, msgspec.Struct)]
    tags = [kind.__struct_config__.tag for kind in kinds if kind not in bases]
    assert len([tag for tag in tags if tag]) > 30
    assert [tag for tag in tags if tag and f"`{tag}`" not in CONTRACT] == []


def test_every_subject_is_in_the_contract() -> None:
    page = re.sub(r"<[^>]+>", "*", CONTRACT)
    assert [pattern for pattern in _patterns() if f"`{pattern}`" not in page] == []


def test_every_stream_is_in_the_contract_with_its_limits() -> None:
    ages = {0.0: "good", 7 * streams.DAY_S: "7 days", 30 * streams.DAY_S: "30 days"}
    full = {"new": "refuses new messages", "old": "forgets the oldest"}
    for stream in (*streams.SHARED, streams.requests("TEAM")):
        row = next(
            line for line in CONTRACT.splitlines() if line.startswith(f"| `{stream.name.replace('TEAM', '<team>')}`")
        )
        cells = [cell.strip() for cell in row.strip("| ").split("|")]
        kept = "until handled" if stream.retention == "workqueue" else ages[stream.age_s_max]
        safe = "in memory" if stream.asynchronous else "on disk"
        assert cells[1:] == [_size(stream.bytes_max), kept, _size(stream.message_bytes_max), full[stream.on_full], safe]


def test_every_question_is_in_the_contract() -> None:
    asked = re.compile(r'subjects\.ask\("(\w+)", "(\w+)"')
    sources = [path.read_text() for path in (ROOT / "controlplane").rglob("*.py")]
    questions = {f"{service}.{question}" for text in sources for service, question in asked.findall(text)}
    assert questions
    assert {question for question in questions if question not in CONTRACT} == set()


def _patterns() -> Iterator[str]:
    """Each kind of subject, with `*` for every name in it."""
    others = {"encode", "decode", "tokens", "ask", "dead", "undead", "may_come_in", "requests_of"}
    for called, spell in inspect.getmembers(subjects, inspect.isfunction):
        if called not in others and not called.startswith("_"):
            names = ["name"] * len(inspect.signature(spell).parameters)
            yield spell(*names).replace(".name", ".*")
    yield from (subjects.TERM, subjects.EXCHANGES, subjects.ASK_SUBMIT, subjects.ASK_CONTROL)
    yield subjects.dead("*")
    yield f"{subjects.ROOT}.ask.*.*"


def _size(count: int) -> str:
    return f"{count // 1024**3} GiB" if count >= 1024**3 else _small(count)


def _small(count: int) -> str:
    return f"{count // 1024**2} MiB" if count >= 1024**2 else f"{count // 1024} KiB"


def test_the_table_of_rays_fields_is_the_codes_own() -> None:
    page = (DOCS / "ray-jobs.md").read_text()
    rows = [f"| `{row.field}` |{f' `{row.ours}`' if row.ours else ''} | {row.note} |" for row in mapping.TABLE]
    assert [line for line in page.splitlines() if re.match(r"\| `[a-z]", line)] == rows
    ends = [f"| {state.value} | {status} |" for state, status in states.STATUS.items()]
    assert [line for line in page.splitlines() if re.match(r"\| [a-z]+ \| [A-Z]+ \|", line)] == ends


# -- operating ---------------------------------------------------------------------------------------------------------


def test_every_process_of_the_embedded_stack_is_explained() -> None:
    assert [name for name in plan.SERVICES if name not in OPERATING] == []


@pytest.mark.parametrize("source", STATUS, ids=lambda source: f"{source.__module__}.{source.__qualname__}")
def test_every_counter_of_a_status_is_explained(source: Callable[..., Any]) -> None:
    explained = OPERATING.partition("## Counters")[2]
    code = inspect.getsource(source)
    lists = re.findall(r"for name in \(([^)]*)\)", code)
    counters = set(re.findall(r'"([a-z_]+)":', code)) | set(re.findall(r'"([a-z_]+)"', " ".join(lists)))
    assert counters
    assert {name for name in counters - NO_COUNTERS if f"`{name}`" not in explained} == set()


# -- all pages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert [link for link in _links(page.read_text()) if not _is_there(page, link)] == []


def test_every_page_is_in_the_index() -> None:
    index, decisions = DOCS / "README.md", DOCS / "decisions" / "README.md"
    listed = {(start.parent / link).resolve() for start in (index, decisions) for link in _links(start.read_text())}
    assert [page for page in DOCS.rglob("*.md") if page not in {index, *listed}] == []


def _links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def _is_there(page: Path, link: str) -> bool:
    if re.match(r"[a-z]+:", link):
        return True
    file, _, anchor = link.partition("#")
    target = (page.parent / file).resolve() if file else page
    return target.exists() and (not anchor or anchor in _anchors(target.read_text()))


def _anchors(text: str) -> set[str]:
    titles: list[Any] = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {NO_LETTERS.sub("", title).strip().lower().replace(" ", "-") for title in titles}
