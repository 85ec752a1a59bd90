"""`sluiceway gateways`: the gateways that share a store.

Law: each is listed as it tells of itself; one that has been silent is not listed.
"""

from pathlib import Path

import click

from gateway.cli import tables
from gateway.cli.admin_api import Document, admin_options, connect, path_to
from gateway.cli.groups import Group


@click.group("gateways", cls=Group)
def command() -> None:
    """Look at the gateways that share a store."""


@command.command("ls")
@admin_options
def ls(*, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """List the gateways that run, each with its configuration: one that has another one shows here."""
    listed = list(connect(url, admin_key_file).each(path_to("gateways"), "gateways"))
    if as_json:
        tables.as_json(listed)
    else:
        tables.table(("gateway", "address", "version", "configuration", "started"), map(_row, listed))


def _row(one: Document) -> tuple[str, ...]:
    cells = (tables.cell(one.get(name)) for name in ("instance", "address", "version", "config"))
    return (*cells, tables.moment(one.get("started")))
