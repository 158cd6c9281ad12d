"""`headrace nodes`: the machines, and what operators say of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from headrace import errors
from headrace.cli import options, text
from headrace.cli.app import App, Command, Group, interactive, pass_app
from headrace.cli.cluster import Row, show
from headrace.cli.printer import columns
from headrace.cli.table import Cell, Column, fits

SHOWN_MIN = 8
"""Columns that are there however narrow the terminal is."""
STYLES = {"ready": "green", "suspected": "yellow", "gone": "red"}
DONE = {
    "cordon": "gets no more jobs",
    "uncordon": "gets jobs again",
    "drain": "gets no more jobs, and is drained once it is empty",
    "gone": "is given up: what ran there is lost, and waits again",
    "repair": "places jobs on these GPUs again",
}


def complete_node(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of machines for the shell; nothing where no server answers at once."""
    try:
        found = context.ensure_object(App).client(timeout_s=1.0).get("/v1/nodes").get("nodes") or ()
    except errors.HeadraceError:
        return []
    return sorted(str(node.get("node")) for node in found if str(node.get("node")).startswith(incomplete))


def nodes_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """One machine or more."""
    return click.argument("names", metavar="NODE...", nargs=-1, required=True, shell_complete=complete_node)(function)


def why_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The reason, which everybody sees."""
    return click.option("--why", default="", metavar="TEXT", help="The reason, shown to whoever waits for it.")(
        function
    )


@click.group(cls=Group, short_help="List the machines, and what is free on each.", invoke_without_command=True)
@click.pass_context
def nodes(context: click.Context) -> None:
    """List the machines, and what is free on each: free of all. Where they fit: BOUNDS is what holds attempts to it,
    LABELS are what headrace run --on goes by.

    Operators close machines, drain them, give them up, and say which GPUs are fit again.
    """
    if context.invoked_subcommand is None:
        _list(context.ensure_object(App))


@nodes.command(cls=Command, short_help="Place nothing more there.")
@nodes_argument
@why_option
@pass_app
def cordon(app: App, names: tuple[str, ...], why: str) -> int:
    """Place nothing more on machines. What runs there runs on."""
    return _each(app, names, "cordon", _said(why))


@nodes.command(cls=Command, short_help="Place jobs there again.")
@nodes_argument
@pass_app
def uncordon(app: App, names: tuple[str, ...]) -> int:
    """Place jobs on machines again, after a cordon or a drain."""
    return _each(app, names, "uncordon", {})


@nodes.command(cls=Command, short_help="Place nothing more there until they are empty.")
@nodes_argument
@why_option
@click.option("--stop", is_flag=True, help="Stop what runs there, after its grace; it waits again, and loses no try.")
@pass_app
def drain(app: App, names: tuple[str, ...], why: str, stop: bool) -> int:
    """Place nothing more on machines until they are empty: `drained`. What runs there runs on, but for --stop."""
    return _each(app, names, "drain", _said(why) | ({"stop": True} if stop else {}))


@nodes.command(cls=Command, short_help="Close machines for a time that no job may run into.")
@click.argument("names", metavar="[NODE...]", nargs=-1, shell_complete=complete_node)
@click.option("--all", "every", is_flag=True, help="All that there are now.")
@click.option(
    "--from", "begin", metavar="TIME", callback=options.moment, help="When it begins: 18:00, 2h, an ISO date."
)
@click.option("--for", "length", metavar="TIME", callback=options.seconds, help="How long it takes: 2h, 90m.")
@click.option("--cancel", is_flag=True, help="There is no maintenance any more.")
@why_option
@pass_app
def maintenance(
    app: App, names: tuple[str, ...], every: bool, begin: float | None, length: float | None, cancel: bool, why: str
) -> int:
    """Close machines for a time. Until then only jobs start there whose time limit is over before."""
    if cancel == (length is not None):
        raise errors.UsageError(
            "say how long: --from TIME --for TIME, or --cancel", "headrace nodes maintenance --help"
        )
    if bool(names) == every:
        raise errors.UsageError("say which nodes, or --all", "headrace nodes lists them")
    if every:
        found = app.client().get("/v1/nodes").get("nodes") or []
        names = tuple(str(node.get("node")) for node in found if node.get("state") != "gone")
    begins_at = time.time() if begin is None else begin
    span = {} if length is None else {"begins_at": begins_at, "ends_at": begins_at + length} | _said(why)
    return _each(app, names, "maintenance", span)


@nodes.command(cls=Command, short_help="Place jobs on GPUs again that were out of use.")
@nodes_argument
@click.option("--gpu", "gpus", type=int, multiple=True, metavar="INDEX", help="Only this one; again for more.")
@why_option
@pass_app
def repair(app: App, names: tuple[str, ...], gpus: tuple[int, ...], why: str) -> int:
    """Place jobs on GPUs again that were out of use: they were repaired, or are fit after all.

    Refused for one of which its machine says that something is wrong still: that comes back by itself.
    """
    return _each(app, names, "repair", ({"gpus": list(gpus)} if gpus else {}) | _said(why))


@nodes.command(cls=Command, short_help="Give machines up that will not come back.")
@nodes_argument
@why_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_app
def gone(app: App, names: tuple[str, ...], why: str, yes: bool) -> int:
    """Give machines up that will not come back: what ran there is lost at once, and waits again.

    Only for machines whose processes cannot live any more: else two attempts of a job run at the same time for a while.
    """
    if not yes:
        _confirm(app, names)
    return _each(app, names, "gone", _said(why))


def _said(why: str) -> dict[str, Any]:
    return {"why": why} if why else {}


def _confirm(app: App, names: Sequence[str]) -> None:
    """Ask whoever is there. Raises UsageError where nobody is, or he does not want it."""
    found = {node.get("node"): node for node in app.client().get("/v1/nodes").get("nodes") or []}
    for name in names:
        node = found.get(name) or {}
        seen = (
            f"heard of {text.ago(max(0.0, time.time() - node['seen_at']))}" if node.get("seen_at") else "not heard of"
        )
        app.printer.warning(f"{text.clean(name)}: {len(node.get('attempts') or ())} attempts, {seen}")
    if not interactive():
        raise errors.UsageError("nobody is here to confirm it", "add --yes")
    if not click.confirm("Are these machines off, and will they stay so?", err=True):
        raise errors.UsageError("nothing was done")


def _each(app: App, names: Sequence[str], verb: str, request: Mapping[str, Any]) -> int:
    """The same for every machine; one that cannot be had does not keep the others from it."""
    client, status = app.client(), 0
    for name in names:
        try:
            answer = client.steer_node(name, verb, request)
        except errors.Refused as error:
            app.printer.error(error)
            status = 1
            continue
        if app.printer.json:
            app.printer.object({"node": name, **answer})
        else:
            done = "was so already" if answer.get("verdict") == "repeated" else DONE.get(verb) or _closed(request)
            app.printer.note(f"{text.clean(name)}: {done}")
    return status


def _closed(span: Mapping[str, Any]) -> str:
    return f"is closed {_span(span)}" if span else "has no maintenance ahead"


def _span(span: Mapping[str, Any]) -> str:
    """`18:00 to 20:00`, in local time, with the day where it is not today."""
    begin, end = (datetime.fromtimestamp(float(span[key])) for key in ("begins_at", "ends_at"))
    day = "" if begin.date() == datetime.now().date() else f"{begin:%Y-%m-%d} "
    last = "" if end.date() == begin.date() else f"{end:%Y-%m-%d} "
    return f"{day}{begin:%H:%M} to {last}{end:%H:%M}"


def _list(app: App) -> None:
    found = app.client().get("/v1/nodes").get("nodes") or []
    headings = [
        Column("NODE", least=12),
        Column("STATE"),
        Column("GPUS", right=True),
        Column("CPUS", right=True),
        Column("MEMORY", right=True),
        Column("JOBS", right=True),
        Column("PYTHON", least=8),
        Column("SEEN", right=True),
        Column("BOUNDS"),
        Column("LABELS"),
    ]
    rows = [_node(node, time.time()) for node in found]
    while len(headings) > SHOWN_MIN and (not any(row[-1] for row in rows) or not fits(headings, rows, width=columns())):
        headings, rows = headings[:-1], [row[:-1] for row in rows]
    show(app, found, headings, rows, "no nodes have joined yet")
    for node in found if not app.printer.json else ():
        _remark(app, node)


def _remark(app: App, node: Mapping[str, Any]) -> None:
    """What has no room in the table."""
    name = text.clean(node.get("node"))
    if why := (node.get("capacity") or {}).get("cannot_start"):
        app.printer.warning(f"node {name} gets no jobs: {text.clean(why)}")
    for fault in node.get("faults") or ():
        _fault(app, name, fault)
    if who := node.get("by"):
        said = f": {text.clean(node['why'])}" if node.get("why") else ""
        app.printer.note(f"{name} is {node.get('state')}, by {text.clean(who)}{said}")
    elif node.get("state") == "gone" and node.get("why"):
        app.printer.note(f"{name} is gone: {text.clean(node['why'])}")
    if (span := node.get("maintenance")) and float(span.get("ends_at") or 0) > time.time():
        said = f": {text.clean(span['why'])}" if span.get("why") else ""
        app.printer.note(f"{name} is closed {_span(span)}, by {text.clean(span.get('by'))}{said}")


def _fault(app: App, name: str, fault: Mapping[str, Any]) -> None:
    """A GPU that is out of use: why, since when, and who met it."""
    state = "is out of use" if fault.get("ends", True) else "gets no more jobs"
    ago = text.ago(max(0.0, time.time() - float(fault.get("since_at") or 0)))
    jobs = ", ".join(text.clean(f"{ref.get('job')} of {ref.get('team')}") for ref in fault.get("jobs") or ())
    met = f"; met by {jobs}" if jobs else ""
    app.printer.warning(f"GPU {fault.get('gpu')} of {name} {state}: {text.clean(fault.get('why'))}, {ago}{met}")


def _node(node: Mapping[str, Any], now: float) -> Row:
    has, free = node.get("capacity") or {}, node.get("free") or {}
    state = str(node.get("state", ""))
    if state == "ready" and has.get("cannot_start"):
        state = "cannot start"
    memory = f"{text.size(free.get('memory_bytes') or 0)} of {text.size(has.get('memory_bytes') or 0)}"
    idle = len(free.get("gpus") or ()) + sum((node.get("shared") or {}).values()) / 1000
    unfit = len({fault.get("gpu") for fault in node.get("faults") or ()})
    gpus = f"{idle:g} of {has.get('gpus', 0)}" + (f", {unfit} out" if unfit else "")
    bounds = str(has.get("bounds") or "–")
    labels = {"gpu": has["gpu_model"]} if has.get("gpu_model") else {}
    labels |= has.get("labels") or {}
    pythons = sorted({".".join(str(python).split(".")[:2]) for python in has.get("pythons") or ()}, key=_version)
    return [
        str(node.get("node", "")),
        Cell(state, STYLES.get(state, "yellow")),
        gpus if has.get("gpus") else "–",
        f"{free.get('cpus') or 0:g} of {has.get('cpus') or 0:g}",
        memory,
        str(len(node.get("attempts") or ())),
        ", ".join(pythons) or "–",
        text.ago(max(0.0, now - node["seen_at"])) if node.get("seen_at") else "–",
        Cell(bounds, "yellow" if bounds == "rlimits" else ""),
        " ".join(f"{name}={value}" for name, value in sorted(labels.items())),
    ]


def _version(python: str) -> tuple[int, ...]:
    return tuple(int(part) for part in python.split(".") if part.isdigit())
