"""`sluiceway keys`: create, list, change, rotate and revoke API keys.

Law: a key's secret goes to standard output once and nowhere else, so that `KEY=$(sluiceway keys create ...)` works.
"""

from pathlib import Path

import click

from gateway import clock
from gateway.cli import tables
from gateway.cli.admin_api import Document, admin_options, connect, path_to
from gateway.cli.editing import patch, tell, warn
from gateway.cli.groups import Group
from gateway.cli.terms import duration, merged, terms
from gateway.identity.keys import ID_LENGTH

LIMITS = ("plan", "meters", "models", "backends", "local_only", "scopes", "networks", "expires", "routing", "metadata")
"""What may be said of a key when it is made."""


def _id_of(_: click.Context, __: click.Parameter, told: str) -> str:
    """Return the id: of a whole key, which somebody may paste, no more than that goes anywhere."""
    return told[3 : 3 + ID_LENGTH] if told.startswith("sw_") else told


_key_id = click.argument("key_id", metavar="ID", callback=_id_of)


@click.group("keys", cls=Group)
def command() -> None:
    """Create, list, change, rotate and revoke API keys."""


@command.command("create")
@click.option("--org", required=True, help="The organization the key belongs to; made on first use.")
@click.option("--team", required=True, help="The team inside the organization; made on first use.")
@click.option("--name", required=True, help="What the key is for, to know it again in a list.")
@terms(*LIMITS)
@admin_options
def create(
    *, org: str, team: str, name: str, given: Document, url: str, admin_key_file: Path | None, as_json: bool
) -> None:
    """Create an API key and print it: this once, it is kept nowhere."""
    said = {field: value for field, value in merged(given, {}).items() if value is not None}
    body = {"organization": org, "team": team, "name": name, **said}
    created = connect(url, admin_key_file).ask("POST", "/keys", Document, body=body)
    _hand_over(created, as_json=as_json)


@command.command("list")
@click.option("--org", help="Only this organization's keys.")
@admin_options
def list_(*, org: str | None, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """List the keys, revoked ones too, without their secrets."""
    listed = list(connect(url, admin_key_file).each("/keys", "keys", params={"organization": org}))
    if as_json:
        tables.as_json(listed)
        return
    whole = tables.Column("id", whole=True)
    heads = (whole, "org", "team", "name", "plan", "scopes", "created", "expires", "last used", "state")
    inside = ("organization", "team", "created", "id")
    tables.table(heads, map(_row, sorted(listed, key=lambda key: [str(key.get(name)) for name in inside])))


@command.command("show")
@_key_id
@admin_options
def show(*, key_id: str, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Show one key, without its secret."""
    found = connect(url, admin_key_file).ask("GET", path_to("keys", key_id), Document)
    if as_json:
        tables.as_json(found)
    else:
        tables.record({**found, "state": _state(found)})


@command.command("set")
@_key_id
@terms("name", *LIMITS, "state", clearable=True)
@admin_options
def set_(*, key_id: str, given: Document, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Change what is given of a key; the key itself stays as it is."""
    edit = patch(connect(url, admin_key_file), path_to("keys", key_id), given)
    tell(key_id, edit, as_json=as_json)


@command.command("rotate")
@_key_id
@click.option(
    "--overlap",
    type=duration,
    metavar="DURATION",
    default="1h",
    show_default=True,
    help="How long the old one is still taken, at most 30d; 0: not at all.",
)
@admin_options
def rotate(*, key_id: str, overlap: int, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Give a key a new secret and print it: this once. Its id and all that it may do stay."""
    api, path = connect(url, admin_key_file), path_to("keys", key_id, "rotate")
    _hand_over(api.ask("POST", path, Document, body={"overlap": overlap}), as_json=as_json)


@command.command("revoke")
@_key_id
@admin_options
def revoke(*, key_id: str, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Refuse the key with this ID (the 12 characters after `sw_`) from now on, on every gateway within a second."""
    connect(url, admin_key_file).tell("DELETE", path_to("keys", key_id))
    if as_json:
        tables.as_json({"id": key_id, "revoked": True})
    else:
        click.echo(f"revoked {key_id}")


def _hand_over(made: Document, *, as_json: bool) -> None:
    """Print a key's secret, the only time that anybody sees it."""
    if as_json:
        tables.as_json(made)
    else:
        click.echo(made.get("key"))
        warn(made)
    note = f"Keep this key now, it is not shown again. To take it back: sluiceway keys revoke {made.get('id')}"
    until = made.get("former_until")
    if until is not None:
        note += f" (the one before is taken until {tables.moment(until)} UTC)"
    click.echo(note, err=True)


def _row(key: Document) -> tuple[str, ...]:
    plan = "its own meters" if key.get("meters") else tables.cell(key.get("plan"))
    cells = (tables.cell(key.get(name)) for name in ("id", "organization", "team", "name"))
    times = (tables.moment(key.get(name)) for name in ("created", "expires", "last_used"))
    return (*cells, plan, tables.cell(key.get("scopes")), *times, _state(key))


def _state(key: Document) -> str:
    expires = key.get("expires")
    if key.get("revoked"):
        return "revoked"
    if expires is not None and expires <= clock.wall():
        return "expired"
    return str(key.get("state") or "active")
