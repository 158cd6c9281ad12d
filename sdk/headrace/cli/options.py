"""What several commands take: durations."""

from __future__ import annotations

import click

from headrace import errors, submission


def seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """A duration such as `2h`."""
    try:
        return submission.seconds(value, str(parameter.name))
    except errors.UsageError as error:
        raise click.BadParameter(f"{error.message.partition(': ')[2]}; {error.hint}") from error
