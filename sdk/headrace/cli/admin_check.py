"""`headrace admin check`: whether ledger, snapshots, archive and services tell the same story."""

from __future__ import annotations

import json
from typing import Any

import click

from headrace.cli import text
from headrace.cli.app import App, Command, pass_app


@click.command(cls=Command, short_help="Compare ledger, snapshots, archive and services.")
@pass_app
def check(app: App) -> int:
    """Compare all that is kept: replay the ledger, and hold snapshots, archive, scheduler and gateway against it.

    Exit status 1 if there is a difference.
    """
    found: list[dict[str, Any]] = []
    for event in app.client().events("/v1/admin/check"):
        if event.name == "compared":
            found.append(json.loads(event.data))
            _say(app, found[-1])
    differences = sum(len(each.get("differences") or ()) for each in found)
    if not app.printer.json:
        told = f"{differences} differences" if differences else "no difference"
        app.printer.note(f"{len(found)} comparisons: {told}")
    return 1 if differences or not found else 0


def _say(app: App, compared: dict[str, Any]) -> None:
    if app.printer.json:
        app.printer.object(compared)
        return
    wrong = compared.get("differences") or ()
    sign = app.printer.out.paint("✕", "red") if wrong else app.printer.out.paint("✓", "green")
    note = f"  {text.clean(compared['note'])}" if compared.get("note") else ""
    app.printer.data(f"{sign} {text.clean(compared.get('what', ''))}: {compared.get('count', 0)}{note}")
    for each in wrong:
        app.printer.data(f"    {text.clean(each)}")
