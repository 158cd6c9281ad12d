"""`headrace jobs` and `show`: what there is, and all of one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, cast

import click

from headrace.cli import road, text
from headrace.cli.app import App, Command, job_argument, pass_app
from headrace.cli.options import seconds
from headrace.cli.printer import Stream, columns
from headrace.cli.table import Cell, Column, table
from headrace.client import Client
from headrace.views import ENDS, JobView

PAGE = 200
LIMIT = 20
STATES = (
    *("active", "ended", "queued", "unfolding", "placed", "running", "stopping"),
    *("succeeded", "failed", "cancelled", "rejected"),
)
STATES_HELP = f"Only in this state; again for more: {', '.join(STATES)}."
SIGNS = {
    "queued": ("○ queued", ""),
    "unfolding": ("▶ array", "cyan"),
    "placed": ("▶ placed", "cyan"),
    "running": ("▶ running", "cyan"),
    "stopping": ("▶ stopping", "yellow"),
    "succeeded": ("✓ done", "green"),
    "failed": ("✕ failed", "red"),
    "cancelled": ("✕ cancelled", "yellow"),
    "rejected": ("✕ rejected", "red"),
}
HEADINGS = (
    Column("JOB", least=10),
    Column("ID"),
    Column("STATE"),
    Column("TIER", least=4),
    Column("USER", least=4),
    Column("WAIT", right=True),
    Column("RAN", right=True),
    Column("METRIC", least=15),
)


@click.command(cls=Command, short_help="List jobs, the newest first.")
@click.option("--all", "everything", is_flag=True, help="All of them, not only the newest.")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), metavar="STATE", help=STATES_HELP)
@click.option("--user", metavar="NAME", help="Only of this user.")
@click.option("--since", metavar="TIME", callback=seconds, help="Only those submitted in the last 90s, 12h, 30d.")
@click.option("--limit", type=click.IntRange(min=1), default=LIMIT, show_default=True, help="At most so many.")
@click.argument("array", required=False, default="", metavar="[ARRAY]")
@pass_app
def jobs(
    app: App, everything: bool, states: tuple[str, ...], user: str | None, since: float | None, limit: int, array: str
) -> None:
    """List jobs, the newest first. METRIC is the newest value of one of its metrics, or the reason of its end.

    Of an ARRAY, which is a line in that list, its tasks by their index.

    To name the state folder here: headrace --state FOLDER jobs.
    """
    client = app.client()
    most = None if everything else limit
    query = {"state": ",".join(states), "user": user, "since": time.time() - since if since is not None else None}
    query["array"] = array
    found = _pages(app, client, query, most)
    if app.printer.json:
        for view in found:
            app.printer.object(view)
        return
    rows = list(found)
    if array:
        of = cast(JobView, client.job(array))
        app.printer.note(
            f"{text.clean(of.get('name', ''))}  {of.get('job', '')}  {road.counted(of.get('tasks') or {})}"
        )
    if not rows and not array:
        app.printer.note(
            "no jobs" + (" like that" if states or user or since else "; headrace run -- COMMAND starts one")
        )
        return
    now = time.time()
    cells = [_row(view, now) for view in rows]
    for line in table(HEADINGS, cells, width=columns(), paint=app.printer.out.paint):
        app.printer.data(line)
    if most is not None and len(rows) == most:
        what = f"the first {most}   headrace jobs --all {text.clean(array)}" if array else ""
        app.printer.note(app.printer.err.paint(what or f"the newest {most}   headrace jobs --all", "dim"))


@click.command(cls=Command, short_help="Show all that is known of a job.")
@job_argument
@pass_app
def show(app: App, job: str) -> None:
    """Show all that is known of a job: what it is, where it is, and what happened to it."""
    view = cast(JobView, app.client().job(job, {"latest": 1}))
    if app.printer.json:
        app.printer.object(view)
        return
    for line in described(view, app.printer.out):
        app.printer.data(line)


def described(view: JobView, out: Stream) -> list[str]:
    """The lines of `show`."""
    sign, style = SIGNS.get(view.get("state", ""), (view.get("state", ""), ""))
    held = ", held" if view.get("held") else ""
    heading = out.paint(text.clean(view.get("name", "")), "bold")
    lines = [f"{heading}  {view.get('job', '')}  {out.paint(sign + held, *([style] if style else []))}"]
    for name, value in _fields(view):
        if value:
            lines.append(f"  {out.paint(f'{name:<13}', 'dim')}{value}")
    for name, latest in sorted((view.get("latest") or {}).items()):
        step = text.count(int(latest.get("step") or 0))
        lines.append(
            f"  {out.paint(text.fill(text.clean(name), 11), 'dim')}  {text.number(latest.get('value'))} at step {step}"
        )
    for fact in view.get("history") or []:
        when, what = text.clock(float(fact.get("at") or 0)), f"{fact.get('type', ''):<17}"
        lines.append(f"  {out.paint(f'{when:<13}', 'dim')}{what}{text.clean(fact.get('text') or '')}".rstrip())
    return lines


def _fields(view: JobView) -> Iterator[tuple[str, str]]:
    environment = view.get("environment") or {}
    usage = view.get("usage") or {}
    yield "command", text.clean(" ".join(view.get("entrypoint") or []))
    yield "kind", text.clean(view.get("kind") or "").removeprefix("plain")
    yield "team, user", text.clean(f"{view.get('team', '')}, {view.get('user', '')}")
    yield (
        "queue, tier",
        text.clean(f"{view.get('queue', '')}, {view.get('tier', '')}, priority {view.get('priority', 0)}"),
    )
    yield "on", text.clean(text.alternatives(view.get("on") or []))
    yield "source", text.digest(view.get("source") or "")
    if environment:
        packages = f", {environment['packages']} packages" if environment.get("packages") else ""
        built = text.digest(environment.get("lock") or environment.get("digest") or "")
        yield "environment", text.clean(f"{built}, {environment.get('state', '')}{packages}")
    yield "where", "; ".join(road.where([each]) for each in view.get("allocations") or [])
    retries = f", and {view['retries']} retries" if view.get("retries") else ""
    tries = f"{view.get('attempt', 0)} of {view.get('attempts_max', '?')}{retries}"
    yield "attempt", tries if view.get("attempt") else ""
    task, once = view.get("task") or {}, view.get("array_at_once")
    yield "task", text.clean(f"{task['index']} of array {task['array']}") if task else ""
    yield "array", text.clean(str(view.get("array") or "")) + (f", {once} at once" if once else "")
    yield "tasks", road.counted(view.get("tasks") or {})
    yield "after", text.clean(", ".join(f"{each['job']} ({each.get('on', 'ok')})" for each in view.get("after") or []))
    yield "not before", text.clock(view["begin_at"]) if view.get("begin_at") else ""
    yield "deadline", text.clock(view["deadline_at"]) if view.get("deadline_at") else ""
    yield "time limit", text.duration(view["time_limit_s"]) if view.get("time_limit_s") else ""
    yield "waited, ran", f"{text.duration(waited(view, time.time()))}, {text.duration(ran(view, time.time()))}"
    yield (
        "used",
        f"{text.took(usage['cpu_s'])} CPU, {text.size(usage.get('memory_bytes_max') or 0)}"
        if usage.get("cpu_s")
        else "",
    )
    yield "reason", text.clean(view.get("reason") or "")
    yield "labels", text.clean(", ".join(f"{k}={v}" for k, v in (view.get("labels") or {}).items()))


def waited(view: JobView, now: float) -> float | None:
    """From when it could have run to when it was placed; so far, if it still waits."""
    begin = view.get("queued_at") or view.get("submitted_at")
    end = view.get("placed_at") or view.get("finished_at") or now
    return max(0.0, end - begin) if begin else None


def ran(view: JobView, now: float) -> float | None:
    """From its start to its end; so far, if it still runs."""
    begin = view.get("placed_at") if view.get("array") else view.get("started_at")
    return max(0.0, (view.get("finished_at") or now) - begin) if begin else None


def _pages(app: App, client: Client, query: dict[str, Any], most: int | None) -> Iterator[JobView]:
    """Jobs page by page, so that the first lines come at once however many there are."""
    after, given = "", 0
    while most is None or given < most:
        size = PAGE if most is None else min(PAGE, most - given)
        page = client.jobs({**query, "limit": size, "after": after, "latest": 1})
        found = page.get("jobs") or []
        yield from (cast(JobView, view) for view in found)
        given, after = given + len(found), str(page.get("next") or "")
        if page.get("missing") and (most is None or given < most):
            app.printer.warning("older jobs are missing: the archive does not answer", "try again in a moment")
        if not after:
            return


def _row(view: JobView, now: float) -> list[Cell | str]:
    sign, style = SIGNS.get(view.get("state", ""), (view.get("state", ""), ""))
    wait, run = text.duration(waited(view, now)), text.duration(ran(view, now))
    tier, user = view.get("tier", ""), view.get("user", "")
    if view.get("held") and view.get("state") == "queued":
        sign = "○ held"
    return [
        view.get("name", "") + (f"[{task['index']}]" if (task := view.get("task")) else ""),
        text.short(view.get("job", "")),
        Cell(sign, style),
        tier,
        user,
        wait,
        run,
        _remark(view),
    ]


def _remark(view: JobView) -> str:
    state, latest = view.get("state", ""), view.get("latest") or {}
    if tasks := view.get("tasks"):
        return road.counted(tasks, short=True)
    if state in ENDS and state != "succeeded" and view.get("reason"):
        return str(view.get("reason"))
    if not latest:
        return str(view.get("reason") or "") if state not in {"succeeded", "running"} else ""
    name = next((name for name in latest if "acc" in name or name.startswith("val")), next(iter(latest)))
    return f"{name} {text.number(latest[name].get('value'))}"
