"""The operators' door on real NATS: changes of queues and teams in, facts and answers out, and what goes by them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controlplane.frame import Tools
from controlplane.submission.following import Following
from controlplane.submission.service import serve
from events import messages as m
from events import streams, subjects
from events.bus import Asked, AskRefused, Bus, Delivery, Outgoing
from events.ledger import Ledger, Write
from tests.support.malformed_changes import MALFORMED_CHANGES
from tests.support.nats import NatsServer
from tests.support.serving import serving
from tests.support.submitting import CONFIG

WAIT_S = 20.0
DEFAULT = m.QueueSet(by="configuration")


@pytest.fixture
async def door(nats: NatsServer, tmp_path: Path) -> AsyncIterator[Tools]:
    async with serving(serve, nats, CONFIG, blobs=tmp_path / "blobs") as tools:
        yield tools


@pytest.fixture
async def bus(door: Tools, nats: NatsServer) -> AsyncIterator[Bus]:
    bus = await Bus.connect(nats.url, user=nats.user, password=nats.password, name="client")
    yield bus
    await bus.drain()


def said(body: bytes) -> m.Answer:
    return msgspec.json.decode(body, type=m.Answer)


async def ask(bus: Bus, kind: str, queue: str = "night", *, team: str = "vision", **fields: Any) -> m.Answer:
    names = ("team", team) if kind == "set_team" else ("queue", team, queue)
    subject = subjects.ask("submission", "configure", "ops", *names)
    return said(await bus.ask(subject, json.dumps({"type": kind} | fields).encode(), timeout_s=WAIT_S))


async def submit(bus: Bus, queue: str, **fields: Any) -> m.Answer:
    body = json.dumps({"entrypoint": ["true"], "queue": queue} | fields).encode()
    return said(await bus.ask(subjects.ask("submission", "submit", "vision", "ada"), body, timeout_s=WAIT_S))


async def newest(bus: Bus, subject: str) -> m.Fact:
    entry = await Ledger(bus, source="test").last(subject)
    assert entry is not None
    return entry.fact


async def test_a_change_is_answered_once_it_is_in_the_ledger_and_the_next_submit_goes_by_it(bus: Bus) -> None:
    answer = await ask(bus, "set_queue", draining=True)
    assert (answer.verdict, answer.settings) == ("applied", m.QueueSet(by="ops", draining=True))
    entry = await Ledger(bus, source="test").last(subjects.queue("vision", "night"))
    assert entry is not None
    assert (entry.sequence, entry.fact) == (answer.sequence, answer.settings)
    assert (await submit(bus, "night")).problems[0].path == "$.queue"
    assert (await submit(bus, "default")).verdict == "accepted"


async def test_a_queue_is_created_used_drained_and_deleted(bus: Bus) -> None:
    await serve_jobs(bus, waiting=1)
    assert (await ask(bus, "create_queue", "big", weight=3, priority_default=5)).verdict == "applied"
    job = await submit(bus, "big")
    fact = await newest(bus, subjects.job("vision", job.job))
    assert isinstance(fact, m.Accepted)
    assert fact.specification.priority == 5
    busy = await ask(bus, "delete_queue", "big")
    assert busy.verdict == "refused"
    assert "1 job waits" in busy.problems[0].message
    await serve_jobs(bus, waiting=0)
    assert (await ask(bus, "delete_queue", "big")).verdict == "applied"
    assert (await submit(bus, "big")).verdict == "rejected"
    assert (await ask(bus, "delete_queue", "big")).verdict == "repeated"


async def serve_jobs(bus: Bus, *, waiting: int) -> None:
    """Be the scheduler, for whoever asks what queue `big` holds."""
    view = m.QueuesView(queues=(m.QueueView(team="vision", queue="big", waiting=waiting),))
    await serve_question(bus, "queues", view)


async def serve_question(bus: Bus, question: str, view: object) -> None:
    async def answer(_: Asked) -> bytes:
        return msgspec.json.encode(view)

    for subscription in SERVED.pop(bus, []):
        await subscription.close()
    SERVED[bus] = [await bus.answer(subjects.ask("scheduling", question), answer)]
    await bus.last_sequence(streams.LEDGER.name)  # the subscription is known to the server once this is answered


SERVED: dict[Bus, list[Any]] = {}
STATES: tuple[tuple[str, Any], ...] = (("n1", "ready"), ("n2", "gone"))


async def test_without_a_scheduler_nobody_can_tell_whether_a_queue_has_jobs_so_it_is_not_deleted(bus: Bus) -> None:
    with pytest.raises(AskRefused) as refused:
        await ask(bus, "delete_queue")
    assert refused.value.refusal.status == 503
    assert await newest(bus, subjects.queue("vision", "night")) == DEFAULT


async def test_a_change_on_the_stream_is_answered_where_the_client_wants(bus: Bus) -> None:
    heard: asyncio.Queue[m.Answer] = asyncio.Queue()

    async def hear(delivery: Delivery) -> None:
        heard.put_nowait(said(delivery.body))

    await bus.listen(subjects.answer("vision", "ops", "t1"), hear)
    await bus.last_sequence(streams.LEDGER.name)
    body = b'{"type": "set_team", "weight": 3, "gpus_max": 8}'
    await bus.publish(Outgoing(subjects.configure_team("ops", "vision"), body, {"hr-answer": "t1"}))
    async with asyncio.timeout(WAIT_S):
        assert (await heard.get()).verdict == "applied"
    assert await newest(bus, subjects.team("vision")) == m.TeamSet(by="ops", weight=3.0, gpus_max=8)


async def test_every_malformed_change_is_answered_and_nothing_is_written(bus: Bus) -> None:
    before = await bus.last_sequence(streams.LEDGER.name)
    for case in MALFORMED_CHANGES:
        names = ("queue", "vision", case.queue) if case.queue else ("team", "vision")
        subject = subjects.ask("submission", "configure", "ops", *names)
        answer = said(await bus.ask(subject, case.body, timeout_s=WAIT_S))
        assert answer.verdict == "refused", case.what
        assert {problem.path for problem in answer.problems} == set(case.problems), case.what
    assert await bus.last_sequence(streams.LEDGER.name) == before


async def test_changes_of_one_queue_at_two_instances_at_once_are_all_made(
    bus: Bus, nats: NatsServer, tmp_path: Path
) -> None:
    fields = {"weight": 2.0, "running_max": 3, "gpus_max": 4, "paused": True, "user_gpus_max": 5, "priority_max": 6}
    async with serving(serve, nats, CONFIG, blobs=tmp_path / "blobs", instance="two"):
        answers = await asyncio.gather(*(ask(bus, "set_queue", **{name: fields[name]}) for name in fields))
    assert [answer.verdict for answer in answers] == ["applied"] * len(fields)
    assert await newest(bus, subjects.queue("vision", "night")) == m.QueueSet(by="ops", **fields)


async def test_two_instances_never_guarantee_together_more_than_the_nodes_have(
    bus: Bus, nats: NatsServer, tmp_path: Path
) -> None:
    capacity = m.Capacity(cpus=8.0, memory_bytes=1, gpus=8)
    free = m.Allocation(node="n1", cpus=8.0, memory_bytes=1)
    nodes = [m.NodeView(node=name, state=state, capacity=capacity, free=free) for name, state in STATES]
    await serve_question(bus, "nodes", m.NodesView(term=1, nodes=tuple(nodes)))
    async with serving(serve, nats, CONFIG, blobs=tmp_path / "blobs", instance="two"):
        for turn in range(5):
            asked = [("vision", "default"), ("vision", "night"), ("speech", "secret")]
            answers = await asyncio.gather(
                *(ask(bus, "set_queue", queue, team=team, guaranteed_gpus=5) for team, queue in asked)
            )
            assert sorted(answer.verdict for answer in answers) == ["applied", "refused", "refused"], turn
            for team, queue in asked:
                await ask(bus, "set_queue", queue, team=team, guaranteed_gpus=0)


async def test_the_last_two_queues_deleted_at_once_leave_one(bus: Bus, nats: NatsServer, tmp_path: Path) -> None:
    await serve_jobs(bus, waiting=0)
    async with serving(serve, nats, CONFIG, blobs=tmp_path / "blobs", instance="two"):
        for queue in ("default", "night"):
            answers = await asyncio.gather(ask(bus, "delete_queue", "default"), ask(bus, "delete_queue", "night"))
            assert sorted(answer.verdict for answer in answers) == ["applied", "refused"], queue
            gone = "default" if answers[0].verdict == "applied" else "night"
            assert (await ask(bus, "create_queue", gone)).verdict == "applied"


async def test_a_queue_that_another_instance_created_this_very_moment_is_known(
    bus: Bus, door: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instance that is asked has not heard of it yet: before it rejects, it looks."""

    async def deaf(self: Following, sequence: int) -> None:
        self.queues._queues["vision"].pop("big", None)

    monkeypatch.setattr(Following, "_reached", deaf)
    ledger = Ledger(bus, source="test")
    await ledger.append(Write(subjects.queue("vision", "big"), m.QueueSet(by="ops"), 0))
    assert (await submit(bus, "big")).verdict == "accepted"


async def test_a_deleted_queue_stays_deleted_when_submission_starts_again(
    bus: Bus, nats: NatsServer, tmp_path: Path
) -> None:
    await serve_jobs(bus, waiting=0)
    await ask(bus, "delete_queue")
    async with serving(serve, nats, CONFIG, blobs=tmp_path / "blobs", instance="two"):
        assert await newest(bus, subjects.queue("vision", "night")) == m.QueueRemoved(by="ops")
        assert (await submit(bus, "night")).verdict == "rejected"


async def about(bus: Bus, node: str, kind: str, **fields: Any) -> m.Answer:
    subject = subjects.ask("submission", "configure", "ops", "node", node)
    return said(await bus.ask(subject, json.dumps({"type": kind} | fields).encode(), timeout_s=WAIT_S))


async def test_what_an_operator_says_of_a_machine_is_a_fact_or_refused(bus: Bus) -> None:
    ledger = Ledger(bus, source="test")
    assert (await about(bus, "n.1", "cordon_node")).problems[0].path == "$.node"
    subject = subjects.node("n.1")
    await ledger.append(Write(subject, m.NodeJoined(boot="b", capacity=m.Capacity(cpus=1, memory_bytes=1)), 0))
    answer = await about(bus, "n.1", "drain_node", stop=True, why="new disks")
    assert answer.verdict == "applied"
    assert await newest(bus, subject) == m.NodeDraining(by="ops", stop=True, why="new disks")
    assert (await about(bus, "n.1", "drain_node", stop=True)).verdict == "repeated"
    assert (await about(bus, "n.1", "give_up_node", why="burnt down")).verdict == "applied"
    assert await newest(bus, subject) == m.NodeGone(by="ops", why="given up by ops: burnt down")
    assert "is gone: given up" in (await about(bus, "n.1", "uncordon_node")).problems[0].message


async def test_a_request_about_a_machine_by_the_stream_is_answered_where_it_says(bus: Bus) -> None:
    joined = m.NodeJoined(boot="b", capacity=m.Capacity(cpus=1, memory_bytes=1))
    await Ledger(bus, source="test").append(Write(subjects.node("n1"), joined, 0))
    heard: asyncio.Queue[m.Answer] = asyncio.Queue()

    async def hear(delivery: Delivery) -> None:
        heard.put_nowait(said(delivery.body))

    await bus.listen(subjects.answer("-", "ops", "t1"), hear)
    await bus.last_sequence(streams.LEDGER.name)
    await bus.publish(Outgoing(subjects.configure_node("ops", "n1"), b'{"type": "cordon_node"}', {"hr-answer": "t1"}))
    async with asyncio.timeout(WAIT_S):
        assert (await heard.get()).verdict == "applied"
