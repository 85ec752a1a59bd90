"""Changing one record: read it, change it, put it back only if nobody else has changed it meanwhile.

Law: nothing is sent where nothing changes, so that the audit holds changes and nothing else.
"""

from typing import Literal

import click
from msgspec import Struct

from gateway.cli import tables
from gateway.cli.admin_api import AdminApi, Document, as_seen
from gateway.cli.diffing import Change, Kind, changes
from gateway.cli.terms import merged


class Edit(Struct, frozen=True):
    """What was done to a record (None: nothing, it was so already), what that changed, and the record now."""

    did: Literal["made", "changed"] | None
    changes: tuple[Change, ...]
    document: Document


def put_terms(api: AdminApi, path: str, kind: Kind, given: Document, usual: Document) -> Edit:
    """Change a tenant's record, made where there is none.

    `usual`: the fields it has, as they are where nobody says. What only the gateway's file says is not copied.
    """
    found = api.find(path) or {}
    stored = found.get("version") is not None
    present = {**usual, **{name: found[name] for name in usual if stored and name in found}}
    body = merged(given, present)
    return put(api, path, found, body, changes(kind, present, body))


def put(api: AdminApi, path: str, found: Document, body: Document, changed: tuple[Change, ...]) -> Edit:
    """Put a whole record in the place of the one that was found, if that changes anything or the store has none."""
    version = found.get("version")
    if version is not None and not changed:
        return Edit(None, (), found)
    made = api.ask("PUT", path, Document, body=body, headers=as_seen(version))
    return Edit("made" if version is None else "changed", changed, made)


def patch(api: AdminApi, path: str, given: Document) -> Edit:
    """Change the fields given of a key."""
    found = api.ask("GET", path, Document)
    after = merged(given, found)
    asked = {name: value for name, value in after.items() if name not in found or found[name] != value}
    if not asked:
        return Edit(None, (), found)
    made = api.ask("PATCH", path, Document, body=asked, headers=as_seen(found.get("version")))
    differ = [name for name in asked if found.get(name) != made.get(name)]
    return Edit("changed", tuple(Change(name, found.get(name), made.get(name)) for name in differ), made)


def tell(name: str, edit: Edit, *, as_json: bool) -> None:
    """Print what was done to a record and what may be wrong with it, or the record as JSON."""
    if as_json:
        tables.as_json(edit.document)
    elif edit.did is None:
        click.echo(f"{name} is so already: nothing was changed")
    else:
        click.echo(f"{edit.did} {name}")
        for change in edit.changes:
            click.echo(f"  {line(change)}")
        warn(edit.document)


def warn(kept: Document) -> None:
    """Print, on standard error, what the gateway takes for a mistake in what it has kept."""
    for warning in kept.get("warnings") or ():
        click.echo(f"Warning: {warning}", err=True)


def line(change: Change) -> str:
    """Return a change in words."""
    before, after = (tables.said(change.field, value) for value in (change.before, change.after))
    return f"{change.field}: {before} -> {after}"
