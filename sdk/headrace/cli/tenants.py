"""How queues and teams are drawn: a line each, or all that is known of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from headrace.cli import text
from headrace.cli.printer import columns
from headrace.cli.table import Cell, Column, Paint, fits, table

Drawn = tuple[Column, Callable[[Mapping[str, Any]], "Cell | str"], int]
"""A column, its cells, and how soon it goes where there is no room (0: never)."""
DEFAULT_POLICY = "slowdown"
DEFAULT_GUARD = 1.2


def queue_table(found: Sequence[Mapping[str, Any]], paint: Paint) -> list[str]:
    """Columns in which nothing stands are left out, and those that do not fit, least needed first."""
    drawn: list[Drawn] = [
        (Column("QUEUE", least=10), lambda queue: Cell(str(queue.get("queue", "")), "bold"), 0),
        (Column("TEAM", least=6), lambda queue: str(queue.get("team", "")), 0),
        *_HOLDINGS,
    ]
    if any(_guaranteed(queue) for queue in found):
        drawn.append(_GUARANTEED)
    drawn.append(_WEIGHT)
    if any(_policy(queue) != DEFAULT_POLICY for queue in found):
        drawn.append((Column("POLICY"), _policy, 2))
    return _table([*drawn, (Column("STATE"), _state, 0)], found, paint)


def team_table(found: Sequence[Mapping[str, Any]], paint: Paint) -> list[str]:
    """The same, of teams."""
    drawn: list[Drawn] = [
        (Column("TEAM", least=10), lambda team: Cell(str(team.get("team", "")), "bold"), 0),
        (Column("QUEUES", right=True), lambda team: str(team.get("queues", 0)), 0),
        *_HOLDINGS,
    ]
    if any(_guaranteed(team) for team in found):
        drawn.append(_GUARANTEED)
    return _table([*drawn, _WEIGHT], found, paint)


def described(queue: Mapping[str, Any], paint: Paint) -> list[str]:
    """All settings of a queue, and what it holds."""
    state = _state(queue)
    heading = paint(text.clean(f"{queue.get('team', '')}/{queue.get('queue', '')}"), "bold")
    lines = [f"{heading}  {paint(state.text, state.style) if state.style else state.text}"]
    lines += [f"  {paint(f'{name:<13}', 'dim')}{text.clean(value)}" for name, value in _fields(queue)]
    return lines


def _fields(queue: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    held = f"{_count(queue.get('gpus'), 'GPU')}, {_count(queue.get('cpus'), 'CPU')}"
    yield "waiting", str(queue.get("waiting", 0))
    yield "running", f"{queue.get('running', 0)}, with {held}"
    yield "limits", _limits(queue, "running_max", "gpus_max")
    yield "of each user", _limits(queue, "user_running_max", "user_gpus_max")
    yield "guaranteed", _guaranteed(queue) or "nothing"
    yield "weight", f"{queue.get('weight', 1.0):g}"
    yield "policy", _policy(queue) + (f", guard {_guard(queue)}" if _policy(queue) == DEFAULT_POLICY else "")
    yield "predictions", "no" if queue.get("predictions") is False else "yes"
    yield "tiers", ", ".join(map(str, queue.get("tiers") or ())) or "those of the team"
    yield "time limit", _default_and_most(queue, "time_limit_s_default", "time_limit_s_max", text.duration)
    yield "priority", _default_and_most(queue, "priority_default", "priority_max", str, 0)
    yield "preemptible", "yes, where a job does not say" if queue.get("preemptible") else "no, where a job does not say"
    yield "set by", str(queue.get("by") or "nobody")


def _table(drawn: Sequence[Drawn], found: Sequence[Mapping[str, Any]], paint: Paint) -> list[str]:
    shown = list(drawn)
    while True:
        headings = [column for column, _, _ in shown]
        rows = [[cell(each) for _, cell, _ in shown] for each in found]
        first = max(shown, key=lambda each: each[2])
        if not first[2] or fits(headings, rows, width=columns()):
            return table(headings, rows, width=columns(), paint=paint)
        shown.remove(first)


def _of(amount: float, limit: float | None) -> str:
    return f"{amount:g}" if limit is None else f"{amount:g} of {limit:g}"


def _guaranteed(each: Mapping[str, Any]) -> str:
    gpus, cpus = each.get("guaranteed_gpus") or 0, each.get("guaranteed_cpus") or 0
    return ", ".join(_count(amount, what) for amount, what in ((gpus, "GPU"), (cpus, "CPU")) if amount)


def _policy(queue: Mapping[str, Any]) -> str:
    return str(queue.get("policy") or DEFAULT_POLICY)


def _guard(queue: Mapping[str, Any]) -> str:
    guard = queue.get("guard", DEFAULT_GUARD)
    return "none" if guard is None else f"{guard:g}"


def _state(queue: Mapping[str, Any]) -> Cell:
    if queue.get("removed"):
        return Cell("deleted", "red")
    words = [word for word in ("paused", "draining") if queue.get(word)]
    return Cell(", ".join(words), "yellow") if words else Cell("open")


def _limits(queue: Mapping[str, Any], jobs: str, gpus: str) -> str:
    said = [
        _count(limit, what) for name, what in ((jobs, "job"), (gpus, "GPU")) if (limit := queue.get(name)) is not None
    ]
    return ", ".join(said) or "none"


def _default_and_most(
    queue: Mapping[str, Any], default: str, most: str, word: Callable[[Any], str], otherwise: object = None
) -> str:
    usual, highest = queue.get(default, otherwise), queue.get(most)
    said = [f"{word(usual)} where a job does not say"] if usual is not None else []
    said += [f"at most {word(highest)}"] if highest is not None else []
    return ", ".join(said) or "as everywhere"


def _count(amount: Any, what: str) -> str:
    number = amount or 0
    return f"{number:g} {what}{'' if number == 1 else 's'}"


_HOLDINGS: tuple[Drawn, ...] = (
    (Column("WAITING", right=True), lambda each: str(each.get("waiting", 0)), 0),
    (Column("RUNNING", right=True), lambda each: _of(each.get("running", 0), each.get("running_max")), 0),
    (Column("GPUS", right=True), lambda each: _of(each.get("gpus", 0), each.get("gpus_max")), 0),
)
_GUARANTEED: Drawn = (Column("GUARANTEED"), lambda each: _guaranteed(each) or "–", 1)
_WEIGHT: Drawn = (Column("WEIGHT", right=True), lambda each: f"{each.get('weight', 1.0):g}", 3)
