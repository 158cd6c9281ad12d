"""`headrace up`, `down`, `status`: Headrace on this machine, or how the configured server is."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from headrace import errors, local, state
from headrace.cli import text
from headrace.cli.app import App, Command, pass_app
from headrace.cli.printer import columns
from headrace.cli.road import Line
from headrace.cli.table import Cell, Column, table
from headrace.client import Client

NOT_RUNNING = 1
COUNTERS_FROM = 23
"""Columns before the counters: the longest name of a service, its state, and the gaps."""

PROBLEMS_MAX = 10


@click.command(cls=Command, short_help="Start Headrace on this machine.")
@click.option("--foreground", is_flag=True, help="Stay here and be it: its logs on stderr, Ctrl-C ends it.")
@pass_app
def up(app: App, foreground: bool) -> None:
    """Start Headrace on this machine, if it is not up: NATS, Ray and the services, for this user alone."""
    _refuse_remote("up")
    folder, begun = app.folder, time.monotonic()
    local.require()
    if foreground:
        local.foreground(folder)

    def say(said: str) -> None:
        app.printer.note(str(Line("stack", text.clean(said), "", text.took(time.monotonic() - begun))))

    endpoint, started = (
        (state.endpoint(folder), False) if local.answers(state.stack(folder)) else local.start(folder, say)
    )
    assert endpoint is not None
    if app.printer.json:
        app.printer.object({"url": endpoint.url, "state": str(folder), "started": started})
    else:
        app.printer.note(str(Line("up", f"{endpoint.url}, state in {folder}", "" if started else "was up already")))


@click.command(cls=Command, short_help="Stop Headrace on this machine, and every job on it.")
@pass_app
def down(app: App) -> None:
    """Stop Headrace on this machine, and every job on it. What is finished stays in the state folder."""
    _refuse_remote("down")
    begun = time.monotonic()
    stopped = local.stop(app.folder)
    if app.printer.json:
        app.printer.object({"state": str(app.folder), "stopped": stopped})
    elif stopped:
        app.printer.note(str(Line("down", str(app.folder), "", text.took(time.monotonic() - begun))))
    else:
        app.printer.note(f"nothing runs in {app.folder}")


@click.command(cls=Command, short_help="Say whether the server is up, and how it is.")
@pass_app
def status(app: App) -> int:
    """Say whether the server is up, and how its services are. Exit status 1: it is not up."""
    endpoint = state.endpoint(app.folder)
    if endpoint is None:
        return _not_up(app, "stopped", f"nothing runs in {app.folder}", "headrace up starts it")
    try:
        found = Client(endpoint, timeout_s=5.0).get("/v1/status")
    except (errors.ServerUnreachable, errors.ServerFault) as error:
        return _not_up(app, "unreachable", error.message, error.hint)
    stack = None if endpoint.origin == "HEADRACE_URL" else state.stack(app.folder)
    if app.printer.json:
        here = {"pid": stack.pid, "started_at": stack.started_at} if stack else {}
        app.printer.object({"state": "up", "url": endpoint.url, **here, **found})
        return 0
    since = f", since {text.ago(time.time() - stack.started_at)}".replace(" ago", "") if stack else ""
    app.printer.data(
        f"{app.printer.out.paint('up', 'green')}  {endpoint.url}{since}, version {found.get('version', '?')}"
    )
    rows = [row for name, service in _services(found) for row in _service(name, service, columns())]
    if rows:
        headings = (Column("SERVICE", least=10), Column("STATE"), Column("COUNTERS", least=20))
        for line in table(headings, rows, width=columns(), paint=app.printer.out.paint):
            app.printer.data(line)
    return 0


def _not_up(app: App, word: str, message: str, hint: str) -> int:
    if app.printer.json:
        app.printer.object({"state": word, "message": message})
    else:
        app.printer.data(f"{app.printer.out.paint(word, 'red')}  {message}")
        app.printer.note(f"{app.printer.err.paint('hint:', 'cyan', 'bold')} {hint}")
    return NOT_RUNNING


def _services(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    services = found.get("services") or {}
    if isinstance(services, Mapping):
        return sorted(services.items())
    return [(str(each.get("service") or each.get("name")), each) for each in services]


def _service(name: str, service: Any, width: int) -> list[list[Cell | str]]:
    """A service's rows: all counters that are not 0, on as many lines as they need, whole ones only."""
    said = service if isinstance(service, Mapping) else {"state": service}
    answers = said.get("answers", True)
    counters = [f"{key} {text.count(value)}" for key, value in said.items() if type(value) is int and value]
    word = Cell("answers", "green") if answers else Cell("silent", "red")
    first, *more = _wrapped([str(said["error"])] if said.get("error") else counters, width - COUNTERS_FROM)
    return [[name, word, first], *(["", "", line] for line in more), *_problems(said.get("problems"), width)]


def _problems(told: Any, width: int) -> list[list[Cell | str]]:
    """What a service says is wrong, with what, and why; a line of its own each."""
    if not isinstance(told, Mapping):
        return []
    rows: list[list[Cell | str]] = []
    for about, why in [*told.items()][:PROBLEMS_MAX]:
        first, *more = textwrap.wrap(text.clean(f"{about}: {why}"), max(20, width - COUNTERS_FROM))
        rows += [["", Cell("problem", "yellow"), first], *(["", "", line] for line in more)]
    if len(told) > PROBLEMS_MAX:
        rows.append(["", "", f"and {len(told) - PROBLEMS_MAX} more: headrace status --json"])
    return rows


def _wrapped(items: Sequence[str], width: int) -> list[str]:
    """The items between commas, in lines of at most this width (or of one item); at least one line."""
    lines: list[str] = []
    for item in items:
        if lines and text.width(f"{lines[-1]}, {item},") <= width:
            lines[-1] += f", {item}"
        else:
            lines[-1:] = [*(f"{line}," for line in lines[-1:]), item]
    return lines or [""]


def _refuse_remote(command: str) -> None:
    if state.remote() is not None:
        hint = "unset HEADRACE_URL to work with the stack on this machine"
        raise errors.UsageError(f"headrace {command} is about this machine, and HEADRACE_URL names a server", hint)
