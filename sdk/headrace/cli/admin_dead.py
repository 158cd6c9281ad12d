"""`headrace admin dead`: what could not be processed, looked at, played again or dropped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from headrace import errors
from headrace.cli import text
from headrace.cli.app import App, Command, Group, pass_app
from headrace.cli.printer import columns
from headrace.cli.table import Column, table
from headrace.client import Client


def letters_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """Some letters by their numbers, or all."""
    function = click.option("--all", "every", is_flag=True, help="All that there are now.")(function)
    return click.argument("numbers", metavar="NUMBER...", nargs=-1, type=click.IntRange(1))(function)


@click.group(cls=Group, short_help="Show, replay or drop dead letters.", invoke_without_command=True)
@click.pass_context
def dead(context: click.Context) -> None:
    """List dead letters, the oldest first: messages that failed too often, or that nobody can ever take."""
    if context.invoked_subcommand is None:
        _list(context.ensure_object(App))


@dead.command(cls=Command, short_help="Show a dead letter and its message.")
@click.argument("number", metavar="NUMBER", type=click.IntRange(1))
@pass_app
def show(app: App, number: int) -> None:
    """Show all that is known of a dead letter: why, the headers, and the body of the message."""
    found = app.client().dead_letter(number)
    if app.printer.json:
        app.printer.object(found)
        return
    letter, headers = found.get("letter") or {}, found.get("headers") or {}
    said = {**text.timed(letter), **{f"header {name}": value for name, value in sorted(headers.items())}}
    for name, value in said.items():
        if value not in ("", None):
            app.printer.data(f"{app.printer.out.paint(text.clean(name), 'dim')} = {text.clean(value)}")
    for key, name in (("text", "body"), ("base64", "body in base 64")):
        if found.get(key) is not None:
            app.printer.data(f"{app.printer.out.paint(name, 'dim')} = {text.clean(found[key])}")


@dead.command(cls=Command, short_help="Publish messages again where they came from.")
@letters_argument
@pass_app
def replay(app: App, numbers: tuple[int, ...], every: bool) -> int:
    """Publish messages again where they came from, each under its own id: what took effect already stays as it is."""
    return _each(app, numbers, every, "replayed", Client.replay_dead)


@dead.command(cls=Command, short_help="Take dead letters away for good.")
@letters_argument
@pass_app
def drop(app: App, numbers: tuple[int, ...], every: bool) -> int:
    """Take dead letters away for good."""
    return _each(app, numbers, every, "dropped", Client.drop_dead)


def _list(app: App) -> None:
    found = list(app.client().dead_letters())
    if app.printer.json:
        for letter in found:
            app.printer.object(text.timed(letter))
        return
    if not found:
        app.printer.note("no dead letters")
        return
    headings = (
        Column("NUMBER", right=True),
        Column("WHEN", right=True),
        Column("TRIES", right=True),
        Column("JOB"),
        Column("SUBJECT", least=14),
        Column("REASON", least=16),
    )
    rows = [_row(letter, time.time()) for letter in found]
    for line in table(headings, rows, width=columns(), paint=app.printer.out.paint):
        app.printer.data(line)


def _row(letter: dict[str, Any], now: float) -> list[str]:
    return [
        str(letter.get("sequence", "")),
        text.ago(max(0.0, now - float(letter.get("at") or 0))),
        str(letter.get("tries") or "–"),
        text.short(str(letter.get("job") or "–")),
        str(letter.get("subject", "")).removeprefix("hr.v1."),
        str(letter.get("reason", "")),
    ]


def _each(app: App, numbers: Sequence[int], every: bool, done: str, act: Callable[[Client, int], object]) -> int:
    """Act on each letter; one that cannot be had does not keep the others back. Exit status 1 if there was one."""
    if bool(numbers) == every:
        raise errors.UsageError("say which letters, or --all", "headrace admin dead lists them")
    client = app.client()
    failed = 0
    for number in list(numbers) or [int(letter["sequence"]) for letter in client.dead_letters()]:
        try:
            act(client, number)
        except errors.Refused as error:
            if isinstance(error, errors.Unauthorized | errors.ServerFault):
                raise
            app.printer.error(error)
            failed = 1
            continue
        if app.printer.json:
            app.printer.object({"number": number, "done": done})
        else:
            app.printer.data(f"{done} {number}")
    return failed
