"""`sluiceway backends`: the backends as a gateway sees them; take one out of service and put it back.

Law: a drain is for all gateways at once and outlives them; calls that are under way end by themselves.
"""

from pathlib import Path

import click
import msgspec

from gateway.cli import tables
from gateway.cli.admin_api import Document, admin_options, connect, path_to
from gateway.cli.groups import Group


class _Backends(msgspec.Struct):
    backends: list[Document]
    note: str | None = None


@click.group("backends", cls=Group)
def command() -> None:
    """Look at the backends, drain one, resume it."""


@command.command("ls")
@admin_options
def ls(*, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """List the backends: which are up, drained, how many calls each has, by the gateway that is asked."""
    told = connect(url, admin_key_file).ask("GET", path_to("backends"), _Backends)
    if told.note is not None:
        click.echo(f"Warning: {told.note}", err=True)
    if as_json:
        tables.as_json(told.backends)
        return
    right = tables.Column("in flight", right=True)
    tables.table(("backend", "kind", "hosted", "state", right, "models", "why"), map(_row, told.backends))


@command.command("drain")
@click.argument("name")
@click.option("--reason", help="Why, for whoever looks at the list.")
@admin_options
def drain(*, name: str, reason: str | None, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Send no new calls to a backend, from any gateway; those under way go on to their end."""
    body = {} if reason is None else {"reason": reason}
    connect(url, admin_key_file).tell("POST", path_to("backends", name, "drain"), body=body)
    if as_json:
        tables.as_json({"name": name, "drained": True})
    else:
        click.echo(f"{name} gets no new calls; `sluiceway backends ls` tells how many this gateway still has there")


@command.command("resume")
@click.argument("name")
@admin_options
def resume(*, name: str, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Send calls to a backend again."""
    connect(url, admin_key_file).tell("POST", path_to("backends", name, "resume"))
    if as_json:
        tables.as_json({"name": name, "drained": False})
    else:
        click.echo(f"{name} gets calls again")


def _row(one: Document) -> tuple[str, ...]:
    up = "not known" if one.get("up") is None else ("up" if one["up"] else "down")
    state = f"{up}, drained" if one.get("drained") else up
    why = "; ".join(str(one[name]) for name in ("why", "reason") if one.get(name))
    cells = (tables.cell(one.get(name)) for name in ("name", "kind", "hosted"))
    unlisted = one.get("unlisted") or ()
    models = [f"{model} (not in its list)" if model in unlisted else model for model in one.get("models") or ()]
    return (*cells, state, tables.cell(one.get("in_flight")), tables.cell(models), why or "-")
