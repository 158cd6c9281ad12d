"""What a job does, as lines for a person. Pure: views in, lines out, each thing said once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from headrace.cli import charts, text
from headrace.views import ENDS, AllocationView, HindranceView, JobView, SeriesView, WhyView

WORD, ASIDE, TIME = 13, 57, 5
"""Columns: of the first word, where the remark begins, of the duration at the end. With them a line is 78 wide."""
METRICS_MAX = 6
SPARKLINE = 10
FOOTER_GAP = "   "


class Line(NamedTuple):
    """One line of the road: a word (empty: it goes on with the one before), a text, a remark, a duration."""

    word: str
    body: str
    aside: str = ""
    took: str = ""

    def __str__(self) -> str:
        left = f"  {self.word:<{WORD}}{self.body}"
        if not self.aside and not self.took:
            return left
        right = f"{text.fill(self.aside, 16)}{self.took:>{TIME}}".rstrip()
        return text.fill(left, ASIDE - 2) + "  " + right


class Road:
    """One job on its road. `packages`: what the capture calls its environment (`torch 2.13 and 85 more`)."""

    def __init__(self, packages: str = "") -> None:
        self._packages = packages
        self._said: tuple[str, int] = ("", 0)
        self._environment_seen = ""
        self._queue = ""
        self._queued_said = False
        self._hindrances_said: set[str] = set()
        self.waiting = ""
        """In a few words, what it waits for right now; empty when it does not."""

    def on_view(self, view: JobView) -> list[Line]:
        """What is new in this view of the job."""
        lines = self._environment(view)
        self._queue = text.clean(view.get("queue", ""))
        state, attempt = view.get("state", ""), view.get("attempt", 0)
        if tasks := view.get("tasks"):
            self.waiting = counted(tasks)
        if (state, attempt) == self._said:
            return lines
        before, self._said = self._said, (state, attempt)
        if state == "queued":
            return lines + self._queued(view, again=before[0] not in {"", "queued"})
        self.waiting = ""
        if state in ENDS:
            return lines
        if state == "unfolding":
            self._queued_said = True
            size = sum((view.get("tasks") or {}).values())
            return [*lines, Line("running", f"an array of {text.count(size)} tasks", text.short(view["job"]))]
        if not self._queued_said:
            lines.append(Line("queued", self._queue, "", _between(view, "queued_at", "placed_at")))
            self._queued_said = True
        holds = where(view.get("allocations") or [])
        if state == "placed":
            self.waiting = "starting"
            lines.append(Line("placed", holds))
        elif state == "running":
            took = _between(view, "placed_at", "started_at")
            lines.append(Line("running", f"{holds}, started in {took}" if took else holds, text.short(view["job"])))
        elif state == "stopping":
            lines.append(Line("stopping", text.clean(view.get("reason") or "")))
        return lines

    def on_why(self, why: WhyView) -> list[Line]:
        """Why it waits: each kind of hindrance is said once; how it goes on is in `waiting`."""
        missing = [hindrance for hindrance in why.get("hindrances") or [] if not hindrance.get("ok")]
        if any(hindrance.get("kind") != "order" for hindrance in missing):  # its turn is not what it waits for
            missing = [hindrance for hindrance in missing if hindrance.get("kind") != "order"]
        place = f"place {why['position']} of {why.get('of', 0)}" if why.get("position") else ""
        first = text.clean(missing[0].get("message", "")) if missing else text.clean(why.get("summary") or "")
        self.waiting = ", ".join(part for part in (place, first) if part)
        new = [hindrance for hindrance in missing if hindrance.get("kind") not in self._hindrances_said]
        self._hindrances_said.update(hindrance.get("kind", "") for hindrance in new)
        if not self._queued_said:
            self._queued_said = True
            told = f"{self._queue}, {place}" if place else self._queue
            return [Line("queued", told, text.short(why.get("job", ""))), *(Line("", reason(h)) for h in new)]
        new = [hindrance for hindrance in new if hindrance.get("kind") != "order"]
        return [Line("" if i else "waits", reason(h)) for i, h in enumerate(new)]

    def _queued(self, view: JobView, *, again: bool) -> list[Line]:
        if again:
            self._hindrances_said.clear()
            self.waiting = "queued again"
            return [Line("queued", f"{self._queue}, again: {text.clean(view.get('reason') or 'its attempt ended')}")]
        if view.get("held"):
            self._queued_said = True
            self.waiting = "held"
            return [Line("queued", f"{self._queue}, held", text.short(view["job"]))]
        return []  # a `why` is on its way, or it is placed already

    def _environment(self, view: JobView) -> list[Line]:
        environment = view.get("environment") or {}
        state, seen = environment.get("state", ""), self._environment_seen
        if state == seen or not state:
            return []
        self._environment_seen = state
        if state == "failed":
            return [Line("environment", text.clean(environment.get("reason") or "cannot be built"), "failed")]
        if state != "ready":
            return [] if seen else [Line("environment", self._packages or "its packages", "resolving")]
        packages = self._packages or f"{environment.get('packages', 0)} packages"
        body = f"{text.digest(environment.get('lock') or environment.get('digest') or '')}, {packages}"
        if not seen:
            return [Line("environment", body, "reused", "0.0 s")]
        return [Line("environment", body, "resolved", text.took(environment.get("took_s") or 0.0))]


TASKS = {
    "running": ("running", "run"),
    "failed": ("failed", "fail"),
    "succeeded": ("done", "done"),
    "cancelled": ("cancelled", "gone"),
    "queued": ("queued", "wait"),
}
"""In the order in which they are told: what needs somebody comes first."""


def counted(tasks: Mapping[str, int], *, short: bool = False) -> str:
    """How an array's tasks are: `12 running, 38 done, 950 queued`, in short `12 run, 38 done, 950 wait`."""
    together = {"placed": "running", "stopping": "running"}
    counts = dict.fromkeys(TASKS, 0)
    for state, number in tasks.items():
        counts[together.get(state, state)] += number
    return ", ".join(f"{text.count(number)} {TASKS[state][short]}" for state, number in counts.items() if number)


def summary(view: JobView) -> Line:
    """The last line: how it ended."""
    ran = _between(view, "started_at", "finished_at")
    reason_given = text.clean(view.get("reason") or "")
    exit_code, number = view.get("exit_code"), view.get("signal")
    ended = f"signal {number}" if number is not None else f"exit code {exit_code}" if exit_code is not None else ""
    usage = view.get("usage") or {}
    parts = [f"in {ran}" if ran else ""]
    if (view.get("state") != "succeeded" or view.get("tasks")) and reason_given and reason_given != ended:
        parts.insert(0, reason_given)
    if usage.get("memory_bytes_max"):
        parts.append(f"{text.size(usage['memory_bytes_max'])} memory")
    if usage.get("cpu_s"):
        parts.append(f"{text.took(usage['cpu_s'])} CPU")
    return Line(view.get("state", ""), ", ".join(part for part in parts if part), ended)


def exit_status(view: JobView) -> int:
    """What `headrace run` exits with: the job's own exit code, as a shell would give it."""
    state = view.get("state")
    if state == "succeeded":
        return 0
    if state == "cancelled":
        return 130
    code, number = view.get("exit_code"), view.get("signal")
    return 128 + number if number else code if code else 1


def metrics_lines(series: Sequence[SeriesView], wide: int, *, tail: str = "") -> list[str]:
    """Metrics side by side, each with its sparkline and newest value, in as many lines as they need."""
    items = []
    for each in newest(series)[:METRICS_MAX]:
        values = each.get("values") or []
        if values:
            name = text.cut(text.clean(each.get("name", "")), 24)
            items.append(f"{name} {charts.sparkline(values, SPARKLINE)} {text.number(values[-1])}")
    if tail:
        items.append(tail)
    lines: list[str] = []
    for item in items:
        if lines and text.width(lines[-1]) + len(FOOTER_GAP) + text.width(item) <= wide:
            lines[-1] += FOOTER_GAP + item
        else:
            lines.append("  " + item)
    return lines


def newest(series: Sequence[SeriesView]) -> list[SeriesView]:
    """One series a name: that of the newest attempt, and of rank 0 there."""
    best: dict[str, SeriesView] = {}
    for each in series:
        name = each.get("name", "")
        if name not in best or _rank(each) > _rank(best[name]):
            best[name] = each
    return list(best.values())


def where(allocations: Sequence[AllocationView | Mapping[str, Any]]) -> str:
    """`gpu-a03 GPUs 0–3`, `n1 1 CPU`; of several nodes the first and how many more."""
    if not allocations:
        return ""
    first = allocations[0]
    node, gpus = text.clean(first.get("node", "")), list(first.get("gpus") or ())
    if gpus:
        share = (first.get("gpu_milli") or 1000) / 1000
        part = f"{share:g} of " if share < 1 else ""
        holds = f"{node} {part}GPU{'s' if len(gpus) > 1 else ''} {text.ranges(gpus)}"
    else:
        cpus = first.get("cpus") or 0
        holds = f"{node} {cpus:g} CPU{'' if cpus == 1 else 's'}"
    return holds if len(allocations) == 1 else f"{holds} and {len(allocations) - 1} more nodes"


def reason(hindrance: HindranceView) -> str:
    """A hindrance in a sentence, with who holds what it waits for."""
    held_by = [text.clean(holder) for holder in hindrance.get("held_by") or []]
    told = f"; {', '.join(held_by[:4])} hold it" if held_by and hindrance.get("kind") != "delay" else ""
    return text.clean(hindrance.get("message", "")) + told


def _rank(series: SeriesView) -> tuple[int, int]:
    return series.get("attempt", 1), -series.get("rank", 0)


def _between(view: JobView, begin: str, end: str) -> str:
    began, ended = view.get(begin), view.get(end)
    return text.took(float(str(ended)) - float(str(began))) if began and ended else ""
