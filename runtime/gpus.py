"""The GPUs of a node: how many there are, and holding them in Ray's own ledger.

Ray hands GPUs out by its own books. So that it never gives one away that an attempt of ours uses, the runner takes all
of the node's GPUs there, by detached placement groups of one GPU each: they outlive the runner and every worker. Which
attempt uses which device is decided by our leader, by device index; Ray's indices are only looked at to know that what
is held is the whole of the node.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, Final

NAMESPACE: Final = "headrace"
NODE_LABEL: Final = "hr.node"
HOLD_S_MAX: Final = 60.0
"""Placement groups of resources that were freed a moment ago wait for a tick of Ray's (up to a second)."""
_DEVICE: Final = re.compile(r"nvidia\d+")


class GpusTaken(Exception):
    """Ray has given some of the node's GPUs to somebody else. The message says which group waits."""


def count_devices(dev: Path = Path("/dev")) -> int:
    """How many NVIDIA devices the node has, without asking a driver: one device file each."""
    return sum(1 for path in dev.iterdir() if _DEVICE.fullmatch(path.name))


def group_name(node: str, number: int) -> str:
    return f"gpu-{node}-{number}"


async def hold(node: str, gpus: int) -> None:
    """Hold the node's GPUs in Ray's ledger; what is held already stays. Raises GpusTaken.

    To be called inside Ray, on a node that was started with `--labels hr.node=<node>`.
    """
    from ray.util import get_placement_group, placement_group

    groups: dict[str, Any] = {}
    for number in range(gpus):
        name = group_name(node, number)
        try:
            groups[name] = get_placement_group(name)
        except ValueError:  # there is none of that name
            groups[name] = placement_group(
                [{"GPU": 1}], name=name, lifetime="detached", bundle_label_selector=[{NODE_LABEL: node}]
            )
    for name, group in groups.items():
        if not await asyncio.to_thread(group.wait, HOLD_S_MAX):
            raise GpusTaken(f"placement group {name} waits: another user of this Ray holds GPUs of node {node}")


async def indices(node: str, gpus: int) -> tuple[int, ...]:
    """Which device each held group stands for, by asking a worker inside each (a second the first time)."""
    import ray
    from ray.util import get_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    def device() -> int:
        return int(ray.get_runtime_context().get_accelerator_ids()["GPU"][0])

    task = ray.remote(num_cpus=0, num_gpus=1)(device)
    asked = [
        task.options(
            scheduling_strategy=PlacementGroupSchedulingStrategy(get_placement_group(group_name(node, number)))
        ).remote()
        for number in range(gpus)
    ]
    return tuple(sorted(await asyncio.gather(*asked)))
