"""Kill each process of a stack, one at a time, while jobs run: `python -m load_tests.kills`.

Every job writes down its own start and end with the machine's monotonic clock, in a file that only grows. The judge
reads these files and the gateway's answers, nothing of the product's: each job ended once as `succeeded`, its process
started once and ran through undisturbed. (Faults drawn from a seed are the next campaign's work.)
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from load_tests.stack import Stack, report, running, until

PROGRAM: Final = """
import os, sys, time
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(file, b"start %d %d\\n" % (os.getpid(), time.monotonic_ns()))
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    print("tick", flush=True)
    time.sleep(0.2)
os.write(file, b"end %d %d\\n" % (os.getpid(), time.monotonic_ns()))
"""
CONFIG: Final = """
default_tier = "small"
[[tiers]]
name = "small"
resources = {cpus = 0.05, memory_bytes = 100_000_000}
"""
STEADY_S: Final = 120.0
"""How long the stack may take to answer again after a kill."""
TAKES_ALONG: Final = {"raylet": ("runner",), "ray head": ("raylet", "runner")}
"""What ends with it and must be there anew, too."""


class Victims:
    """Finds the pid of each process that is to be killed, at the moment when it is."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    NAMES: Final = (
        "submission",
        "environments",
        "scheduling",
        "monitoring",
        "gateway",
        "capacity",
        "runner",
        "raylet",
        "ray head",
        "nats",
    )

    def pid(self, name: str) -> int:
        if name == "runner":
            return _child_named(self._stack.about["ray"], "ray::Host")
        if name == "raylet":
            return _child_named(self._stack.about["ray"], "raylet/raylet")
        if name == "ray head":
            return _child_named(self._stack.about["ray"], "gcs_server")
        return self._stack.children()[name]


def _child_named(folder: str, word: str) -> int:
    """The one process of this Ray whose command line has a word. A worker's title names no folder: ask its socket."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environ = (entry / "environ").read_bytes().decode(errors="replace")
            opened = [os.readlink(link) for link in (entry / "fd").iterdir()] if word in title else []
        except OSError:
            continue
        if word in title and (folder in title or folder in environ or any(folder in each for each in opened)):
            return int(entry.name)
    raise LookupError(f"no process {word} of {folder}")


def run(jobs: int, job_s: float) -> dict[str, Any]:
    """The campaign; gives its figures. Raises AssertionError with what was violated."""
    with running("--split", config=CONFIG) as stack:
        folder = stack.state / "witness"
        folder.mkdir()
        names = [f"kill-{number}" for number in range(jobs)]
        ids = [
            stack.call(
                "POST",
                "/v1/jobs",
                {
                    "id": name,
                    "name": name,
                    "tier": "small",
                    "entrypoint": ["python3", "-c", PROGRAM, str(folder / name), str(job_s)],
                },
            )["job"]
            for name in names
        ]
        until(lambda: len(list(folder.iterdir())) == jobs, limit_s=120, what="the start of all jobs")
        killed = {}
        for name in Victims.NAMES:
            until(partial(_alive, stack, name), limit_s=STEADY_S, what=f"{name} before its kill")
            gone = {each: Victims(stack).pid(each) for each in (name, *TAKES_ALONG.get(name, ()))}
            os.kill(gone[name], signal.SIGKILL)
            started = time.monotonic()
            until(partial(_are_back, stack, gone), limit_s=STEADY_S, what=f"{name} after its kill")
            killed[name] = round(time.monotonic() - started, 1)
            print(f"killed {name:12}  all well again after {killed[name]:5.1f} s", flush=True)
        views = [stack.wait(job, limit_s=job_s + 120) for job in ids]
        violations = [
            problem for name, view in zip(names, views, strict=True) for problem in _judge(folder / name, view, job_s)
        ]
    for violation in violations:
        print("VIOLATION", violation)
    return {"jobs": jobs, "job_s": job_s, "killed": killed, "violations": len(violations)}


def _alive(stack: Stack, name: str, *, other_than: int = 0) -> bool:
    try:
        pid = Victims(stack).pid(name)
        os.kill(pid, 0)
    except (LookupError, KeyError, ProcessLookupError):
        return False
    return pid != other_than


def _are_back(stack: Stack, gone: dict[str, int]) -> bool:
    """Whether all of them are there with other pids, and the stack is well."""
    return all(_alive(stack, each, other_than=pid) for each, pid in gone.items()) and stack.is_well(limit_s=STEADY_S)


def _judge(witness: Path, view: dict[str, Any], job_s: float) -> list[str]:
    lines = [line.split() for line in witness.read_text().splitlines()]
    ends = [entry for entry in view["history"] if entry["type"] == "finished"]
    problems = []
    if [line[0] for line in lines] != ["start", "end"] or lines[0][1] != lines[1][1]:
        problems.append(f"{witness.name}: ran as {lines}")
    elif (int(lines[1][2]) - int(lines[0][2])) / 1e9 > job_s + 2:
        problems.append(f"{witness.name}: was disturbed: {lines}")
    if view["state"] != "succeeded" or view["attempt"] != 1 or len(ends) != 1:
        problems.append(
            f"{witness.name}: {view['state']}, attempt {view['attempt']}, {len(ends)} ends: {view['reason']}"
        )
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=150.0, help="how long each job runs")
    options = parser.parse_args()
    figures = run(options.jobs, options.seconds)
    report("kills", figures, {})
    raise SystemExit(1 if figures["violations"] else 0)


if __name__ == "__main__":
    main()
