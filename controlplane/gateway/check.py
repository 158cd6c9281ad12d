"""`headrace admin check`: whether ledger, snapshots, archive, and what services say of it tell the same story.

The ledger is replayed from its beginning, once, by cores of the same make as the services have. Everything else is held
against that. What changes while we look is left out of a comparison rather than guessed at.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from typing import Final, NamedTuple

import msgspec
import pyarrow.parquet as parquet

from controlplane.frame import Tools
from controlplane.gateway.projection import Projection
from controlplane.scheduling import snapshots
from controlplane.scheduling.core import Core
from controlplane.scheduling.service import build
from events import messages as m
from events import subjects
from events.blobs import BlobError
from events.bus import AskRefused, BusError, CaughtUp
from events.identity import PACKED_BYTES, digest, unpack
from events.ledger import Entry, UnknownFact
from events.wire import UNREADABLE

SHOWN_MAX: Final = 20
"""Differences of one kind that are told one by one."""
TURN: Final = 500
"""Facts after which others get a turn."""
NOTHING: Final = "nothing"
Job = tuple[str, int, int]
"""State, attempt, sequence of the newest fact."""


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison: of what, of how many things, and every difference that was found."""

    what: str
    count: int
    differences: list[str] = []
    note: str = ""


class Seen(NamedTuple):
    """What a service said before the replay began."""

    status: dict[str, object]
    nodes: m.NodesView


class Replay:
    """The ledger from its beginning to now, as several readers see it."""

    def __init__(self, tools: Tools, until: int) -> None:
        self.core: Core = build(tools.config)
        self.projection = Projection()
        self.restored: dict[str, Core | Projection] = {}
        """From snapshots, by name."""
        self.parts: list[m.ArchiveWritten] = []
        self.marks: dict[str, str] = {}
        """Subject → the part that its mark names."""
        self.facts = 0
        self.changed: dict[str, int] = {}
        """Subject of a job → sequence of its newest fact."""
        self.unreadable: list[str] = []
        self._until = until
        self.then: dict[str, int] = {}
        """Counters of the core as they were at `until`."""

    def apply(self, entry: Entry) -> None:
        if entry.sequence > self._until and not self.then:
            self.then = self.core.counters()
        self.facts += 1
        self.core.apply(entry, entry.at)
        self.projection.apply(entry)
        for reader in self.restored.values():
            if isinstance(reader, Core):
                reader.apply(entry, entry.at)  # it leaves out what it has
            elif entry.sequence > reader.sequence:
                reader.apply(entry)
        if isinstance(entry.fact, m.ArchiveWritten):
            self.parts.append(entry.fact)
        elif isinstance(entry.fact, m.Archived):
            self.marks[entry.subject] = entry.fact.archive
        elif isinstance(entry.fact, m.JobFact):
            self.changed[entry.subject] = entry.sequence


async def check(tools: Tools, live: Projection) -> AsyncIterator[Compared | None]:
    """Every comparison, one after another; None now and then while it works."""
    followed, mine = live.sequence, _jobs(live)
    seen = await _ask(tools)
    sequence = seen.status.get("sequence") if seen else None
    replay = Replay(tools, sequence if isinstance(sequence, int) else 0)
    unusable = [problem async for problem in _restore(tools, replay)]
    try:
        async for item in tools.ledger.tail(after=0):
            if isinstance(item, CaughtUp):
                break
            replay.apply(item)
            if replay.facts % TURN == 0:
                yield None
                await asyncio.sleep(0)
    except UnknownFact as error:
        replay.unreadable.append(str(error))
    forbidden = replay.core.counters()["forbidden"]
    wrong = replay.unreadable + ([f"{forbidden} facts that the lifecycle forbids"] if forbidden else [])
    yield Compared(what="ledger: facts replayed from its beginning", count=replay.facts, differences=wrong)
    yield Compared(what="snapshots that can be read", count=len(replay.restored), differences=unusable)
    for name, reader in replay.restored.items():
        yield _same(f"{name} and the facts behind it", reader, replay)
    yield _live(followed, mine, replay)
    yield _scheduler(seen, replay)
    async for compared in _archive(tools, replay):
        yield compared


# -- what services say -------------------------------------------------------------------------------------------------


async def _ask(tools: Tools) -> Seen | None:
    try:
        status = await tools.bus.ask(subjects.ask("scheduling", "status"))
        nodes = await tools.bus.ask(subjects.ask("scheduling", "nodes"))
    except (BusError, AskRefused):
        return None
    return Seen(msgspec.json.decode(status, type=dict[str, object]), msgspec.json.decode(nodes, type=m.NodesView))


def _scheduler(seen: Seen | None, replay: Replay) -> Compared:
    what = "scheduling: its jobs, and the attempts on its nodes"
    if seen is None:
        return Compared(what=what, count=0, note="scheduling does not answer: not compared")
    then = replay.then or replay.core.counters()
    wrong = []
    since = seen.status["sequence"]
    assert isinstance(since, int)
    if then["sequence"] == since:
        wrong += [
            f"{name}: scheduling says {seen.status.get(name)}, the ledger {then[name]}"
            for name in ("jobs", "waiting", "running", "nodes", "term")
            if seen.status.get(name) != then[name]
        ]
    said = {(node.node, ref) for node in seen.nodes.nodes for ref in node.attempts}
    told = {(node.node, ref) for node in replay.core.nodes_view().nodes for ref in node.attempts}
    for node, ref in sorted(said ^ told, key=str):
        subject = subjects.job(ref.team, ref.job)
        if replay.changed.get(subject, since + 1) > since or subject in replay.marks:
            continue  # it began or ended while we looked
        who = "scheduling" if (node, ref) in said else "the ledger"
        wrong.append(f"{ref.job}, attempt {ref.attempt}: only {who} says that {node} holds it")
    return Compared(what=what, count=len(said) + then["jobs"], differences=_few(wrong))


def _live(followed: int, mine: Mapping[str, Job], replay: Replay) -> Compared:
    """This gateway's own view as it was when it had followed the ledger so far; of jobs that stayed as they were."""
    told = {name: value for name, value in _jobs(replay.projection).items() if value[2] <= followed}
    stayed = {name for name in mine if replay.changed.get(name, 0) <= followed and name not in replay.marks}
    wrong = [
        f"{name}: shown as {mine.get(name, NOTHING)}, the ledger says {told.get(name, NOTHING)}"
        for name in sorted(stayed | told.keys())
        if mine.get(name) != told.get(name)
    ]
    return Compared(what="gateway: jobs as it shows them", count=len(told), differences=_few(wrong))


# -- snapshots ---------------------------------------------------------------------------------------------------------


async def _restore(tools: Tools, replay: Replay) -> AsyncIterator[str]:
    """Take up the newest snapshot of each service; gives what cannot be read."""
    for folder in ("snapshots/scheduling", "snapshots/gateway"):
        try:
            names = await tools.blobs.names(folder)
            if not names:
                continue
            newest = max(names, key=lambda name: int(name.rpartition("/")[2]))
            content = await tools.blobs.read(newest)
            if folder.endswith("scheduling"):
                core = build(tools.config)
                core.restore(content)
                replay.restored[newest] = core
            else:
                replay.restored[newest] = Projection.restore(content)
        except (BlobError, ValueError, *UNREADABLE) as error:
            yield f"{folder}: {error}"


def _same(what: str, reader: Core | Projection, replay: Replay) -> Compared:
    mine: Mapping[str, object]
    told: Mapping[str, object]
    if isinstance(reader, Core):
        mine, told = snapshots.described(reader.snapshot()), snapshots.described(replay.core.snapshot())
    else:
        mine, told = _jobs(reader), _jobs(replay.projection)
    wrong = [
        f"{name}: the snapshot leads to {mine.get(name, NOTHING)}, the ledger to {told.get(name, NOTHING)}"
        for name in sorted(mine.keys() | told.keys())
        if mine.get(name) != told.get(name)
    ]
    return Compared(what=what, count=len(told), differences=_few(wrong))


def _jobs(projection: Projection) -> dict[str, Job]:
    return {
        subjects.job(record.team, record.job): (record.life.state.value, record.life.attempt, record.sequence)
        for record in projection.jobs()
    }


# -- the archive -------------------------------------------------------------------------------------------------------


async def _archive(tools: Tools, replay: Replay) -> AsyncIterator[Compared | None]:
    where: dict[str, str] = {}
    wrong: list[str] = []
    for part in replay.parts:
        listed = {unpack(part.jobs[at : at + PACKED_BYTES]) for at in range(0, len(part.jobs), PACKED_BYTES)}
        try:
            content = await tools.blobs.read(part.name)
        except BlobError as error:
            wrong.append(f"{part.name}: {error}")
            continue
        if digest(content) != part.digest:
            wrong.append(f"{part.name}: does not have the digest that the ledger says")
            continue
        rows = await asyncio.to_thread(_rows, content)
        if {job for _, job in rows} != listed or len(rows) != len(listed):
            wrong.append(
                f"{part.name}: {len(rows)} rows, the ledger lists {len(listed)} jobs, and they are not the same"
            )
        for subject in (subjects.job(team, job) for team, job in rows):
            if subject in where:
                wrong.append(f"{subject}: in {where[subject]} and in {part.name}")
            where[subject] = part.name
        yield None
    yield Compared(what="archive: blobs, digests, and the jobs in them", count=len(where), differences=_few(wrong))
    known = set(where.values())
    lost = [f"{name}: its mark names {part}" for name, part in replay.marks.items() if where.get(name, "") != part]
    twice = [f"{name}: archived in {where[name]}, and facts are there" for name in replay.changed if name in where]
    count = len(replay.marks) + len(replay.changed)
    yield Compared(what="each job in the ledger or in the archive", count=count, differences=_few(lost + twice))
    spare = [name for name in await tools.blobs.names("archive/") if name not in known]
    if spare and not wrong:
        note = f"{len(spare)} blobs that no fact names, of archivers that were killed: they may be removed"
        yield Compared(what="archive: blobs beside it", count=len(spare), note=note)


def _rows(content: bytes) -> list[tuple[str, str]]:
    table = parquet.read_table(io.BytesIO(content), columns=["team", "job"])
    return list(zip(table["team"].to_pylist(), table["job"].to_pylist(), strict=True))


def _few(wrong: list[str]) -> list[str]:
    more = len(wrong) - SHOWN_MAX
    return wrong if more <= 0 else [*wrong[:SHOWN_MAX], f"and {more} more"]
