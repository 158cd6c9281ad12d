"""Who holds how much, and whose turn it is: fair shares over organisation, team and queue. Pure.

A share is dominant-resource fairness (Ghodsi et al., NSDI 2011): the largest part of any resource, for its weight. It
counts what is held now and the decayed average of what was held: use that is one half-life old counts half (Slurm's
`PriorityDecayHalfLife`). The tree is walked from the top as in Slurm's Fair Tree
(https://slurm.schedmd.com/fair_tree.html): the team with the least share comes first with all of its queues, then the
queue with the least share in it. Nothing is kept back for who has no work: what one does not use is another's.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from controlplane.scheduling.jobs import Shape
from controlplane.scheduling.nodes import Totals
from controlplane.scheduling.packing import MILLI

WEIGHT_MIN: Final = 1e-6


class Held(msgspec.Struct):
    """What the live jobs of somebody hold together."""

    running: int = 0
    milli_gpus: int = 0
    milli_cpus: int = 0
    memory_bytes: int = 0
    plain_milli_cpus: int = 0
    """Of jobs without GPUs: a guarantee of CPUs is for these."""
    firm_milli_gpus: int = 0
    """Of jobs that cannot be preempted."""
    firm_milli_cpus: int = 0
    """Of jobs without GPUs that cannot be preempted."""

    def take(self, shape: Shape, *, preemptible: bool, sign: int = 1) -> None:
        """A job of this shape holds its resources from now on; with −1 it does not any more."""
        milli_gpus, milli_cpus = shape.milli_gpus * shape.nodes, shape.milli_cpus * shape.nodes
        plain = milli_cpus if not milli_gpus else 0
        self.running += sign
        self.milli_gpus += sign * milli_gpus
        self.milli_cpus += sign * milli_cpus
        self.memory_bytes += sign * shape.memory_bytes * shape.nodes
        self.plain_milli_cpus += sign * plain
        if not preemptible:
            self.firm_milli_gpus += sign * milli_gpus
            self.firm_milli_cpus += sign * plain


class Average(msgspec.Struct, eq=False):
    """The decayed average of what was held: with h the half-life, a(t+d) = a(t) 2^(−d/h) + held (1 − 2^(−d/h)).

    Settled only when the ledger says that something was taken or given back, so the same ledger gives the same bits.
    """

    milli_cpus: float = 0.0
    memory_bytes: float = 0.0
    gpus: float = 0.0
    held_milli_cpus: int = 0
    """By the ledger alone, as the next two: what is decided only has not been used."""
    held_memory_bytes: int = 0
    held_milli_gpus: int = 0
    at: float = 0.0

    def settle(self, at: float, half_life_s: float) -> None:
        """Bring the average up to `at`: what is held changes then."""
        self.milli_cpus, self.memory_bytes, self.gpus = self.now(at, half_life_s)
        self.at = max(self.at, at)

    def hold(self, shape: Shape, sign: int = 1) -> None:
        """A job of this shape holds its resources from where it was settled on; with −1 it does not any more."""
        self.held_milli_cpus += sign * shape.milli_cpus * shape.nodes
        self.held_memory_bytes += sign * shape.memory_bytes * shape.nodes
        self.held_milli_gpus += sign * shape.milli_gpus * shape.nodes

    def now(self, now: float, half_life_s: float) -> tuple[float, float, float]:
        """Milli-CPUs, bytes, GPUs. Without a half-life only what is held counts: zero."""
        if half_life_s <= 0:
            return (0.0, 0.0, 0.0)
        kept = 2.0 ** (-max(0.0, now - self.at) / half_life_s)
        return (
            self.milli_cpus * kept + self.held_milli_cpus * (1 - kept),
            self.memory_bytes * kept + self.held_memory_bytes * (1 - kept),
            self.gpus * kept + self.held_milli_gpus / MILLI * (1 - kept),
        )


class Account(msgspec.Struct, eq=False):
    """What a team or a queue holds, with what is decided only, and what it has held."""

    held: Held = msgspec.field(default_factory=Held)
    average: Average = msgspec.field(default_factory=Average)

    def share(self, weight: float, totals: Totals, now: float, half_life_s: float) -> float:
        """The largest part of any resource that it holds and held on average, for its weight."""
        milli_cpus, memory_bytes, gpus = self.average.now(now, half_life_s)
        largest = max(
            (milli_cpus + self.held.milli_cpus) / (totals.milli_cpus or 1),
            (memory_bytes + self.held.memory_bytes) / (totals.memory_bytes or 1),
            (gpus + self.held.milli_gpus / MILLI) / (totals.gpus or 1),
        )
        return largest / max(weight, WEIGHT_MIN)


class Guarantee(NamedTuple):
    """What somebody can always have."""

    gpus: int = 0
    milli_cpus: int = 0
    """For jobs without GPUs."""

    def __bool__(self) -> bool:
        return bool(self.gpus or self.milli_cpus)

    def covers(self, held: Held, shape: Shape) -> bool:
        """Whether one more job of this shape is within it."""
        if shape.gpus:
            return held.milli_gpus + shape.milli_gpus * shape.nodes <= self.gpus * MILLI
        return held.plain_milli_cpus + shape.milli_cpus * shape.nodes <= self.milli_cpus

    def is_exceeded(self, held: Held, shape: Shape) -> bool:
        """Whether more of what a job of this shape takes is held than this."""
        return held.milli_gpus > self.gpus * MILLI if shape.gpus else held.plain_milli_cpus > self.milli_cpus

    def larger(self, other: Guarantee) -> Guarantee:
        return Guarantee(max(self.gpus, other.gpus), max(self.milli_cpus, other.milli_cpus))

    def plus(self, other: Guarantee) -> Guarantee:
        return Guarantee(self.gpus + other.gpus, self.milli_cpus + other.milli_cpus)
