"""The runner: keeps what lives on this node equal to what the leader wants. asyncio; knows nothing of Ray.

It tells the leader what it has (each heartbeat, and at once when something changed), takes in what should live here
(as the answer, or as a message of the leader's own), and carries out the difference. It decides nothing and keeps
nothing: attempts belong to their supervisors, and a new runner finds them again by their folders.

    python -m runtime.runner --settings file.json     (see `serve`)
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import time
from collections import deque
from pathlib import Path
from typing import Final

import msgspec

from events import logs, subjects
from events.bus import AskRefused, Bus, BusError, Delivery
from events.messages import AttemptRef, Capacity, Desired, Exchange, Launch
from events.wire import UNREADABLE
from runtime import desired, exit_record, node_capacity, short_way
from runtime.attempt import Attempt, Layer, Shipping, Tools, discard
from runtime.desired import Actual, Forget, Go, Phase, Seen, Start, Stop
from runtime.disk import Disk, room
from runtime.gpu_health import GpuWatch
from runtime.lease import Lease
from runtime.meeting import own_address
from runtime.node_folder import NodeFolder
from runtime.settings import RunnerSettings
from runtime.supervised import LauncherClient
from runtime.users import Users

LOG: Final = logging.getLogger("headrace.runner")

EXCHANGE_S_MAX: Final = 2.0
RETRY_S: Final = 1.0
"""After an exchange without an answer, when something waits to be told; else the heartbeat is soon enough."""
DONE_MAX: Final = 1000
"""Attempts that are done with here, remembered so that a message that comes late does not start one again."""
_DESIRED: Final = msgspec.json.Decoder(Desired)


class AnotherRunner(Exception):
    """The node's folder is another runner's."""


class Runner:
    """One node. `run` goes on until it is cancelled; attempts do not notice when it is."""

    def __init__(self, settings: RunnerSettings, bus: Bus, layer: Layer, shipping: Shipping) -> None:
        self._settings = settings
        self._bus = bus
        self._folder = NodeFolder(Path(settings.folder))
        self._launcher = LauncherClient(self._folder.path)
        self._disk = Disk()
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._changed = asyncio.Event()
        self._gpus = GpuWatch(self._boot, self._changed.set)
        self._tools = Tools(
            *(self._folder, self._launcher, layer, shipping, self._disk, self._on_change),
            address=settings.address,
            ports=self._ports,
            gpus=self._gpus,
            users=Users(settings.attempt_uids) if settings.attempt_uids else None,
        )
        self._attempts: dict[AttemptRef, Attempt] = {}
        """Those whose end is not in the ledger yet: what the leader is told, and what is decided on."""
        self._recorded: set[AttemptRef] = set()
        """Those whose end is. The output of some is still on its way, so that their folders are still here."""
        self._desired: Desired | None = None
        self._seen = _read_seen(self._folder.seen)
        self._kept_term = self._seen.term
        self._heartbeat_s = 5.0
        self._lease = Lease(self._folder.lease, node=settings.node, lease_s=settings.lease_s)
        self._done: deque[AttemptRef] = deque()
        """Of the recorded ones those without a folder, in the order in which they are forgotten."""
        self._life = secrets.token_hex(8)
        self._group = asyncio.TaskGroup()

    async def run(self) -> None:
        """Raises AnotherRunner, LaunchFailed, OSError; else only its cancellation ends it."""
        users = self._tools.users
        usable = users is not None and not users.problem
        lock = _only_one(self._folder.path)
        try:
            await asyncio.to_thread(self._folder.prepare, builder=users.builder if users and usable else 0)
            if not self._tools.address:
                address = await asyncio.to_thread(own_address, self._settings.nats_url)
                self._tools = self._tools._replace(address=address)
            if users is not None:
                await users.examine(self._folder.pythonpath)
                if users.problem:
                    LOG.error("no attempt is started here: %s", users.problem)
            await self._launcher.ensure()  # afterwards every launch of a runner before us can be seen
            async with self._group:
                await self._find_attempts()
                capacity = await node_capacity.find(self._settings, bounds=self._launcher.bounds)
                self._gpus.start(capacity.gpus)
                subscription = await self._bus.listen(subjects.to_node(self._settings.node), self._on_message)
                try:
                    await self._keep_telling(capacity)
                finally:
                    await subscription.close()
        finally:
            self._gpus.stop()
            os.close(lock)

    # -- attempts ------------------------------------------------------------------------------------------------------

    async def _find_attempts(self) -> None:
        for folder in sorted(self._folder.attempts.iterdir()):
            attempt = Attempt.found(folder, self._tools)
            if attempt is None:
                await asyncio.to_thread(discard, folder, self._folder, self._tools.users)
            else:
                self._live(attempt)
        await asyncio.to_thread(short_way.sweep, self._folder.attempts)
        names = {attempt.folder.name for attempt in self._attempts.values()}
        await asyncio.to_thread(self._sweep_groups, names)

    def _sweep_groups(self, known: set[str]) -> None:
        """Control groups that no attempt of ours has: left by a runner that died between removing the two."""
        place = self._launcher.place
        if place is None:
            return
        for name in set(place.names()) - known:
            LOG.warning("the control group of %s was left over", name)
            group = place.group(name)
            group.kill()
            group.remove()

    def _live(self, attempt: Attempt) -> None:
        self._attempts[attempt.ref] = attempt
        self._group.create_task(self._run_attempt(attempt), name=attempt.folder.name)

    async def _run_attempt(self, attempt: Attempt) -> None:
        ref = attempt.ref
        with logs.about(team=ref.team, job=ref.job, attempt=ref.attempt):
            await attempt.run()
        self._done.append(ref)
        if len(self._done) > DONE_MAX:
            self._recorded.discard(self._done.popleft())

    def _on_change(self, attempt: Attempt) -> None:
        """It started or ended: tell the leader, and see whether a start waited for that end."""
        if attempt.phase is Phase.RECORDED:
            self._settle(attempt.ref)
        self._changed.set()
        if self._desired is not None:
            self._carry_out(self._desired)

    def _ports(self) -> set[int]:
        """At which gangs meet here."""
        gangs = [attempt.launch.gang for attempt in self._attempts.values()]
        return {gang.meeting.port for gang in gangs if gang is not None and gang.meeting is not None and not gang.rank}

    def _settle(self, ref: AttemptRef) -> None:
        """Its end is in the ledger: nothing here looks at it again, though its output may still be on its way."""
        del self._attempts[ref]
        self._recorded.add(ref)

    # -- the leader ----------------------------------------------------------------------------------------------------

    async def _keep_telling(self, capacity: Capacity) -> None:
        while True:
            self._changed.clear()
            answered = await self._exchange(capacity)
            unsaid = not answered and bool(self._attempts)
            wait_s = min(self._heartbeat_s, RETRY_S) if unsaid else self._heartbeat_s
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _exchange(self, capacity: Capacity) -> bool:
        """Whether a leader answered."""
        asked_at = exit_record.boot_clock()
        reports = [attempt.report for attempt in self._attempts.values()]
        body = msgspec.json.encode(
            Exchange(
                node=self._settings.node,
                boot=self._boot,
                runner=self._life,
                capacity=msgspec.structs.replace(capacity, cannot_start=self._cannot_start()),
                attempts=tuple(reports),
                gpu_health=self._gpus.health,
            )
        )
        try:
            answer = await self._bus.ask(subjects.exchange(self._settings.node), body, timeout_s=EXCHANGE_S_MAX)
            wanted = _DESIRED.decode(answer)
        except (BusError, AskRefused, *UNREADABLE) as error:
            LOG.info("nobody took the exchange: %s", error)
            await self._lease.look(self._bus)
            return False
        self._heed(wanted, asked_at=asked_at)
        return True

    def _cannot_start(self) -> str:
        if self._tools.users is not None and self._tools.users.problem:
            return self._tools.users.problem
        try:
            if self._folder.closing.exists():
                return self._folder.closing.read_text()
            return self._disk.problem(room(self._folder.path), time.monotonic())
        except OSError as error:
            return f"its folder cannot be looked at: {error.strerror}"

    async def _on_message(self, delivery: Delivery) -> None:
        try:
            self._heed(_DESIRED.decode(delivery.body))
        except UNREADABLE as error:
            LOG.warning("a message cannot be read: %s", error)

    def _heed(self, wanted: Desired, *, asked_at: float | None = None) -> None:
        """Carry it out, if it is new enough. `asked_at`: it answers an exchange that was begun then."""
        seen = desired.heed(wanted, node=self._settings.node, seen=self._seen)
        if seen is None:
            LOG.info("ignored what term %d wants: term %d was seen", wanted.term, self._seen.term)
            return
        if asked_at is not None:
            self._lease.cleared(asked_at)
        if seen.term != self._kept_term:
            self._keep_seen(seen)
        self._seen = seen
        self._desired = wanted
        self._heartbeat_s = wanted.heartbeat_s
        self._carry_out(wanted)

    def _keep_seen(self, seen: Seen) -> None:
        try:
            _write_seen(self._folder.seen, seen)
        except OSError as error:  # on a full disk attempts are still to be stopped; tried again with the next list
            LOG.warning("cannot keep that term %d was seen: %s", seen.term, error)
        else:
            self._kept_term = seen.term

    def _carry_out(self, wanted: Desired) -> None:
        actual = {ref: attempt.actual for ref, attempt in self._attempts.items()}
        late = (launch.ref for launch in wanted.attempts if launch.ref in self._recorded)
        actual |= dict.fromkeys(late, Actual(Phase.RECORDED))
        for instruction in desired.decide(wanted, actual):
            match instruction:
                case Start(Launch(ref=ref)) | Go(ref) if not self._lease.holds:
                    LOG.info("not started: %s of %s, until this node is cleared", ref.attempt, ref.job)
                case Start(launch):
                    self._live(Attempt(launch, self._tools))
                    self._changed.set()
                case Go(ref, meeting):
                    self._attempts[ref].go(meeting)
                case Stop(ref, why):
                    self._attempts[ref].stop("stopped", why)
                case Forget(ref):
                    self._attempts[ref].forget()
                    self._settle(ref)


def _only_one(folder: Path) -> int:
    """Hold the node's folder against a second runner. Raises AnotherRunner."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / "runner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise AnotherRunner(f"another runner works in {folder}; give each node a folder of its own") from error
    return lock


def _read_seen(path: Path) -> Seen:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Seen)
    except (OSError, *UNREADABLE):
        return Seen()


def _write_seen(path: Path, seen: Seen) -> None:
    """Over a restart only the term counts: what a leader sent to the runner before never reaches the next."""
    exit_record.write_whole(str(path), msgspec.json.encode(Seen(seen.term)))


if __name__ == "__main__":
    from runtime.serve import main

    main()
