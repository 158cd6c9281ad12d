"""The door on real NATS: requests in, facts and answers out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controlplane.frame import Tools
from controlplane.submission.service import serve
from events import messages as m
from events import streams, subjects
from events.bus import AskRefused, Bus, Delivery, Outgoing
from events.identity import environment_digest, job_id, task_id
from events.ledger import Ledger, Write
from tests.support.malformed_submits import MALFORMED
from tests.support.nats import NatsServer
from tests.support.serving import serving
from tests.support.submitting import CONFIG

WAIT_S = 20.0
SUBMIT = {"type": "submit", "entrypoint": ["python", "train.py"]}


@pytest.fixture
async def door(nats: NatsServer, tmp_path: Path) -> AsyncIterator[Tools]:
    async with serving(serve, nats, CONFIG, blobs=tmp_path / "blobs") as tools:
        yield tools


@pytest.fixture
async def client(door: Tools, nats: NatsServer) -> AsyncIterator[Client]:
    bus = await Bus.connect(nats.url, user=nats.user, password=nats.password, name="client")
    yield await Client.on(bus)
    await bus.drain()


class Client:
    """A program that publishes requests, and hears the answers to them."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.ledger = Ledger(bus, source="test")
        self._waiting: dict[str, asyncio.Future[m.Answer]] = {}

    @classmethod
    async def on(cls, bus: Bus) -> Client:
        client = cls(bus)
        await bus.listen(f"{subjects.ROOT}.answer.>", client._heard)
        await bus.last_sequence(streams.LEDGER.name)  # the subscription is known to the server once this is answered
        return client

    async def submit(self, body: bytes | None = None, /, *, team: str = "vision", **fields: Any) -> m.Answer:
        content = body if body is not None else json.dumps(SUBMIT | fields).encode()
        return await self._publish(subjects.submit(team, "ada"), content)

    async def control(self, job: str, **fields: Any) -> m.Answer:
        return await self._publish(subjects.control("vision", "ada", job), json.dumps(fields).encode())

    async def ask_submit(self, user: str = "ada", **fields: Any) -> m.Answer:
        subject = subjects.ask("submission", "submit", "vision", user)
        return _answer(await self.bus.ask(subject, json.dumps(SUBMIT | fields).encode()))

    async def facts(self, job: str, team: str = "vision") -> list[str]:
        history = await self.ledger.history(subjects.job(team, job))
        return [str(type(entry.fact).__struct_config__.tag) for entry in history]

    async def _publish(self, subject: str, body: bytes) -> m.Answer:
        token = f"t{len(self._waiting)}"
        self._waiting[token] = asyncio.get_running_loop().create_future()
        await self.bus.publish(Outgoing(subject, body, {"hr-answer": token}))
        async with asyncio.timeout(WAIT_S):
            return await self._waiting[token]

    async def _heard(self, delivery: Delivery) -> None:
        self._waiting[delivery.subject.rpartition(".")[2]].set_result(_answer(delivery.body))


def _answer(body: bytes) -> m.Answer:
    return msgspec.json.decode(body, type=m.Answer)


async def test_a_submit_is_answered_once_it_is_in_the_ledger(client: Client) -> None:
    answer = await client.submit(id="a")
    assert (answer.verdict, answer.job) == ("accepted", job_id(team="vision", user="ada", client_id="a"))
    entry = await client.ledger.last(subjects.job("vision", answer.job))
    assert entry is not None
    assert isinstance(entry.fact, m.Accepted)
    assert entry.sequence == answer.sequence
    assert entry.traceparent.startswith("00-")


async def test_every_malformed_submit_is_answered_and_the_service_lives_on(client: Client) -> None:
    small = [case for case in MALFORMED if len(case.body) < streams.requests("vision").message_bytes_max - 1000]
    assert len(small) >= 30
    answers = await asyncio.gather(*(client.submit(case.body) for case in small))
    for case, answer in zip(small, answers, strict=True):
        assert answer.verdict == "rejected", case.what
        assert {problem.path for problem in answer.problems} == set(case.problems), case.what
        assert await client.facts(answer.job) == ["rejected"], case.what
    assert (await client.submit(id="after all that")).verdict == "accepted"


async def test_the_same_submit_five_times_at_once_is_one_job_and_of_another_team_another(client: Client) -> None:
    answers = await asyncio.gather(*(client.submit(id="same") for _ in range(5)))
    assert sorted(answer.verdict for answer in answers) == ["accepted"] + ["repeated"] * 4
    assert len({(answer.job, answer.sequence) for answer in answers}) == 1
    assert await client.facts(answers[0].job) == ["accepted"]
    elsewhere = await client.submit(id="same", team="speech")
    assert elsewhere.verdict == "accepted"
    assert elsewhere.job != answers[0].job


async def test_a_submit_repeated_after_a_restart_of_everything_is_the_same_job(
    nats: NatsServer, tmp_path: Path
) -> None:
    jobs = []
    for _ in range(2):
        async with serving(serve, nats, CONFIG, blobs=tmp_path / "blobs") as tools:
            answer = await (await Client.on(tools.bus)).submit(id="same")
            jobs.append((answer.verdict, answer.job))
        nats.restart()
    assert jobs == [("accepted", jobs[0][1]), ("repeated", jobs[0][1])]


async def test_two_doors_share_the_work_and_never_make_two_jobs_of_one(
    nats: NatsServer, door: Tools, client: Client, tmp_path: Path
) -> None:
    async with serving(serve, nats, CONFIG, blobs=tmp_path / "blobs", instance="two"):
        answers = await asyncio.gather(*(client.submit(id=str(number % 50)) for number in range(200)))
    assert sum(answer.verdict == "accepted" for answer in answers) == 50
    assert {len(await client.facts(job)) for job in {answer.job for answer in answers}} == {1}


async def test_an_environment_is_wanted_once_for_all_jobs_and_before_them(client: Client) -> None:
    wanted = m.EnvironmentRequest(python="3.11", roots=("numpy",))
    body = {"python": "3.11", "roots": ["numpy"]}
    answers = await asyncio.gather(*(client.submit(environment=body) for _ in range(10)))
    history = await client.ledger.history(subjects.environment(environment_digest(wanted)))
    assert [entry.fact for entry in history] == [m.EnvironmentWanted(request=wanted, by="vision/ada")]
    assert history[0].sequence < min(answer.sequence for answer in answers)


async def test_a_failed_environment_is_wanted_again_by_the_next_job_and_only_by_it(client: Client) -> None:
    wanted = m.EnvironmentRequest(python="3.11", roots=("numpy",))
    body = {"python": "3.11", "roots": ["numpy"]}
    subject = subjects.environment(environment_digest(wanted))
    await client.submit(environment=body, id="first")
    for fact in (m.EnvironmentBuilding(builder="b"), m.EnvironmentFailed(reason="no network")):
        newest = await client.ledger.last(subject)
        assert newest is not None
        await client.ledger.append(Write(subject, fact, newest.sequence))
    assert (await client.submit(environment=body, id="first")).verdict == "repeated"
    kinds = ["environment_wanted", "environment_building", "environment_failed"]
    assert [_kind(entry.fact) for entry in await client.ledger.history(subject)] == kinds
    answers = await asyncio.gather(*(client.submit(environment=body) for _ in range(5)))
    history = await client.ledger.history(subject)
    assert [_kind(entry.fact) for entry in history] == [*kinds, "environment_wanted"]
    assert history[-1].sequence < min(answer.sequence for answer in answers)


async def test_a_ready_environment_is_not_wanted_again(client: Client) -> None:
    body = {"python": "3.11", "roots": ["numpy"]}
    subject = subjects.environment(environment_digest(m.EnvironmentRequest(python="3.11", roots=("numpy",))))
    await client.submit(environment=body)
    newest = await client.ledger.last(subject)
    assert newest is not None
    ready = m.EnvironmentReady(lock="sha256:" + "0" * 64, python="3.11", platform="linux", packages=1)
    await client.ledger.append(Write(subject, ready, newest.sequence))
    for _ in range(3):
        assert (await client.submit(environment=body)).verdict == "accepted"
    assert (await client.ledger.last(subject)).fact == ready  # type: ignore[union-attr]


async def test_the_asking_form_answers_the_same_way(client: Client) -> None:
    assert (await client.ask_submit(id="b")).verdict == "accepted"
    assert (await client.ask_submit(id="b")).verdict == "repeated"
    assert (await client.ask_submit()).job != (await client.ask_submit()).job
    rejected = await client.ask_submit(tier="gpu3")
    assert rejected.problems[0].path == "$.tier"
    assert rejected.sequence > 0


async def test_a_question_on_a_subject_that_no_client_spells_is_refused(client: Client) -> None:
    with pytest.raises(AskRefused) as refusal:
        await client.bus.ask("hr.v1.ask.submission.submit.vision.=FF", b"{}")
    assert refusal.value.refusal.status == 400


async def test_a_request_on_a_subject_that_no_client_spells_goes_to_the_dead_letters(client: Client) -> None:
    dead: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()

    async def heard(delivery: Delivery) -> None:
        dead.set_result(delivery)

    await client.bus.listen(subjects.DEAD, heard)
    await client.bus.publish(Outgoing("hr.v1.submit.vision.=FF", b"{}", {}))
    async with asyncio.timeout(WAIT_S):
        assert "not spelled" in (await dead).headers["hr-reason"]


async def test_controls_change_a_job_and_are_answered(client: Client) -> None:
    job = (await client.submit(hold=True)).job
    verdicts = [
        (await client.control(job, **control)).verdict
        for control in (
            {"type": "hold"},
            {"type": "release"},
            {"type": "reprioritise", "priority": 3},
            {"type": "reprioritise", "priority": 3},
            {"type": "move"},
            {"type": "cancel"},
            {"type": "cancel"},
            {"type": "hold"},
        )
    ]
    assert verdicts == ["repeated", "applied", "applied", "repeated", "applied", "applied", "repeated", "refused"]
    assert await client.facts(job) == ["accepted", "released", "reprioritised", "moved", "cancel_requested"]


async def test_a_cancel_that_overtakes_its_submit_waits_for_it(client: Client) -> None:
    job = job_id(team="vision", user="ada", client_id="late")
    async with asyncio.TaskGroup() as group:
        cancel = group.create_task(client.control(job, type="cancel"))
        await _waited(client, 2)
        submit = group.create_task(client.submit(id="late"))
    assert (submit.result().verdict, cancel.result().verdict) == ("accepted", "applied")
    assert await client.facts(job) == ["accepted", "cancel_requested"]


async def test_a_control_of_a_job_of_another_team_finds_none(client: Client) -> None:
    theirs = (await client.submit(team="speech")).job
    body = json.dumps({"type": "cancel"}).encode()
    answer = _answer(await client.bus.ask(subjects.ask("submission", "control", "vision", "ada", theirs), body))
    assert answer.verdict == "refused"
    assert "no job" in answer.problems[0].message


async def test_many_at_once_on_one_job_are_all_decided_one_after_another(client: Client) -> None:
    job = (await client.submit()).job
    answers = await asyncio.gather(
        *(client.control(job, type="reprioritise", priority=number) for number in range(1, 21)),
        *(_ask_control(client, job, priority) for priority in range(21, 31)),
    )
    assert {answer.verdict for answer in answers} <= {"applied", "repeated"}
    applied = sum(answer.verdict == "applied" for answer in answers)
    assert len(await client.facts(job)) == 1 + applied


async def test_the_configured_queues_are_facts_from_the_start(door: Tools) -> None:
    entry = await door.ledger.last(subjects.queue("vision", "night"))
    assert entry is not None
    assert entry.fact == m.QueueSet(by="configuration")


async def test_an_answer_is_asked_for_by_a_usable_token_or_there_is_none(client: Client) -> None:
    for token in ("x" * 500, "a b.>*", ""):
        await client.bus.publish(Outgoing(subjects.submit("vision", "ada"), b"{}", {"hr-answer": token}))
    assert (await client.submit()).verdict == "accepted"


def _kind(fact: m.Fact) -> str:
    return str(type(fact).__struct_config__.tag)


async def _ask_control(client: Client, job: str, priority: int) -> m.Answer:
    body = json.dumps({"type": "reprioritise", "priority": priority}).encode()
    return _answer(await client.bus.ask(subjects.ask("submission", "control", "vision", "eve", job), body))


async def _waited(client: Client, times: int) -> None:
    """Until the door has put a control off so often."""
    async with asyncio.timeout(WAIT_S):
        while True:
            status = json.loads(await client.bus.ask(subjects.ask("submission", "status")))
            if status["waited"] >= times:
                return


# -- dependencies ------------------------------------------------------------------------------------------------------


async def _dependencies(client: Client, job: str) -> list[tuple[str, str]]:
    entry = await client.ledger.last(subjects.job("vision", job))
    assert entry is not None
    assert isinstance(entry.fact, m.Accepted)
    return [(each.job, each.ended) for each in entry.fact.specification.after]


async def test_a_dependency_is_looked_up_and_its_end_written_down(client: Client) -> None:
    running, over = (await client.submit(id="a")).job, (await client.submit(id="b")).job
    assert (await client.control(over, type="cancel")).verdict == "applied"
    answer = await client.ask_submit(id="c", after=[{"job": running}, {"job": over, "on": "any"}])
    assert answer.verdict == "accepted"
    assert await _dependencies(client, answer.job) == [(running, ""), (over, "cancelled")]
    again = await client.ask_submit(id="c", after=[{"job": running}, {"job": over, "on": "any"}])
    assert (again.verdict, again.job) == ("repeated", answer.job)


async def test_a_dependency_on_nothing_is_refused_where_somebody_waits_for_the_answer(client: Client) -> None:
    answer = await client.ask_submit(id="c", after=[{"job": "j-abcdefghij23"}])
    assert answer.verdict == "rejected"
    assert [(problem.path, bool(problem.hint)) for problem in answer.problems] == [("$.after[0].job", True)]
    assert await client.facts(answer.job) == ["rejected"]


async def test_a_submit_that_overtakes_the_job_it_waits_for_waits_for_that_one(client: Client) -> None:
    first = job_id(team="vision", user="ada", client_id="first")
    overtaking = asyncio.create_task(client.submit(id="second", after=[{"job": first}]))
    await asyncio.sleep(0)
    assert (await client.submit(id="first")).verdict == "accepted"
    answer = await overtaking
    assert answer.verdict == "accepted"
    assert await _dependencies(client, answer.job) == [(first, "")]


# -- arrays ------------------------------------------------------------------------------------------------------------


async def test_an_array_is_one_fact_and_its_tasks_are_cancelled_before_and_after_they_are_placed(
    client: Client,
) -> None:
    answer = await client.ask_submit(id="sweep", array="0-9,20%3")
    assert await client.facts(answer.job) == ["accepted"]
    placed, waiting = task_id(answer.job, 4), task_id(answer.job, 20)
    task = m.Task(array=answer.job, index=4, size=11)
    await client.ledger.append(
        Write(subjects.job("vision", placed), m.Placed(term=1, attempt=1, allocations=(), task=task), 0)
    )
    cancelled = await client.control(answer.job, type="cancel", tasks="4,20", why="wrong data")
    assert cancelled.verdict == "applied"
    assert await client.facts(placed) == ["placed", "cancel_requested"]
    assert await client.facts(waiting) == ["cancel_requested"]
    entry = await client.ledger.last(subjects.job("vision", waiting))
    assert entry is not None
    assert entry.fact == m.CancelRequested(by="ada", why="wrong data", task=m.Task(array=answer.job, index=20, size=11))
    assert (await client.control(answer.job, type="cancel", tasks="20")).verdict == "repeated"
    assert await client.facts(answer.job) == ["accepted"]


@pytest.mark.parametrize(
    ("tasks", "path", "piece"),
    [("9-12", "$.tasks", "no index 10"), ("x", "$.tasks", "no range of indices"), ("0-3%2", "$.tasks", "no meaning")],
)
async def test_a_cancel_of_tasks_that_are_not_there_is_refused(
    client: Client, tasks: str, path: str, piece: str
) -> None:
    answer = await client.ask_submit(id="sweep", array="0-9")
    refused = await client.control(answer.job, type="cancel", tasks=tasks)
    assert refused.verdict == "refused"
    assert [(problem.path, piece in problem.message) for problem in refused.problems] == [(path, True)]
    alone = await client.ask_submit(id="alone")
    refused = await client.control(alone.job, type="cancel", tasks="0")
    assert "is no array" in refused.problems[0].message


async def test_the_rest_of_an_array_takes_what_a_queued_job_takes(client: Client) -> None:
    answer = await client.ask_submit(id="sweep", array="0-9")
    subject = subjects.job("vision", answer.job)
    await client.ledger.append(Write(subject, m.Unfolded(term=1), answer.sequence))
    for control in ({"type": "hold"}, {"type": "release"}, {"type": "reprioritise", "priority": 3}, {"type": "move"}):
        assert (await client.control(answer.job, **control)).verdict == "applied", control
    assert (await client.control(answer.job, type="cancel")).verdict == "applied"
    assert (await client.control(answer.job, type="cancel")).verdict == "repeated"
    assert (await client.control(answer.job, type="hold")).verdict == "refused"
    assert (await client.control(answer.job, type="cancel", tasks="0")).verdict == "refused"
