"""`headrace metrics`: a job's series as a table, as plots, or as they come."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, cast

import click

from headrace import errors
from headrace.cli import charts, following, road, text
from headrace.cli.app import App, Command, job_argument, pass_app
from headrace.cli.printer import columns
from headrace.cli.table import Cell, Column, table
from headrace.client import Client
from headrace.views import SeriesView

ROWS, ROWS_LEAST = 12, 5
HEADINGS = (
    Column("METRIC", least=16),
    Column("LAST", right=True),
    Column("STEP", right=True),
    Column("LOWEST", right=True),
    Column("HIGHEST", right=True),
    Column("POINTS", right=True),
    Column("RUN"),
)


@click.command(cls=Command, short_help="Show a job's metrics, as numbers or as a plot.")
@job_argument
@click.option("--plot", "plots", multiple=True, metavar="NAME", help="Draw this metric; again for more.")
@click.option("--names", metavar="A,B", default="", help="Only these metrics.")
@click.option("--follow", "-f", is_flag=True, help="A line for each change, until the job ends.")
@click.option("--steps", metavar="FROM:TO", default="", help="Only these steps; either end may be left out.")
@pass_app
def metrics(app: App, job: str, plots: tuple[str, ...], names: str, follow: bool, steps: str) -> None:
    """Show a job's metrics: the newest value of each, and how it went.

    With --json each series is a line with its columns, at most 500 points: of each bucket of steps the last value, and
    its lowest and highest.
    """
    client = app.client()
    wanted = ",".join(plots) or names
    if follow:
        _follow(app, client, job, set(filter(None, wanted.split(","))))
        return
    between = _between(steps)
    buckets = 2 * columns() if plots else 500 if app.printer.json else following.BUCKETS
    answer = client.series(job, {"names": wanted, "buckets": buckets, **between})
    series = [cast(SeriesView, each) for each in answer.get("series") or ()]
    if app.printer.json:
        for each in series:
            app.printer.object({"job": job, "complete": bool(answer.get("complete")), **each})
    elif plots:
        _plot(app, job, plots, road.newest(series))
    else:
        _table(app, job, series)


def _table(app: App, job: str, series: Sequence[SeriesView]) -> None:
    if not series:
        app.printer.note(f"{text.clean(job)} has no metrics (yet); a job logs them by headrace.log(step=…, loss=…)")
        return
    rows: list[list[Cell | str]] = []
    for each in sorted(road.newest(series), key=lambda one: one.get("name", "")):
        low, high = _bounds(each)
        rows.append(
            [
                each.get("name", ""),
                Cell(text.number((each.get("values") or [None])[-1]), "bold"),
                text.count((each.get("steps") or [0])[-1]),
                text.number(low),
                text.number(high),
                text.count(each.get("count", 0)),
                charts.sparkline(each.get("values") or [], 10),
            ]
        )
    for line in table(HEADINGS, rows, width=columns(), paint=app.printer.out.paint):
        app.printer.data(line)


def _plot(app: App, job: str, plots: Sequence[str], series: Sequence[SeriesView]) -> None:
    by_name = {each.get("name", ""): each for each in series}
    tall = shutil.get_terminal_size((80, 24)).lines
    rows = max(ROWS_LEAST, min(ROWS, (tall - 4) // len(plots) - 4))
    for name in plots:
        each = by_name.get(name)
        if each is None:
            raise errors.NotFound(f"{job} has no metric {name!r}", f"headrace metrics {job} lists what it has")
        values, steps = each.get("values") or [], each.get("steps") or []
        last = f"{text.number(values[-1])} at step {text.count(steps[-1])}" if values else "no points"
        kept = f"{text.count(each.get('count', len(values)))} points, min and max kept"
        app.printer.data(
            f"{app.printer.out.paint(text.clean(name), 'bold')}  {last}   {app.printer.out.paint(kept, 'dim')}"
        )
        for line in charts.plot(list(_points(each)), columns=columns(), rows=rows):
            app.printer.data(line)


def _follow(app: App, client: Client, job: str, wanted: set[str]) -> None:
    def on_retry(error: errors.HeadraceError | None) -> None:
        app.printer.note("connection lost, trying again …" if error else "connection is back")

    for event in client.follow_metrics(job, on_retry=on_retry):
        if event.name != "latest":
            continue
        latest: list[dict[str, Any]] = [
            each for each in json.loads(event.data) if not wanted or each.get("name") in wanted
        ]
        if app.printer.json:
            for each in latest:
                app.printer.object(each)
        elif latest:
            step = max(int(each.get("step") or 0) for each in latest)
            values = (f"{text.clean(each.get('name', ''))} {text.number(each.get('value'))}" for each in latest)
            app.printer.data(f"step {text.count(step)}   " + "   ".join(values))


def _points(series: SeriesView) -> Iterator[charts.Column]:
    values = series.get("values") or []
    lows, highs = series.get("low") or values, series.get("high") or values
    for step, low, high, last in zip(series.get("steps") or [], lows, highs, values, strict=True):
        if low is not None and high is not None:
            yield charts.Column(step, low, high, high if last is None else last)


def _bounds(series: SeriesView) -> tuple[float | None, float | None]:
    points = list(_points(series))
    return (min(p.low for p in points), max(p.high for p in points)) if points else (None, None)


def _between(steps: str) -> dict[str, int | None]:
    if not steps:
        return {}
    begin, separator, end = steps.partition(":")
    try:
        if not separator:
            raise ValueError(steps)
        return {"step_from": int(begin) if begin else None, "step_to": int(end) if end else None}
    except ValueError as error:
        raise errors.UsageError(
            f"--steps: {steps!r} is no range of steps", "write 1000:2000, 1000: or :2000"
        ) from error
