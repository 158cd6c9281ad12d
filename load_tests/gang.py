"""How close together a gang starts, and how soon all of it has ended and is named when one rank is killed:
`python -m load_tests.gang`.

The nodes are runners without Ray on this machine, each with a launcher and supervisors of its own; everything else is
as it is. Each part is a shell script that stamps the moment of its first line and then sleeps. Skew is the time from
the first part's stamp to the last one's. Then one rank is killed (SIGKILL, another one each time): from that moment
until the gateway shows the job as failed, with a reason that names this rank, its node and its last line.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from load_tests.stack import Stack, percentile, report, until
from load_tests.without_ray import running

CONFIG: Final = """default_tier = "part"
[[tiers]]
name = "part"
resources = {cpus = 0.5, memory_bytes = 67_108_864}
"""
START_S_MAX: Final = 60.0
GRACE_S: Final = 1.0
SKEW_MS_GOAL: Final = 100.0
ENDED_S_GOAL: Final = 2.0 + GRACE_S
SCRIPT: Final = """#!/bin/sh
now=$(date +%s.%N)
echo "rank $RANK is here" >&2
echo "$now $$ $HEADRACE_NODE" > "$1/$RANK.new"
mv "$1/$RANK.new" "$1/$RANK"
exec sleep 3600
"""


class Part(NamedTuple):
    """What a part says of itself."""

    at: float
    pid: int
    node: str


class Round(NamedTuple):
    """One gang from its submit to its end. Seconds."""

    start_s: float
    skew_s: float
    ended_s: float


def play(stack: Stack, folder: Path, *, nodes: int, victim: int) -> Round:
    """Start a gang, kill one of its ranks, and see what follows. Raises RuntimeError if that is not as it should be."""
    script, place = folder / "part", folder / f"gang-{time.monotonic_ns()}"
    place.mkdir(parents=True)
    script.write_text(SCRIPT)
    script.chmod(0o755)
    submitted_at = time.time()
    body = {"entrypoint": [str(script), str(place)], "tier": "part", "nodes": nodes, "grace_s": GRACE_S}
    job = str(stack.call("POST", "/v1/jobs", {"type": "submit", **body})["job"])
    stamps = [place / str(rank) for rank in range(nodes)]
    until(lambda: all(map(Path.exists, stamps)), limit_s=START_S_MAX, what="every part of the gang")
    until(lambda: stack.job(job)["state"] == "running", limit_s=START_S_MAX, what="a gang that runs")
    parts = [_read(stamp) for stamp in stamps]
    times = [part.at for part in parts]
    killed_at = time.time()
    os.kill(parts[victim].pid, signal.SIGKILL)
    view = stack.wait(job)
    ended_s = time.time() - killed_at
    named = f"rank {victim} on {parts[victim].node}: killed by SIGKILL; its last lines: rank {victim} is here"
    if view["reason"] != named:
        raise RuntimeError(f"{job} {view['state']}: {view['reason']}; it should say {named}")
    left = [part.pid for part in parts if Path(f"/proc/{part.pid}").exists()]
    if left:
        raise RuntimeError(f"{job} has ended, and {left} still live")
    return Round(min(times) - submitted_at, max(times) - min(times), ended_s)


def _read(stamp: Path) -> Part:
    at, pid, node = stamp.read_text().split()
    return Part(float(at), int(pid), node)


def measure(stack: Stack, folder: Path, *, nodes: int, rounds: int) -> dict[str, Any]:
    """The first round does not count: it warms what is to be warm."""
    dice = random.Random(1)
    until(lambda: len(stack.call("GET", "/v1/nodes")["nodes"]) == nodes, limit_s=START_S_MAX, what="every node")
    found = [play(stack, folder, nodes=nodes, victim=dice.randrange(nodes)) for _ in range(rounds + 1)][1:]
    skews, starts = ([1000 * each for each in column] for column in list(zip(*found, strict=True))[1::-1])
    ends = [each.ended_s for each in found]
    return {
        "nodes": nodes,
        "rounds": rounds,
        "first_line_p50_ms": round(percentile(starts, 0.5), 1),
        "skew_p50_ms": round(percentile(skews, 0.5), 1),
        "skew_max_ms": round(max(skews), 1),
        "skew_goal_ms": SKEW_MS_GOAL,
        "killed_to_named_p50_s": round(percentile(ends, 0.5), 3),
        "killed_to_named_max_s": round(max(ends), 3),
        "killed_to_named_goal_s": ENDED_S_GOAL,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--nodes", type=int, default=8, help="of the gang")
    parser.add_argument("--rounds", type=int, default=20, help="gangs, one after the other")
    options = parser.parse_args()
    with running(CONFIG, nodes=options.nodes) as stack:
        figures = measure(stack, stack.state / "gangs", nodes=options.nodes, rounds=options.rounds)
    report("gang", figures, {})


if __name__ == "__main__":
    main()
