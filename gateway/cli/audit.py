"""`sluiceway audit`: who changed what, and when.

Law: the newest first, and every field that changed, as it was and as it became.
"""

from pathlib import Path

import click

from gateway.cli import tables
from gateway.cli.admin_api import Document, admin_options, connect, path_to
from gateway.cli.diffing import Change
from gateway.cli.editing import line


@click.command("audit")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(min=1), help="How many changes to show.")
@admin_options
def command(*, limit: int, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Show the last changes to organizations, teams, keys, plans, drains and tokens."""
    listed = list(connect(url, admin_key_file).each(path_to("audit"), "lines", most=limit))
    if as_json:
        tables.as_json(listed)
    else:
        tables.table(("when (UTC)", "who", "from", "did", "to", "change"), map(_row, listed))


def _row(one: Document) -> tuple[str, ...]:
    at = one.get("at")
    cells = (tables.cell(one.get(name)) for name in ("who", "address", "action"))
    name = f"{one.get('kind')} {one.get('name')}"
    return (tables.moment(at / 1000 if isinstance(at, int) else None), *cells, name, _change(one))


def _change(one: Document) -> str:
    """Return the fields that a change made otherwise; of a record that is new or gone, what it says."""
    before, after = (one.get(side) or {} for side in ("before", "after"))
    if before and after:
        said = [line(Change(name, before.get(name), after.get(name))) for name in {**before, **after}]
    else:
        said = [f"{name}: {tables.said(name, value)}" for name, value in {**before, **after}.items() if value]
    return "; ".join(said) or "-"
