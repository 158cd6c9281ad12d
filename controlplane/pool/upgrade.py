"""Pods that are not as they would be made today (another image, another grace) are made anew, one node at a time. Pure.

KubeRay makes a pod by the template of its group, and changes none that is there (`upgradeStrategy: None`). So a node is

    drained ──▶ empty ──▶ its pod is named ──▶ KubeRay makes another in its place
      ──▶ that is ready, and its runner was heard ──▶ opened ──▶ the next

Replicas stay as they are: a pod that is named is one less that runs, so KubeRay makes exactly one. That a node is
drained for this stands in the ledger, with its reason. So whoever leads next takes it up again, and there is never a
second one beside it. The next begins only when all pods are there and all new ones have shown that they work; so a
template that does not work ends at its first node. What is wanted may change at any time: what counts is each pod
beside today's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from controlplane.pool.machines import Machine, Worker
from controlplane.pool.raycluster import ray_version_of
from controlplane.pool.standing import Standing

TRIES_MAX: Final = 3
"""Pods that are made anew on one machine for one template. That they never carry it is somebody else's doing."""


class Member(NamedTuple):
    """A machine that a pod of ours stands on, or should, and that stays."""

    machine: Machine
    pod: Worker | None
    """The one that lives there and is not named to be deleted."""
    wanted: str
    """The template of its group."""
    standing: Standing | None
    """None: the scheduler has never had it."""
    is_heard: bool
    """Whether its runner was heard since this pod is ready."""
    tries: int = 0
    """How often its pod was named for this template."""

    @property
    def is_outdated(self) -> bool:
        return self.pod is not None and self.pod.template != self.wanted

    @property
    def is_new(self) -> bool:
        """Whether it has all that is wanted, and works."""
        return self.pod is not None and not self.is_outdated and self.pod.ready and self.is_heard

    @property
    def is_drained(self) -> bool:
        return self.standing is not None and self.standing.is_upgraded

    @property
    def is_closed(self) -> bool:
        """Whether nothing runs there, and nothing can be placed there."""
        standing = self.standing
        return standing is None or standing.state == "gone" or (bool(standing.by) and not standing.busy)


class Step(NamedTuple):
    """What is to be done next."""

    drain: str = ""
    """Name of the machine whose node is to be drained."""
    name: str = ""
    """Of the pod that is to be deleted, so that another is made."""
    at: str = ""
    """The machine that it stands on."""
    why: str = ""
    """How far it is, and what it waits for; empty: all pods are as they should be."""


def next_step(members: Sequence[Member]) -> Step:
    """Nothing, if all is done or something must come first; else whose node to drain, or whose pod to name."""
    outdated = [one for one in members if one.is_outdated]
    if not outdated:
        return Step(why=next((_waits(one) for one in members if one.is_drained and not one.is_new), ""))
    left = f"{len(outdated)} of {len(members)} pods are of an older template"
    waits = next((_waits(one) for one in members if not (one.is_outdated or one.is_new)), "")
    if waits:
        return Step(why=f"{left}; {waits}")
    begun = next((one for one in outdated if one.is_drained), None)
    stays = {one.machine.name: _stays(one) for one in outdated}
    chosen = begun or min((one for one in outdated if not stays[one.machine.name]), key=_order, default=None)
    if chosen is None or stays[chosen.machine.name]:
        return Step(why=f"{left}; {next(iter(stays.values())) if chosen is None else stays[chosen.machine.name]}")
    assert chosen.pod is not None
    name = chosen.machine.name
    if chosen.is_closed:
        return Step(name=chosen.pod.name, at=name, why=f"{left}; that of {name} is made anew")
    return Step(drain="" if chosen.is_drained else name, why=f"{left}; {name} is being drained for a new one")


def held(members: Sequence[Member]) -> set[str]:
    """Machines whose nodes stay closed for the upgrade: where a pod is being made, else the one that comes next.

    Another one that was drained for it (it was cordoned meanwhile, or two of us led for a moment) is opened again.
    """
    drained = [one for one in members if one.is_drained and not one.is_new]
    made = {one.machine.name for one in drained if not one.is_outdated}
    return made or {one.machine.name for one in drained[:1]}


def _order(member: Member) -> tuple[bool, bool, str]:
    """Those first on which the least is lost."""
    works = member.pod is not None and member.pod.ready
    return works, member.standing is not None and member.standing.busy, member.machine.name


def _stays(member: Member) -> str:
    """Why this pod cannot be made anew now; empty: it can."""
    machine, pod, standing = member.machine, member.pod, member.standing
    before, after = ray_version_of(pod.template) if pod else "", ray_version_of(member.wanted)
    if before and before != after:
        return (
            f"that of {machine.name} runs Ray {before}, and {after} is wanted: nodes of one cannot join a head of the "
            f"other. Delete the RayCluster (that ends all jobs' attempts; they wait again), and it is made anew"
        )
    if machine.blocked or machine.problem or not machine.ready:
        return f"that of {machine.name} stays: the machine {machine.blocked or machine.problem or 'is not ready'}"
    if standing is not None and standing.by and standing.busy and not member.is_drained:
        return f"that of {machine.name} stays until nothing runs there: {standing.by} closed it"
    if member.tries >= TRIES_MAX:
        return f"that of {machine.name} was made anew {member.tries} times, and is still not as the RayCluster says"
    return ""


def _waits(member: Member) -> str:
    """What a machine lacks whose pod is new, or is being made."""
    name, pod = member.machine.name, member.pod
    if pod is None:
        return f"{name} has no pod yet"
    if not pod.ready:
        return f"the new pod {pod.name} on {name} is not ready{': ' if pod.waits else ''}{pod.waits}"
    return f"the runner in the new pod {pod.name} on {name} was not heard yet"
