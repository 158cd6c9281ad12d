"""The scheduler's core alone, with very much waiting: `python -m load_tests.scheduler_core`.

200 queues of 20 teams, 1,000 nodes of 8 GPUs, all of them busy, and 10,000, 100,000 or 1,000,000 jobs that wait. Facts
come as bytes and are decoded, as in the service; a ledger in memory takes each round at once. Each size runs in a
process of its own. Latencies are CPU time of that process, so that neighbours on the machine do not count.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from controlplane.scheduling.core import Core
from controlplane.scheduling.decisions import Round, Settings
from controlplane.scheduling.replay import ALWAYS_HEARD
from events import messages as m
from events import subjects
from events.entries import Entry
from load_tests.drawing import Line, chart
from load_tests.stack import percentile, report

GIB: Final = 1024**3
TEAMS: Final = 20
QUEUES: Final = 10
"""Of each team."""
USERS: Final = 25
TIERS: Final = {
    "cpu": (m.Resources(cpus=2.0, memory_bytes=8 * GIB), 2),
    "gpu1": (m.Resources(cpus=8.0, memory_bytes=64 * GIB, gpus=1), 10),
    "gpu2": (m.Resources(cpus=16.0, memory_bytes=128 * GIB, gpus=2), 4),
    "gpu4": (m.Resources(cpus=32.0, memory_bytes=256 * GIB, gpus=4), 2),
    "gpu8": (m.Resources(cpus=64.0, memory_bytes=512 * GIB, gpus=8), 2),
}
"""Each with its weight in the mix."""
NODE: Final = m.Capacity(cpus=96.0, memory_bytes=768 * GIB, gpus=8)
LIMITS_S: Final = (600.0, 1800.0, 3600.0, 7200.0, 14_400.0, 43_200.0, 86_400.0, None)
GOALS: Final = {"round_ms_p99": 5.0, "burst_placements_per_s": 20_000, "bytes_per_job": 512}

_FACT: Final[msgspec.json.Decoder[m.Fact]] = msgspec.json.Decoder(m.AnyFact)


class World:
    """A core that leads, and a ledger that takes whatever it decides."""

    def __init__(self, nodes: int, dice: random.Random) -> None:
        self.core = Core(Settings(**ALWAYS_HEARD))
        self.now = 1_000_000.0
        self.sequence = 0
        self.dice = dice
        self.jobs = 0
        self.running: list[tuple[float, int, str, int]] = []
        """(when it ends, sequence, subject, attempt), a heap."""
        self.runs_s: dict[str, float] = {}
        """How long each job will run."""
        self.stopped: list[tuple[str, int]] = []
        self.gone: set[tuple[str, int]] = set()
        self.tell(subjects.TERM, m.Led(leader="bench"))
        self.term = self.sequence
        for team in range(TEAMS):
            self.tell(subjects.team(f"team-{team}"), m.TeamSet(by="x", weight=1.0 + team % 2))
            for queue in range(QUEUES):
                settings = m.QueueSet(
                    by="x",
                    weight=1.0 + queue % 3,
                    gpus_max=400 if queue == 3 else None,
                    running_max=300 if queue == 4 else None,
                    guaranteed_gpus=16 if queue == 0 and team % 4 == 0 else 0,
                )
                self.tell(subjects.queue(f"team-{team}", f"queue-{queue}"), settings)
        for node in range(nodes):
            self.tell(subjects.node(f"node-{node:05}"), m.NodeJoined(boot="b", capacity=NODE, term=self.term))
        self.core.begin_term(self.now)

    def tell(self, subject: str, fact: m.Fact) -> None:
        self.sequence += 1
        self.core.apply(Entry(self.sequence, subject, fact, self.now), self.now)

    def submit(self) -> None:
        """One job more: as bytes, which are then read as the service reads them."""
        dice, number = self.dice, self.jobs
        self.jobs += 1
        tier = dice.choices(list(TIERS), [weight for _, weight in TIERS.values()])[0]
        team, queue = dice.randrange(TEAMS), dice.randrange(QUEUES)
        job, limit_s = f"j-{number:012}", dice.choice(LIMITS_S)
        specification = m.Specification(
            job=job,
            team=f"team-{team}",
            user=f"user-{dice.randrange(USERS)}",
            name="train",
            queue=f"queue-{queue}",
            tier=tier,
            resources=TIERS[tier][0],
            entrypoint=("python", "train.py", f"--seed={number}"),
            time_limit_s=limit_s,
            preemptible=dice.random() < 0.2,
            priority=1 if dice.random() < 0.05 else 0,
            submitted_at=self.now,
        )
        subject = subjects.job(f"team-{team}", job)
        body = msgspec.json.encode(m.Accepted(specification=specification))
        self.runs_s[job] = (limit_s or 86_400.0) * (0.05 + 0.9 * dice.random())
        self.now += 0.01
        self.tell(subject, _FACT.decode(body))

    def take(self, round_: Round) -> int:
        """What the store does with a round. Gives how many jobs were placed."""
        placed = 0
        self.core.landed(round_, self.now)
        for decision in round_.decisions:
            self.tell(decision.subject, decision.fact)
            if isinstance(decision.fact, m.Placed):
                ends_at = self.now + self.runs_s[decision.subject.rpartition(".")[2]]
                heapq.heappush(self.running, (ends_at, self.sequence, decision.subject, decision.fact.attempt))
                placed += 1
            elif isinstance(decision.fact, m.StopRequested):
                self.stopped.append((decision.subject, decision.fact.attempt))
        return placed

    def decide(self) -> int:
        """Rounds until there is nothing to decide any more. Gives how many jobs were placed."""
        placed = 0
        while (round_ := self.core.decide(self.now)).decisions:
            placed += self.take(round_)
        return placed

    def end(self) -> tuple[str, m.Fact]:
        """The next fact: what was asked to stop has stopped, or the job that runs out first has ended."""
        if self.stopped:
            subject, attempt = self.stopped.pop()
            self.gone.add((subject, attempt))
            return subject, m.Requeued(term=self.term, attempt=attempt, why="stopped")
        while True:
            ends_at, _, subject, attempt = heapq.heappop(self.running)
            if (subject, attempt) not in self.gone:
                self.now = max(self.now, ends_at)
                reason = "exit code 0"
                return subject, m.Finished(term=self.term, attempt=attempt, outcome="succeeded", reason=reason)


def measure(waiting: int, *, nodes: int, rounds: int) -> dict[str, Any]:
    """All figures of one size, in this process. Says on standard error what it is at: a million take minutes."""
    say = _Stages(waiting)
    world = World(nodes, random.Random(waiting))
    while world.core.counters()["waiting"] < min(waiting, nodes):  # until all machines are busy, and some wait
        for _ in range(nodes):
            world.submit()
        world.decide()
    before = world.core.counters()["waiting"]
    say("machines busy")
    gc.collect()
    resident = _resident()
    begun = time.process_time()
    for _ in range(waiting - before):
        world.submit()
    applied_s = time.process_time() - begun
    gc.collect()
    bytes_per_job = (_resident() - resident) / max(1, waiting - before)
    gc.freeze()
    say("filled")
    world.decide()
    say("decided")
    ends = _timed(world, rounds)
    say("ends timed")
    submits = _timed_submits(world, rounds)
    say("submits timed")
    burst = _burst(world)
    say("burst placed")
    begun = time.process_time()
    snapshot = world.core.snapshot()
    encoded_s = time.process_time() - begun
    say("snapshot taken")
    begun = time.process_time()
    fresh = Core(Settings(**ALWAYS_HEARD))
    fresh.restore(snapshot)
    restored_s = time.process_time() - begun
    say("restored")
    assert fresh.snapshot() == snapshot
    return {
        "waiting": waiting,
        "nodes": nodes,
        "round_ms_p50": round(1000 * percentile(ends, 0.5), 3),
        "round_ms_p99": round(1000 * percentile(ends, 0.99), 3),
        "submit_ms_p50": round(1000 * percentile(submits, 0.5), 3),
        "submit_ms_p99": round(1000 * percentile(submits, 0.99), 3),
        **burst,
        "bytes_per_job": round(bytes_per_job),
        "facts_applied_per_s": round((waiting - before) / applied_s) if waiting > before else 0,
        "snapshot_mib": round(len(snapshot) / 1024**2, 1),
        "snapshot_s": round(encoded_s, 2),
        "restore_s": round(restored_s, 2),
    }


class _Stages:
    """Says when a stage is over, and how long it took."""

    def __init__(self, waiting: int) -> None:
        self._waiting = waiting
        self._at = time.monotonic()

    def __call__(self, what: str) -> None:
        now = time.monotonic()
        print(f"{self._waiting:,} waiting: {what} after {now - self._at:.1f} s", file=sys.stderr, flush=True)
        self._at = now


def _timed(world: World, rounds: int) -> list[float]:
    """CPU seconds from an end until the first round after it is decided; the rest of it is taken untimed."""
    taken = []
    for _ in range(rounds):
        subject, said = world.end()
        begun = time.process_time()
        world.tell(subject, said)
        round_ = world.core.decide(world.now)
        taken.append(time.process_time() - begun)
        world.take(round_)
        world.decide()
    return taken


def _timed_submits(world: World, rounds: int) -> list[float]:
    taken = []
    for _ in range(rounds):
        begun = time.process_time()
        world.submit()
        round_ = world.core.decide(world.now)
        taken.append(time.process_time() - begun)
        world.take(round_)
    return taken


def _burst(world: World) -> dict[str, Any]:
    """Everything that runs ends at once; then rounds until all machines are busy again."""
    while world.stopped or world.running:
        world.tell(*world.end())
    begun = time.process_time()
    placed = world.decide()
    took_s = time.process_time() - begun
    return {"burst_placed": placed, "burst_placements_per_s": round(placed / took_s)}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    names = [name for name in results[0] if name not in ("waiting", "nodes")]
    yield "| | " + " | ".join(f"{result['waiting']:,} waiting" for result in results) + " |"
    yield "| --- |" + " ---: |" * len(results)
    for name in names:
        yield f"| {name} | " + " | ".join(f"{result[name]:,}" for result in results) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--waiting", type=int, nargs="+", default=(10_000, 100_000, 1_000_000))
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1000, help="facts whose round is timed")
    parser.add_argument("--plot", type=Path, help="where the plot goes, as SVG")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.waiting[0], nodes=options.nodes, rounds=options.rounds)))
        return
    results = []
    for waiting in options.waiting:
        sizes = ["--nodes", str(options.nodes), "--rounds", str(options.rounds)]
        command = [sys.executable, "-m", "load_tests.scheduler_core", "--one", "--waiting", str(waiting), *sizes]
        results.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout))
    print("\n".join(table(results)))
    if options.plot:
        lines = [
            Line(name, [(result["waiting"], result[key]) for result in results])
            for name, key in (("p50", "round_ms_p50"), ("p99", "round_ms_p99"))
        ]
        title = "One round after one end: CPU time by what waits"
        options.plot.write_text(chart(lines, title=title, x="jobs that wait", y="ms", logarithmic=True))
    report("scheduler_core", {str(result["waiting"]): result for result in results}, {})


if __name__ == "__main__":
    main()
