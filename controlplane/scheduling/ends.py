"""What an ended attempt means for its job: the fact to write, with a reason that a person understands. Pure.

A program that ended by itself ended its job, unless it failed and the job has retries left. An attempt that broke off
through no fault of the program is tried again while the job has attempts left; the two are counted apart. Whatever is
asked to be cancelled ends cancelled, and what its deadline stopped has failed.
"""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from typing import Final

from controlplane.scheduling.jobs import Job
from controlplane.scheduling.parts import FAILURES, TRIED_AGAIN, met_a_broken_gpu
from events import messages as m
from events.lifecycle import State

ERRORS_SHOWN_MAX: Final = 3
"""Of those that a driver reported of its GPUs."""

_WORDS: Final = {
    "exited": "it ended without an exit code",
    "signalled": "killed by a signal",
    "time_limit": "over its time limit",
    "stopped": "it was stopped on its node",
    "start_failed": "the entrypoint could not be started",
    "source_failed": "the source could not be laid out on the node",
    "environment_failed": "the environment could not be built on the node",
    "meeting_failed": "the port at which its gang meets was taken",
    "out_of_memory": "out of memory",
    "output_failed": "the node could not keep its output",
    "fenced": "its node was cut off from the ledger for too long and ended it",
    "supervisor_lost": "its node lost it: its supervisor vanished without a record of the end",
}


def on_end(job: Job, end: m.AttemptEnd, *, term: int, where: str = "") -> m.Finished | m.Requeued:
    """The fact that follows from the end of the job's newest attempt. `where`: of a gang, whose end this is."""
    attempt = job.life.attempt
    if job.cancelled_by:
        return m.Finished(term=term, attempt=attempt, outcome="cancelled", reason=cancelled(job), end=end)
    if end.cause == "exited" and end.exit_code == 0:
        return m.Finished(term=term, attempt=attempt, outcome="succeeded", reason="exit code 0", end=end)
    if job.stop_final:
        return m.Finished(term=term, attempt=attempt, outcome="failed", reason=job.stop_why, end=end)
    words = f"{where}: {describe(job, end)}" if where else describe(job, end)
    if end.last_lines:
        words += f"; its last lines: {' | '.join(end.last_lines)}"
    is_broken = met_a_broken_gpu(end)
    if end.cause not in TRIED_AGAIN and not is_broken:
        return _on_failure(job, end, words, term=term)
    if job.stop_why:
        return m.Requeued(term=term, attempt=attempt, why=job.stop_why, end=end)
    if is_broken or job.tries < job.specification.attempts_max:
        return m.Requeued(term=term, attempt=attempt, why=words, end=end)
    reason = f"{words} ({tries(job.tries)})"
    return m.Finished(term=term, attempt=attempt, outcome="failed", reason=reason, end=end)


def _on_failure(job: Job, end: m.AttemptEnd, reason: str, *, term: int) -> m.Finished | m.Requeued:
    """The program itself failed, or it cannot be started at all."""
    attempt, retries = job.life.attempt, job.specification.retries
    if end.cause in FAILURES and job.failures < retries:
        failures = job.failures + 1
        why = f"{reason}; retry {failures} of {retries}"
        return m.Requeued(term=term, attempt=attempt, why=why, end=end, failures=failures)
    if job.failures:
        reason += f" (after {job.failures} of {retries} retries)"
    return m.Finished(term=term, attempt=attempt, outcome="failed", reason=reason, end=end)


def on_deadline(job: Job, *, term: int) -> m.StopRequested | None:
    """The fact that follows when the deadline of a job with a live attempt is over."""
    deadline_at = job.specification.deadline_at
    if deadline_at is None or job.life.state is State.STOPPING:
        return None
    why = f"over its deadline, {clock(deadline_at)}"
    return m.StopRequested(term=term, attempt=job.life.attempt, why=why, final=True)


def on_loss(job: Job, node: str, why: str, *, term: int) -> m.Finished | m.Lost:
    """The fact that follows when the node of the job's newest attempt is gone."""
    attempt = job.life.attempt
    if job.cancelled_by:
        return m.Finished(term=term, attempt=attempt, outcome="cancelled", reason=cancelled(job))
    if job.stop_final:
        return m.Finished(term=term, attempt=attempt, outcome="failed", reason=job.stop_why)
    if job.stop_why or job.tries < job.specification.attempts_max:
        return m.Lost(term=term, attempt=attempt, node=node, why=why)
    return m.Finished(term=term, attempt=attempt, outcome="failed", reason=f"{why} ({tries(job.tries)})")


def cancelled(job: Job) -> str:
    """Why it was cancelled, for a person."""
    return f"cancelled by {job.cancelled_by}" + (f": {job.cancel_why}" if job.cancel_why else "")


def describe(job: Job, end: m.AttemptEnd) -> str:
    """How an attempt ended, for a person."""
    if end.cause == "exited" and end.exit_code is not None:
        words = f"exit code {end.exit_code}"
    elif end.cause == "signalled" and end.signal is not None:
        words = f"killed by {signal_name(end.signal)}"
    elif end.cause == "time_limit" and job.specification.time_limit_s is not None:
        return f"over its time limit of {span(job.specification.time_limit_s)}"
    else:
        words = _WORDS[end.cause]
    return (f"{words}: {end.message}" if end.message else words) + _gpus(end)


def _gpus(end: m.AttemptEnd) -> str:
    """What was reported of its GPUs: `; GPU 3 reported Xid 31 (…)`."""
    errors = sorted(end.gpu_errors, key=lambda error: not error.hardware)
    told = dict.fromkeys(f"; GPU {error.gpu} reported {error.why}" for error in errors)
    return "".join(list(told)[:ERRORS_SHOWN_MAX])


def tries(attempts: int) -> str:
    return "it was its only attempt" if attempts == 1 else f"it was attempt {attempts} of {attempts}"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def clock(at: float) -> str:
    """A moment, for a person, and the same for everybody: `2026-11-29 18:00 UTC`."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def span(seconds: float) -> str:
    """A duration, for a person: `90 s`, `5 min`, `2 h`, `1 h 30 min`."""
    whole = round(seconds)
    if whole < 120 and whole % 60:
        return f"{seconds:g} s"
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or f"{seconds:g} s"
