"""A node that goes in the middle of a gang's training: `python -m load_tests.gang_nodes --torch VENV`. Needs root.

Ray nodes on this machine as they are on Kubernetes (`load_tests.ray_nodes`), one more than the gang needs. The gang
trains with `torch.distributed` over gloo: every step is one `all_reduce`, written down by each rank. Then a node of the
gang is killed with all of it, and an operator gives it up. What has to follow: the gang is requeued whole, once, and
trains again on the nodes that are left, none of it on the one that is gone. `--torch` names a virtual environment that
has torch==2.13.0; without it the ranks only meet, by a program of the standard library.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Final

from load_tests import ray_nodes
from load_tests.ray_nodes import RayStack
from load_tests.stack import percentile, report, until

CONFIG: Final = """default_tier = "part"
heartbeat_s = 1.0
[[tiers]]
name = "part"
resources = {cpus = 4, memory_bytes = 500_000_000}
"""
TRAINS: Final = """
import os, sys, time
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
rank, attempt, node = dist.get_rank(), os.environ["HEADRACE_ATTEMPT"], os.environ["HEADRACE_NODE"]
step, over = 0, torch.zeros(1)
with open(f"{sys.argv[1]}/{attempt}.{rank}", "a", buffering=1) as file:
    while not over:  # what one has seen all know in the same step: none waits for another that has left
        over[0] = os.path.exists(f"{sys.argv[1]}/over")
        dist.all_reduce(over)
        file.write(f"{node} {step} {time.time()}\\n")
        step += 1
        time.sleep(0.02)
"""
MEETS: Final = """
import os, socket, sys, time
rank, size, attempt = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), os.environ["HEADRACE_ATTEMPT"]
where = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if rank == 0:
    door = socket.create_server(where)
    others = [door.accept()[0] for _ in range(size - 1)]
else:
    while True:
        try:
            others = [socket.create_connection(where)]
            break
        except OSError:
            time.sleep(0.02)
step = 0
with open(f"{sys.argv[1]}/{attempt}.{rank}", "a", buffering=1) as file:
    while not os.path.exists(f"{sys.argv[1]}/over"):
        file.write(f"{os.environ['HEADRACE_NODE']} {step} {time.time()}\\n")
        step += 1
        time.sleep(0.02)
"""
TRAINS_S_MAX: Final = 120.0
STEPS: Final = 20
"""After so many of each rank, the gang trains."""


def play(stack: RayStack, folder: Path, command: list[str], *, size: int, victim: int) -> dict[str, float]:
    """One gang, whose rank `victim` loses its node. Raises RuntimeError if what follows is not as it should be."""
    folder.mkdir(parents=True)
    submitted_at = time.time()
    body = {"type": "submit", "entrypoint": [*command, str(folder)], "tier": "part", "nodes": size, "grace_s": 2}
    job = str(stack.call("POST", "/v1/jobs", body)["job"])
    _until_it_trains(folder, 1, size)
    trains_s = _first(folder, 1, size) - submitted_at

    node = _nodes(folder, 1, size)[victim]
    stack.nodes[node].kill()
    killed_at = time.time()
    stack.call("POST", f"/v1/nodes/{node}/gone", {"why": "it has burnt down"})
    _until_it_trains(folder, 2, size)
    again_s = _first(folder, 2, size) - killed_at
    view = stack.job(job)
    there = _nodes(folder, 2, size)
    (folder / "over").touch()
    end = stack.wait(job)
    if view["attempt"] != 2 or node in there or len(set(there)) != size or end["state"] != "succeeded":
        raise RuntimeError(f"{view['attempt']} attempts, on {there} without {node}; the end: {end}")
    stack.nodes[node].start()
    until(lambda: _ready(stack) == len(stack.nodes), limit_s=TRAINS_S_MAX, what="the node again")
    return {"trains_s": trains_s, "again_s": again_s}


def _until_it_trains(folder: Path, attempt: int, size: int) -> None:
    def trains() -> bool:
        files = [folder / f"{attempt}.{rank}" for rank in range(size)]
        return all(file.exists() and file.read_text().count("\n") > STEPS for file in files)

    until(trains, limit_s=TRAINS_S_MAX, what=f"attempt {attempt} of the gang, at work on {size} nodes")


def _lines(folder: Path, attempt: int, size: int) -> list[list[str]]:
    """Of each rank the first: node, step, moment."""
    return [(folder / f"{attempt}.{rank}").read_text().split("\n", 1)[0].split() for rank in range(size)]


def _nodes(folder: Path, attempt: int, size: int) -> list[str]:
    return [line[0] for line in _lines(folder, attempt, size)]


def _first(folder: Path, attempt: int, size: int) -> float:
    """When the last of them had made its first step."""
    return max(float(line[2]) for line in _lines(folder, attempt, size))


def _ready(stack: RayStack) -> int:
    return sum(node["state"] == "ready" for node in stack.call("GET", "/v1/nodes")["nodes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--torch", type=Path, metavar="VENV", help="a virtual environment that has torch")
    parser.add_argument("--size", type=int, default=3, help="of the gang, in nodes")
    parser.add_argument("--rounds", type=int, default=3, help="gangs, one after the other")
    options = parser.parse_args()
    python, program = (options.torch / "bin" / "python", TRAINS) if options.torch else (sys.executable, MEETS)
    with ray_nodes.running(CONFIG, nodes=options.size + 1, cpus=4, keeps=False) as stack:
        until(lambda: _ready(stack) == options.size + 1, limit_s=60, what="every node")
        script = stack.state / "gang.py"
        script.write_text(program)
        found = [
            play(
                stack,
                stack.state / f"gang-{number}",
                [str(python), str(script)],
                size=options.size,
                victim=number % options.size,
            )
            for number in range(options.rounds)
        ]
    figures: dict[str, Any] = {"nodes": options.size, "rounds": len(found), "torch": bool(options.torch)}
    for name in ("trains_s", "again_s"):
        times = [each[name] for each in found]
        figures |= {f"{name}_p50": round(percentile(times, 0.5), 2), f"{name}_max": round(max(times), 2)}
    report("gang_nodes", figures, {})


if __name__ == "__main__":
    main()
