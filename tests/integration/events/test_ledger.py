"""Facts are written under guards, in whole rounds, and never twice, on one server and on three."""

from __future__ import annotations

import asyncio

import pytest

from events import messages as m
from events import subjects
from events.bus import Bus, CaughtUp, Conflict, Outgoing, Unknown
from events.ledger import Entry, Ledger, UnknownFact, Write

NODE = subjects.node("n1")
CORDONED = m.NodeCordoned(by="ada")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class LosesAcknowledgements(Bus):
    """A bus whose next publishes end Unknown: after the message was stored, or without storing it."""

    stored = True
    times = 1

    async def publish(self, outgoing: Outgoing) -> int:
        if self.times == 0:
            return await super().publish(outgoing)
        self.times -= 1
        if self.stored:
            await super().publish(outgoing)
        raise Unknown("the connection broke")


@pytest.fixture
def ledger(bus: Bus) -> Ledger:
    return Ledger(bus, source="test")


async def test_a_fact_is_read_as_it_was_written(ledger: Ledger) -> None:
    sequence = await ledger.append(Write(NODE, CORDONED, 0, TRACE))
    found = await ledger.last(NODE)
    assert found is not None
    assert found._replace(at=0.0) == Entry(sequence, NODE, CORDONED, 0.0, TRACE)
    assert [entry.sequence for entry in await ledger.history(NODE)] == [sequence]
    assert await ledger.last_sequence() == sequence


async def test_a_fact_is_a_cloud_event_of_its_own(ledger: Ledger, bus: Bus) -> None:
    await ledger.append(Write(NODE, CORDONED, 0, TRACE))
    await ledger.append(Write(NODE, CORDONED, 1))
    first, second = [delivery.envelope for delivery in await bus.history("LEDGER", NODE)]
    assert (first.type, first.source, first.traceparent) == ("node_cordoned", "test", TRACE)
    assert first.id != second.id
    assert first.time


async def test_every_append_is_guarded(ledger: Ledger) -> None:
    await ledger.append(Write(NODE, CORDONED, 0))
    with pytest.raises(Conflict):
        await ledger.append(Write(NODE, CORDONED, 0))
    with pytest.raises(ValueError, match="expect"):
        await ledger.append(Write(NODE, CORDONED, -1))
    assert await ledger.last_sequence() == 1


async def test_a_round_is_written_whole_and_one_behind_the_other(ledger: Ledger) -> None:
    term = await ledger.append(Write(subjects.TERM, m.Led(leader="a"), 0))
    first = await ledger.commit(
        [Write(subjects.TERM, m.Renewed(term=term), term), *(Write(subjects.node(n), CORDONED, 0) for n in "abc")]
    )
    assert first == term + 1
    assert await ledger.last_sequence() == term + 4


async def test_a_round_with_one_stale_fact_is_not_written(ledger: Ledger) -> None:
    term = await ledger.append(Write(subjects.TERM, m.Led(leader="a"), 0))
    await ledger.append(Write(subjects.node("b"), CORDONED, 0))
    with pytest.raises(Conflict):
        await ledger.commit(
            [Write(subjects.TERM, m.Renewed(term=term), term), *(Write(subjects.node(n), CORDONED, 0) for n in "abc")]
        )
    assert await ledger.last_sequence() == 2


async def test_a_round_may_hold_several_facts_of_one_subject_under_one_guard(ledger: Ledger) -> None:
    writes = [Write(NODE, CORDONED, 0), Write(subjects.node("x"), CORDONED, 0), Write(NODE, m.NodeCleared(term=1), 0)]
    assert await ledger.commit(writes) == 1
    assert [type(entry.fact) for entry in await ledger.history(NODE)] == [m.NodeCordoned, m.NodeCleared]
    with pytest.raises(Conflict):
        await ledger.commit(writes)
    with pytest.raises(ValueError, match="two expectations"):
        await ledger.commit([Write(NODE, CORDONED, 3), Write(NODE, CORDONED, 4)])
    assert await ledger.last_sequence() == 3


async def test_a_round_of_one_fact_is_guarded_too(ledger: Ledger) -> None:
    assert await ledger.commit([Write(NODE, CORDONED, 0)]) == 1
    with pytest.raises(Conflict):
        await ledger.commit([Write(NODE, CORDONED, 0)])


async def test_a_deposed_leader_writes_nothing(ledger: Ledger) -> None:
    old = await ledger.append(Write(subjects.TERM, m.Led(leader="old"), 0))
    new = await ledger.append(Write(subjects.TERM, m.Led(leader="new"), old))
    with pytest.raises(Conflict):
        await ledger.commit([Write(subjects.TERM, m.Renewed(term=old), old), Write(NODE, CORDONED, 0)])
    await ledger.commit([Write(subjects.TERM, m.Renewed(term=new), new), Write(NODE, CORDONED, 0)])


@pytest.mark.parametrize("stored", [True, False])
async def test_an_append_whose_outcome_was_unknown_is_written_once(bus: Bus, stored: bool) -> None:
    doubtful = LosesAcknowledgements(bus._connection)
    doubtful.stored = stored
    doubtful.times = 2
    sequence = await Ledger(doubtful, source="test").append(Write(NODE, CORDONED, 0))
    assert [delivery.sequence for delivery in await bus.history("LEDGER", NODE)] == [sequence]


async def test_an_append_whose_outcome_stays_unknown_says_so(bus: Bus) -> None:
    doubtful = LosesAcknowledgements(bus._connection)
    doubtful.stored = False
    doubtful.times = 100
    with pytest.raises(Unknown):
        await Ledger(doubtful, source="test").append(Write(NODE, CORDONED, 0))


async def test_an_append_after_an_unknown_one_that_a_rival_overtook_is_a_conflict(bus: Bus) -> None:
    class Overtaken(Bus):
        async def publish(self, outgoing: Outgoing) -> int:
            if await bus.last("LEDGER", NODE) is None:
                await Ledger(bus, source="rival").append(Write(NODE, CORDONED, 0))
                raise Unknown("the connection broke")
            return await super().publish(outgoing)

    with pytest.raises(Conflict):
        await Ledger(Overtaken(bus._connection), source="test").append(Write(NODE, CORDONED, 0))
    assert len(await bus.history("LEDGER", NODE)) == 1


async def test_a_tail_gives_facts_in_order_and_says_when_it_has_caught_up(ledger: Ledger) -> None:
    await ledger.commit([Write(subjects.node(n), CORDONED, 0) for n in "abc"])
    found: list[int | str] = []
    async with asyncio.timeout(20):
        async for item in ledger.tail(after=1):
            found.append("caught up" if isinstance(item, CaughtUp) else item.sequence)
            if found == [2, 3, "caught up"]:
                await ledger.append(Write(NODE, CORDONED, 0))
            if len(found) == 4:
                break
    assert found == [2, 3, "caught up", 4]


@pytest.mark.parametrize("body", [b'{"type":"of_tomorrow"}', b"{", b"\xff", b'{"type":"led"}'])
async def test_a_fact_that_this_version_cannot_read_is_said_and_can_be_passed(
    ledger: Ledger, bus: Bus, body: bytes
) -> None:
    await bus.publish(Outgoing(NODE, body, {}, 0))
    await ledger.append(Write(NODE, CORDONED, 1))
    with pytest.raises(UnknownFact) as unknown:
        async for _ in ledger.tail(after=0):
            pass
    assert (unknown.value.sequence, unknown.value.subject) == (1, NODE)
    async for item in ledger.tail(after=unknown.value.sequence):
        assert isinstance(item, Entry)
        assert item.sequence == 2
        break


async def test_what_a_later_version_adds_to_a_fact_is_passed_over(ledger: Ledger, bus: Bus) -> None:
    await bus.publish(Outgoing(NODE, b'{"type":"node_cordoned","by":"ada","colour":"blue"}', {}, 0))
    found = await ledger.last(NODE)
    assert found is not None
    assert found.fact == CORDONED


async def test_what_replaces_takes_the_place_of_all_before_it_and_is_forgotten_in_time(ledger: Ledger) -> None:
    """A whole round of them, each under its guard: on three servers as on one."""
    jobs = [subjects.job("vision", f"j-old-{number}") for number in range(50)]
    last = dict.fromkeys(jobs, 0)
    for fact in (m.Held(by="a"), m.Released(by="b")):
        first = await ledger.commit([Write(job, fact, last[job]) for job in jobs])
        last = {job: first + place for place, job in enumerate(jobs)}
    mark = m.Archived(state="succeeded", attempt=1)
    stale = [Write(job, mark, last[job] - (job == jobs[-1]), ttl_s=1, replaces=True) for job in jobs]
    with pytest.raises(Conflict):
        await ledger.commit(stale)
    assert [len(await ledger.history(job)) for job in jobs] == [2] * len(jobs)
    first = await ledger.commit([Write(job, mark, last[job], ttl_s=1, replaces=True) for job in jobs])
    for place, job in enumerate(jobs):
        [entry] = await ledger.history(job)
        assert (entry.sequence, entry.fact) == (first + place, mark)
    with pytest.raises(Conflict):
        await ledger.append(Write(jobs[0], m.Held(by="c"), 0))
    async with asyncio.timeout(30):
        while await ledger.last(jobs[0]) is not None:  # noqa: ASYNC110  the server tells nobody
            await asyncio.sleep(0.1)
