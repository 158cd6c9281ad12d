"""What `headrace.log` costs a training loop, and whether every number arrives: `python -m load_tests.logging_overhead`.

The cost is measured in a fresh process each, one after the other: `headrace.log`, and beside it tensorboardX and wandb
(offline) in a throwaway environment that is made for it (`--no-peers` leaves them out). p50 is of single calls, less
what the clock itself takes; the mean is of a whole loop.

Then the whole way, through an embedded stack: a job logs a million points, and another one is killed with SIGKILL half
way; all that `log` returned for must be answered by the gateway. `--no-stack` leaves this out.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import uv

from load_tests.stack import Stack, report, running, until

SDK: Final = Path(__file__).resolve().parents[1] / "sdk"
PEERS: Final = ("tensorboardX", "wandb")
WIDTHS: Final = (1, 3, 10)
COUNTS: Final = {"headrace": 200_000, "tensorboardX": 5_000, "wandb": 5_000, "nothing": 200_000}
COST: Final = """
import json, statistics, sys, time
peer, count, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
names = [f"train/m{number}" for number in range(width)]
if peer == "headrace":
    import headrace
    def log(step, values): headrace.log(values, step=step)
elif peer == "tensorboardX":
    from tensorboardX import SummaryWriter
    writer = SummaryWriter("tb")
    def log(step, values):
        for name, value in values.items(): writer.add_scalar(name, value, step)
elif peer == "wandb":
    import wandb
    run = wandb.init(mode="offline", settings=wandb.Settings(console="off", silent=True))
    def log(step, values): run.log(values, step=step)
else:
    def log(step, values): pass
clock, took = time.perf_counter_ns, []
for step in range(count):
    values = {name: step * 0.5 for name in names}
    before = clock()
    log(step, values)
    took.append(clock() - before)
begun = clock()
for step in range(count, 2 * count):
    log(step, {name: step * 0.5 for name in names})
mean = (clock() - begun) / count
took.sort()
print("\\n" + json.dumps({"p50": statistics.median(took), "p99": took[int(count * 0.99)], "mean": mean}), flush=True)
"""
JOB: Final = """
import mmap, os, struct, sys, headrace
points, witness = int(sys.argv[1]), sys.argv[2]
with open(witness, "w+b") as file:
    file.truncate(16)
    memory = mmap.mmap(file.fileno(), 16)
struct.pack_into("<q", memory, 8, os.getpid())
for step in range(points):
    headrace.log(step=step, loss=step * 0.5)
    struct.pack_into("<q", memory, 0, step + 1)
"""
CONFIG: Final = """
default_tier = "small"
[[tiers]]
name = "small"
resources = {cpus = 0.5, memory_bytes = 100_000_000}
"""
ARRIVE_S: Final = 300.0


def cost(python: str, peer: str, width: int, *, share: float) -> dict[str, float]:
    """Microseconds of a call with `width` values."""
    count = max(100, int(COUNTS[peer] * share))
    with tempfile.TemporaryDirectory(prefix="headrace-cost-") as folder:
        environ = os.environ | {"PYTHONPATH": str(SDK), "HEADRACE_SPOOL": folder, "WANDB_DIR": folder}
        ran = subprocess.run(
            [python, "-c", COST, peer, str(count), str(width)],
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
    if ran.returncode != 0:
        raise RuntimeError(f"{peer}: {ran.stderr[-1000:]}")
    figures: dict[str, float] = json.loads(ran.stdout.strip().splitlines()[-1])
    return {name: value / 1000 for name, value in figures.items()}


def costs(python: str, peer: str, *, share: float) -> dict[str, float]:
    """Microseconds of calls of each width, less an empty call."""
    figures: dict[str, float] = {}
    for width in WIDTHS:
        empty, full = cost(python, "nothing", width, share=share), cost(python, peer, width, share=share)
        took = {name: round(max(0.0, full[name] - empty[name]), 2) for name in full}
        print(
            f"{peer:13} {width:2} values  p50 {took['p50']:8.2f} µs   p99 {took['p99']:8.2f}   mean {took['mean']:8.2f}"
        )
        figures |= {f"{name}_us_{width}": value for name, value in took.items()}
    return figures


def peers_python(folder: Path) -> str:
    """An interpreter that has the peers, in a new environment."""
    environment = folder / "peers"
    for arguments in (
        ["venv", "--quiet", "--python", sys.executable, str(environment)],
        ["pip", "install", "--quiet", "--python", str(environment), *PEERS],
    ):
        subprocess.run([uv.find_uv_bin(), *arguments], check=True)
    return str(environment / "bin" / "python")


def million(stack: Stack, points: int, *, killed: bool) -> dict[str, Any]:
    """A job logs so many points, or is killed half way; how many it had logged, and how many have arrived."""
    witness = stack.state / f"witness-{killed}"
    begun = time.monotonic()
    job = stack.call("POST", "/v1/jobs", {"entrypoint": ["python3", "-c", JOB, str(points), str(witness)]})["job"]
    if killed:
        until(lambda: _witnessed(witness)[0] >= points // 2, limit_s=ARRIVE_S, what="half of the points")
        os.kill(_witnessed(witness)[1], signal.SIGKILL)
    view = stack.wait(job, limit_s=ARRIVE_S)
    if not killed and view["state"] != "succeeded":
        raise RuntimeError(f"the job {view['state']}: {view['reason']}; is `headrace` installed beside the stack?")
    answer: dict[str, Any] = {}

    def complete() -> bool:
        answer.update(stack.patient("GET", f"/v1/jobs/{job}/metrics"))
        return bool(answer.get("complete"))  # what has its default is left out

    until(complete, limit_s=ARRIVE_S, what="a complete answer")
    logged, stored = _witnessed(witness)[0], sum(series.get("count", 0) for series in answer.get("series", ()))
    took_s = time.monotonic() - begun
    print(
        f"{'killed' if killed else 'whole ':7} {view['state']:9} logged {logged:,}  stored {stored:,}  {took_s:.1f} s"
    )
    lost = logged - stored  # the one record that `log` was about to return for may be there as well
    return {"logged": logged, "stored": stored, "lost": max(0, lost), "invented": max(0, -lost - 1), "took_s": took_s}


def _witnessed(witness: Path) -> tuple[int, int]:
    """Points for which `log` has returned, and the pid of the process."""
    content = witness.read_bytes() if witness.exists() else b""
    return struct.unpack("<qq", content) if len(content) == 16 else (0, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-peers", action="store_true", help="measure headrace alone")
    parser.add_argument("--no-stack", action="store_true", help="measure the cost of a call, not the whole way")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the calls that are measured: 0.05 for a quick look"
    )
    options = parser.parse_args()
    figures: dict[str, Any] = costs(sys.executable, "headrace", share=options.share)
    peers: dict[str, Any] = {}
    if not options.no_peers:
        with tempfile.TemporaryDirectory(prefix="headrace-peers-") as folder:
            python = peers_python(Path(folder))
            peers = {peer: costs(python, peer, share=options.share) for peer in PEERS}
    if not options.no_stack:
        with running(config=CONFIG) as stack:
            figures["whole"] = million(stack, options.points, killed=False)
            figures["killed"] = million(stack, options.points, killed=True)
    report("logging_overhead", figures, peers)
    if any(figures.get(run, {}).get(wrong) for run in ("whole", "killed") for wrong in ("lost", "invented")):
        sys.exit(1)


if __name__ == "__main__":
    main()
