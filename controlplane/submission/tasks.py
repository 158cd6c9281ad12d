"""Cancels of single tasks of an array, placed or not. Pure.

A task that nobody has placed has no fact. Its cancel is its first one, written like any first fact under the guard that
there is none: if the scheduler was faster, the task is there, and is cancelled like any other job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from controlplane.submission.reading import Findings
from events import arrays
from events import messages as m
from events.identity import task_id
from events.lifecycle import ENDS, Life, State

TOLD_MAX: Final = 20
"""Tasks of which it is told that they were not cancelled."""


def chosen(control: m.Cancel, accepted: m.Fact, life: Life, found: Findings) -> list[m.Task]:
    """Which tasks a cancel means, of the array that this fact began; none where something is wrong with it."""
    if not isinstance(accepted, m.Accepted) or not accepted.specification.array:
        found.problem("$.tasks", "the job is no array", "leave it out")
        return []
    if life.state in ENDS or life.state is State.STOPPING:
        found.problem("$", f"the array is over: {life.state.value}" if life.state in ENDS else "it is being stopped")
        return []
    of = accepted.specification
    mine, _ = arrays.parse(of.array)
    wanted, _ = arrays.parse(control.tasks)
    indices = [wanted[position] for position in range(len(wanted))]
    strange = [index for index in indices if mine.position(index) is None]
    if strange:
        found.problem("$.tasks", f"the array has no index {strange[0]}", f"it has {str(mine)[:80]}")
        return []
    return [m.Task(array=of.job, index=index, size=len(mine)) for index in indices]


def job_of(task: m.Task) -> str:
    return task_id(task.array, task.index)


def answered(job: str, answers: Sequence[tuple[m.Task, m.Answer]], found: Findings) -> m.Answer:
    """One answer for all: applied, if one of them was cancelled by this."""
    verdicts = {answer.verdict for _, answer in answers}
    refused = [
        m.Problem(path="$.tasks", message=f"task {task.index}: {answer.problems[0].message}")
        for task, answer in answers
        if answer.verdict == "refused" and answer.problems
    ][:TOLD_MAX]
    verdict: m.Verdict = "applied" if "applied" in verdicts else "repeated" if "repeated" in verdicts else "refused"
    problems = tuple(refused) if verdict == "refused" else ()
    warnings = (*found.warnings, *(() if verdict == "refused" else refused))
    sequence = max(answer.sequence for _, answer in answers)
    return m.Answer(verdict=verdict, job=job, sequence=sequence, problems=problems, warnings=warnings)
