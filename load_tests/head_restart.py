"""What becomes of running attempts when Ray's head is killed: `python -m load_tests.head_restart`. Needs root.

Once with a head that keeps what it knows on disk (GCS fault tolerance by RocksDB), once without. Attempts run on two
nodes and write down a moment again and again. The head is killed with all of it (SIGKILL); while there is none, a job
is submitted, and has to start all the same. Then another head starts in its place. `back_s` is the time from the kill
until capacity has seen, by the new head, that every node has a runner that answers; `head_s` of it is until Ray says
that the head has started. Undisturbed is an attempt that is still the job's first one, whose process is the one it was,
and whose longest silence was below a second.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Final

from load_tests import ray_nodes
from load_tests.ray_nodes import RayStack
from load_tests.stack import report, until

CONFIG: Final = """default_tier = "small"
[[tiers]]
name = "small"
resources = {cpus = 1, memory_bytes = 20_000_000}
"""
BEATS: Final = """
import os, sys, time
with open(sys.argv[1], "a", buffering=1) as file:
    while not os.path.exists(sys.argv[2]):
        file.write(f"{os.getpid()} {time.time()}\\n")
        time.sleep(0.05)
"""
SILENCE_S_MAX: Final = 1.0
BACK_S_MAX: Final = 240.0
STEADY_S: Final = 3.0
"""After all are back: attempts are watched for so much longer."""


def play(*, keeps: bool, attempts: int, nodes: int = 2) -> dict[str, Any]:
    """Kill the head under running attempts, start another one; figures. Raises RuntimeError if one was disturbed."""
    with ray_nodes.running(CONFIG, nodes=nodes, cpus=attempts + 1, keeps=keeps) as stack:
        folder = stack.state / "beats"
        folder.mkdir()
        over = folder / "over"
        jobs = {_submit(stack, folder / str(number), over): folder / str(number) for number in range(attempts)}
        until(lambda: all(map(_beats, jobs.values())), limit_s=60, what="attempts that run")
        runners = {name: stack.runner(name) for name in stack.nodes}

        stack.head.kill()
        killed_at = time.monotonic()
        submitted = _submit(stack, folder / "meanwhile", over)
        until(lambda: bool(_beats(folder / "meanwhile")), limit_s=60, what="a job that was submitted meanwhile")
        meanwhile_s = time.monotonic() - killed_at
        stack.head.start()
        head_s = time.monotonic() - killed_at
        started_at = time.time()
        until(
            lambda: _all_answer(stack, nodes, since=started_at),
            limit_s=BACK_S_MAX,
            what="a runner that answers on every node",
        )
        back_s = time.monotonic() - killed_at
        until(lambda: time.monotonic() > killed_at + back_s + STEADY_S, limit_s=60, what="a while")

        silences = {job: _longest_silence(file) for job, file in jobs.items()}
        disturbed = [job for job in jobs if stack.job(job)["attempt"] != 1 or silences[job] > SILENCE_S_MAX]
        kept = [name for name, pid in runners.items() if pid and stack.runner(name) == pid]
        over.touch()
        ends = [stack.wait(job)["state"] for job in (*jobs, submitted)]
        if disturbed or set(ends) != {"succeeded"}:
            raise RuntimeError(f"disturbed: {disturbed}; ends: {sorted(set(ends))}; longest silences: {silences}")
        return {
            "attempts": attempts,
            "undisturbed": attempts - len(disturbed),
            "longest_silence_s": round(max(silences.values()), 2),
            "runners": nodes,
            "same_runner_process": len(kept),
            "submitted_without_a_head_runs_s": round(meanwhile_s, 2),
            "head_s": round(head_s, 1),
            "back_s": round(back_s, 1),
        }


def _submit(stack: RayStack, file: Path, over: Path) -> str:
    body = {"type": "submit", "entrypoint": [sys.executable, "-c", BEATS, str(file), str(over)]}
    return str(stack.call("POST", "/v1/jobs", body)["job"])


def _beats(file: Path) -> list[tuple[str, float]]:
    if not file.exists():
        return []
    lines = (line.split() for line in file.read_text().splitlines(keepends=True) if line.endswith("\n"))
    return [(pid, float(at)) for pid, at in lines]


def _longest_silence(file: Path) -> float:
    """Seconds; endless, if more than one process wrote there."""
    beats = _beats(file)
    if len({pid for pid, _ in beats}) != 1:
        return float("inf")
    times = [at for _, at in beats]
    return max(after - before for before, after in zip(times, [*times[1:], time.time()], strict=True))


def _all_answer(stack: RayStack, nodes: int, *, since: float) -> bool:
    """Whether capacity has seen it since then."""
    capacity = stack.patient("GET", "/v1/status")["services"].get("capacity", {})
    return bool(capacity.get("answers")) and capacity["looked_at"] > since and capacity["runners"] == nodes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--attempts", type=int, default=20)
    parser.add_argument("--only", choices=("kept", "forgotten"), help="whether the head keeps what it knows")
    options = parser.parse_args()
    figures = {}
    for name, keeps in (("kept", True), ("forgotten", False)):
        if options.only in {None, name}:
            figures[name] = play(keeps=keeps, attempts=options.attempts)
            print(name, figures[name], file=sys.stderr)
    report("head_restart", figures, {})


if __name__ == "__main__":
    main()
