"""`headrace why`: what jobs wait for."""

from __future__ import annotations

import textwrap
import time
from typing import cast

import click

from headrace.cli import text
from headrace.cli.app import App, Command, job_argument, pass_app
from headrace.cli.printer import Stream, columns
from headrace.views import ENDS, HindranceView, HolderView, WhyView

HOLDERS_SHOWN = 5


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
    for sooner in answer.get("sooner") or []:
        first, *rest = _wrapped(text.clean(sooner.get("message", "")), "    ", wide)
        lines += [f"  {out.paint('→', 'cyan')} {first[4:]}", *rest]
    return lines


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
