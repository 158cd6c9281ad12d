"""`headrace why` and `headrace queue`: what jobs wait for, in which order, and when they will probably start."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator
from typing import cast

import click

from headrace.cli import text
from headrace.cli.app import App, Command, job_argument, pass_app
from headrace.cli.printer import Stream, columns
from headrace.cli.table import Cell, Column, table
from headrace.client import Client
from headrace.views import ENDS, HindranceView, HolderView, QueuedView, WhyView

HOLDERS_SHOWN = 5
PAGE = 100
LIMIT = 20
HEADINGS = (
    Column("#", right=True),
    Column("JOB", least=8),
    Column("ID", least=6),
    Column("USER", least=4),
    Column("TIER", least=4),
    Column("LIMIT", right=True),
    Column("WAITS", right=True),
    Column("STARTS", right=True),
    Column("FOR", least=12),
)
FOR = {"delay": "another's reservation", "order": "its turn", "reservation": "resources"}
"""What a job waits for, in a word or two: else its kind."""


@click.command(cls=Command, short_help="Say why a job waits, and for what.")
@job_argument
@pass_app
def why(app: App, job: str) -> None:
    """Say why a job waits: its place, each thing that is missing (✕) or in order (✓), and what would help (→)."""
    answer = cast(WhyView, app.client().why(job))
    if app.printer.json:
        app.printer.object(answer)
        return
    for line in explained(answer, job, app.printer.out, now=time.time(), wide=columns()):
        app.printer.data(line)


@click.command(cls=Command, short_help="List the jobs that wait, in their order, and when they start.")
@click.option("--queue", "name", metavar="NAME", default="", help="Of one queue only.")
@click.option("--all", "everything", is_flag=True, help="All of them, not only the first.")
@click.option("--limit", type=click.IntRange(min=1), default=LIMIT, show_default=True, help="At most so many.")
@pass_app
def queue(app: App, name: str, everything: bool, limit: int) -> None:
    """List the team's jobs that wait, in the order in which they would start, and when each will probably start.

    FOR says what it waits for; headrace why JOB says more.
    """
    found = list(_pages(app.client(), name, None if everything else limit))
    if app.printer.json:
        for view in found:
            app.printer.object(view)
        return
    if not found:
        app.printer.note("no jobs wait")
        return
    now = time.time()
    by_queue: dict[str, list[QueuedView]] = {}
    for view in found:
        by_queue.setdefault(view.get("queue", ""), []).append(view)
    for title, views in by_queue.items():
        if len(by_queue) > 1:
            app.printer.data(app.printer.out.paint(text.clean(title), "bold"))
        for line in table(HEADINGS, [_row(view, now) for view in views], width=columns(), paint=app.printer.out.paint):
            app.printer.data(line)
    if not everything and len(found) == limit:
        app.printer.note(app.printer.err.paint(f"the first {limit}   headrace queue --all", "dim"))


def _pages(client: Client, queue: str, most: int | None) -> Iterator[QueuedView]:
    after, given = 0, 0
    while most is None or given < most:
        size = PAGE if most is None else min(PAGE, most - given)
        page = client.get("/v1/queue", {"queue": queue, "limit": size, "after": after})
        jobs = page.get("jobs") or []
        yield from (cast(QueuedView, view) for view in jobs)
        given, after = given + len(jobs), int(page.get("next") or 0)
        if not after:
            return


def _row(view: QueuedView, now: float) -> list[Cell | str]:
    kind, expected = view.get("kind", ""), view.get("expected_at")
    return [
        str(view.get("place", "")),
        view.get("name", ""),
        text.short(view.get("job", "")),
        view.get("user", ""),
        view.get("tier", ""),
        text.span(view.get("time_limit_s")),
        text.span(max(0.0, now - (view.get("queued_at") or now))),
        text.hour(expected, now) if expected else "–",
        FOR.get(kind, kind or "about to start"),
    ]


def explained(answer: WhyView, job: str, out: Stream, *, now: float, wide: int) -> list[str]:
    """The lines of a `why`, none wider than `wide` columns where words allow it."""
    state = answer.get("state", "")
    told = text.clean(answer.get("summary") or "")
    if any(hindrance.get("message") == answer.get("summary") for hindrance in answer.get("hindrances") or []):
        told = ""  # it is said below, with all that belongs to it
    if state in {"queued", "unfolding"}:
        stands = f"is place {answer['position']} of {answer.get('of', 0)}" if answer.get("position") else "is queued"
    else:
        stands = state if state in ENDS else f"is {state}"
    lines = _wrapped(f"{text.clean(job)} {stands}" + (f": {told}" if told else ""), "", wide)
    for hindrance in sorted(answer.get("hindrances") or [], key=lambda each: bool(each.get("ok"))):
        sign, style = ("✓", "green") if hindrance.get("ok") else ("✕", "red")
        first, *rest = _wrapped(_sentence(hindrance, now), "    ", wide)
        lines += [f"  {out.paint(sign, style)} {first[4:]}", *rest]
        if hindrance.get("kind") != "delay":  # it has named them
            lines += _wrapped(_held_by(hindrance, now), "      ", wide)
    if expected := _expected(answer, now):
        lines.append(f"  {out.paint('·', 'dim')} {expected}")
    for sooner in answer.get("sooner") or []:
        first, *rest = _wrapped(text.clean(sooner.get("message", "")), "    ", wide)
        lines += [f"  {out.paint('→', 'cyan')} {first[4:]}", *rest]
    return lines


def _expected(answer: WhyView, now: float) -> str:
    """When it will probably start, and the spread."""
    at, earliest, latest = (answer.get(key) for key in ("expected_at", "earliest_at", "latest_at"))
    if not isinstance(at, (int, float)) or not isinstance(earliest, (int, float)):
        return ""
    until = text.hour(latest, now) if isinstance(latest, (int, float)) else "later than can be foreseen"
    spread = "" if earliest == latest else f" ({text.hour(earliest, now)} – {until})"
    return f"expected to start {text.hour(at, now)}{spread}"


def _sentence(hindrance: HindranceView, now: float) -> str:
    message, at = text.clean(hindrance.get("message", "")), hindrance.get("at")
    if not at:
        return message
    when = text.hour(at, now)
    return f"{message} from {when} on" if hindrance.get("kind") == "delay" else f"{message}, by {when} at the latest"


def _held_by(hindrance: HindranceView, now: float) -> str:
    """Who holds it, and until when."""
    holders = hindrance.get("holders") or []
    told = [_holder(holder, now) for holder in holders] or [text.clean(job) for job in hindrance.get("held_by") or []]
    more = [f"{len(told) - HOLDERS_SHOWN} more"] if len(told) > HOLDERS_SHOWN else []
    return ", ".join(told[:HOLDERS_SHOWN] + more)


def _holder(holder: HolderView, now: float) -> str:
    gpus, until, expected = holder.get("gpus") or 0, holder.get("until_at"), holder.get("expected_at")
    has = f" {gpus} GPU{'' if gpus == 1 else 's'}" if gpus else ""
    ends = f" until {text.hour(until, now)}" if until else " without a time limit"
    probably = f" (about {text.hour(expected, now)})" if expected and expected != until else ""
    return f"{text.short(text.clean(holder.get('job', '')))}{has}{ends}{probably}"


def _wrapped(words: str, indent: str, wide: int) -> list[str]:
    return textwrap.wrap(
        words,
        wide,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
