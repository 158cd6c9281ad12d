"""The scheduler as a service on a real NATS server, with nodes that are simulated and everything else real."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from controlplane.scheduling.decisions import Decision
from controlplane.scheduling.leader import Deposed, Term
from events import messages as m
from events import subjects
from events.bus import AskRefused, Bus, Conflict, NoAnswer
from events.ledger import Write
from tests.support.nats import NatsServer
from tests.support.stage import Stage, a_stage
from tests.support.worlds import TEAM, a_capacity, a_job


@pytest.fixture
async def stage(nats: NatsServer, bus: Bus, tmp_path: Path) -> AsyncIterator[Stage]:
    async with a_stage(nats, bus, tmp_path) as stage:
        yield stage


async def test_jobs_are_placed_started_and_finished(stage: Stage) -> None:
    await stage.scheduler()
    stage.node(duration_s=0.3)
    await stage.submit(*(a_job(f"j{number}", tier="gpu1") for number in range(12)))
    await stage.until(lambda: all(stage.has(m.Finished, f"j{number}") for number in range(12)))
    for number in range(12):
        assert stage.kinds(f"j{number}") == ["accepted", "placed", "started", "finished"]
    finished = stage.of("j0")[-1]
    assert isinstance(finished, m.Finished)
    assert finished.outcome == "succeeded"


async def test_questions_are_answered_by_the_leader(stage: Stage) -> None:
    await stage.scheduler()
    stage.node()
    await stage.submit(a_job("big", tier="gpu8"), a_job("held"))
    await stage.until(lambda: stage.has(m.Finished, "big"))
    await stage.submit(a_job("j1", tier="gpu8", queue="other"))
    question = msgspec.json.encode(m.AskJob(team=TEAM, job="big"))
    why = msgspec.json.decode(await stage.bus.ask(subjects.ask("scheduling", "why"), question), type=m.Why)
    assert why.state == "succeeded"
    nodes = msgspec.json.decode(await stage.bus.ask(subjects.ask("scheduling", "nodes")), type=m.NodesView)
    assert [node.node for node in nodes.nodes] == ["n1"]
    status = msgspec.json.decode(await stage.bus.ask(subjects.ask("scheduling", "status")))
    assert status["role"] == "leader"
    assert status["forbidden"] == 0
    with pytest.raises(AskRefused, match="no job nobody"):
        await stage.bus.ask(subjects.ask("scheduling", "why"), msgspec.json.encode(m.AskJob(team=TEAM, job="nobody")))


async def test_malformed_exchanges_and_those_in_a_foreign_name_are_refused(stage: Stage) -> None:
    await stage.scheduler()
    await stage.until(lambda: len(stage.terms()) == 1)
    exchange = m.Exchange(node="n1", boot="b", runner="r", capacity=a_capacity())
    stage.node()
    await stage.until(lambda: any(isinstance(entry.fact, m.NodeJoined) for entry in stage.facts))
    with pytest.raises(AskRefused, match="not an exchange"):
        await stage.bus.ask(subjects.exchange("n1"), b"{")
    with pytest.raises(AskRefused, match="may not speak for"):
        await stage.bus.ask(subjects.exchange("n2"), msgspec.json.encode(exchange))


async def test_a_standby_takes_over_and_no_attempt_is_started_twice(stage: Stage) -> None:
    first = await stage.scheduler("s1")
    await stage.until(lambda: len(stage.terms()) == 1)
    await stage.scheduler("s2")
    stage.node(duration_s=1.5)
    await stage.submit(*(a_job(f"j{number}", tier="gpu1") for number in range(4)))
    await stage.until(lambda: all(stage.has(m.Started, f"j{number}") for number in range(4)))
    first.cancel()
    await stage.submit(a_job("late", tier="gpu1"))
    await stage.until(lambda: all(stage.has(m.Finished, job) for job in ("j0", "j1", "j2", "j3", "late")))
    assert [entry.fact.leader for entry in stage.terms() if isinstance(entry.fact, m.Led)] == ["s1", "s2"]
    for number in range(4):
        assert stage.kinds(f"j{number}") == ["accepted", "placed", "started", "finished"]


async def test_a_round_of_a_deposed_leader_is_refused_whole(stage: Stage) -> None:
    old = await Term.take(stage.ledger, leader="old", seen=0, lease_s=1)
    assert old is not None
    await old.commit([], seen=old.number)
    assert await Term.take(stage.ledger, leader="blind", seen=old.number, lease_s=1) is None
    new = await Term.take(stage.ledger, leader="new", seen=10, lease_s=1)
    assert new is not None
    fact = m.NodeJoined(boot="b", capacity=a_capacity())
    seen = old.number + 1
    with pytest.raises(Deposed):
        await old.commit([Decision(subjects.node("n1"), fact, 0), Decision(subjects.node("n2"), fact, 0)], seen=seen)
    old.renew_at = float("inf")
    with pytest.raises(Deposed):
        await old.commit([Decision(subjects.node("n1"), fact, 0)], seen=seen)
    assert await new.commit([Decision(subjects.node("n3"), fact, 0)], seen=new.number) > new.number
    assert await stage.ledger.last(subjects.node("n1")) is None
    assert await stage.ledger.last(subjects.node("n2")) is None


async def test_a_round_of_one_fact_goes_alone_when_nothing_was_written_since(stage: Stage) -> None:
    term = await Term.take(stage.ledger, leader="s1", seen=0, lease_s=60)
    assert term is not None
    first, second = (Decision(subjects.node(name), m.NodeJoined(boot="b", capacity=a_capacity()), 0) for name in "ab")
    renewed = await term.commit([], seen=term.number)
    assert await term.commit([first], seen=renewed) == renewed + 1
    other = await stage.ledger.append(Write(subjects.job(TEAM, "j1"), m.Accepted(specification=a_job()), 0))
    assert await term.commit([second], seen=renewed + 1) == other + 2  # with a renewal: its leader had not seen the job


async def test_a_round_that_a_cancel_overtook_is_refused_whole_and_the_term_goes_on(stage: Stage) -> None:
    term = await Term.take(stage.ledger, leader="s1", seen=0, lease_s=1)
    assert term is not None
    subject = subjects.job(TEAM, "j1")
    accepted = await stage.ledger.append(Write(subject, m.Accepted(specification=a_job()), 0))
    cancelled = await stage.ledger.append(Write(subject, m.CancelRequested(by="ada"), accepted))
    placed = m.Placed(term=term.number, attempt=1, allocations=(m.Allocation(node="n1", cpus=1, memory_bytes=1),))
    joined = m.NodeJoined(boot="b", capacity=a_capacity())
    with pytest.raises(Conflict):
        await term.commit(
            [Decision(subjects.node("n1"), joined, 0), Decision(subject, placed, accepted)], seen=accepted
        )
    await term.commit([], seen=cancelled)
    with pytest.raises(Conflict):
        await term.commit([Decision(subject, placed, accepted)], seen=accepted)
    assert await stage.ledger.last(subjects.node("n1")) is None
    assert (await stage.ledger.last(subject)).sequence == cancelled  # type: ignore[union-attr]
    assert await term.commit([Decision(subjects.node("n1"), joined, 0)], seen=cancelled) > cancelled


async def test_a_leader_that_slept_through_its_term_stands_by(stage: Stage) -> None:
    await stage.scheduler("s1")
    await stage.until(lambda: len(stage.terms()) == 1)
    rival = await Term.take(stage.ledger, leader="rival", seen=10**9, lease_s=1)
    assert rival is not None
    await stage.until(lambda: len(stage.terms()) == 3)  # s1 is deposed, sees the rival idle, and leads again
    assert [entry.fact.leader for entry in stage.terms() if isinstance(entry.fact, m.Led)] == ["s1", "rival", "s1"]


async def test_a_lost_node_gives_its_jobs_back_and_they_run_elsewhere(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controlplane.scheduling.service.CLOCK_MARGIN_S", 0.1)
    await stage.scheduler()
    dying = stage.node("n1", duration_s=60)
    await stage.submit(a_job(tier="gpu8", grace_s=0.1))
    await stage.until(lambda: stage.has(m.Started, "j1"))
    dying.cancel()
    stage.node("n2", duration_s=0.1)
    await stage.until(lambda: stage.has(m.Finished, "j1"))
    assert stage.kinds("j1") == ["accepted", "placed", "started", "lost", "placed", "started", "finished"]


async def test_a_conflict_makes_the_leader_decide_again(stage: Stage) -> None:
    await stage.scheduler()
    stage.node(duration_s=0.2)
    for number in range(20):
        await stage.submit(a_job(f"j{number}"))
        accepted = await stage.ledger.last(subjects.job(TEAM, f"j{number}"))
        assert accepted is not None
        entry = await stage.ledger.last(accepted.subject)
        assert entry is not None
        with suppress(Conflict):  # the leader was faster: also right
            await stage.ledger.append(Write(entry.subject, m.CancelRequested(by="ada"), entry.sequence))
    await stage.until(lambda: all(stage.kinds(f"j{n}")[-1] in ("finished", "cancel_requested") for n in range(20)))
    status = msgspec.json.decode(await stage.bus.ask(subjects.ask("scheduling", "status")))
    assert status["forbidden"] == 0


async def test_it_goes_on_after_the_server_was_killed(stage: Stage) -> None:
    await stage.scheduler()
    stage.node(duration_s=0.2)
    await stage.submit(a_job("a"))
    await stage.until(lambda: stage.has(m.Finished, "a"))
    await asyncio.to_thread(stage.nats.restart)
    await stage.submit(a_job("b"))
    await stage.until(lambda: stage.has(m.Finished, "b"))


async def test_it_restarts_from_its_snapshot(stage: Stage) -> None:
    first = await stage.scheduler("s1")
    stage.node(duration_s=0.0)
    await stage.submit(*(a_job(f"j{number}") for number in range(5)))
    await stage.until(lambda: all(stage.has(m.Finished, f"j{number}") for number in range(5)))
    first.cancel()
    await asyncio.wait([first])
    assert len(await stage.blobs.names("snapshots/scheduling")) == 1
    await stage.scheduler("s2")
    await stage.submit(a_job("more"))
    await stage.until(lambda: stage.has(m.Finished, "more"))


async def test_nobody_answers_for_a_leader_that_is_not_there(stage: Stage) -> None:
    with pytest.raises(NoAnswer):
        await stage.bus.ask(subjects.ask("scheduling", "nodes"))


def a_process(stage: Stage, folder: Path) -> subprocess.Popen[bytes]:
    """A scheduler in a process of its own, as it is deployed."""
    settings = {
        "nats_url": stage.nats.url,
        "nats_user": stage.nats.user,
        "nats_password": stage.nats.password,
        "leader_lease_s": "0.6",
        "heartbeat_s": "0.2",
    }
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "controlplane", "scheduling", "--state", str(folder), *flags]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def test_a_killed_leader_is_followed_and_every_attempt_runs_once(stage: Stage, tmp_path: Path) -> None:
    processes = [a_process(stage, tmp_path)]
    try:
        await stage.until(lambda: len(stage.terms()) == 1)
        processes.append(a_process(stage, tmp_path))
        stage.node(duration_s=2.0)
        await stage.submit(*(a_job(f"j{number}", tier="gpu1") for number in range(8)))
        await stage.until(lambda: stage.has(m.Placed, "j7"))
        processes[0].kill()
        await stage.submit(a_job("late"))
        await stage.until(lambda: all(stage.has(m.Finished, job) for job in (*(f"j{n}" for n in range(8)), "late")))
        assert len(stage.terms()) == 2
        for number in range(8):  # a job that started and ended while nobody led is only known to have finished
            kinds = [kind for kind in stage.kinds(f"j{number}") if kind != "started"]
            assert kinds == ["accepted", "placed", "finished"]
    finally:
        for process in processes:
            process.kill()
            process.wait()
