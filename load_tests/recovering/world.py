"""The world of the campaign of faults with the product's own times, and what a trial asks of it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from controlplane.config import Configuration
from events.bus import Bus
from events.ledger import CaughtUp, Entry, Ledger
from events.messages import Led
from load_tests.faults.clients import call
from load_tests.faults.processes import held, launchers, of_nodes, send
from load_tests.faults.world import GIB, World
from load_tests.stack import percentile

TREE: Final = Path(__file__).parents[2]
READY_S_MAX: Final = 120.0
LOOK_S: Final = 0.05
SCHEDULERS: Final = ("scheduling-1", "scheduling-2")
MOUNTED: Final = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
PROGRAM: Final = """
import os, sys, time
import headrace
seconds, pause, file = float(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
note = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
end, count = time.monotonic() + seconds, 0
while time.monotonic() < end:
    os.write(note, b"%s %d %d\\n" % (os.environ["HEADRACE_ATTEMPT"].encode(), os.getpid(), time.time_ns()))
    print("line", count, flush=True)
    headrace.log(step=count, value=float(count))
    count += 1
    time.sleep(pause)
"""


class Times(NamedTuple):
    """What the times of a trial depend on, as the configuration names them."""

    heartbeat_s: float = Configuration().heartbeat_s
    suspect_s: float = Configuration().suspect_s
    lease_s: float = Configuration().lease_s
    leader_lease_s: float = Configuration().leader_lease_s


class Line(NamedTuple):
    """What a job's process wrote about itself."""

    attempt: int
    pid: int
    at: float


class TrialWorld(World):
    """Two of every service and some nodes, with these times; whatever dies is started again unless it is held down.

    The last node is the spare: it has room for what ran on all others.
    """

    def __init__(self, folder: Path, *, nodes: int, times: Times) -> None:
        super().__init__(folder, servers=1, nodes=nodes, tree=TREE)
        self.times = times
        self.spare = self.nodes[-1]

    # -- what it consists of -------------------------------------------------------------------------------------------

    @property
    def _times(self) -> dict[str, float]:
        return self.times._asdict()

    def _clock(self, name: str) -> dict[str, str]:
        """Everybody has the machine's."""
        return {}

    def _runner(self, node: str) -> None:
        super()._runner(node)
        if node == self.spare:
            file = self.folder / "settings" / f"runner-{node}.json"
            room = {"cpus": 64.0, "gpus": 64, "memory_bytes": 64 * GIB}
            file.write_text(json.dumps(json.loads(file.read_text()) | room))

    def _add(self, name: str, command: list[str], *more: Any, **options: Any) -> None:
        """Runners see a boot id of ours, if that may be."""
        if name.startswith("runner-") and self.can_reboot:
            boot = self._boot_file(name.removeprefix("runner-"))
            boot.write_text(f"{uuid.uuid4()}\n")
            command = ["unshare", "--mount", "sh", "-c", MOUNTED, str(boot), *command]
        super()._add(name, command, *more, **options)

    def _boot_file(self, node: str) -> Path:
        return self.folder / "settings" / f"boot-{node}"

    @property
    def can_reboot(self) -> bool:
        """Whether mounts are allowed here."""
        return self.disks[self.spare].is_mounted

    # -- what is done to it --------------------------------------------------------------------------------------------

    @contextmanager
    def held_down(self, *names: str) -> Iterator[None]:
        """SIGKILL to these, and none of them comes back before the end."""
        down = [self.processes[name] for name in names]
        with held(*down):
            for process in down:
                process.kill()
            yield

    @contextmanager
    def cut_off(self, node: str, how: str) -> Iterator[None]:
        """The line of a node's runner to NATS is `cut`, or `silent`: nothing passes, and nobody says so."""
        lines = self.lines[f"runner-{node}"]
        try:
            for line in lines:
                line.set(how)
            yield
        finally:
            for line in lines:
                line.set("")

    def power_off(self, node: str) -> None:
        """SIGKILL to everything of a node at once, as when its power goes."""
        self.processes[f"runner-{node}"].kill()
        for pid, _ in of_nodes(self.node_folder(node)):
            send(pid, signal.SIGKILL)

    def reboot(self, node: str) -> None:
        """The same, and the node comes back with another boot id."""
        self._boot_file(node).write_text(f"{uuid.uuid4()}\n")
        self.power_off(node)

    def launchers(self, node: str) -> list[int]:
        return launchers(self.node_folder(node))

    # -- what is asked of it -------------------------------------------------------------------------------------------

    def leader(self, facts: Facts) -> str:
        """The process of the scheduler that leads."""
        led = facts.of(Led)[-1].fact
        assert isinstance(led, Led)
        pid = int(led.leader.split("-")[-2])
        return next(name for name in SCHEDULERS if self.processes[name].pid == pid)

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """One call of the first gateway; raises AssertionError unless it went well."""
        status, answer = await asyncio.to_thread(call, self.gateways[0], method, path, body)
        assert status in (200, 201), f"{method} {path}: {status} {answer}"
        return answer

    async def submit(self, name: str, *, seconds: float, pause_s: float = 0.1, **fields: Any) -> str:
        """A job that notes and logs each `pause_s`; gives its id."""
        words = [sys.executable, "-c", PROGRAM, str(seconds), str(pause_s), str(self.witness / name)]
        job = {"id": name, "name": name, "entrypoint": words, "tier": "cpu", "grace_s": 1.0, **fields}
        return str((await self.ask("POST", "/v1/jobs", job))["job"])

    def noted(self, name: str) -> list[Line]:
        """What a job wrote so far."""
        file = self.witness / name
        rows = [row.split() for row in file.read_text().splitlines()] if file.exists() else []
        return [Line(int(attempt), int(pid), int(at) / 1e9) for attempt, pid, at in rows]

    async def until_ready(self) -> None:
        """Both gateways answer, and every node that is up is ready."""
        for gateway in self.gateways:
            said: list[Any] = []
            ready = partial(self._ready, gateway, said)
            try:
                await until(ready, limit_s=READY_S_MAX, what="readiness")
            except TimeoutError:
                raise TimeoutError(f"{gateway} knows no world that is ready: {said[-1]}") from None

    async def _ready(self, gateway: str, said: list[Any]) -> bool:
        """`said` grows by what was answered."""
        status, answer = await asyncio.to_thread(call, gateway, "GET", "/v1/nodes")
        said.append((status, answer))
        return status == 200 and sum(node["state"] == "ready" for node in answer["nodes"]) >= len(self.nodes)


class Facts:
    """The ledger as it grows, with the store's time of each fact."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._news = asyncio.Condition()
        self.seen: list[Entry] = []

    async def follow(self) -> None:
        async for item in self._ledger.tail(after=0):
            if not isinstance(item, CaughtUp):
                async with self._news:
                    self.seen.append(item)
                    self._news.notify_all()

    async def first(self, wanted: Callable[[Entry], bool], *, after: int = 0, limit_s: float, what: str) -> Entry:
        """The first such fact after a sequence, awaited. Raises TimeoutError that says what did not come."""
        looked = 0
        try:
            async with asyncio.timeout(limit_s), self._news:
                while True:
                    for item in self.seen[looked:]:
                        if item.sequence > after and wanted(item):
                            return item
                    looked = len(self.seen)
                    await self._news.wait()
        except TimeoutError as error:
            raise TimeoutError(f"{what} did not come in {limit_s:.0f} s") from error

    @property
    def last(self) -> int:
        """The sequence of the newest."""
        return self.seen[-1].sequence if self.seen else 0

    def of(self, kind: type[Any], *, job: str = "") -> list[Entry]:
        """All facts of a kind, of one job if that is named."""
        return [each for each in self.seen if isinstance(each.fact, kind) and (not job or each.subject.endswith(job))]


@asynccontextmanager
async def a_world(folder: Path, *, nodes: int, times: Times) -> AsyncIterator[tuple[TrialWorld, Facts]]:
    """A world that is ready, and its ledger."""
    async with TrialWorld(folder, nodes=nodes, times=times) as trial:
        await trial.until_ready()
        bus = await Bus.connect(trial.nats_url, user=trial.user, password=trial.password, name="recovery")
        facts = Facts(Ledger(bus, source="recovery"))
        following = asyncio.create_task(facts.follow())
        try:
            await facts.first(lambda each: isinstance(each.fact, Led), limit_s=READY_S_MAX, what="a leader")
            yield trial, facts
            assert not trial.unexpected, trial.unexpected
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await bus.drain()


async def until(reached: Callable[[], Any], *, limit_s: float, what: str) -> None:
    """Wait for something that nothing announces; `reached` may be a coroutine function. Raises TimeoutError."""
    end = time.monotonic() + limit_s
    while True:
        result = reached()
        if await result if asyncio.iscoroutine(result) else result:
            return
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come in {limit_s:.0f} s")
        await asyncio.sleep(LOOK_S)


def summary(trials: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Median, longest and shortest of each figure, in seconds."""
    names = trials[0] if trials else {}
    return {"trials": len(trials)} | {
        name: {
            "p50": round(percentile([each[name] for each in trials], 0.5), 2),
            "max": round(max(each[name] for each in trials), 2),
            "min": round(min(each[name] for each in trials), 2),
        }
        for name in names
    }
