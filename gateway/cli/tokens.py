"""`sluiceway tokens`: refuse a token before it ends by itself.

Law: a token is named by its issuer and its `jti`; the token itself is never asked for, so it is in no shell's history.
"""

from pathlib import Path

import click

from gateway.cli import tables
from gateway.cli.admin_api import admin_options, connect, path_to
from gateway.cli.groups import Group
from gateway.cli.terms import moment


@click.group("tokens", cls=Group)
def command() -> None:
    """Revoke JSON Web Tokens."""


@command.command("revoke")
@click.option("--issuer", required=True, help="The issuer's name in the gateway's file.")
@click.option("--jti", required=True, help="The token's `jti` claim.")
@click.option(
    "--expires",
    required=True,
    type=moment,
    metavar="TIME",
    help="Until when to refuse it: its `exp` claim, or a time that is surely after it, such as 24h from now.",
)
@admin_options
def revoke(*, issuer: str, jti: str, expires: int | str, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Refuse a token from now on, on every gateway within a second."""
    body = {"issuer": issuer, "jti": jti, "expires": expires}
    connect(url, admin_key_file).tell("POST", path_to("tokens", "revoke"), body=body)
    if as_json:
        tables.as_json({"issuer": issuer, "jti": jti, "revoked": True})
    else:
        click.echo(f"revoked {jti} of {issuer}")
