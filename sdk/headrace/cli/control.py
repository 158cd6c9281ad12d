"""`headrace cancel`, `hold`, `release`, `reprioritise`, `move`: what somebody wants to become of a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from headrace import errors
from headrace.cli import text
from headrace.cli.app import App, Command, complete_job, job_argument, pass_app

DONE = {
    "cancel": "cancelled",
    "hold": "held",
    "release": "released",
    "reprioritise": "reprioritised",
    "move": "moved",
}


def jobs_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """One job or more."""
    return click.argument("jobs", metavar="JOB...", nargs=-1, required=True, shell_complete=complete_job)(function)


def why_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The reason, which stays with the job."""
    return click.option("--why", default="", metavar="TEXT", help="The reason, kept with the job.")(function)


@click.command(cls=Command, short_help="End jobs, wherever they are on their road.")
@jobs_argument
@why_option
@pass_app
def cancel(app: App, jobs: tuple[str, ...], why: str) -> int:
    """End jobs, wherever they are on their road. A running one gets SIGTERM and, after its grace, SIGKILL."""
    return _each(app, jobs, "cancel", {"why": why})


@click.command(cls=Command, short_help="Keep queued jobs from being placed.")
@jobs_argument
@why_option
@pass_app
def hold(app: App, jobs: tuple[str, ...], why: str) -> int:
    """Keep queued jobs from being placed, until they are released."""
    return _each(app, jobs, "hold", {"why": why})


@click.command(cls=Command, short_help="Take a hold back.")
@jobs_argument
@pass_app
def release(app: App, jobs: tuple[str, ...]) -> int:
    """Take a hold back: the jobs wait for their turn again."""
    return _each(app, jobs, "release", {})


@click.command(cls=Command, short_help="Give a queued job another priority.")
@job_argument
@click.argument("priority", type=int)
@pass_app
def reprioritise(app: App, job: str, priority: int) -> int:
    """Give a queued job another PRIORITY: higher goes first within its queue."""
    return _each(app, [job], "reprioritise", {"priority": priority})


@click.command(cls=Command, short_help="Give a queued job another place in its queue.")
@job_argument
@click.option("--before", metavar="JOB", default="", shell_complete=complete_job, help="Right before this job.")
@click.option("--after", metavar="JOB", default="", shell_complete=complete_job, help="Right behind this job.")
@click.option("--front", is_flag=True, help="To the front of its queue.")
@pass_app
def move(app: App, job: str, before: str, after: str, front: bool) -> int:
    """Give a queued job another place in its queue: before or after another of the same queue, or in front."""
    if sum(map(bool, (before, after, front))) != 1:
        raise errors.UsageError("say one of --before JOB, --after JOB and --front", "headrace move --help")
    return _each(app, [job], "move", {"before": before, "after": after})


def _each(app: App, jobs: Sequence[str], verb: str, request: Mapping[str, Any]) -> int:
    """The same for every job; one that cannot be had does not keep the others from it."""
    client = app.client()
    status = 0
    said = {name: value for name, value in request.items() if value != ""}
    for job in jobs:
        try:
            answer = client.control(job, verb, said)
        except errors.Refused as error:
            app.printer.error(error)
            status = 1
            continue
        if app.printer.json:
            app.printer.object({"job": answer.get("job") or job, **answer})
        else:
            done = "was so already" if answer.get("verdict") == "repeated" else DONE[verb]
            app.printer.note(f"{text.clean(job)}: {done}")
        for raw in answer.get("warnings") or ():
            app.printer.warning(str(raw.get("message", "")), str(raw.get("hint", "")))
    return status
