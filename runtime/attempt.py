"""One attempt on this node, from its launch order to the day its folder is deleted.

    laying out → launched, followed → ended (`exit.json`) → recorded in the ledger, shipped → folder deleted

A part of a gang waits between the first two, until every part is laid out (`go`).

Everything that must survive the runner is in the attempt's folder: `launch.json` (the order), what the supervisor
keeps, and `recorded`. A new runner makes the same object from it by `Attempt.found`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec

from events import ranks
from events.messages import AttemptEnd, AttemptRef, GangPart, GpuError, Launch, LiveAttempt, Meeting, Usage
from events.wire import UNREADABLE
from runtime import (
    bounds,
    disk,
    exit_record,
    ipc,
    job_environment,
    meeting,
    ownership,
    private_ray,
    removing,
    short_way,
    spool,
)
from runtime.desired import Actual, Phase
from runtime.disk import Disk
from runtime.exit_record import Record, Spec
from runtime.node_folder import NodeFolder
from runtime.shipping import output
from runtime.supervised import LauncherClient, LaunchFailed, Standing, Status, Supervised, SupervisorLost, standing
from runtime.users import NoUser, Users, as_user

LOG: Final = logging.getLogger("headrace.runner")

LAUNCH: Final = "launch.json"
RECORDED: Final = "recorded"
SHIP_AGAIN_S: Final = (1.0, 10.0, 60.0, 600.0)
"""Pauses after a shipping that failed by a fault of ours; then it is given up."""
SWEEP_S: Final = 10.0
"""After a sweep of this length that left something alive it is said in the log, and the sweep goes on."""


class LayOutFailed(Exception):
    """The attempt cannot run here. `cause` is the end's cause, the message a sentence for its user."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class Layer(Protocol):
    """Makes everything that the entrypoint needs."""

    async def lay_out(self, launch: Launch, folder: Path) -> Spec:
        """Raises LayOutFailed."""


class Shipping(Protocol):
    """Sends an attempt's output and metrics away."""

    async def ship(self, launch: Launch, folder: Path, over: asyncio.Event) -> None:
        """Returns when `over` is set and everything was shipped. Can be begun again after a restart."""


class Gpus(Protocol):
    """Knows what is reported of the node's GPUs."""

    async def settled(self) -> None:
        """What there is to know by now is known."""

    def errors(self, gpus: Iterable[int], since: float) -> tuple[GpuError, ...]: ...


class Tools(NamedTuple):
    """What an attempt works with. `changed` tells the runner that it is ready, started, or ended."""

    folder: NodeFolder
    launcher: LauncherClient
    layer: Layer
    shipping: Shipping
    disk: Disk
    changed: Callable[[Attempt], None]
    address: str
    """At which other nodes reach this one."""
    ports: Callable[[], set[int]]
    """At which gangs meet here."""
    gpus: Gpus
    users: Users | None = None
    """Whom attempts run as; None: as we do."""


class Attempt:
    """Made by `Attempt(…)` for a new launch or by `found` after a restart; then `run` it once."""

    def __init__(self, launch: Launch, tools: Tools) -> None:
        self.launch = launch
        self.phase = Phase.STARTING
        self.folder = tools.folder.attempt(launch.ref)
        self._tools = tools
        self._begun_at = time.time()
        """When this runner took it up: what was reported of GPUs before, it has not heard, or it is not about this."""
        self._started_at: float | None = None
        self._end: AttemptEnd | None = None
        self._over = asyncio.Event()
        self._recorded = asyncio.Event()
        self._laying_out: asyncio.Task[Spec] | None = None
        self._supervised: Supervised | None = None
        self._stop: tuple[str, str] | None = None
        self._uid = 0
        """Whose it is, if it has a user of its own."""
        self._offers: Meeting | None = None
        self._meeting: asyncio.Future[Meeting] | None = None

    @classmethod
    def found(cls, folder: Path, tools: Tools) -> Attempt | None:
        """The attempt in a folder; None if there is nothing in it that was ever launched (then it can be deleted)."""
        try:
            launch = msgspec.json.decode((folder / LAUNCH).read_bytes(), type=Launch)
        except (OSError, *UNREADABLE):
            return None
        if standing(folder) is Standing.NEVER_LAUNCHED:
            return None
        attempt = cls(launch, tools)
        attempt._supervised = Supervised(folder)
        attempt._uid = _user_of(folder)
        if tools.users is not None:
            tools.users.keep(attempt._uid)
        if (folder / RECORDED).exists():
            attempt._recorded.set()
        return attempt

    # -- what the runner asks ----------------------------------------------------------------------------------------

    @property
    def ref(self) -> AttemptRef:
        return self.launch.ref

    @property
    def actual(self) -> Actual:
        return Actual(self.phase, self.launch.allocation.gpus, self.launch.allocation.gpu_milli, self._met)

    @property
    def _met(self) -> Meeting | None:
        """Of a part of a gang: what it was started with."""
        return self.launch.gang.meeting if self.launch.gang is not None else None

    @property
    def report(self) -> LiveAttempt:
        """What the leader is told, until the ledger knows all."""
        match self.phase:
            case Phase.STARTING:
                return LiveAttempt(ref=self.ref, state="starting", meeting=self._met)
            case Phase.READY:
                return LiveAttempt(ref=self.ref, state="ready", meeting=self._offers)
            case Phase.RUNNING:
                saved_at, at = spool.checkpoint_at(self.folder / "spool"), self._started_at
                return LiveAttempt(
                    ref=self.ref, state="running", started_at=at, checkpoint_at=saved_at, meeting=self._met
                )
            case Phase.ENDED | Phase.RECORDED:
                return LiveAttempt(
                    ref=self.ref, state="ended", started_at=self._started_at, end=self._end, meeting=self._met
                )

    def go(self, where: Meeting) -> None:
        """Every part of its gang is ready. Again is harmless."""
        if self._meeting is not None and not self._meeting.done():
            self._meeting.set_result(where)

    def stop(self, cause: str, why: str) -> None:
        """End it, however far it has come. Again is harmless."""
        if self._stop is not None or self._over.is_set():
            return
        self._stop = (cause, why)
        if self._supervised is not None:
            self._supervised.stop(cause, why)
        elif self._laying_out is not None:
            self._laying_out.cancel()

    def forget(self) -> None:
        """Its end is in the ledger."""
        self.phase = Phase.RECORDED
        try:
            (self.folder / RECORDED).touch(mode=0o600)
        except OSError as error:  # a runner that is started before the folder is deleted will be told again
            LOG.warning("cannot note that its end is recorded: %s", error, extra={"job": self.ref.job})
        self._recorded.set()

    # -- its life ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live to the end. Cancelled, it leaves the supervisor alone: `found` goes on from there."""
        async with asyncio.TaskGroup() as group:
            if self._supervised is not None:
                group.create_task(self._ship())
                record = await self._follow(self._supervised)
            else:
                record = await self._begin(group)
            self._note_end(record, await self._gpu_errors(record))
            await self._recorded.wait()
        if await asyncio.to_thread(self._remove_folder) and self._tools.users is not None:
            self._tools.users.give_back(self._uid)

    def _remove_folder(self) -> bool:
        """Gives whether nothing of it is left."""
        short_way.remove(self.folder / "scratch")
        if self._uid:
            if not self._seal():
                return False  # its user is nobody else's until a later runner has sealed it
            ownership.clear_shared(self._uid)
            ipc.clear(self._uid, as_user(self._uid))
        return removing.remove(self.folder)

    async def _begin(self, group: asyncio.TaskGroup) -> Record:
        # not in the group: a failure of this is an ordinary end
        self._laying_out = asyncio.ensure_future(self._prepare())
        try:
            await asyncio.wait([self._laying_out])
        finally:
            self._laying_out.cancel()
        if self._stop is not None:
            return await self._never_ran(*self._stop)
        try:
            exit_record.write_spec(str(self.folder), self._laying_out.result())
            supervised = await self._tools.launcher.launch(self.folder.name)
        except LayOutFailed as error:
            return await self._never_ran(error.cause, str(error))
        except (LaunchFailed, OSError) as error:
            return await self._never_ran("start_failed", str(error))
        self._supervised = supervised
        if self._stop is not None:  # while the launcher was asked
            supervised.stop(*self._stop)
        group.create_task(self._ship())
        return await self._follow(supervised)

    async def _prepare(self) -> Spec:
        """Lay it out, and wait for the others if it is a part of a gang. Raises LayOutFailed."""
        gang = self.launch.gang
        self.launch = msgspec.structs.replace(self.launch, gang=gang and msgspec.structs.replace(gang, meeting=None))
        spec = await self._lay_out()
        if gang is None:
            return self._made_for(spec)
        try:
            where = await self._meet(gang)
            self.launch = msgspec.structs.replace(self.launch, gang=msgspec.structs.replace(gang, meeting=where))
            self.phase = Phase.STARTING
            await asyncio.to_thread(self._note_launch)
        except meeting.NoPort as error:
            raise LayOutFailed("meeting_failed", str(error)) from error
        except OSError as error:
            raise LayOutFailed("start_failed", f"the node cannot lay it out: {error}") from error
        return self._made_for(spec)

    def _made_for(self, spec: Spec) -> Spec:
        """What is to be run, now that it is known where the others are."""
        if self.launch.kind == "ray":
            return private_ray.within(spec, self.launch, host=self._tools.address)
        return spec._replace(env=spec.env | job_environment.of_gang(self.launch))

    async def _meet(self, gang: GangPart) -> Meeting:
        """Say that it is ready, and wait until all are. Rank 0 offers a port meanwhile. Raises NoPort."""
        self._meeting = asyncio.get_running_loop().create_future()
        if gang.rank:
            return await self._wait_for(self._meeting)
        with meeting.held(but=self._tools.ports()) as port:
            token = private_ray.new_token(self.launch)
            self._offers = Meeting(address=self._tools.address, port=port, token=token)
            where = await self._wait_for(self._meeting)
        if where != self._offers:  # said by the runner before this one, and another part may have begun with it
            with meeting.held(where.port):
                pass
        return where

    async def _wait_for(self, word: asyncio.Future[Meeting]) -> Meeting:
        self.phase = Phase.READY
        self._tools.changed(self)
        return await word

    async def _lay_out(self) -> Spec:
        """Everything that the entrypoint needs. Raises LayOutFailed, which ends this attempt and nothing else."""
        try:
            if self._tools.users is not None:
                self._uid = self._tools.users.take()
            await asyncio.to_thread(self._make_folder)
            spec = await self._tools.layer.lay_out(self.launch, self.folder)
            return await asyncio.to_thread(self._as_its_user, spec) if self._uid else spec
        except LayOutFailed:
            raise
        except NoUser as error:
            raise LayOutFailed("environment_failed", str(error)) from error
        except OSError as error:
            raise LayOutFailed("start_failed", f"the node cannot lay it out: {error}") from error
        except Exception as error:  # a fault of ours with one attempt must not end the others' runner
            LOG.exception("could not be laid out")
            raise LayOutFailed("start_failed", f"a fault of the node's runner: {error!r}") from error

    async def _ship(self) -> None:
        """Ship to the end. A fault of ours costs a pause, in the worst case this attempt's rest, never the runner."""
        for pause_s in SHIP_AGAIN_S:
            try:
                return await self._tools.shipping.ship(self.launch, self.folder, self._over)
            except Exception:  # as above
                LOG.exception("shipping failed")
            await asyncio.sleep(pause_s)
        LOG.error("what was not shipped yet is given up")
        return None

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700)
        for name in ("scratch", "spool"):
            (self.folder / name).mkdir()
        job = self._tools.folder.job(self.ref)
        job.mkdir(parents=True, exist_ok=True)
        if self._uid:
            ownership.give_attempt(self.folder, self._uid)
            ownership.give_job(job, self._uid)
        self._note_launch()

    def _as_its_user(self, spec: Spec) -> Spec:
        """With what was laid out in its user's hands, and a home there."""
        ownership.give_attempt(self.folder, self._uid)
        home = str(self.folder / ownership.HOME)
        own = {"HOME": home, "USER": self.launch.user, "LOGNAME": self.launch.user} | self.launch.env
        return spec._replace(uid=self._uid, env=spec.env | {name: own[name] for name in ("HOME", "USER", "LOGNAME")})

    def _seal(self) -> bool:
        """Gives whether its user has the job's folder no more."""
        try:
            ownership.seal_job(self._tools.folder.job(self.ref), self._uid)
        except OSError as error:
            LOG.error("its folder stays open to user %d: %s", self._uid, error)
            return False
        return True

    def _note_launch(self) -> None:
        exit_record.write_whole(str(self.folder / LAUNCH), msgspec.json.encode(self.launch))

    async def _follow(self, supervised: Supervised) -> Record:
        try:
            return await supervised.watch(self._on_status)
        except SupervisorLost:
            return await self._sweep_up()

    def _on_status(self, status: Status) -> None:
        if status.started_at is not None and (self._started_at is None or self.phase is Phase.STARTING):
            self._started_at = status.started_at
            self.phase = Phase.RUNNING
            self._tools.changed(self)

    async def _sweep_up(self) -> Record:
        """Nobody looks after what the vanished supervisor left: end all of it before anything is reported."""
        mark = job_environment.mark(self.folder)
        place = self._tools.launcher.place
        group = place.group(self.folder.name) if place else None
        while left := await asyncio.to_thread(bounds.sweep, mark, group, wait_s=SWEEP_S, uid=self._uid):
            LOG.error("%d processes do not die", left)
        launched_at = (self.folder / exit_record.LOCK).stat().st_mtime
        sizes = {name: _size(self.folder / name) for name in exit_record.STREAMS}
        record = Record(
            cause="supervisor_lost",
            ended_at=time.time(),
            started_at=self._started_at or launched_at,
            message="its supervisor was killed, or its node was restarted",
            output_bytes=sizes,
        )
        return await self._leave(record)

    async def _never_ran(self, cause: str, message: str) -> Record:
        if disk.says_full(message):
            self._tools.disk.start_failed(time.monotonic())
            cause = "output_failed" if cause == "start_failed" else cause  # no fault of the program: it is tried again
        record = Record(cause=cause, ended_at=time.time(), message=message[: exit_record.RECORD_BYTES_MAX // 8])
        return await self._leave(record)

    async def _leave(self, record: Record) -> Record:
        """Leave the record on disk where no supervisor did. A full disk keeps us from that, not from reporting it."""
        try:
            await asyncio.to_thread(exit_record.write_record, str(self.folder), record)
        except OSError as error:
            LOG.warning("its end is not on disk: %s", error)
        return record

    async def _gpu_errors(self, record: Record) -> tuple[GpuError, ...]:
        """Of an attempt that failed: what was reported of its GPUs."""
        gpus = self.launch.allocation.gpus
        if not gpus or record.exit_code == 0 or record.started_at is None or self._recorded.is_set():
            return ()
        await self._tools.gpus.settled()
        return self._tools.gpus.errors(gpus, self._begun_at)

    def _note_end(self, record: Record, errors: tuple[GpuError, ...]) -> None:
        if self._uid:
            self._seal()  # before anybody hears of the end: the next attempt may begin then
        self._started_at = record.started_at
        self._end = msgspec.structs.replace(self._seen(end_of(record)), gpu_errors=errors)
        self.phase = Phase.RECORDED if self._recorded.is_set() else Phase.ENDED
        self._over.set()
        self._tools.changed(self)

    def _seen(self, end: AttemptEnd) -> AttemptEnd:
        """Of a part of a gang: what it wrote last if it failed, and its streams under the names that they have. Of a
        private cluster: what it says."""
        gang = self.launch.gang
        if self.launch.kind == "ray":
            end = private_ray.seen(end, self.folder)
        if gang is None:
            return end
        failed = end.cause != "stopped" and end.exit_code != 0
        named = {ranks.stream(name, gang.rank): size for name, size in end.output_bytes.items()}
        lines = output.last_lines(self.folder) if failed else ()
        return msgspec.structs.replace(end, output_bytes=named, last_lines=lines)


def end_of(record: Record) -> AttemptEnd:
    """A supervisor's record in the words of the contract."""
    return msgspec.convert(
        {
            **{name: value for name, value in record._asdict().items() if name in AttemptEnd.__struct_fields__},
            "usage": Usage(cpu_s=record.cpu_s, memory_bytes_max=record.memory_bytes_max),
        },
        AttemptEnd,
    )


def discard(folder: Path, node: NodeFolder, users: Users | None) -> None:
    """Remove the folder of an attempt that was never launched (`Attempt.found` gave None).

    Its runner may have given it the job's folder, which is sealed first: its user will be another attempt's. Where that
    fails, both folders stay for the next runner, and nobody here gets the user.
    """
    uid = 0
    try:
        uid = ownership.user_of_attempt(folder)
        if uid:
            ownership.seal_job(node.job_of(folder), uid)
    except OSError as error:
        LOG.error("%s was never launched, and its job's folder stays open to user %d: %s", folder.name, uid, error)
        if users is not None:
            users.keep(uid)
        return
    removing.remove(folder)


def _user_of(folder: Path) -> int:
    """Whom an attempt runs as; 0: as we do. One that ended before it was launched has no specification."""
    try:
        return exit_record.read_spec(str(folder)).uid
    except (exit_record.Damaged, OSError):
        return ownership.user_of_attempt(folder)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
