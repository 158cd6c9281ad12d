"""`headrace admin`: looking after an installation. Each of its commands wants an operator's token."""

from __future__ import annotations

import click

from headrace.cli.admin_backup import backup, restore
from headrace.cli.admin_check import check
from headrace.cli.admin_dead import dead
from headrace.cli.app import Group


@click.group(cls=Group, short_help="Look after the installation: for operators.")
def admin() -> None:
    """Look after the installation: for operators, whose token says `operator`."""


admin.add_command(dead)
admin.add_command(check)
admin.add_command(backup)
admin.add_command(restore)
