"""The scheduler's own core on recorded traces: `python -m load_tests.trace_replay`.

Discrete events around the object that runs in production (`controlplane.scheduling.replay`). First it must reproduce
what an independent simulator found for the textbook policies (`../shared/data/traces/SOURCES.md`), to the integer.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import msgspec

from controlplane.scheduling.decisions import Settings
from controlplane.scheduling.replay import ALWAYS_HEARD, Arrival, Outcome, Replay
from controlplane.whatif.compare import jain
from events import messages as m
from load_tests.imagined import imagined
from load_tests.stack import report

TRACES: Final = Path(__file__).parents[2] / "shared" / "data" / "traces"
DEFAULT: Final = (TRACES / "lublin_256.swf", TRACES / "lublin_256_new2.swf")
PROCESSORS: Final = 256


def swf(file: Path) -> Iterator[Arrival]:
    """Jobs of a file in the Standard Workload Format (Feitelson). Estimates are the run times."""
    for line in file.read_text().splitlines():
        if line.strip() and not line.startswith(";"):
            number, submit, _, run, processors, *rest = line.split()
            specification = m.Specification(
                job=f"j-{int(number):06}",
                team="trace",
                user=f"u{rest[6]}" if len(rest) > 6 else "u",
                name=number,
                queue="default",
                tier=processors,
                resources=m.Resources(cpus=float(processors), memory_bytes=0),
                entrypoint=("true",),
                time_limit_s=float(run),
            )
            yield Arrival(float(submit), specification, float(run))


def figures(outcomes: list[Outcome]) -> dict[str, Any]:
    """bsld: mean of max(1, (wait + run) / max(run, 10 s)); waits in seconds. Utilisation: of the processors, from the
    first submit to the last end. Fairness: Jain's index of the mean bsld of teams or, with one team, of its users.
    """
    waits = sorted(outcome.wait_s for outcome in outcomes)
    slowdowns = [
        max(1.0, (outcome.wait_s + outcome.arrival.runs_s) / max(outcome.arrival.runs_s, 10.0)) for outcome in outcomes
    ]
    begin = min(outcome.arrival.at for outcome in outcomes)
    end = max(outcome.ended_at for outcome in outcomes)
    work = sum(outcome.arrival.specification.resources.cpus * outcome.arrival.runs_s for outcome in outcomes)
    shared: dict[tuple[str, str], list[float]] = defaultdict(list)
    teams = {outcome.arrival.specification.team for outcome in outcomes}
    for outcome, slowdown in zip(outcomes, slowdowns, strict=True):
        whose = outcome.arrival.specification
        shared[whose.team, "" if len(teams) > 1 else whose.user].append(slowdown)
    return {
        "jobs": len(outcomes),
        "bsld": round(fmean(slowdowns), 2),
        "wait_s_mean": round(fmean(waits)),
        "wait_s_p99": round(waits[int(len(waits) * 0.99)]),
        "wait_s_max": round(waits[-1]),
        "wait_s_sum": round(sum(waits)),
        "at_once": sum(wait == 0 for wait in waits),
        "last_end": round(end),
        "turnaround_s_mean": round(fmean(outcome.ended_at - outcome.arrival.at for outcome in outcomes)),
        "utilisation": round(work / (PROCESSORS * (end - begin)), 4),
        "sharers": len(shared),
        "fairness": round(jain([fmean(each) for each in shared.values()]), 4),
    }


def shared_out(arrivals: list[Arrival], teams: int, dice: random.Random) -> list[Arrival]:
    """The same jobs, those of one team in ten times as many as of the next."""
    weights = [10.0**-number for number in range(teams)]
    drawn = dice.choices(range(teams), weights, k=len(arrivals))
    return [
        arrival._replace(specification=msgspec.structs.replace(arrival.specification, team=f"team{number}"))
        for arrival, number in zip(arrivals, drawn, strict=True)
    ]


def play(arrivals: list[Arrival], policy: m.Policy, depth: int, guard: float | None, predicted: bool) -> dict[str, Any]:
    begun = time.perf_counter()
    replay = Replay(
        Settings(backfill_depth=depth, **ALWAYS_HEARD),
        {"n1": m.Capacity(cpus=float(PROCESSORS), memory_bytes=0)},
        {
            (team, "default"): m.QueueSet(by="trace", policy=policy, guard=guard, predictions=predicted)
            for team in {arrival.specification.team for arrival in arrivals}
        },
    )
    outcomes = list(replay.run(arrivals))
    return {**figures(outcomes), "took_s": round(time.perf_counter() - begun, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--traces", type=Path, nargs="+", default=DEFAULT, help="files in the Standard Workload Format")
    parser.add_argument("--policies", default="fcfs,sjf,slowdown")
    parser.add_argument("--guard", type=float, default=1.2, help="of `slowdown`; 0: none")
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--teams", type=int, default=1, help="share the jobs out, to each a tenth of the one before")
    parser.add_argument("--imagined", action="store_true", help="with names and limits; see load_tests/imagined.py")
    parser.add_argument("--seed", type=int, default=1, help="of what is imagined")
    options = parser.parse_args()
    table = {}
    for trace in options.traces:
        for policy in options.policies.split(","):
            for predicted in (False, True) if options.imagined else (False,):
                arrivals = list(swf(trace))
                if options.imagined:
                    arrivals = list(imagined(arrivals, random.Random(options.seed)))
                if options.teams > 1:
                    arrivals = shared_out(arrivals, options.teams, random.Random(1))
                name = f"{trace.stem} {policy}" + (" predicted" if predicted else "")
                table[name] = play(arrivals, policy, options.depth, options.guard or None, predicted)
                print(name, table[name], flush=True)
    report("trace_replay", table, {})


if __name__ == "__main__":
    main()
