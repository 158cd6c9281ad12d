"""`headrace admin backup` and `restore`: all that the stack on this machine keeps, as a folder, and back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from headrace import errors, local, state
from headrace.cli.app import App, Command, pass_app

FOLDER = click.argument("folder", metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path))


@click.command(cls=Command, short_help="Copy all that this stack keeps into a folder.")
@FOLDER
@pass_app
def backup(app: App, folder: Path) -> int:
    """Copy all that the stack on this machine keeps into a new folder, while it runs.

    Streams and blobs, as they were when it began. Your `headrace.toml` and `secrets.json` are not among them.
    """
    return _run(app, "save", folder)


@click.command(cls=Command, short_help="Make this stack what a backup holds.")
@FOLDER
@click.option("--overwrite", is_flag=True, help="Remove what is there.")
@pass_app
def restore(app: App, folder: Path, overwrite: bool) -> int:
    """Make the stack on this machine what a backup holds. It must be down, and empty unless you say --overwrite.

    Nothing is touched before the whole backup was found sound.
    """
    return _run(app, "restore", folder, *(["--overwrite"] if overwrite else []))


def _run(app: App, what: str, folder: Path, *more: str) -> int:
    if state.remote() is not None:
        raise errors.UsageError(
            f"`headrace admin {what}` is for the stack on this machine, and a server is configured",
            "on the server: python -m controlplane.backup --help",
        )
    local.require()
    command = [sys.executable, "-P", "-m", "controlplane.backup", what, str(folder.absolute())]
    command += ["--embedded", str(app.folder.absolute()), *more]
    return subprocess.run(command, env=local.environ(), cwd="/", stdin=subprocess.DEVNULL, check=False).returncode
