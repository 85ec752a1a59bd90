"""`sluiceway plans`: plans that are kept in the store; each takes the place of the file's plan of its name.

Law: what `show` prints, `set` reads.
"""

from pathlib import Path

import click

from gateway.cli import tables
from gateway.cli.admin_api import ANY_VERSION, Document, admin_options, connect, path_to
from gateway.cli.diffing import changes
from gateway.cli.editing import put, tell
from gateway.cli.groups import Group
from gateway.cli.terms import plan_file


@click.group("plans", cls=Group)
def command() -> None:
    """Look at plans, set and remove those in the store."""


@command.command("ls")
@admin_options
def ls(*, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """List the plans, those of the gateway's file too."""
    listed = list(connect(url, admin_key_file).each(path_to("plans"), "plans"))
    if as_json:
        tables.as_json(listed)
    else:
        tables.table(("plan", "from", "says"), map(_row, listed))


@command.command("show")
@click.argument("name")
@admin_options
def show(*, name: str, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Show one plan, as `plans set NAME -f FILE` reads it."""
    found = connect(url, admin_key_file).ask("GET", path_to("plans", name), Document)
    if as_json:
        tables.as_json(found)
    else:
        click.echo(f"# {name}, from: {_source(found)}")
        tables.record(found.get("plan") or {})


@command.command("set")
@click.argument("name")
@click.option(
    "-f",
    "--file",
    "plan",
    required=True,
    type=plan_file,
    metavar="FILE",
    help="YAML or JSON, as gateway.yaml writes a plan; - for stdin.",
)
@admin_options
def set_(*, name: str, plan: Document, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Keep a plan in the store, whole; it is in force on every gateway within a second."""
    api, path = connect(url, admin_key_file), path_to("plans", name)
    found = api.find(path) or {}
    edit = put(api, path, found, plan, changes("plan", found.get("plan") or {}, plan))
    tell(name, edit, as_json=as_json)


@command.command("rm")
@click.argument("name")
@admin_options
def rm(*, name: str, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Remove a plan from the store; the file's plan of that name, if there is one, is in force again."""
    connect(url, admin_key_file).tell("DELETE", path_to("plans", name), headers=ANY_VERSION)
    tables.removed(name, as_json=as_json)


def _source(one: Document) -> str:
    return f"{tables.cell(one.get('source'))}{' (in place of the file)' if one.get('overrides') else ''}"


def _row(one: Document) -> tuple[str, ...]:
    says = ", ".join(
        f"{change.field} {tables.scalar(change.after)}" for change in changes("plan", {}, one.get("plan") or {})
    )
    return tables.cell(one.get("name")), _source(one), says or "-"
