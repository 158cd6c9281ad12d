"""How long a small job waits: when nothing else is there, and behind thousands of queued ones, beside Slurm on this
machine: `python -m load_tests.waits`.

The same on either side, with real processes on one node that has this machine's CPUs: a script that stamps the moment
at which it starts, one job after the other; then a job that holds half of the node, many queued ones that need all of
it for an hour (each a submit of its own), and behind them the script again, which fits into the other half and says
that it takes a minute. A wait counts from the moment before the submit is called, so the call is part of it: HTTP for
Headrace, a process of `sbatch` for Slurm. Headrace's node is a runner without Ray, which has no part in a start.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from load_tests import slurm
from load_tests.sides import CONFIG, CPUS, Headrace, Side, Slurm
from load_tests.stack import percentile, report, until
from load_tests.without_ray import running

LONG_S: Final = 3600
SHORT_S: Final = 60
"""Time limits."""
IDLE_S_MAX: Final = 60.0
PAUSE_S_MAX: Final = 2.0
BACKFILL_S: Final = 30.0
"""Between an end and the next submit, drawn each time, so that none is in step with what comes round by the clock: the
latter for Slurm's backfill, which comes round so often unless it is told otherwise."""
CALLERS: Final = 16
"""Submits at once while the queue fills."""
POLICIES: Final = ("slowdown", "fcfs")
"""Of the queue: by the default one a short job goes first; by the other one it can only pass where it delays nobody."""
PARAMETERS: Final = {
    "defaults": "",
    "throughput": slurm.PARAMETERS,
    "backfill": "bf_continue,bf_interval=1,bf_max_job_test=1000000",
}
"""Of Slurm's scheduler, always sched/backfill. What serves throughput leaves backfill at its defaults."""

STAMP: Final = '#!/bin/sh\ndate +%s.%N >"$1.new"\nmv "$1.new" "$1"\n'
SLEEP: Final = '#!/bin/sh\nexec sleep "$1"\n'


class Bench(NamedTuple):
    """What is measured, on whichever side. Both find the scripts in `folder`."""

    folder: Path
    options: argparse.Namespace
    dice: random.Random

    def prepare(self) -> None:
        for name, text in (("stamp", STAMP), ("sleep", SLEEP)):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)

    def idle(self, side: Side) -> dict[str, Any]:
        """Of jobs one after the other. The first one does not count: it warms what is to be warm."""
        waits = [self._wait(side, IDLE_S_MAX) for _ in range(self.options.jobs + 1)][1:]
        found = [1000 * wait for wait in waits if wait is not None]
        if len(found) < self.options.jobs:
            raise TimeoutError(f"a job on an idle node did not start in {IDLE_S_MAX:.0f} s")
        return {
            "jobs": len(found),
            "p50_ms": round(percentile(found, 0.5), 1),
            "p99_ms": round(percentile(found, 0.99), 1),
        }

    def hold(self, side: Side) -> str:
        """Let half of the node be busy; gives that job."""
        holder = side.submit(self.long, shape="half", limit_s=LONG_S)
        until(lambda: side.is_running(holder), limit_s=IDLE_S_MAX, what="the job that holds half of the node")
        return holder

    def fill(self, side: Side, jobs: int) -> float:
        """Queue what cannot start, a call each, a few at once; calls a second."""
        began = time.monotonic()
        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(lambda _: side.submit(self.long, shape="whole", limit_s=LONG_S), range(jobs)))
        return round(jobs / (time.monotonic() - began), 1)

    def behind(self, side: Side, pause_s_max: float = PAUSE_S_MAX) -> dict[str, Any]:
        """Of small jobs behind what is queued; the first one that does not start in time is the last.

        Before them one that does not count: until then Slurm may sleep as it was told by the parameters before.
        """
        if (waiting := side.waiting()) != self.options.queued:
            raise RuntimeError(f"{waiting} jobs are queued, not {self.options.queued}")
        waits: list[float] = []
        for _ in range(self.options.small + 1):
            wait = self._wait(side, self.options.give_up_s, pause_s_max)
            if wait is None:
                return {"started": len(waits), "gave_up_after_s": self.options.give_up_s}
            waits.append(wait)
        del waits[0]
        return {"started": len(waits), "p50_s": round(percentile(waits, 0.5), 3), "max_s": round(max(waits), 3)}

    def _wait(self, side: Side, limit_s: float, pause_s_max: float = PAUSE_S_MAX) -> float | None:
        """Seconds from a submit to the start; None if it did not start, and was taken back. It has ended then."""
        time.sleep(self.dice.uniform(0, pause_s_max))
        stamp = self.folder / f"stamp-{time.monotonic_ns()}"
        submitted_at = time.time()
        job = side.submit([str(self.folder / "stamp"), str(stamp)], shape="small", limit_s=SHORT_S)
        try:
            until(stamp.exists, limit_s=limit_s, what="the start")
        except TimeoutError:
            side.cancel(job)
        until(lambda: side.is_over(job), limit_s=IDLE_S_MAX, what="the end")
        return float(stamp.read_text()) - submitted_at if stamp.exists() else None

    @property
    def long(self) -> list[str]:
        """What takes an hour."""
        return [str(self.folder / "sleep"), str(LONG_S)]


def headrace(bench: Bench) -> dict[str, Any]:
    queued = bench.options.queued
    called = min(queued, bench.options.called)
    with running(config=CONFIG) as stack:
        side = Headrace(stack)
        figures: dict[str, Any] = {"idle": bench.idle(side), "queued": queued}
        holder = bench.hold(side)
        try:
            figures["calls_per_s"] = bench.fill(side, called)
            if rest := queued - called:
                took_s = side.publish(bench.long, shape="whole", limit_s=LONG_S, jobs=rest)
                figures["published_per_s"] = round(rest / took_s, 1)
            figures["behind"] = {}
            for policy in POLICIES:
                side.set_queue(policy=policy)
                figures["behind"][policy] = bench.behind(side)
                told("headrace", figures)
        finally:  # what runs outlives the runner; and nothing is to take its place
            side.set_queue(paused=True)
            side.cancel(holder)
            until(lambda: side.is_over(holder), limit_s=IDLE_S_MAX, what="the end of the job that held half")
        return figures


def beside(bench: Bench, environ: dict[str, str]) -> dict[str, Any]:
    """The same on Slurm, with more than one set of parameters."""
    side = Slurm(environ)
    figures: dict[str, Any] = {"idle": {}, "queued": bench.options.queued, "behind": {}}
    for name in ("defaults", "throughput"):
        side.schedule_by(PARAMETERS[name])
        figures["idle"][name] = bench.idle(side)
    bench.hold(side)
    figures["calls_per_s"] = bench.fill(side, bench.options.queued)
    for name, pause_s_max in (("backfill", PAUSE_S_MAX), ("defaults", BACKFILL_S)):
        told("slurm", figures)
        side.schedule_by(PARAMETERS[name])
        figures["behind"][name] = bench.behind(side, pause_s_max)
    told("slurm", figures)
    return figures


def told(side: str, figures: dict[str, Any]) -> None:
    """What is known so far: all of it takes long."""
    print(side, json.dumps(figures), file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=50, help="jobs on an idle node")
    parser.add_argument("--queued", type=int, default=10_000, help="jobs that wait for the whole node")
    parser.add_argument("--called", type=int, default=1000, help="how many of them over HTTP; the others over NATS")
    parser.add_argument("--small", type=int, default=10, help="small jobs behind them")
    parser.add_argument("--give-up-s", type=float, default=90.0, help="how long a small job may wait")
    parser.add_argument("--no-slurm", action="store_true", help="no Slurm beside it")
    options = parser.parse_args()
    if CPUS < 2:
        parser.error("half of a node takes two CPUs")
    with tempfile.TemporaryDirectory(prefix="headrace-waits-") as folder:
        bench = Bench(Path(folder), options, random.Random(1))
        bench.prepare()
        figures = {"cpus": CPUS, **headrace(bench)}
        peers = {} if options.no_slurm else slurm.beside(lambda environ: beside(bench, environ), cpus=CPUS)
    print(json.dumps({"headrace": figures, **peers}, indent=1))
    report("waits", figures, peers)


if __name__ == "__main__":
    main()
