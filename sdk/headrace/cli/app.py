"""What every command is handed: the global options, the printer, and a client when it asks for one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.printer import Printer, no_colour

if TYPE_CHECKING:
    from headrace.client import Client


class App:
    """One call of the command line."""

    def __init__(self) -> None:
        self.state: str | None = None
        self.json = False
        self.colour: bool | None = no_colour()

    @cached_property
    def printer(self) -> Printer:
        """Asked for once the options are read."""
        return Printer(json_lines=self.json, colour=self.colour)

    @property
    def folder(self) -> Path:
        """The state folder."""
        from headrace import state

        return state.folder(self.state)

    def client(self, *, timeout_s: float = 30.0) -> Client:
        """The server that is configured or runs here. Raises NoServer; starts nothing."""
        from headrace import errors, state
        from headrace.client import Client

        folder = self.folder
        endpoint = state.endpoint(folder)
        if endpoint is None:
            hint = "headrace up starts one; HEADRACE_URL and HEADRACE_TOKEN name another"
            raise errors.NoServer(f"no server runs in {folder}, and none is configured", hint)
        return Client(endpoint, refresh=lambda: state.endpoint(folder), timeout_s=timeout_s)


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def on_option(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value not in (None, False):  # the group has it, or the command: neither takes back what the other was given
            setattr(context.ensure_object(App), name, value)

    return on_option


def _no_colour(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(App).colour = False


def global_options() -> list[click.Option]:
    """Taken before the command and after it."""
    return [
        click.Option(
            ["--state"], metavar="FOLDER", expose_value=False, callback=_set("state"), help="The state folder."
        ),
        click.Option(
            ["--json"], is_flag=True, expose_value=False, callback=_set("json"), help="One JSON object a line."
        ),
        click.Option(["--no-color"], is_flag=True, expose_value=False, callback=_no_colour, help="Plain text."),
    ]


class Command(click.Command):
    """A command that takes the global options too; but for one whose name it uses itself (`jobs --state`)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = {name for parameter in self.params for name in parameter.opts}
        self.params += [option for option in global_options() if own.isdisjoint(option.opts)]


class Group(click.Group):
    """A command with commands of its own; both take the global options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += global_options()


pass_app = click.make_pass_decorator(App, ensure=True)


def complete_job(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names and ids of jobs for the shell; nothing where no server answers at once."""
    from headrace import errors

    try:
        jobs = context.ensure_object(App).client(timeout_s=1.0).jobs({"limit": 200}).get("jobs") or ()
    except errors.HeadraceError:
        return []
    words = [str(job.get(key, "")) for job in jobs for key in ("name", "job")]
    return sorted({word for word in words if word.startswith(incomplete)})


def job_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument JOB: an id, the beginning of one, or a name."""
    return click.argument("job", metavar="JOB", shell_complete=complete_job)(function)


def interactive() -> bool:
    """Whether there is a person who can be asked something."""
    return sys.stdin.isatty() and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
