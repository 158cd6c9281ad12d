"""What keeps a job out of its line, in words: what must be in order before queues and nodes count. Pure."""

from __future__ import annotations

from typing import Final

from controlplane.scheduling.dependencies import WORDS
from controlplane.scheduling.jobs import Array, Job
from controlplane.scheduling.truth import Truth
from controlplane.scheduling.words import moment, no, span, yes
from events import messages as m

NAMED_MAX: Final = 10
"""Jobs in one answer; a person reads no more."""
_ENVIRONMENT: Final = {"wanted": "its environment waits to be built", "building": "its environment is being built"}


def hindrances(truth: Truth, job: Job, now: float) -> list[m.Hindrance]:
    """Of a queued job."""
    found = []
    if job.life.held:
        found.append(no("hold", "it is held; release it to let it run"))
    doom = truth.doom(job)
    if doom is not None:
        found.append(no(doom.kind, f"it can never run: {doom.reason}"))
    environment = truth.environment_of(job)
    if environment is not None and doom is None:
        message = _ENVIRONMENT.get(environment.state)
        found.append(no("environment", message) if message else yes("environment", "its environment is ready"))
    found += _dependencies(truth, job, now)
    if job.array is not None:
        found.append(_tasks(job.array))
    if job.early and job.not_before > now:
        found.append(_early(job, now))
    return found


def _tasks(array: Array) -> m.Hindrance:
    """What the array itself says about one more of its tasks."""
    size, running = len(array.indices), len(array.tasks)
    if array.may_go_on:
        return yes("queue", f"{array.rest} of its {size} tasks wait, {running} were placed and have not ended")
    message = f"{running} of its tasks were placed and have not ended, at most {array.at_once} at once"
    return no("queue", message, asked=1.0, free=float(max(0, array.at_once - running)))


def _early(job: Job, now: float) -> m.Hindrance:
    wait = span(max(1.0, round(job.not_before - now)))
    if not job.life.attempt:
        return no("time", f"not before {moment(job.not_before, now)}, in {wait}")
    return no("order", f"attempt {job.life.attempt} broke off; the next one starts in {wait} at the earliest")


def _dependencies(truth: Truth, job: Job, now: float) -> list[m.Hindrance]:
    """What it waits for of other jobs."""
    team = job.specification.team
    found = []
    for each in job.after[:NAMED_MAX]:
        other = truth.by_key.get((team, each.job))
        if other is not None:
            name, stands = other.specification.name, _stands(other, now)
            found.append(no("dependency", f"after {each.job} ({name}) {WORDS[each.on]}: it {stands}"))
    if len(job.after) > NAMED_MAX:
        found.append(no("dependency", f"and after {len(job.after) - NAMED_MAX} more jobs"))
    if job.specification.after and not job.after and not job.unmet:
        found.append(yes("dependency", "what it was to run after has ended as it had to"))
    return found


def _stands(job: Job, now: float) -> str:
    """Where another job is, for a person: `runs, 12 min so far`."""
    if job.started_at is not None:
        return f"runs, {span(round(max(0.0, now - job.started_at)))} so far"
    if job.is_live:
        return "is starting"
    return "is held" if job.life.held else "is queued"
