"""How mappings and lists of things are read: sections, named rows, lists of rows and of names.

Law: one bad item is told and the others are still read; a row that could not be read keeps its name, with all its keys
marked wrong, so that whatever refers to it is not called a mistake as well.
"""

import re
from typing import TypeVar

import yaml
from msgspec import UNSET, Struct

from gateway.config.mistakes import At, MisreadError, shown
from gateway.config.reading import Read, Reading, Row, keys_of
from gateway.config.values import text

R = TypeVar("R", bound=Row)

NAME = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
"""Names of models and backends."""

PLAIN_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""Names of organizations, teams and plans: they become parts of the store's keys."""


class Item(Struct, frozen=True):
    """A name in a list, and where it stands."""

    name: str
    at: At


def section(row: type[R]) -> Read[R]:
    """Read one mapping as a `row`."""

    def read(reading: Reading, node: yaml.Node, at: At) -> R:
        return reading.row(row, node, at)

    return read


def named(row: type[R], pattern: re.Pattern[str], none: str | None = None) -> Read[dict[str, R]]:
    """Read a mapping from names to rows; `none` is the remedy when it must not be empty."""

    def read(reading: Reading, node: yaml.Node, at: At) -> dict[str, R]:
        rows: dict[str, R] = {}
        for entry in reading.entries(node, at):
            told = _name_fault(entry.key, pattern)
            if told:
                reading.tell(entry.at, *told)
            rows[entry.key] = _row(reading, row, entry.node, entry.at)
        if not rows and none is not None:
            raise MisreadError("is empty", none)
        return rows

    return read


def each(row: type[R], none: str) -> Read[tuple[R, ...]]:
    """Read a list of rows, at least one (`none` is the remedy)."""

    def read(reading: Reading, node: yaml.Node, at: At) -> tuple[R, ...]:
        rows = tuple(_row(reading, row, item, place) for item, place in reading.items(node, at))
        if not rows:
            raise MisreadError("is empty", none)
        return rows

    return read


def names(pattern: re.Pattern[str]) -> Read[tuple[Item, ...]]:
    """Read a list of names."""

    def name(reading: Reading, node: yaml.Node, at: At) -> str:
        value = text(reading, node, at)
        told = _name_fault(value, pattern)
        if told:
            raise MisreadError(*told)
        return value

    return words(name)


def words(read_one: Read[str], none: str | None = None) -> Read[tuple[Item, ...]]:
    """Read a list of words, each read by `read_one`; `none` is the remedy when it must not be empty."""

    def read(reading: Reading, node: yaml.Node, at: At) -> tuple[Item, ...]:
        found = []
        for item, place in reading.items(node, at):
            word = reading.attempt(read_one, item, place)
            if word is not UNSET:
                found.append(Item(word, place))
        if none is not None and isinstance(node, yaml.SequenceNode) and not node.value:
            raise MisreadError("is empty", none)
        return tuple(found)

    return read


def _row(reading: Reading, row: type[R], node: yaml.Node, at: At) -> R:
    """Read a row; when it is none, tell so and return one of which nothing is known."""
    found = reading.attempt(section(row), node, at)
    return row(at=at, wrong=frozenset(keys_of(row))) if found is UNSET else found


def _name_fault(name: str, pattern: re.Pattern[str]) -> tuple[str, str] | None:
    """Return what is wrong with a name and what would be right, or None."""
    if pattern.fullmatch(name):
        return None
    marks = ". _ : / -" if pattern is NAME else ". _ -"
    return f"{shown(name)} is no valid name", f"use 1 to 128 letters, digits and {marks}"
