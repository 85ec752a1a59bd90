"""What has to change for the store to say what a tenants file says: computed, not done.

Law: pure, values in and values out. Steps stand in an order that works: a plan before whoever names it, an organization
before its teams, and what is deleted last and the other way round. What is only in the store is deleted on request. A
suspension is lifted by nobody's silence: where the file says no state the store's stays, and what is suspended is not
deleted.
"""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

Document = dict[str, Any]
Kind = Literal["plan", "organization", "team"]
Action = Literal["create", "update", "delete"]

KINDS: tuple[Kind, ...] = ("plan", "organization", "team")
"""In the order in which they are made."""

TEAM: Document = {
    "plan": None,
    "meters": None,
    "models": None,
    "backends": None,
    "local_only": False,
    "state": "active",
    "metadata": {},
}
"""What may be said of a team, as it is where nobody says."""

ORGANIZATION: Document = {**TEAM, "time_zone": None}
"""Likewise of an organization."""

_USUAL: dict[Kind, Document] = {"plan": {}, "organization": ORGANIZATION, "team": TEAM}


class Target(Struct, frozen=True, order=True):
    """One record: its kind, and its name in parts (`(ORGANIZATION, TEAM)` for a team)."""

    kind: Kind
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name in one word."""
        return "/".join(self.parts)

    def __str__(self) -> str:
        """Return kind and name."""
        return f"{self.kind} {self.name}"


class Kept(Struct, frozen=True):
    """A record as the store has it, and its version."""

    body: Document
    version: int


class Change(Struct, frozen=True):
    """A field that becomes otherwise; None: it is not set. `field` is its path, with dots."""

    field: str
    before: Any
    after: Any


class Step(Struct, frozen=True):
    """One change to make. `body`: what to put, None to delete; `version`: what it replaces, None for nothing."""

    action: Action
    target: Target
    changes: tuple[Change, ...]
    body: Document | None = None
    version: int | None = None

    def __str__(self) -> str:
        """Return what it does, in words."""
        return f"{self.action} {self.target}"


class Outlook(Struct, frozen=True):
    """Everything to do, in order; what is only in the store and stays there; how many records are right already.

    `suspended`: those of `kept` that stay there in any case.
    """

    steps: tuple[Step, ...]
    kept: tuple[Target, ...]
    suspended: frozenset[Target]
    right: int


def outlook(wanted: Mapping[Target, Document], stored: Mapping[Target, Kept], *, prune: bool) -> Outlook:
    """Return what makes `stored` say what is `wanted`; with `prune` what is not wanted is deleted."""
    found = [_step(target, body, stored.get(target)) for target, body in sorted(wanted.items(), key=_rank)]
    steps = [step for step in found if step is not None]
    extra = sorted(((target, kept) for target, kept in stored.items() if target not in wanted), key=_rank)
    suspended = frozenset(target for target, kept in extra if kept.body.get("state") == "suspended")
    gone = [(target, kept) for target, kept in extra if prune and target not in suspended]
    steps += [
        Step("delete", target, changes(target.kind, kept.body, {}), version=kept.version)
        for target, kept in reversed(gone)
    ]
    going = {target for target, _ in gone}
    return Outlook(
        steps=tuple(steps),
        kept=tuple(target for target, _ in extra if target not in going),
        suspended=suspended,
        right=len(found) - sum(step is not None for step in found),
    )


def changes(kind: Kind, before: Document, after: Document) -> tuple[Change, ...]:
    """Return the fields of a record that differ, what is not said being as usual."""
    old, new = (_leaves({**_USUAL[kind], **body}) for body in (before, after))
    paths = [path for path in {**new, **old} if old.get(path) != new.get(path)]
    return tuple(Change(".".join(path), old.get(path), new.get(path)) for path in paths)


def _step(target: Target, body: Document, kept: Kept | None) -> Step | None:
    """Return what makes one record right, None where it is."""
    if kept is None:
        return Step("create", target, changes(target.kind, {}, body), body)
    if "state" in kept.body and "state" not in body:
        body = {**body, "state": kept.body["state"]}
    differ = changes(target.kind, kept.body, body)
    return Step("update", target, differ, body, kept.version) if differ else None


def _rank(item: tuple[Target, object]) -> tuple[int, tuple[str, ...]]:
    target, _ = item
    return KINDS.index(target.kind), target.parts


def _leaves(document: Document, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return every value that is no mapping by its path, in the document's order."""
    found: dict[tuple[str, ...], Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            found |= _leaves(value, (*above, name))
        else:
            found[*above, name] = value
    return found
