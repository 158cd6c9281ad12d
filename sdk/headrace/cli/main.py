"""`headrace`: the group of all commands, and what becomes of errors.

A command's module is imported only when it is called, so that `headrace --help` and completion are quick: the table
below holds what help needs to know (a test compares it with the commands).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

import click

from headrace import __version__, errors
from headrace.cli.app import App, global_options

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Run": {
        "run": ("run", "Run a command on the team's machines, and follow it."),
        "jobs": ("jobs", "List jobs, the newest first."),
        "show": ("jobs", "Show all that is known of a job."),
        "logs": ("logs", "Print a job's output."),
        "metrics": ("metrics", "Show a job's metrics, as numbers or as a plot."),
        "why": ("waiting", "Say why a job waits, and for what."),
    },
    "Steer": {
        "cancel": ("control", "End jobs, wherever they are on their road."),
        "hold": ("control", "Keep queued jobs from being placed."),
        "release": ("control", "Take a hold back."),
        "reprioritise": ("control", "Give a queued job another priority."),
        "move": ("control", "Give a queued job another place in its queue."),
    },
    "Look": {
        "queue": ("waiting", "List the jobs that wait, in their order, and when they start."),
        "nodes": ("nodes", "List the machines, and what is free on each."),
        "tiers": ("cluster", "List the tiers a job may ask for."),
        "queues": ("queues", "List the queues; for operators, set them."),
        "teams": ("queues", "List the teams; for operators, set them."),
        "whatif": ("whatif", "Replay the recorded jobs under another policy: for operators."),
        "config": ("cluster", "Show the configuration in force, here and at the server."),
    },
    "Stack": {
        "up": ("stack", "Start Headrace on this machine."),
        "down": ("stack", "Stop Headrace on this machine, and every job on it."),
        "status": ("stack", "Say whether the server is up, and how it is."),
        "admin": ("admin", "Look after the installation: for operators."),
        "completion": ("completion", "Print the completion script of a shell."),
    },
}
COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class Lazy(click.Group):
    """The commands of the table, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"headrace.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not ctx.resilient_parsing and not args[0].startswith("-"):
            import difflib  # only who mistypes waits for it

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f"did you mean `headrace {near[0]}`?" if near else "headrace --help lists the commands"
            raise errors.UsageError(f"no command `{args[0]}`", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        wide = max(map(len, COMMANDS))
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(wide), line) for name, (_, line) in commands.items()])


def _version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"headrace {__version__}")
        context.exit()


headrace = Lazy(
    "headrace",
    help="Submit, follow and measure jobs on your team's own machines.",
    epilog="headrace COMMAND --help tells more. Exit status: 0 done, 1 an error, 2 a mistake in the call, 130 "
    "cancelled; `headrace run` exits as its job does.",
    params=[
        *global_options(),
        click.Option(
            ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; gives its exit status."""
    app = App()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        return _status(headrace.main(arguments, prog_name="headrace", standalone_mode=False, obj=app))
    except BrokenPipeError:  # `headrace jobs | head -1`: the reader has what it wanted
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (click.Abort, KeyboardInterrupt):
        return 130
    except click.ClickException as error:
        app.printer.error(errors.UsageError(error.format_message(), _usage_hint(error)))
        return error.exit_code
    except errors.UsageError as error:
        app.printer.error(error)
        return 2
    except errors.HeadraceError as error:
        app.printer.error(error)
        return 1


def _status(result: object) -> int:
    return result if isinstance(result, int) else 0


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context is not None else ""
