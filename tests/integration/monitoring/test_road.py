"""A number and a line of output travel from a node to whoever asks."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from controlplane.monitoring import core
from events import messages as m
from events import streams, subjects
from events.bus import AskRefused, Bus, Delivery
from events.ledger import Ledger, Write
from tests.support import monitoring as world
from tests.support.monitoring import TEAM, ask, eventually
from tests.support.nats import NatsServer

MIB = 1024 * 1024


async def test_a_jobs_numbers_and_output_are_answered_told_live_and_sealed(
    bus: Bus, nats: NatsServer, tmp_path: Path
) -> None:
    told: list[m.Changed] = []

    async def hear(delivery: Delivery) -> None:
        told.append(msgspec.json.decode(delivery.body, type=m.Changed))

    await bus.listen(subjects.live(TEAM, "j-1"), hear)
    async with world.monitoring(bus, world.configuration(nats, tmp_path / "state")):
        await world.write_facts(bus, "j-1", world.accepted("j-1"), world.placed())
        await bus.publish(world.metrics_batch("j-1", 0, {"loss": [3.0, 2.0, 1.0], "acc": [0.1, 0.2, 0.3]}))
        await bus.publish(world.metrics_batch("j-1", 0, {"loss": [3.0, 2.0, 1.0], "acc": [0.1, 0.2, 0.3]}))
        await bus.publish(world.log_chunk("j-1", 0, b"hello\n"))

        async def series() -> m.SeriesAnswer | None:
            answer = await ask(bus, "series", m.AskSeries(team=TEAM, job="j-1"), m.SeriesAnswer)
            return answer if answer.series else None

        answer = await eventually(series)
        assert {curve.name: curve.values for curve in answer.series} == {
            "acc": (0.1, 0.2, 0.3),
            "loss": (3.0, 2.0, 1.0),
        }
        assert not answer.complete
        latest = await ask(bus, "latest", m.AskLatest(team=TEAM, jobs=("j-1",)), m.LatestAnswer)
        assert [(entry.name, entry.step, entry.value, entry.count) for entry in latest.latest] == [
            ("acc", 2, 0.3, 3),
            ("loss", 2, 1.0, 3),
        ]

        async def is_written() -> bool:
            return _open_below(tmp_path / "state" / "monitoring" / "logs") == ["1.stdout"]

        await eventually(is_written)
        assert (await world.status(bus))["jobs_remembered"] == 1

        await bus.publish(world.metrics_batch("j-1", 3, {}, end=True))
        await bus.publish(world.log_chunk("j-1", 6, b"", end=True))
        await bus.publish(world.log_chunk("j-1", 0, b"", stream="stderr", end=True))
        await world.write_facts(bus, "j-1", world.finished())

        async def sealed() -> bool:
            return bool((await world.status(bus))["sealed"])

        await eventually(sealed)
        assert (await world.status(bus))["jobs_remembered"] == 0, "a job of which nothing is expected costs nothing"
        assert not _open_below(tmp_path / "state" / "monitoring" / "logs")
        log = await ask(bus, "log", m.AskLog(team=TEAM, job="j-1"), m.LogAnswer)
        assert (log.data, log.complete, log.size_bytes) == (b"hello\n", True, 6)
        assert (await ask(bus, "series", m.AskSeries(team=TEAM, job="j-1"), m.SeriesAnswer)).complete
        await asyncio.sleep(0)
        assert any(change.metrics for change in told)
        assert any(change.logs == ("stdout",) for change in told)
        assert told[-1].complete


def _open_below(folder: Path) -> list[str]:
    """Names of the files in a folder that this process has open, in which the service runs as well."""
    links = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return sorted(Path(link).name for link in links if Path(link).is_relative_to(folder.resolve()))


async def test_renewals_of_the_term_are_no_lag_and_unread_facts_about_jobs_are(
    bus: Bus, nats: NatsServer, tmp_path: Path
) -> None:
    async with world.monitoring(bus, world.configuration(nats, tmp_path / "state")):
        await world.write_facts(bus, "j-1", world.accepted("j-1"))
        sequence = await bus.last_sequence(streams.LEDGER.name)

        async def read() -> bool:
            return bool((await world.status(bus))["places"]["LEDGER"]["read"] == sequence)

        await eventually(read)
        led = await Ledger(bus, source="test").append(Write(subjects.TERM, m.Led(leader="me"), 0))
        await Ledger(bus, source="test").append(Write(subjects.TERM, m.Renewed(term=led), led))
        assert (await world.status(bus))["places"]["LEDGER"] == {"read": sequence, "last": sequence}
        await world.write_facts(bus, "j-2", world.accepted("j-2"))
        place = (await world.status(bus))["places"]["LEDGER"]
        assert place["last"] == await bus.last_sequence(streams.LEDGER.name)


async def test_an_unknown_job_is_a_404(bus: Bus, nats: NatsServer, tmp_path: Path) -> None:
    async with world.monitoring(bus, world.configuration(nats, tmp_path / "state")):
        with pytest.raises(AskRefused) as caught:
            await ask(bus, "series", m.AskSeries(team=TEAM, job="j-nobody"), m.SeriesAnswer)
        assert caught.value.refusal.status == 404
        await world.write_facts(bus, "j-new", world.accepted("j-new"))
        answer = await ask(bus, "series", m.AskSeries(team=TEAM, job="j-new"), m.SeriesAnswer)
        assert (answer.series, answer.complete) == ((), False)


async def test_output_that_was_lost_with_a_servers_disk_is_shown_as_missing(
    bus: Bus, nats: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the campaign, seed 2: LOGS lost its newest messages with the power, and the answer was empty."""
    monkeypatch.setattr(core, "WAIT_S_MAX", 0.0)
    end = m.AttemptEnd(cause="exited", ended_at=2.0, started_at=1.0, exit_code=0, output_bytes={"stdout": 60})
    done = m.Finished(term=1, attempt=1, outcome="succeeded", reason="exit code 0", end=end)
    async with world.monitoring(bus, world.configuration(nats, tmp_path / "state")):
        await world.write_facts(bus, "j-1", world.accepted("j-1"), world.placed(), done)

        async def sealed() -> bool:
            return bool((await world.status(bus))["sealed"])

        await eventually(sealed)
        log = await ask(bus, "log", m.AskLog(team=TEAM, job="j-1", attempt=1), m.LogAnswer)
        assert (log.data, log.size_bytes) == (b"\n[headrace: 60 bytes of output are missing here]\n", 60)


async def test_messages_that_a_full_tail_forgot_unread_are_counted(bus: Bus, nats: NatsServer, tmp_path: Path) -> None:
    config = msgspec.structs.replace(world.configuration(nats, tmp_path / "state"), logs_bytes_max=2 * MIB)
    async with world.monitoring(bus, config):
        await bus.publish(world.log_chunk("j-1", 0, b"x" * (MIB // 2)))

        async def read() -> bool:
            place = (await world.status(bus))["places"]["LOGS"]
            return bool(place["read"] == place["last"])

        await eventually(read)
        assert (await world.status(bus))["messages_forgotten"] == 0
    for number in range(1, 9):  # nobody reads; three of this size have room
        await bus.publish(world.log_chunk("j-1", number * (MIB // 2), b"x" * (MIB // 2)))
    async with world.monitoring(bus, config):
        await eventually(read)
        assert (await world.status(bus))["messages_forgotten"] == 5
