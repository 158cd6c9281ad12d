"""`headrace whatif`: what another policy would have made of the jobs that there were."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from headrace import errors
from headrace.cli import text
from headrace.cli.app import App, Command, pass_app
from headrace.cli.options import seconds
from headrace.cli.table import Cell, Column, table

DAYS = 30 * 86_400.0
ROWS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("wait, mean", "wait_s_mean", text.duration),
    ("wait, p95", "wait_s_p95", text.duration),
    ("slowdown", "slowdown", lambda value: f"{value:.2f}"),
    ("utilisation", "utilisation", lambda value: f"{100 * value:.1f} %"),
    ("fairness", "fairness", lambda value: f"{value:.2f}"),
    ("jobs", "jobs", lambda value: text.count(int(value))),
)
WORLDS = ("recorded", "replayed", "policy")


@click.command(cls=Command, short_help="Replay the recorded jobs under another policy: for operators.")
@click.option("--since", metavar="TIME", callback=seconds, default="30d", help="Jobs of the last 12h, 30d.  [30d]")
@click.option(
    "--policy", "file", type=click.Path(path_type=Path), help="TOML; without one the jobs are replayed as things are."
)
@pass_app
def whatif(app: App, since: float | None, file: Path | None) -> None:
    """Replay the recorded jobs with the scheduler's own core under another policy, and compare, per team.

    The file may have [queues."TEAM/QUEUE"] and [teams.TEAM] with their settings ("*" is each of them), [scheduling]
    with backfill_depth, preempt_min_run_s, fair_half_life_s and packing, and [nodes] with without = ["n3"] and
    more = {n1 = 2}. Beside it stand the figures as it was, and as today's settings replay it.
    """
    policy, name = "", "policy"
    if file is not None:
        try:
            policy, name = file.read_text(), file.name
        except (OSError, UnicodeDecodeError) as error:
            raise errors.UsageError(f"{file} cannot be read: {error}", "--policy takes a TOML file") from error
    found: list[dict[str, Any]] = []
    query = {"since_s": since or DAYS, "policy": policy, "origin": name}
    for event in app.client().events("/v1/admin/whatif", query):
        said = json.loads(event.data)
        if event.name == "team":
            found.append(said)
        elif event.name == "end" and said.get("error"):
            raise errors.HeadraceError(text.clean(said["error"]))
        elif event.name == "end" and said.get("warning"):
            app.printer.warning(text.clean(said["warning"]))
    if app.printer.json:
        for team in found:
            app.printer.object(team)
    elif not found:
        app.printer.note("no job ran in that time")
    else:
        _show(app, found, name if file is not None else "replayed again")


def _show(app: App, found: list[dict[str, Any]], name: str) -> None:
    headings = (
        Column("TEAM", least=8),
        Column("", least=10),
        Column("AS IT WAS", right=True),
        Column("REPLAYED", right=True),
        Column(text.cut(name, 16), right=True),
    )
    rows: list[list[Cell | str]] = []
    for team in found:
        for number, (label, key, told) in enumerate(ROWS):
            title = Cell(team.get("team") or "all together", "bold") if not number else ""
            rows.append([title, label, *(_told(team.get(world), key, told) for world in WORLDS)])
    for line in table(headings, rows, width=80, paint=app.printer.out.paint):
        app.printer.data(line.rstrip())


def _told(figures: Mapping[str, Any] | None, key: str, told: Callable[[float], str]) -> str:
    value = (figures or {}).get(key)
    return told(float(value)) if value is not None else "–"
