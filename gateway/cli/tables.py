"""How commands show things: tables for lists, one value a line for a single record, JSON for programs.

Law: what a gateway says is shown as text and never read as markup; a table cuts nothing that is told once, and for
programs folds nothing either: a row is a line. A record is shown as YAML, so that what is shown can be given back.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from typing import Any

import click
import msgspec

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
"""What YAML reads as something else than text."""


_UNBOUNDED = 1_000_000
"""Columns of a table that no terminal bounds: wider than any row that an API tells."""

_NAMES = ("id", "organization", "team", "name")
_TIMES = frozenset({"created", "expires", "last_used", "former_until"})
"""Fields of a record that are unix seconds."""


class Column(msgspec.Struct, frozen=True):
    """A column of a table. `right`: numbers; `whole`: never folded; `footer`: what stands below it."""

    heading: str
    right: bool = False
    whole: bool = False
    footer: str = ""


def table(columns: Sequence[str | Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; cells that do not fit the terminal are folded, never cut. Where there is none, all fit."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    described = [Column(column) if isinstance(column, str) else column for column in columns]
    shown = Table(box=None, pad_edge=False, show_footer=any(column.footer for column in described))
    for column in described:
        shown.add_column(
            Text(column.heading),
            Text(column.footer),
            justify="right" if column.right else "left",
            no_wrap=column.whole,
            overflow="fold",
        )
    for row in rows:
        shown.add_row(*map(Text, row))
    if sys.stdout.isatty():
        Console().print(shown)
        return
    plain = Console(file=StringIO(), width=_UNBOUNDED, force_terminal=False)
    with plain.capture() as caught:
        plain.print(shown)
    for line in caught.get().splitlines():
        click.echo(line.rstrip())


def as_json(value: object) -> None:
    """Print a value as one line of JSON."""
    click.echo(msgspec.json.encode(value))


def record(document: dict[str, Any]) -> None:
    """Print a record as YAML, its name first and its times in words; what is not set is left out."""
    ordered = {name: document[name] for name in (*_NAMES, *document) if name in document}
    for line in lines({name: _timed(name, value) for name, value in ordered.items() if value != {}}):
        click.echo(line)


def lines(document: dict[str, Any], indent: str = "") -> Iterable[str]:
    """Yield the lines of a document as YAML."""
    for name, value in document.items():
        key = f"{indent}{scalar(name)}:"
        if isinstance(value, dict) and value:
            yield key
            yield from lines(value, f"{indent}  ")
        elif value is not None:
            yield f"{key} {scalar(value)}"


def said(field: str, value: object) -> str:
    """Return the value of a record's field on one line; times in words."""
    return "(none)" if value is None else scalar(_timed(field, value))


def scalar(value: object) -> str:
    """Return a value on one line, as YAML reads it back."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    if isinstance(value, list):
        return f"[{', '.join(map(scalar, value))}]"
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}"  # YAML takes 1e-07 for text
    return msgspec.json.encode(value).decode()


def removed(name: str, *, as_json: bool) -> None:
    """Say that something is gone."""
    click.echo(msgspec.json.encode({"name": name, "removed": True}) if as_json else f"removed {name}")


def cell(value: object) -> str:
    """Return a value as a cell: `-` where there is none."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={inner}" for name, inner in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def moment(seconds: object, otherwise: str = "-") -> str:
    """Return unix seconds as a UTC time to the minute, `otherwise` where there are none."""
    if not isinstance(seconds, int | float):
        return otherwise
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def count(number: int, noun: str) -> str:
    """Return a number with its noun, plural where it should be."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _timed(field: str, value: object) -> object:
    return moment(value) if field in _TIMES and isinstance(value, int) else value
