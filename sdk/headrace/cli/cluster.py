"""`headrace nodes`, `tiers`, `queues`, `config`: what there is to use, and by which rules."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from headrace.cli import text
from headrace.cli.app import App, Command, pass_app
from headrace.cli.printer import columns
from headrace.cli.table import Cell, Column, fits, table

Row = list["Cell | str"]
NODE_STYLES = {"ready": "green", "suspected": "yellow", "gone": "red"}


@click.command(cls=Command, short_help="List the machines, and what is free on each.")
@pass_app
def nodes(app: App) -> None:
    """List the machines, and what is free on each: free of all. BOUNDS, where it fits, is what holds attempts to it."""
    found = app.client().get("/v1/nodes").get("nodes") or []
    headings = (
        Column("NODE", least=12),
        Column("STATE"),
        Column("GPUS", right=True),
        Column("CPUS", right=True),
        Column("MEMORY", right=True),
        Column("JOBS", right=True),
        Column("PYTHON", least=8),
        Column("SEEN", right=True),
        Column("BOUNDS"),
    )
    rows = [_node(node, time.time()) for node in found]
    if not fits(headings, rows, width=columns()):
        headings, rows = headings[:-1], [row[:-1] for row in rows]
    _show(app, found, headings, rows, "no nodes have joined yet")
    for node in found:
        if why := (node.get("capacity") or {}).get("cannot_start"):
            app.printer.warning(f"node {node.get('node')} gets no jobs: {text.clean(why)}")


@click.command(cls=Command, short_help="List the tiers a job may ask for.")
@pass_app
def tiers(app: App) -> None:
    """List the tiers a job may ask for: what each brings, and how many such jobs would fit now."""
    found = app.client().get("/v1/tiers").get("tiers") or []
    headings = (
        Column("TIER", least=8),
        Column("GPUS", right=True),
        Column("CPUS", right=True),
        Column("MEMORY", right=True),
        Column("NODES", right=True),
        Column("FREE", right=True),
        Column("NOTE", least=10),
    )
    _show(app, found, headings, [_tier(tier) for tier in found], "no tiers are configured")


@click.command(cls=Command, short_help="List the queues and their limits.")
@pass_app
def queues(app: App) -> None:
    """List the team's queues: who waits, who runs, and the limits."""
    found = app.client().get("/v1/queues").get("queues") or []
    headings = (
        Column("QUEUE", least=10),
        Column("TEAM", least=6),
        Column("WAITING", right=True),
        Column("RUNNING", right=True),
        Column("GPUS", right=True),
        Column("WEIGHT", right=True),
        Column("STATE"),
    )
    _show(app, found, headings, [_queue(queue) for queue in found], "no queues are configured")


@click.command(cls=Command, short_help="Show the configuration in force, here and at the server.")
@pass_app
def config(app: App) -> None:
    """Show the configuration in force: where this command line looks, and the server's settings."""
    client = app.client()
    here = {"state": str(app.folder), "server": client.endpoint.url, "server_from": client.endpoint.origin}
    there = client.get("/v1/config")
    if app.printer.json:
        app.printer.object({"client": here, "server": there})
        return
    for name, value in here.items():
        app.printer.data(f"{app.printer.out.paint(name, 'dim')} = {json.dumps(value, ensure_ascii=False)}")
    for name, value in _flat(there.get("config") if isinstance(there.get("config"), dict) else there):
        app.printer.data(f"{app.printer.out.paint('server.' + text.clean(name), 'dim')} = {text.clean(value)}")


def _show(app: App, found: Sequence[Any], headings: Sequence[Column], rows: Sequence[Row], none: str) -> None:
    if app.printer.json:
        for each in found:
            app.printer.object(each)
    elif not found:
        app.printer.note(none)
    else:
        for line in table(headings, rows, width=columns(), paint=app.printer.out.paint):
            app.printer.data(line)


def _node(node: Mapping[str, Any], now: float) -> Row:
    has, free = node.get("capacity") or {}, node.get("free") or {}
    state = str(node.get("state", ""))
    if state == "ready" and has.get("cannot_start"):
        state = "cannot start"
    memory = f"{text.size(free.get('memory_bytes') or 0)} of {text.size(has.get('memory_bytes') or 0)}"
    bounds = str(has.get("bounds") or "–")
    pythons = sorted({".".join(str(python).split(".")[:2]) for python in has.get("pythons") or ()}, key=_version)
    return [
        str(node.get("node", "")),
        Cell(state, NODE_STYLES.get(state, "yellow")),
        f"{len(free.get('gpus') or ())} of {has.get('gpus', 0)}" if has.get("gpus") else "–",
        f"{free.get('cpus') or 0:g} of {has.get('cpus') or 0:g}",
        memory,
        str(len(node.get("attempts") or ())),
        ", ".join(pythons) or "–",
        text.ago(max(0.0, now - node["seen_at"])) if node.get("seen_at") else "–",
        Cell(bounds, "yellow" if bounds == "rlimits" else ""),
    ]


def _tier(tier: Mapping[str, Any]) -> Row:
    has = tier.get("resources") or {}
    fits = next((tier[key] for key in ("fits", "fits_now", "free") if key in tier), None)
    return [
        Cell(str(tier.get("name", "")), "bold"),
        str(has.get("gpus", 0) or "–"),
        f"{has.get('cpus') or 0:g}",
        text.size(has.get("memory_bytes") or 0),
        str(has.get("nodes", 1)),
        "–" if fits is None else str(fits),
        str(tier.get("note", "")),
    ]


def _queue(queue: Mapping[str, Any]) -> Row:
    def of(amount: object, limit: object) -> str:
        return str(amount) if limit is None else f"{amount} of {limit}"

    return [
        Cell(str(queue.get("queue", "")), "bold"),
        str(queue.get("team", "")),
        str(queue.get("waiting", 0)),
        of(queue.get("running", 0), queue.get("running_max")),
        of(queue.get("gpus", 0), queue.get("gpus_max")),
        f"{queue.get('weight', 1.0):g}",
        Cell("paused", "yellow") if queue.get("paused") else "open",
    ]


def _version(python: str) -> tuple[int, ...]:
    return tuple(int(part) for part in python.split(".") if part.isdigit())


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as `a.b = value`."""
    if isinstance(value, Mapping) and (value or not prefix):
        for name, inner in value.items():
            yield from _flat(inner, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, json.dumps(value, ensure_ascii=False)
