"""Jobs of which nobody can tell how long they run: first those that have had the least. Pure.

Least attained service in two queues, as in Gu et al., "Tiresias: A GPU Cluster Manager for Distributed Deep Learning",
NSDI 2019. A job without a time limit whose like has never succeeded may be one that ends in a minute, or in a week. So
it is taken for a short one until it has had an hour of one GPU; from then on for one that takes a day, and it gives way
to those of its queue that have had less. It does so only when it has just saved its work (`headrace.checkpointed()`).

Who may not be preempted cannot give way. Such a job is taken for one that takes a day from the beginning: else it would
pay to say nothing.
"""

from __future__ import annotations

import math
from typing import Final

from controlplane.scheduling.jobs import Job, Shape
from controlplane.scheduling.order import UNKNOWN_S, estimate_s
from controlplane.scheduling.packing import MILLI
from events import messages as m
from events.lifecycle import State

LITTLE_S: Final = 3600.0
"""Seconds of one GPU, or of one job without GPUs."""
FRESH_S: Final = 30.0
"""So long after it said that it had saved its work a job may give way: as much is lost at the most."""


def is_unknown(specification: m.Specification, predicted_s: float | None) -> bool:
    """Whether nobody can tell how long such a job runs, and it may be preempted."""
    return specification.preemptible and specification.time_limit_s is None and predicted_s is None


def order_s(specification: m.Specification, predicted_s: float | None, *, predictions: bool) -> float:
    """The estimate by which a job that has not run finds its place. `predictions`: whether its queue goes by them."""
    if is_unknown(specification, predicted_s):
        return LITTLE_S
    return estimate_s(predicted_s if predictions and predicted_s else specification.time_limit_s)


def of(shape: Shape, seconds: float) -> float:
    """What a job of this shape has had that ran for so long: seconds of one GPU, or of one job without GPUs."""
    return seconds * (shape.milli_gpus * shape.nodes / MILLI if shape.gpus else 1.0)


def note(job: Job, at: float) -> None:
    """Its attempt is over: it has had so much more, and may have another place in its queue."""
    job.attained_s += of(job.shape, max(0.0, at - job.placed_at))
    if is_unknown(job.specification, job.predicted_s) and job.attained_s >= LITTLE_S and job.order_s == LITTLE_S:
        job.order_s = UNKNOWN_S


def has_had_little(job: Job) -> bool:
    """Whether others should give way to this job, which waits."""
    return is_unknown(job.specification, job.predicted_s) and job.attained_s < LITTLE_S


def fresh_from(job: Job) -> float:
    """From when on it is taken to have just saved its work, by the clock of its node; −∞: it never has."""
    return -math.inf if job.saved_at is None else job.saved_at - FRESH_S


def gives_way(job: Job, now: float) -> bool:
    """Whether this job, which runs, should end for one that has had little."""
    if job.life.state is not State.RUNNING or not is_unknown(job.specification, job.predicted_s):
        return False
    saved_at = job.saved_at  # by the clock of its node
    if saved_at is None or abs(now - saved_at) > FRESH_S:
        return False
    return job.attained_s + of(job.shape, max(0.0, saved_at - job.placed_at)) >= LITTLE_S
