"""`headrace tiers`, `config`: what there is to use, and by which rules."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from headrace.cli import text
from headrace.cli.app import App, Command, pass_app
from headrace.cli.printer import columns
from headrace.cli.table import Cell, Column, table

Row = list["Cell | str"]


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
    show(app, found, headings, [_tier(tier) for tier in found], "no tiers are configured")
    for tier in found if not app.printer.json else ():
        if tier.get("on"):
            app.printer.note(f"{text.clean(tier['name'])} is on {text.clean(text.alternatives(tier['on']))}")


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


def show(app: App, found: Sequence[Any], headings: Sequence[Column], rows: Sequence[Row], none: str) -> None:
    if app.printer.json:
        for each in found:
            app.printer.object(each)
    elif not found:
        app.printer.note(none)
    else:
        for line in table(headings, rows, width=columns(), paint=app.printer.out.paint):
            app.printer.data(line)


def _tier(tier: Mapping[str, Any]) -> Row:
    has = tier.get("resources") or {}
    fits = next((tier[key] for key in ("fits", "fits_now", "free") if key in tier), None)
    return [
        Cell(str(tier.get("name", "")), "bold"),
        f"{(has.get('gpus') or 0) * (has.get('gpu_milli') or 1000) / 1000:g}" if has.get("gpus") else "–",
        f"{has.get('cpus') or 0:g}",
        text.size(has.get("memory_bytes") or 0),
        str(has.get("nodes", 1)),
        "–" if fits is None else str(fits),
        str(tier.get("note", "")),
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
