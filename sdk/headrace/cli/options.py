"""What several commands take: durations and moments."""

from __future__ import annotations

from datetime import datetime

import click

from headrace import errors, submission


def seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """A duration such as `2h`."""
    try:
        return submission.seconds(value, str(parameter.name))
    except errors.UsageError as error:
        raise click.BadParameter(f"{error.message.partition(': ')[2]}; {error.hint}") from error


def moment(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """A moment such as `18:00`."""
    try:
        return submission.moment(value, str(parameter.name), datetime.now().astimezone())
    except errors.UsageError as error:
        raise click.BadParameter(f"{error.message.partition(': ')[2]}; {error.hint}") from error
