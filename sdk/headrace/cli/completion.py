"""`headrace completion`: the script by which a shell completes commands, options, jobs and tiers."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from headrace.cli.app import App, Command, pass_app

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_HEADRACE_COMPLETE"


@click.command(cls=Command, short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
@pass_app
def completion(app: App, shell: str) -> None:
    """Print the completion script of SHELL.

    bash: add `eval "$(headrace completion bash)"` to ~/.bashrc. zsh: the same with zsh, in ~/.zshrc. fish: headrace
    completion fish > ~/.config/fish/completions/headrace.fish
    """
    from headrace.cli.main import headrace

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the three shells"
    app.printer.data(kind(headrace, {}, "headrace", VARIABLE).source().rstrip())
