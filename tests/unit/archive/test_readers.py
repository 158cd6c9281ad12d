"""What readers of the ledger make of `archived`: the same, whatever they heard of the job before."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.gateway.projection import Projection
from controlplane.scheduling.core import Core
from controlplane.scheduling.snapshots import described
from events import messages as m
from events import subjects
from events.ledger import Entry
from tests.support.archiving import TEAM, a_life, a_specification, an_id
from tests.support.worlds import SETTINGS

NODE = "n1"


class Line(NamedTuple):
    """What the ledger holds now, and what it has ever held."""

    now: list[Entry]
    ever: list[Entry]


def a_ledger(order: list[int], archived: list[int]) -> Line:
    """Six jobs whose facts come in some order (a job's own in theirs); some that are over are archived at the end."""
    lives: list[list[m.JobFact]] = [
        *(a_life(number, outcome="succeeded" if number % 2 else "failed") for number in range(3)),
        [m.Accepted(specification=a_specification(3)), m.CancelRequested(by="ada")],
        [m.Accepted(specification=a_specification(4))],
        [m.Rejected(user="ada", problems=())],
    ]
    joined = m.NodeJoined(boot="b", capacity=m.Capacity(cpus=64.0, memory_bytes=2**40))
    ever = [Entry(1, subjects.node(NODE), joined, 1.0, "")]

    def write(job: int, fact: m.Fact) -> None:
        ever.append(Entry(len(ever) + 1, subjects.job(TEAM, an_id(job)), fact, float(len(ever) + 1), ""))

    for job in order:
        if lives[job]:
            write(job, lives[job].pop(0))
    for job, rest in enumerate(lives):
        for fact in rest:
            write(job, fact)
    last = len(ever)
    for job in archived:
        state = ("failed", "succeeded", "failed", "cancelled", "", "rejected")[job]
        if state:
            write(job, m.Archived(state=state, attempt=1 if job < 3 else 0))  # type: ignore[arg-type]
    gone = {each.subject for each in ever[last:]}
    return Line([each for each in ever if each.subject not in gone or each.sequence > last], ever)


LEDGERS = st.builds(a_ledger, st.lists(st.integers(0, 5), max_size=20), st.lists(st.integers(0, 5), unique=True))


def schedule(entries: list[Entry], core: Core | None = None) -> Core:
    core = core or Core(SETTINGS)
    for each in entries:
        core.apply(each, each.at)
        core.check()
    return core


def project(entries: list[Entry], projection: Projection | None = None) -> Projection:
    projection = projection or Projection()
    for each in entries:
        projection.apply(each)
    return projection


@settings(max_examples=150)
@given(LEDGERS, st.integers(0, 30))
def test_a_scheduler_with_a_snapshot_of_whatever_moment_ends_where_a_replay_of_what_is_left_ends(
    ledger: Line, moment: int
) -> None:
    replayed = described(schedule(ledger.now).snapshot())
    assert described(schedule(ledger.ever).snapshot()) == replayed
    restored = Core(SETTINGS)
    restored.restore(schedule(ledger.ever[:moment]).snapshot())
    rest = [each for each in ledger.now if each.sequence > moment]
    assert described(schedule(rest, restored).snapshot()) == replayed
    assert restored.counters()["forbidden"] == 0


@settings(max_examples=150)
@given(LEDGERS, st.integers(0, 30))
def test_a_gateway_with_a_snapshot_of_whatever_moment_ends_where_a_replay_of_what_is_left_ends(
    ledger: Line, moment: int
) -> None:
    replayed = project(ledger.now)
    restored = Projection.restore(project(ledger.ever[:moment]).snapshot())
    project([each for each in ledger.now if each.sequence > moment], restored)
    for other in (project(ledger.ever), restored):
        assert other.snapshot() == replayed.snapshot()
        assert other._ended.keys() == replayed._ended.keys()
        assert other.outcomes["forbidden"] == 0


def test_an_archived_job_holds_nothing_and_is_not_known_any_more() -> None:
    core = schedule(a_ledger([], [0, 1, 2, 3, 5]).ever)
    assert (core.counters()["jobs"], core.counters()["ended"]) == (1, 0)
    [node] = core.nodes_view().nodes
    assert (node.attempts, node.free.cpus) == ((), 64)


def test_who_follows_a_job_that_is_archived_unseen_hears_its_end() -> None:
    facts = a_life(1)[:3]
    projection = Projection()
    subject = subjects.job(TEAM, an_id(1))
    for number, fact in enumerate(facts, start=1):
        projection.apply(Entry(number, subject, fact, float(number), ""))
    record = projection.job(TEAM, an_id(1))
    assert record is not None
    with projection.watch(record) as changed:
        projection.apply(Entry(9, subject, m.Archived(state="succeeded", attempt=1), 9.0, ""))
        assert changed.is_set()
    assert (record.is_over, record.life.state.value, projection.version(record)) == (True, "succeeded", 9)
    assert projection.job(TEAM, an_id(1)) is None
