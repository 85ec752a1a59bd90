"""`sluiceway teams`: the teams of organizations, and what each is held to.

Law: `set` changes only what is given. What a team leaves open is as the gateway's file has it.
"""

from collections.abc import Iterator
from pathlib import Path

import click

from gateway.cli import tables
from gateway.cli.admin_api import ANY_VERSION, AdminApi, Document, admin_options, connect, path_to
from gateway.cli.diffing import TEAM
from gateway.cli.editing import put_terms, tell
from gateway.cli.groups import Group
from gateway.cli.orgs import COLUMNS, cells
from gateway.cli.terms import terms


@click.group("teams", cls=Group)
def command() -> None:
    """Look at teams, set what each is held to, remove them."""


@command.command("ls")
@click.argument("org", required=False)
@admin_options
def ls(*, org: str | None, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """List the teams of one organization, or of all: those of the gateway's file too."""
    listed = list(teams(connect(url, admin_key_file), org))
    if as_json:
        tables.as_json(listed)
    else:
        tables.table(("organization", "team", *COLUMNS), map(_row, listed))


@command.command("show")
@click.argument("org")
@click.argument("team")
@admin_options
def show(*, org: str, team: str, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Show one team."""
    found = connect(url, admin_key_file).ask("GET", team_path(org, team), Document)
    (tables.as_json if as_json else tables.record)(found)


@command.command("set")
@click.argument("org")
@click.argument("team")
@terms(*TEAM, clearable=True)
@admin_options
def set_(*, org: str, team: str, given: Document, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Change what is given of a team, and make it where there is none."""
    edit = put_terms(connect(url, admin_key_file), team_path(org, team), "team", given, TEAM)
    tell(f"{org}/{team}", edit, as_json=as_json)


@command.command("rm")
@click.argument("org")
@click.argument("team")
@admin_options
def rm(*, org: str, team: str, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Remove a team that has no keys any more."""
    connect(url, admin_key_file).tell("DELETE", team_path(org, team), headers=ANY_VERSION)
    tables.removed(f"{org}/{team}", as_json=as_json)


def team_path(org: str, team: str) -> str:
    """Return where the admin API has a team."""
    return path_to("organizations", org, "teams", team)


def teams(api: AdminApi, org: str | None) -> Iterator[Document]:
    """Yield the teams of one organization, None: of all."""
    organizations = [{"name": org}] if org is not None else list(api.each(path_to("organizations"), "organizations"))
    for organization in organizations:
        yield from api.each(path_to("organizations", str(organization.get("name")), "teams"), "teams")


def _row(one: Document) -> tuple[str, ...]:
    return (tables.cell(one.get("organization")), tables.cell(one.get("name")), *cells(one))
