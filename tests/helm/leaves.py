"""The chart's values as its `values.yaml` documents them, and as its `values.schema.json` knows them.

Law: a value is what a comment that begins with `# -- ` stands above; what has none is a heading for the values in it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from tests.helm.charts import CHART

_KEY = re.compile(r"( *)([A-Za-z][A-Za-z0-9]*):")
_COMMENT = re.compile(r" *# ?(.*)")
_OPENING = "-- "


@dataclass(frozen=True)
class Leaf:
    """One value: its path (`image.tag`), its default, and what is said of it."""

    path: str
    default: Any
    text: str

    def within(self, values: Mapping[str, Any], but: Any) -> bool:
        """Say whether `values` gives it, as something else than `but`."""
        here: Any = values
        for step in self.path.split("."):
            if not isinstance(here, Mapping) or step not in here:
                return False
            here = here[step]
        return bool(here != but)


@cache
def defaults() -> dict[str, Any]:
    """Return the chart's own values."""
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return found


@cache
def schema() -> dict[str, Any]:
    """Return the schema of values."""
    found: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return found


@cache
def leaves() -> list[Leaf]:
    """Return every value, in the order of the file. Raises ValueError for one that no comment speaks of."""
    texts = dict(_texts((CHART / "values.yaml").read_text().splitlines()))
    found = list(_leaves(defaults(), "", texts))
    unread = texts.keys() - {leaf.path for leaf in found}
    if unread:
        raise ValueError(f"comments inside of values that have one already: {sorted(unread)}")
    return found


def properties(known: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schemas of a mapping's keys by name; none where any key may be there."""
    return resolved(known).get("properties", {})


def resolved(known: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema, or what it refers to."""
    where = known.get("$ref")
    if where is None:
        return known
    found: Any = schema()
    for step in where.removeprefix("#/").split("/"):
        found = found[step]
    return resolved(found)


def known(path: str) -> Mapping[str, Any]:
    """Return what the schema knows of a value. Raises KeyError where it knows nothing."""
    here: Mapping[str, Any] = schema()
    for step in path.split("."):
        here = properties(here)[step]
    return resolved(here)


def _texts(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the path and the comment of each key that a comment stands above."""
    above: list[tuple[int, str]] = []
    told: list[str] = []
    for line in lines:
        comment, key = _COMMENT.fullmatch(line), _KEY.match(line)
        if comment:
            told = [*told, comment[1]] if told or comment[1].startswith(_OPENING) else []
            continue
        if key:
            above = [step for step in above if step[0] < len(key[1])] + [(len(key[1]), key[2])]
            if told:
                yield ".".join(name for _, name in above), " ".join(told).removeprefix(_OPENING)
        told = []


def _leaves(values: Mapping[str, Any], before: str, texts: Mapping[str, str]) -> Iterator[Leaf]:
    for key, value in values.items():
        path = before + key
        if path in texts:
            yield Leaf(path, value, texts[path])
        elif isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}.", texts)
        else:
            raise ValueError(f"values.yaml says nothing of {path}: write a comment above it that begins with `# -- `")
