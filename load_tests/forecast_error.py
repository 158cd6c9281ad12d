"""How wrong expected starts are, and how long it takes to find them: `python -m load_tests.forecast_error`.

A trace is replayed with the real core (`trace_replay`), with names and limits that are drawn (`imagined`). Whenever one
of every so many jobs has been submitted, its start is forecast from a snapshot, and later compared with what happened:
also by what came in meanwhile. Beside it the same forecast by time limits alone.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Final

from controlplane.scheduling.core import Core
from controlplane.scheduling.decisions import Settings
from controlplane.scheduling.forecast import Dice, Expected, forecast
from controlplane.scheduling.replay import ALWAYS_HEARD, Arrival, Replay
from controlplane.scheduling.simulation import Simulation
from events import messages as m
from events import subjects
from load_tests.imagined import imagined
from load_tests.stack import report
from load_tests.trace_replay import DEFAULT, PROCESSORS, swf

SETTINGS: Final = Settings(**ALWAYS_HEARD)
WAITING_MAX: Final = 20_000
RUNS: Final = 5
Both = tuple[Expected | None, Expected | None]
"""When a job may start by prediction, and by time limits alone."""
NODE: Final = {"n1": m.Capacity(cpus=float(PROCESSORS), memory_bytes=0)}


class Limits:
    """Every job takes all of its limit."""

    def gauss(self, mu: float, sigma: float) -> float:
        return math.inf

    def uniform(self, a: float, b: float) -> float:
        return b


def dice(seed: int) -> list[Dice]:
    return [random.Random(f"{seed} {number}") for number in range(RUNS)]


def told(file: Path, jobs: int, each: int) -> tuple[dict[str, Both], dict[str, float]]:
    """For some jobs what was expected when they came, by both ways; and for all jobs when they started."""
    expected: dict[str, Both] = {}
    replay = Replay(SETTINGS, NODE)

    def asking() -> Iterator[Arrival]:
        arrivals = imagined(islice(swf(file), jobs), random.Random(1))
        for number, arrival in enumerate(arrivals):
            yield arrival
            if number % each == each - 1:  # it has been submitted, and nothing has been decided since
                name = arrival.specification.job
                subject, content = subjects.job("trace", name), replay.core.excerpt(WAITING_MAX)
                by_prediction, by_limit = (
                    forecast(content, SETTINGS, arrival.at, way).starts.get(subject)
                    for way in (dice(number), [Limits()])
                )
                expected[name] = by_prediction, by_limit

    started = {outcome.arrival.specification.job: outcome.started_at for outcome in replay.run(asking())}
    return expected, started


def errors(file: Path, jobs: int, each: int) -> dict[str, Any]:
    """Median absolute errors in seconds, over jobs that had to wait; and how often the start was within the spread."""
    expected, started = told(file, jobs, each)
    arrivals = {arrival.specification.job: arrival.at for arrival in islice(swf(file), jobs)}
    waited = [
        (started[name] - arrivals[name], started[name], predicted, limited)
        for name, (predicted, limited) in expected.items()
        if name in started and started[name] > arrivals[name] and predicted and limited
    ]
    by_prediction = [abs(at - one.at) for _, at, one, _ in waited]
    by_limit = [abs(at - one.at) for _, at, _, one in waited]
    within = [
        one.earliest_at <= at <= (math.inf if one.latest_at is None else one.latest_at) for _, at, one, _ in waited
    ]
    return {
        "asked": len(expected),
        "waited": len(waited),
        "wait_s_median": round(median(wait for wait, *_ in waited)),
        "error_s_median": round(median(by_prediction)),
        "error_by_limits_s_median": round(median(by_limit)),
        "within_spread": round(sum(within) / len(within), 2),
    }


def took(waiting: int) -> dict[str, float]:
    """Seconds of CPU of one forecast (all of its runs) with so many jobs in the queue, on 16 nodes of 8 GPUs."""
    nodes = {f"n{number:02}": m.Capacity(cpus=64.0, memory_bytes=2**40, gpus=8) for number in range(16)}
    core = Core(SETTINGS)
    draw = random.Random(waiting)
    simulation = Simulation(core, lambda job: 3600.0)
    term = simulation.tell(subjects.TERM, m.Led(leader="s1"), 0.0).sequence
    for name, capacity in nodes.items():
        simulation.tell(subjects.node(name), m.NodeJoined(boot="b", capacity=capacity, term=term), 0.0)
    core.begin_term(0.0)
    for number in range(waiting + 64):
        gpus = draw.choice((1, 1, 1, 2, 4, 8))
        specification = m.Specification(
            job=f"j-{number:06}",
            team=f"team-{number % 5}",
            user=f"user-{number % 50}",
            name=f"train-{number % 200}",
            queue="default",
            tier=f"gpu{gpus}",
            resources=m.Resources(cpus=4.0 * gpus, memory_bytes=2**30, gpus=gpus),
            entrypoint=("python", "train.py"),
            time_limit_s=draw.choice((1800.0, 3600.0, 4 * 3600.0, 24 * 3600.0)),
        )
        simulation.tell(
            subjects.job(specification.team, specification.job), m.Accepted(specification=specification), 0.0
        )
    list(simulation.decide(0.0))
    begun = time.process_time()
    content = core.excerpt(WAITING_MAX)
    blocked_s = time.process_time() - begun
    begun = time.process_time()
    found = forecast(content, SETTINGS, 0.0, dice(1))
    return {
        "leader_s": round(blocked_s, 3),
        "forecast_s": round(time.process_time() - begun, 1),
        "expected": len(found.starts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--traces", type=Path, nargs="+", default=DEFAULT, help="files in the Standard Workload Format")
    parser.add_argument("--jobs", type=int, default=3000, help="of each trace")
    parser.add_argument("--each", type=int, default=25, help="one in so many jobs is asked about")
    parser.add_argument("--waiting", default="1000,10000", help="jobs in the queue while a forecast is timed")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for trace in options.traces:
        figures[trace.stem] = errors(trace, options.jobs, options.each)
        print(trace.stem, figures[trace.stem], flush=True)
    for waiting in options.waiting.split(","):
        figures[f"{waiting} waiting"] = took(int(waiting))
        print(waiting, "waiting", figures[f"{waiting} waiting"], flush=True)
    report("forecast_error", figures, {})


if __name__ == "__main__":
    main()
