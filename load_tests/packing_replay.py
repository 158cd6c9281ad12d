"""How much of all GPUs can be allocated before what comes does not fit: `python -m load_tests.packing_replay`.

The protocol of FGD's authors (Weng et al., USENIX ATC 2023), on their traces (`../shared/data/traces/SOURCES.md`): the
pods of a trace and random clones of them, until they ask for 130 % of all GPUs, in random order; none ever ends, and
one that does not fit is dropped. FGD is the scheduler's own (`controlplane.scheduling.packing`); best fit is theirs.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final, NamedTuple

from controlplane.scheduling.packing import MILLI, Fit, Fragmentation, Room, Want
from load_tests.drawing import Line, chart
from load_tests.stack import report

TRACES: Final = Path(__file__).parents[2] / "shared" / "data" / "traces"
NODES: Final = TRACES / "openb_node_list_gpu_node.csv"
PODS: Final = tuple(TRACES / f"openb_pod_list_{name}.csv" for name in ("default", "multigpu50", "gpuspec33"))
ARRIVED: Final = 1.3
"""Of all GPUs are asked for in the end."""
LARGEST_CPUS: Final = 128_000
LARGEST_GPUS: Final = 8 * MILLI
"""A node's, by which best fit weighs what is left over, as in the authors' code."""
PUBLISHED: Final = {
    ("default", "fgd"): 95.39,
    ("default", "best_fit"): 93.08,
    ("multigpu50", "fgd"): 97.18,
    ("multigpu50", "best_fit"): 95.74,
    ("gpuspec33", "fgd"): 94.55,
    ("gpuspec33", "best_fit"): 93.09,
}


class Pod(NamedTuple):
    want: Want
    memory_mib: int

    @property
    def gpu_milli(self) -> int:
        return self.want.gpus * self.want.gpu_milli


class Machine:
    """A node: what is free of it."""

    def __init__(self, room: Room, memory_mib: int) -> None:
        self.room = room
        self.memory_mib = memory_mib
        self.version = 0


Scored = Callable[[Room, Want], Fit]


class Cluster:
    """All machines, and for each kind of pod their order by its score: only those that changed are scored again."""

    def __init__(self, machines: Sequence[Machine], score: Scored) -> None:
        self._machines = machines
        self._score = score
        self._changed: list[int] = []
        self._ranked: dict[Pod, tuple[list[tuple[int, int, int, int | None]], int]] = {}

    def place(self, pod: Pod) -> bool:
        """On the best machine; of equals the first by name. False: it fits on none."""
        ranked, seen = self._ranked.get(pod) or (self._all(pod), len(self._changed))
        for index in dict.fromkeys(self._changed[seen:]):
            self._rank(pod, index, ranked)
        self._ranked[pod] = (ranked, len(self._changed))
        while ranked:
            _, index, version, device = ranked[0]
            machine = self._machines[index]
            if machine.version == version:
                machine.room = machine.room.without(pod.want, device)
                machine.memory_mib -= pod.memory_mib
                machine.version += 1
                self._changed.append(index)
                return True
            heapq.heappop(ranked)
        return False

    def _all(self, pod: Pod) -> list[tuple[int, int, int, int | None]]:
        ranked: list[tuple[int, int, int, int | None]] = []
        for index in range(len(self._machines)):
            self._rank(pod, index, ranked)
        return ranked

    def _rank(self, pod: Pod, index: int, ranked: list[tuple[int, int, int, int | None]]) -> None:
        machine = self._machines[index]
        if machine.memory_mib >= pod.memory_mib and machine.room.takes(pod.want):
            score, device = self._score(machine.room, pod.want)
            heapq.heappush(ranked, (-score, index, machine.version, device))


def best_fit(room: Room, want: Want) -> Fit:
    """The least left over of CPUs and GPUs; a part of a GPU where the least is left of it."""
    cpus, gpus = room.milli_cpus - want.milli_cpus, sum(room.gpus) - want.gpus * want.gpu_milli
    score = int(100 * (1 - 0.5 * cpus / LARGEST_CPUS - 0.5 * gpus / LARGEST_GPUS))
    if want.gpus != 1 or want.gpu_milli == MILLI:
        return Fit(score)
    device = min((left, index) for index, left in enumerate(room.gpus) if left >= want.gpu_milli)[1]
    return Fit(score, device)


def replay(nodes: Path, pods: Sequence[Pod], policy: str, seed: int) -> list[tuple[float, float]]:
    """(arrived, allocated) in parts of all GPUs, at each per cent that arrived."""
    dice = random.Random(seed)
    machines = read_machines(nodes)
    all_milli = sum(sum(machine.room.gpus) for machine in machines)
    arriving = list(pods)
    dice.shuffle(arriving)
    asked = sum(pod.gpu_milli for pod in arriving)
    while asked > ARRIVED * all_milli:
        asked -= arriving.pop(dice.randrange(len(arriving))).gpu_milli
    while True:
        pod = dice.choice(pods)
        if asked + pod.gpu_milli > ARRIVED * all_milli:
            break
        arriving.append(pod)
        asked += pod.gpu_milli
    cluster = Cluster(machines, Fragmentation(Counter(pod.want for pod in pods)).fit if policy == "fgd" else best_fit)
    curve, arrived, allocated = [(0.0, 0.0)], 0, 0
    for pod in arriving:
        arrived += pod.gpu_milli
        if cluster.place(pod):
            allocated += pod.gpu_milli
        if arrived / all_milli >= curve[-1][0] + 0.01:
            curve.append((arrived / all_milli, allocated / all_milli))
    return [*curve, (arrived / all_milli, allocated / all_milli)]


def read_machines(file: Path) -> list[Machine]:
    with file.open() as lines:
        rows = sorted(csv.DictReader(lines), key=lambda row: row["sn"])
    return [
        Machine(Room(int(row["cpu_milli"]), (MILLI,) * int(row["gpu"]), row["model"]), int(row["memory_mib"]))
        for row in rows
    ]


def read_pods(file: Path) -> list[Pod]:
    with file.open() as lines:
        return [_pod(row) for row in csv.DictReader(lines)]


def _pod(row: dict[str, str]) -> Pod:
    gpus, models = int(row["num_gpu"]), tuple(sorted(filter(None, (row.get("gpu_spec") or "").split("|"))))
    milli = int(row["gpu_milli"]) if gpus == 1 else MILLI
    return Pod(Want(int(row["cpu_milli"]), gpus, milli, models), int(row["memory_mib"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--nodes", type=Path, default=NODES)
    parser.add_argument("--pods", type=Path, nargs="+", default=PODS)
    parser.add_argument("--policies", default="best_fit,fgd")
    parser.add_argument("--seeds", type=int, nargs="+", default=(42, 43, 44))
    parser.add_argument("--plot", type=Path, help="where the plot goes, as SVG")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    lines = []
    print("| trace | policy | allocated at 100 % | at 130 % | published at 130 % | s a run |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for file in options.pods:
        trace, pods = file.stem.removeprefix("openb_pod_list_"), read_pods(file)
        for policy in options.policies.split(","):
            begun = time.process_time()
            curves = [replay(options.nodes, pods, policy, seed) for seed in options.seeds]
            took_s = (time.process_time() - begun) / len(curves)
            full = [next(allocated for arrived, allocated in curve if arrived >= 1.0) for curve in curves]
            figure = {
                "allocated_at_100": round(100 * fmean(full), 2),
                "allocated_at_130": round(100 * fmean(curve[-1][1] for curve in curves), 2),
                "published_at_130": PUBLISHED.get((trace, policy)),
                "runs": len(curves),
                "run_s": round(took_s, 1),
            }
            figures[f"{trace} {policy}"] = figure
            row = (figure["allocated_at_100"], figure["allocated_at_130"], figure["published_at_130"] or "–", took_s)
            print(f"| {trace} | {policy} | {row[0]} | {row[1]} | {row[2]} | {row[3]:.1f} |", flush=True)
            ends = [(100 * arrived, 100 * allocated) for arrived, allocated in curves[0] if arrived >= 0.7]
            lines.append(Line(f"{trace} {policy}", ends))
    if options.plot:
        title = "GPUs allocated, by what was asked for"
        options.plot.write_text(chart(lines, title=title, x="asked for, % of all GPUs", y="allocated, %", floor=70))
    report("packing_replay", figures, {})


if __name__ == "__main__":
    main()
