"""`sluiceway peers`: the gateways that share a store.

Law: each is listed as it tells of itself; one that has been silent is not listed. What one of them runs on and most do
not is said in words beside it: whoever looks is tired, and looks for the odd one out.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import click

from gateway.cli import tables
from gateway.cli.admin_api import Document, admin_options, connect, path_to

COLUMNS: tuple[str | tables.Column, ...] = (
    *("gateway", "address", "version", "configuration"),
    *(tables.Column(heading, right=True) for heading in ("open calls", "waiting", "lag")),
    "started",
)

ODD = "DIFFERS"
"""Beside what most of the others do not have."""

REFUSED = "NEWER FILE REFUSED"
"""Beside a configuration whose file was changed and has mistakes."""


@click.command("peers")
@admin_options
def command(*, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """List the gateways that run: what each runs on, its load, and how long ago it told so."""
    listed = list(connect(url, admin_key_file).each(path_to("gateways"), "gateways"))
    if as_json:
        tables.as_json(listed)
        return
    odd = _odd(one.get("version") for one in listed) | _odd(one.get("config") for one in listed)
    tables.table(COLUMNS, [_row(one, odd) for one in listed])


def _row(one: Document, odd: set[object]) -> tuple[str, ...]:
    version, config, lag = (one.get(name) for name in ("version", "config", "lag"))
    refused = REFUSED if one.get("refused") else None
    return (
        *(tables.cell(one.get(name)) for name in ("instance", "address")),
        _marked(version, ODD if version in odd else None),
        _marked(config, ODD if config in odd else None, refused),
        *(tables.cell(one.get(name)) for name in ("open_calls", "waiting")),
        f"{lag:.1f} s" if isinstance(lag, int | float) else "-",
        tables.moment(one.get("started")),
    )


def _marked(value: object, *marks: str | None) -> str:
    return " ".join([tables.cell(value), *(mark for mark in marks if mark is not None)])


def _odd(values: Iterable[object]) -> set[object]:
    """Return the values that are not what most have; where several lead, nobody knows which is right: all of them."""
    counts = Counter(values).most_common()
    one_leads = len(counts) < 2 or counts[0][1] > counts[1][1]
    return {value for value, _ in (counts[1:] if one_leads else counts)}
