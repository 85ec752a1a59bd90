"""`sluiceway keys`: create, list and revoke API keys.

Law: a key's secret goes to standard output once and nowhere else, so that `KEY=$(sluiceway keys create ...)` works.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict
from urllib.parse import quote

import click
import msgspec

from gateway.cli.admin_api import admin_options, connect

PAGE = 500
"""Keys asked for at once, as many as the API gives."""


class _Created(TypedDict):
    id: str
    key: str
    organization: str
    team: str
    name: str
    plan: str | None


class _Listed(TypedDict):
    id: str
    organization: str
    team: str
    name: str
    plan: str | None
    created: int
    revoked: bool


class _Page(TypedDict):
    keys: list[_Listed]
    next: str | None


@click.group("keys")
def command() -> None:
    """Create, list and revoke API keys."""


@command.command("create")
@click.option("--org", required=True, help="The organization the key belongs to; made on first use.")
@click.option("--team", required=True, help="The team inside the organization; made on first use.")
@click.option("--name", required=True, help="What the key is for, to know it again in a list.")
@click.option("--plan", help="A plan of the gateway's file that binds this key alone.")
@admin_options
def create(
    *, org: str, team: str, name: str, plan: str | None, url: str, admin_key_file: Path | None, as_json: bool
) -> None:
    """Create an API key and print it: this once, it is kept nowhere."""
    body = {"organization": org, "team": team, "name": name, "plan": plan}
    created = connect(url, admin_key_file).ask("POST", "/keys", _Created, body=body)
    click.echo(msgspec.json.encode(created) if as_json else created["key"])
    note = f"Keep this key now, it is not shown again. To take it back: sluiceway keys revoke {created['id']}"
    click.echo(note, err=True)


@command.command("list")
@click.option("--org", help="Only this organization's keys.")
@admin_options
def list_(org: str | None, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """List the keys, revoked ones too, without their secrets."""
    api = connect(url, admin_key_file)
    listed: list[_Listed] = []
    cursor = None
    while True:
        page = api.ask("GET", "/keys", _Page, params={"organization": org, "cursor": cursor, "limit": str(PAGE)})
        listed += page["keys"]
        cursor = page["next"]
        if cursor is None:
            break
    if as_json:
        click.echo(msgspec.json.encode(listed))
    else:
        _show(listed)


@command.command("revoke")
@click.argument("key_id", metavar="ID")
@admin_options
def revoke(key_id: str, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Refuse the key with this ID (the 12 characters after `sw_`) from now on, on every gateway within a second."""
    path = f"/keys/{quote(key_id, safe='')}"
    connect(url, admin_key_file).tell("DELETE", path)
    click.echo(msgspec.json.encode({"id": key_id, "revoked": True}) if as_json else f"revoked {key_id}")


def _show(listed: list[_Listed]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("id", "organization", "team", "name", "plan", "created", "state", box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for key in sorted(listed, key=lambda key: (key["organization"], key["team"], key["created"], key["id"])):
        created = datetime.fromtimestamp(key["created"], UTC).strftime("%Y-%m-%d %H:%M")
        state = "revoked" if key["revoked"] else "active"
        cells = (key["id"], key["organization"], key["team"], key["name"], key["plan"] or "-", created, state)
        table.add_row(*map(Text, cells))
    Console().print(table)
