"""`sluiceway orgs`: organizations, and what each is held to.

Law: `set` changes only what is given. What an organization leaves open is as the gateway's file has it.
"""

from pathlib import Path

import click

from gateway.cli import tables
from gateway.cli.admin_api import ANY_VERSION, Document, admin_options, connect, path_to
from gateway.cli.diffing import ORGANIZATION
from gateway.cli.editing import put_terms, tell
from gateway.cli.groups import Group
from gateway.cli.terms import terms

COLUMNS = ("plan", "models", "backends", "local only", "state", "from")


@click.group("orgs", cls=Group)
def command() -> None:
    """Look at organizations, set what each is held to, remove them."""


@command.command("ls")
@admin_options
def ls(*, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """List the organizations, those of the gateway's file too."""
    listed = list(connect(url, admin_key_file).each(path_to("organizations"), "organizations"))
    if as_json:
        tables.as_json(listed)
    else:
        tables.table(("organization", *COLUMNS, "time zone"), map(_row, listed))


@command.command("show")
@click.argument("name")
@admin_options
def show(*, name: str, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Show one organization."""
    found = connect(url, admin_key_file).ask("GET", path_to("organizations", name), Document)
    (tables.as_json if as_json else tables.record)(found)


@command.command("set")
@click.argument("name")
@terms(*ORGANIZATION, clearable=True)
@admin_options
def set_(*, name: str, given: Document, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Change what is given of an organization, and make it where there is none."""
    api = connect(url, admin_key_file)
    edit = put_terms(api, path_to("organizations", name), "organization", given, ORGANIZATION)
    tell(name, edit, as_json=as_json)


@command.command("rm")
@click.argument("name")
@admin_options
def rm(*, name: str, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Remove an organization that has no teams and no keys any more."""
    connect(url, admin_key_file).tell("DELETE", path_to("organizations", name), headers=ANY_VERSION)
    tables.removed(name, as_json=as_json)


def cells(one: Document) -> tuple[str, ...]:
    """Return what `COLUMNS` say of an organization or a team."""
    plan = "its own meters" if one.get("meters") else tables.cell(one.get("plan") or one.get("plan_in_force"))
    fields = (one.get(name) for name in ("models", "backends", "local_only", "state", "source"))
    return (plan, *map(tables.cell, fields))


def _row(one: Document) -> tuple[str, ...]:
    return (tables.cell(one.get("name")), *cells(one), tables.cell(one.get("time_zone_in_force")))
