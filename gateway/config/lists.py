"""How mappings and lists of things are read: sections, named rows, lists of rows, of names and of words.

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
"""Names of models."""

BACKEND = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._:-]{1,128}")
"""Names of backends, which are a part of the admin API's paths."""

PLAIN_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}")
"""Names of plans and issuers: they become parts of the store's keys."""

TENANT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,64}")
"""Names of organizations and teams, likewise."""

MODELS = re.compile(r"[A-Za-z0-9._:/-]{1,128}\*?")
"""Names of models that may be used; `NAME*` is every name that begins so."""

BACKENDS = re.compile(r"[A-Za-z0-9._:/@\[\]-]{1,128}\*?")
"""Likewise of backends and of their replicas."""

_RULES = {
    NAME: "use 1 to 128 letters, digits and . _ : / -",
    BACKEND: "use 1 to 128 letters, digits and . _ : -, and more than dots",
    PLAIN_NAME: "use 1 to 128 letters, digits and . _ -, and more than dots",
    TENANT: "use 1 to 64 letters, digits and . _ -, and more than dots",
    MODELS: "use 1 to 128 letters, digits and . _ : / -, and a * at the end for every name that begins so",
    BACKENDS: "use 1 to 128 letters, digits and . _ : / @ [ ] -, and a * at the end for every name that begins so",
}


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


def name(pattern: re.Pattern[str]) -> Read[str]:
    """Read one name."""

    def read(reading: Reading, node: yaml.Node, at: At) -> str:
        value = text(reading, node, at)
        told = _name_fault(value, pattern)
        if told:
            raise MisreadError(*told)
        return value

    return read


def names(pattern: re.Pattern[str], none: str | None = None) -> Read[tuple[Item, ...]]:
    """Read a list of names; `none` is the remedy when it must not be empty."""
    return words(name(pattern), none)


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


def one_or_more(read_one: Read[str], none: str) -> Read[tuple[Item, ...]]:
    """Read one word, or a list of at least one (`none` is the remedy)."""
    several = words(read_one, none)

    def read(reading: Reading, node: yaml.Node, at: At) -> tuple[Item, ...]:
        if isinstance(node, yaml.SequenceNode):
            return several(reading, node, at)
        return (Item(read_one(reading, node, at), at),)

    return read


def mapped(read_one: Read[str], none: str | None = None) -> Read[dict[str, Item]]:
    """Read a mapping from any keys to words; `none` is the remedy when it must not be empty."""

    def read(reading: Reading, node: yaml.Node, at: At) -> dict[str, Item]:
        found: dict[str, Item] = {}
        entries = list(reading.entries(node, at))
        for entry in entries:
            word = reading.attempt(read_one, entry.node, entry.at)
            if word is not UNSET:
                found[entry.key] = Item(word, entry.at)
        if none is not None and not entries:
            raise MisreadError("is empty", none)
        return found

    return read


def _row(reading: Reading, row: type[R], node: yaml.Node, at: At) -> R:
    """Read a row; when it is none, tell so and return one of which nothing is known."""
    found = reading.attempt(section(row), node, at)
    return row(at=at, wrong=frozenset(keys_of(row))) if found is UNSET else found


def _name_fault(written: str, pattern: re.Pattern[str]) -> tuple[str, str] | None:
    """Return what is wrong with a name and what would be right, or None."""
    if pattern.fullmatch(written):
        return None
    return f"{shown(written)} is no valid name", _RULES[pattern]
