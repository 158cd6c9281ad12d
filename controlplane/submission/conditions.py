"""When a job may start at all: after other jobs, not before a time, and so that it ends before another. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import msgspec

from controlplane.submission import reading
from controlplane.submission.reading import Findings, quoted
from events import messages as m
from events.lifecycle import ENDS, State

AFTER_MAX: Final = 100
AHEAD_S_MAX: Final = 366 * 86_400.0
"""How far ahead a begin time or a deadline may lie."""
MOMENT_MAX: Final = 2.0**36
WORDS: Final = ("ok", "notok", "any")
_FIELDS: Final = ("job", "on")
IsJob = Callable[[str], object]


# -- what the request says ---------------------------------------------------------------------------------------------


def read_after(given: Mapping[str, Any], is_job: IsJob, found: Findings) -> tuple[m.Dependency, ...]:
    """The jobs to wait for. `is_job`: whether a text is the id of a job."""
    raw, path = given.get("after"), "$.after"
    if raw is None:
        return ()
    if not isinstance(raw, list):
        hint = 'such as [{"job": "j-abcdefghij23", "on": "ok"}]'
        found.problem(path, f"must be a list of dependencies, not {reading.kind_of(raw)}", hint)
        return ()
    if len(raw) > AFTER_MAX:
        found.problem(path, f"{len(raw)} dependencies; at most {AFTER_MAX} are possible")
        return ()
    read: dict[str, m.Dependency] = {}
    for index, item in enumerate(raw):
        each = _dependency(item, f"{path}[{index}]", is_job, found)
        if each is not None and each.job in read:
            found.problem(f"{path}[{index}].job", f"{quoted(each.job)} is there already", "name each job once")
        elif each is not None:
            read[each.job] = each
    return tuple(read.values())


def _dependency(raw: object, path: str, is_job: IsJob, found: Findings) -> m.Dependency | None:
    if not isinstance(raw, dict):
        found.problem(path, f"must be an object, not {reading.kind_of(raw)}", 'such as {"job": "j-abcdefghij23"}')
        return None
    reading.check_keys_once(raw, path, found)
    reading.warn_of_unknown(raw, _FIELDS, path, found)
    if "job" not in raw:
        found.problem(f"{path}.job", "is missing", "the id of the job to wait for")
        return None
    job = reading.text(raw["job"], f"{path}.job", found, characters_max=128)
    on = reading.text(raw.get("on", "ok"), f"{path}.on", found, characters_max=16)
    if on and on not in WORDS:
        found.problem(f"{path}.on", f"no condition {quoted(on)}", reading.choice(on, WORDS))
    if not job or on not in WORDS:
        return None
    if not is_job(job):
        found.problem(f"{path}.job", f"{quoted(job)} is not the id of a job", "such as `j-abcdefghij23`")
        return None
    return m.Dependency(job=job, on=cast(Any, on))


def read_moment(given: Mapping[str, Any], field: str, found: Findings) -> float | None:
    if given.get(field) is None:
        return None
    return reading.number(given[field], f"$.{field}", found, low=0, high=MOMENT_MAX, unit=" seconds since the epoch")


def check(submit: m.Submit, job: str, at: float, found: Findings) -> None:
    """What can be told without any other job. `at`: when the request came in."""
    for index, each in enumerate(submit.after):
        if each.job == job:
            found.problem(f"$.after[{index}].job", "is the job itself", "name another job, or leave it out")
    begin_at, deadline_at, limit_s = submit.begin_at, submit.deadline_at, submit.time_limit_s or 0.0
    for field, moment in (("begin_at", begin_at), ("deadline_at", deadline_at)):
        if moment is not None and moment > at + AHEAD_S_MAX:
            found.problem(f"$.{field}", "is more than a year ahead", "seconds since the epoch, not milliseconds")
    if begin_at is not None and begin_at <= at:
        found.warn("$.begin_at", "is over: it may start at once", "seconds since the epoch")
    if deadline_at is None:
        return
    if deadline_at <= at:
        found.problem("$.deadline_at", "is over", "a later one; seconds since the epoch")
    elif max(at, begin_at or 0.0) + limit_s >= deadline_at:
        first = " from its begin time on" if begin_at is not None and begin_at > at else ""
        what = f"leaves less than its time limit of {limit_s:g} s" if limit_s else "leaves no time"
        found.problem("$.deadline_at", what + first, "a later deadline, or a shorter time limit")


# -- what the other jobs say -------------------------------------------------------------------------------------------


def resolve(
    after: tuple[m.Dependency, ...], states: Mapping[str, State | None], team: str, found: Findings
) -> tuple[m.Dependency, ...]:
    """The same with how each ended, as far as it has. `states`: of each job; None: there is no such job."""
    resolved = []
    for index, each in enumerate(after):
        path, state = f"$.after[{index}].job", states[each.job]
        if state is None:
            hint = "a job waits only for jobs that were accepted before it"
            found.problem(path, f"no job {quoted(each.job)} in team {quoted(team)}", hint)
        elif state is State.REJECTED:
            found.problem(path, f"{quoted(each.job)} was rejected: it never runs", "submit that one again, corrected")
        elif state in ENDS:
            each = msgspec.structs.replace(each, ended=cast(Any, state.value))
        resolved.append(each)
    return tuple(resolved)
