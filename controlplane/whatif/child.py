"""The process that replays: a `Task` on stdin, a `Result` on stdout. It only reads, from the ledger and the archive."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from typing import Final

import msgspec

from controlplane.config import Configuration
from controlplane.scheduling.service import build
from controlplane.whatif.compare import Compared, compare
from controlplane.whatif.policy import PolicyError, read
from controlplane.whatif.recorded import Recorded
from events import messages as m
from events import subjects
from events.bus import Bus, BusError, CaughtUp
from events.ledger import Entry, Ledger, UnknownFact
from events.wire import UNREADABLE

MEMORY_BYTES_MAX: Final = 4 * 1024**3
NICE: Final = 15
WARM_UP_S: Final = 7 * 86_400.0
"""Jobs that came so long before are replayed as well: they may have been in the way."""
ARCHIVED_MAX: Final = 200_000
"""Jobs of the archive in one replay: of each team the newest."""
PAGE: Final = 200
_FACT: Final[msgspec.json.Decoder[m.JobFact]] = msgspec.json.Decoder(m.JobFact)


class Task(msgspec.Struct):
    config: Configuration
    policy: str
    origin: str
    since: float
    until: float


class Result(msgspec.Struct):
    """`error`: why there are no teams."""

    teams: list[Compared] = []
    archived: int = 0
    """How many of the jobs came from the archive."""
    warning: str = ""
    error: str = ""


def main() -> None:
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    try:
        result = asyncio.run(_run(task))
    except (PolicyError, UnknownFact, BusError) as error:
        result = Result(error=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(result))


async def _run(task: Task) -> Result:
    config, result, recorded = task.config, Result(), Recorded()
    bus = await Bus.connect(config.nats_url, user=config.nats_user, password=config.nats_password, name="whatif")
    try:
        for team in config.teams:
            result.warning = result.warning or await _archived(bus, team, task.since, recorded)
        result.archived = len(recorded.stories)
        async for item in Ledger(bus, source="headrace/whatif").tail(after=0):
            if isinstance(item, CaughtUp):
                break
            recorded.apply(item)
    finally:
        await bus.drain()
    policy, settings = read(task.policy, task.origin), build(config).settings
    times = {"since": task.since, "until": task.until}
    result.teams = compare(recorded, policy, settings, origin=task.origin, **times)
    return result


async def _archived(bus: Bus, team: str, since: float, recorded: Recorded) -> str:
    """Take in a team's jobs of the archive. Gives why some are missing; empty: none are."""
    asked = m.AskArchived(team=team, since_at=since - WARM_UP_S, limit=PAGE)
    while len(recorded.stories) < ARCHIVED_MAX:
        try:
            said = await bus.ask(subjects.ask("monitoring", "archived"), msgspec.json.encode(asked))
        except BusError as error:
            return f"the archive does not answer: {error}"
        page = msgspec.json.decode(said, type=m.ArchivedAnswer)
        for job in page.jobs:
            for each in job.facts:
                try:
                    fact = _FACT.decode(each.fact)
                except UNREADABLE:
                    continue  # of a later version
                recorded.apply(Entry(each.sequence, subjects.job(job.team, job.job), fact, each.at, ""))
        if not page.next:
            return ""
        asked = msgspec.structs.replace(asked, after=page.next, after_at=page.next_at)
    return f"only the newest {ARCHIVED_MAX:,} jobs of the archive were replayed"


if __name__ == "__main__":
    main()
