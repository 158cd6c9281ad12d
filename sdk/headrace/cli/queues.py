"""`headrace queues`, `headrace teams`: what they hold, how they are set, and, for operators, to set them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from headrace import errors, submission
from headrace.cli import text
from headrace.cli.app import App, Command, Group, pass_app
from headrace.cli.tenants import described, queue_table, team_table
from headrace.client import Client

NONE = "none"
"""How a limit is taken away."""


class Limit(click.ParamType):
    """A whole number, or `none`."""

    name = "N"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int | str:
        if isinstance(value, int) or value == NONE:
            return value
        if not str(value).removeprefix("-").isdecimal():
            self.fail(f"{value!r} is no limit; write a number, or `none`", parameter, context)
        return int(value)


class Duration(click.ParamType):
    """A duration such as `2h`, or `none`."""

    name = "TIME"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> float | str | None:
        if value == NONE:
            return NONE
        try:
            return submission.seconds(value, self.name)
        except errors.UsageError as error:
            self.fail(f"{value!r} is no duration; {error.hint}, or `none`", parameter, context)


class Number(click.ParamType):
    """A number, or `none`."""

    name = "X"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float | str:
        try:
            return value if value == NONE else float(value)
        except ValueError:
            self.fail(f"{value!r} is no number", parameter, context)


def _of_both() -> list[click.Parameter]:
    return [
        click.Option(["--weight"], type=float, metavar="X", help="Its share beside the others: twice as much for 2."),
        click.Option(
            ["--guaranteed-gpus"], type=int, metavar="N", help="Always obtainable: taken back from borrowers."
        ),
        click.Option(["--guaranteed-cpus"], type=float, metavar="N", help="The same, of CPUs for jobs without GPUs."),
        click.Option(["--max-running", "running_max"], type=Limit(), metavar="N|none", help="Jobs that run at once."),
        click.Option(["--max-gpus", "gpus_max"], type=Limit(), metavar="N|none", help="GPUs that its jobs hold."),
    ]


def _of_a_queue() -> list[click.Parameter]:
    return [
        *_of_both(),
        click.Option(
            ["--max-running-user", "user_running_max"], type=Limit(), metavar="N|none", help="The same, of each user."
        ),
        click.Option(
            ["--max-gpus-user", "user_gpus_max"], type=Limit(), metavar="N|none", help="The same, of each user."
        ),
        click.Option(["--policy"], metavar="NAME", help="Which job first: slowdown, fcfs, sjf, saf, wfp3."),
        click.Option(
            ["--guard"], type=Number(), metavar="X|none", help="With slowdown: nobody waits X times too long."
        ),
        click.Option(["--tiers"], metavar="A,B|all", help="What its jobs may ask for."),
        click.Option(
            ["--time-limit", "time_limit_s_default"],
            type=Duration(),
            metavar="TIME|none",
            help="Of jobs that say none.",
        ),
        click.Option(
            ["--max-time-limit", "time_limit_s_max"], type=Duration(), metavar="TIME|none", help="The longest."
        ),
        click.Option(["--priority", "priority_default"], type=int, metavar="N", help="Of jobs that say none."),
        click.Option(["--max-priority", "priority_max"], type=Limit(), metavar="N|none", help="The highest."),
        click.Option(
            ["--preemptible/--no-preemptible"],
            default=None,
            help="Whether jobs that do not say may be stopped for others.",
        ),
        click.Option(
            ["--predictions/--no-predictions"],
            default=None,
            help="Whether its order goes by how long jobs took before.",
        ),
    ]


def complete_queue(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The queues' names for the shell."""
    try:
        found = context.ensure_object(App).client(timeout_s=1.0).queues()
    except errors.HeadraceError:
        return []
    return sorted({str(each.get("queue", "")) for each in found if str(each.get("queue", "")).startswith(incomplete)})


def queue_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """The queue, and its team where that is not clear."""
    team = click.option("--team", metavar="TEAM", default="", help="Its team, if not clear; or write TEAM/NAME.")
    return click.argument("name", metavar="NAME", shell_complete=complete_queue)(team(function))


# -- queues ------------------------------------------------------------------------------------------------------------


@click.group(cls=Group, short_help="List the queues; for operators, set them.", invoke_without_command=True)
@click.pass_context
def queues(context: click.Context) -> None:
    """List the team's queues: who waits, who runs, limits and guarantees. Operators see all, and set them."""
    if context.invoked_subcommand is None:
        app = context.ensure_object(App)
        _list(app, app.client().queues(), queue_table, "no queues are there")


@queues.command("show", cls=Command, short_help="Show all settings of a queue.")
@queue_argument
@pass_app
def show_queue(app: App, name: str, team: str) -> None:
    """Show all settings of a queue, and what it holds."""
    client = app.client()
    found = client.queue(*_there(client, name, team))
    if app.printer.json:
        app.printer.object(found)
        return
    for line in described(found, app.printer.out.paint):
        app.printer.data(line)


@queues.command(cls=Command, short_help="Create a queue.", params=_of_a_queue())
@queue_argument
@pass_app
def create(app: App, name: str, team: str, **settings: Any) -> None:
    """Create a queue. What is not said has its default: no limits, no guarantee, weight 1."""
    client = app.client()
    team, name = _split(name, team)
    team = team or _only_team(client)
    _told(app, f"{team}/{name}", client.create_queue(team, name, _settings(settings)), "created")


@queues.command("set", cls=Command, short_help="Change settings of a queue.", params=_of_a_queue())
@queue_argument
@pass_app
def set_queue(app: App, name: str, team: str, **settings: Any) -> None:
    """Change settings of a queue, in force at once. What is not said stays as it is."""
    said = _settings(settings)
    if not said:
        raise errors.UsageError("nothing to set", "headrace queues set --help lists what can be set")
    _set(app, name, team, said, "set")


@queues.command(cls=Command, short_help="Start no more jobs of a queue.")
@queue_argument
@pass_app
def pause(app: App, name: str, team: str) -> None:
    """Start no more jobs of a queue: it takes new ones, and those that run go on. See resume."""
    _set(app, name, team, {"paused": True}, "paused")


@queues.command(cls=Command, short_help="Take no more jobs into a queue.")
@queue_argument
@pass_app
def drain(app: App, name: str, team: str) -> None:
    """Take no more jobs into a queue: what waits in it is started still. See resume."""
    _set(app, name, team, {"draining": True}, "draining")


@queues.command(cls=Command, short_help="Open a queue that was paused or drained.")
@queue_argument
@pass_app
def resume(app: App, name: str, team: str) -> None:
    """Open a queue again that was paused, or drained."""
    _set(app, name, team, {"paused": False, "draining": False}, "open")


@queues.command(cls=Command, short_help="Delete a queue that holds no jobs.")
@queue_argument
@pass_app
def delete(app: App, name: str, team: str) -> None:
    """Delete a queue in which no job waits or runs."""
    client = app.client()
    where = _there(client, name, team)
    _told(app, "/".join(where), client.delete_queue(*where), "deleted")


# -- teams -------------------------------------------------------------------------------------------------------------


@click.group(cls=Group, short_help="List the teams; for operators, set them.", invoke_without_command=True)
@click.pass_context
def teams(context: click.Context) -> None:
    """List the teams: what their queues hold together, and their shares. Which there are, the server's file says."""
    if context.invoked_subcommand is None:
        app = context.ensure_object(App)
        _list(app, app.client().teams(), team_table, "no teams are there")


@teams.command("set", cls=Command, short_help="Change settings of a team.", params=_of_both())
@click.argument("team", metavar="TEAM")
@pass_app
def set_team(app: App, team: str, **settings: Any) -> None:
    """Change settings of a team, for all of its queues together. What is not said stays as it is."""
    said = _settings(settings)
    if not said:
        raise errors.UsageError("nothing to set", "headrace teams set --help lists what can be set")
    _told(app, team, app.client().set_team(team, said), "set")


# -- all ---------------------------------------------------------------------------------------------------------------


def _list(
    app: App, found: Sequence[Any], draw: Callable[[Sequence[Any], Callable[[str, str], str]], list[str]], none: str
) -> None:
    if app.printer.json:
        for each in found:
            app.printer.object(each)
    elif not found:
        app.printer.note(none)
    else:
        for line in draw(found, app.printer.out.paint):
            app.printer.data(line)


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """What was said, as the fields of a request."""
    said = {name: None if value == NONE else value for name, value in options.items() if value is not None}
    if "tiers" in said:
        names = [name.strip() for name in said["tiers"].split(",")]
        said["tiers"] = [] if names == ["all"] else names
    return said


def _set(app: App, name: str, team: str, said: Mapping[str, Any], done: str) -> None:
    client = app.client()
    where = _there(client, name, team)
    _told(app, "/".join(where), client.set_queue(*where, said), done)


def _told(app: App, what: str, answer: Mapping[str, Any], done: str) -> None:
    for raw in answer.get("warnings") or ():
        app.printer.warning(f"{raw.get('path', '').removeprefix('$.')}: {raw.get('message', '')}", raw.get("hint", ""))
    if app.printer.json:
        app.printer.object(answer)
    else:
        app.printer.note(f"{text.clean(what)}: {done}{', as before' if answer.get('verdict') == 'repeated' else ''}")


def _split(name: str, team: str) -> tuple[str, str]:
    """`vision/night` names both. Raises UsageError."""
    before, slash, after = name.rpartition("/")
    if slash and team and team != before:
        raise errors.UsageError(f"two teams: {before} and {team}", "name one of them")
    return (team or before), after


def _there(client: Client, name: str, team: str) -> tuple[str, str]:
    """Team and name of a queue; without a team, the only one of that name. Raises HeadraceError."""
    team, name = _split(name, team)
    if team:
        return team, name
    found = client.queues()
    having = sorted({str(each["team"]) for each in found if each.get("queue") == name})
    if len(having) > 1:
        raise errors.UsageError(f"{len(having)} teams have a queue {name}", f"--team {' or --team '.join(having)}")
    if not having:
        import difflib

        near = difflib.get_close_matches(name, [str(each.get("queue", "")) for each in found], 1)
        hint = f"did you mean `{near[0]}`?" if near else "headrace queues lists what there is"
        raise errors.NotFound(f"no queue `{name}`", hint)
    return having[0], name


def _only_team(client: Client) -> str:
    names = [str(each.get("team", "")) for each in client.teams()]
    if len(names) != 1:
        raise errors.UsageError("for which team?", f"--team {' or --team '.join(names)}")
    return names[0]
