"""A node can say much that is not so, but nothing that a leader could not bear."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.config import Configuration
from controlplane.scheduling import reports
from controlplane.scheduling.service import build
from events import messages as m
from events import subjects
from events.ledger import Entry

NOW = 1_000_000.0
REF = m.AttemptRef(team="vision", job="j-1", attempt=1)
CAPACITY = m.Capacity(cpus=8, memory_bytes=2**33, gpus=2)
EXCHANGE = m.Exchange(node="n1", boot="b", runner="r", capacity=CAPACITY)
END = m.AttemptEnd(cause="exited", ended_at=1.0, exit_code=0)


def ended(**changes: Any) -> m.Exchange:
    live = m.LiveAttempt(ref=REF, state="ended", end=msgspec.structs.replace(END, **changes))
    return msgspec.structs.replace(EXCHANGE, attempts=(live,))


def ready(*, address: str = "n1", port: int = 20_000) -> m.Exchange:
    live = m.LiveAttempt(ref=REF, state="ready", meeting=m.Meeting(address=address, port=port))
    return msgspec.structs.replace(EXCHANGE, attempts=(live,))


def has(**changes: Any) -> m.Exchange:
    return msgspec.structs.replace(EXCHANGE, capacity=msgspec.structs.replace(CAPACITY, **changes))


@pytest.mark.parametrize(
    ("exchange", "path"),
    [
        (has(cpus=1e308), "$.capacity.cpus"),
        (has(cpus=-1.0), "$.capacity.cpus"),
        (has(memory_bytes=2**70), "$.capacity.memory_bytes"),
        (has(gpus=10**12), "$.capacity.gpus"),
        (has(gpus=-1), "$.capacity.gpus"),
        (has(cannot_start="x" * 300), "$.capacity.cannot_start"),
        (has(labels={str(n): "" for n in range(300)}), "$.capacity.labels"),
        (ended(ended_at=1e300), "$.attempts[0].end.ended_at"),
        (ended(exit_code=10**30), "$.attempts[0].end.exit_code"),
        (ended(message="x" * 20_000), "$.attempts[0].end.message"),
        (ended(output_bytes={"stdout": -1}), "$.attempts[0].end.output_bytes"),
        (ended(usage=m.Usage(memory_bytes_max=2**70)), "$.attempts[0].end.usage.memory_bytes_max"),
        (ended(exited_at=1e300), "$.attempts[0].end.exited_at"),
        (ended(last_lines=("x",) * 100), "$.attempts[0].end.last_lines"),
        (ended(last_lines=("x" * 5000,)), "$.attempts[0].end.last_lines"),
        (ready(port=70_000), "$.attempts[0].meeting.port"),
        (ready(address="x" * 300), "$.attempts[0].meeting.address"),
        (msgspec.structs.replace(EXCHANGE, boot="x" * 300), "$.boot"),
    ],
)
def test_what_cannot_be_is_refused_with_its_path(exchange: m.Exchange, path: str) -> None:
    assert reports.problem(exchange).startswith(f"{path}: ")


def test_what_a_node_says_every_day_is_taken() -> None:
    assert reports.problem(EXCHANGE) == ""
    assert reports.problem(ready()) == ""
    assert reports.problem(ended(exit_code=-9, message="out of memory")) == ""


NUMBERS = st.one_of(st.integers(), st.integers(-2, 2), st.sampled_from([2**31, 2**53, 2**63, 2**64, 10**30]))
FLOATS = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.floats(0, 1e6))
SPELLED = st.text(max_size=5)
ENDS = st.builds(
    m.AttemptEnd,
    cause=st.sampled_from(m.EndCause.__args__),
    ended_at=FLOATS,
    started_at=st.none() | FLOATS,
    exit_code=st.none() | NUMBERS,
    signal=st.none() | NUMBERS,
    message=SPELLED,
    usage=st.builds(m.Usage, cpu_s=FLOATS, memory_bytes_max=NUMBERS),
    output_bytes=st.dictionaries(SPELLED, NUMBERS, max_size=3),
)
ATTEMPTS = st.builds(
    m.LiveAttempt,
    ref=st.builds(m.AttemptRef, team=st.just("vision") | SPELLED, job=st.just("j-1") | SPELLED, attempt=NUMBERS),
    state=st.sampled_from(["starting", "ready", "running", "ended"]),
    meeting=st.none() | st.builds(m.Meeting, address=SPELLED, port=NUMBERS),
    started_at=st.none() | FLOATS,
    end=st.none() | ENDS,
)
CAPACITIES = st.builds(
    m.Capacity,
    cpus=FLOATS,
    memory_bytes=NUMBERS,
    gpus=NUMBERS,
    gpu_model=SPELLED,
    pythons=st.lists(SPELLED, max_size=3).map(tuple),
    platform=SPELLED,
    labels=st.dictionaries(SPELLED, SPELLED, max_size=3),
)
EXCHANGES = st.builds(
    m.Exchange,
    node=st.just("n1"),
    boot=SPELLED,
    runner=SPELLED,
    capacity=CAPACITIES,
    attempts=st.lists(ATTEMPTS, max_size=4).map(tuple),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(EXCHANGES, min_size=1, max_size=3))
def test_whatever_a_node_says_the_leader_goes_on_and_its_snapshot_can_be_kept(said: list[m.Exchange]) -> None:
    core = build(Configuration())
    core.apply(Entry(1, subjects.TERM, m.Led(leader="me"), NOW, ""), NOW)
    core.begin_term(NOW)
    sequence, now = 1, NOW
    for exchange in said:
        now += 30
        if reports.problem(exchange):
            continue
        core.hear(exchange, now)
        for decision in core.decide(now).decisions:
            sequence += 1
            fact = msgspec.json.decode(msgspec.json.encode(decision.fact), type=m.AnyFact)
            core.apply(Entry(sequence, decision.subject, fact, now, ""), now)
        core.check()
        msgspec.json.encode(core.desired("n1", now))
        msgspec.json.encode(core.nodes_view())
    build(Configuration()).restore(core.snapshot())
