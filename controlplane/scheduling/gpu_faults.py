"""GPUs that are out of use: which, by what a node says of them and what stands in the ledger. Pure.

The ledger has the faults of a node as one list; the leader writes another one when this rule gives another one:

* What a node says that is new goes in, with the attempts that held the GPU. An event is new once, and a person's word
  that the GPU is fit again covers all that happened before it.
* What a node sees whenever it looks goes when the node looks and does not see it any more.
* What happened goes when the machine was restarted since and finds nothing. Else it stays: a node forgets events when
  its runner is restarted, and its silence about one means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from controlplane.scheduling.jobs import Job
from events import messages as m

JOBS_MAX: Final = 16
"""Of those that held a GPU, so many are named: a part of one may be a thousandth."""


def standing(
    faults: tuple[m.GpuFault, ...],
    claims: m.Exchange | None,
    repaired: Mapping[int, float],
    jobs: Iterable[Job] = (),
) -> tuple[m.GpuFault, ...]:
    """What should stand in the ledger. `jobs`: who is on the node now, in the order in which they are named."""
    if claims is None or claims.gpu_health is None:
        return faults
    said = {
        (fault.gpu, fault.sign): fault
        for fault in claims.gpu_health.faults
        if fault.stands or fault.since_at > repaired.get(fault.gpu, -math.inf)
    }
    kept = {
        (fault.gpu, fault.sign): fault
        for fault in faults
        if ((fault.gpu, fault.sign) in said if fault.stands else fault.boot == claims.boot)
    }
    new = {
        key: msgspec.structs.replace(fault, boot=claims.boot, jobs=_holders(claims.node, fault.gpu, jobs))
        for key, fault in said.items()
        if key not in kept
    }
    return tuple(fault for _, fault in sorted((kept | new).items()))


def unfit(
    faults: tuple[m.GpuFault, ...], claims: m.Exchange | None, repaired: Mapping[int, float], capacity: m.Capacity
) -> int:
    """On which nothing is placed, one bit an index: by the ledger, or by what the node says and will stand there."""
    if not faults and (claims is None or claims.gpu_health is None or not claims.gpu_health.faults):
        return 0
    mask = 0
    for fault in (*faults, *standing(faults, claims, repaired)):
        if fault.gpu < capacity.gpus:
            mask |= 1 << fault.gpu
    return mask


def without(faults: tuple[m.GpuFault, ...], gpus: Iterable[int]) -> tuple[m.GpuFault, ...]:
    """What is left of them when somebody has said that these GPUs are fit again."""
    repaired = set(gpus)
    return tuple(fault for fault in faults if fault.gpu not in repaired)


def stop_why(node: str, faults: tuple[m.GpuFault, ...], job: Job) -> str:
    """Why a job must leave the node, for a person; empty: it need not."""
    held = {gpu for each in job.allocations if each.node == node for gpu in each.gpus}
    fault = next((fault for fault in faults if fault.ends and fault.gpu in held), None)
    return f"GPU {fault.gpu} of node {node} is out of use: {fault.why}" if fault is not None else ""


def told(node: str, faults: tuple[m.GpuFault, ...]) -> str:
    """Which GPUs of a node are out of use, for a person: `GPU 3 of n1 is out of use (lost)`."""
    signs: dict[int, str] = {}
    for fault in faults:
        signs.setdefault(fault.gpu, fault.sign)
    if not signs:
        return f"some of {node} are out of use"
    if len(signs) == 1:
        return "".join(f"GPU {gpu} of {node} is out of use ({sign})" for gpu, sign in signs.items())
    return f"of {node} {len(signs)} GPUs are out of use (the first: {next(iter(signs.values()))})"


def _holders(node: str, gpu: int, jobs: Iterable[Job]) -> tuple[m.AttemptRef, ...]:
    held = (job.ref() for job in jobs for each in job.allocations if each.node == node and gpu in each.gpus)
    return tuple(ref for ref, _ in zip(held, range(JOBS_MAX), strict=False))
