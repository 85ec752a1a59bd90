"""What is probably a mistake in a key, though it may be right: it is kept as it was said, and told with the answer.

Law: what can never be right is refused before (`admin_key_terms.py`). A model or a backend that this gateway does not
know may come with a later file, or be another gateway's; a tenant whose name is nearly another's may be one of its own.
"""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from gateway.api.admin_parts import Parts
from gateway.config.reading import nearest
from gateway.identity.principals import reach_of
from gateway.identity.records import KeyRecord, OrganizationRecord, TeamRecord, Terms
from policies.reach import family, reachable

MOST_COMPARED = 500
"""Names that one is compared with."""

MOST_NAMED = 10
"""Names that are told, of those that are not known and of those that are."""


class _Name(Struct, frozen=True):
    """A name that is not known, what is said of it, and those that are; `alone`: it is told though none is near."""

    name: str
    words: str
    known: Sequence[str]
    alone: bool


async def doubts(parts: Parts, record: KeyRecord) -> tuple[str, ...]:
    """Return in words what of a key is probably a mistake, before it is kept. Raises StoreDown."""
    team = (TeamRecord, f"{record.organization}/{record.team}")
    above = await parts.registry.several([(OrganizationRecord, record.organization), team])
    names = [*await _newcomers(parts, record, above), *_strangers(parts, record)]
    # In a thread: names that are much alike take up to a millisecond each to compare, and calls would wait.
    return (*await asyncio.to_thread(_compared, names), *_shut(parts, record, above))


async def _newcomers(parts: Parts, record: KeyRecord, above: Sequence[Any]) -> list[_Name]:
    """Return the organization, or else the team, that is made with a key."""
    file = parts.organizations.get(record.organization)
    if above[0] is None and file is None:
        page = await parts.registry.page(OrganizationRecord, limit=MOST_COMPARED)
        kind, name, known = "organization", record.organization, [*_named(page.records), *parts.organizations]
    elif above[1] is None and (file is None or record.team not in file.teams):
        teams = await parts.registry.page(TeamRecord, limit=MOST_COMPARED, organization=record.organization)
        kind, name, known = "team", record.team, [*_named(teams.records), *(file.teams if file else ())]
    else:
        return []
    return [_Name(name, f"{kind}: {name!r} was not there and is made with this key", known, alone=False)]


def _strangers(parts: Parts, record: KeyRecord) -> Iterator[_Name]:
    """Yield the models and backends that this gateway does not know, the first few of each."""
    catalog = parts.catalog()
    models = [name for model in catalog.models for name in (model.name, *model.aliases)]
    backends = list(dict.fromkeys(name for view in parts.backends() for name in (family(view.name), view.name)))
    unheard = f" (not heard of so far: {', '.join(catalog.unheard)})" if catalog.unheard else ""
    for name in _unknown(record.models, models):
        words = f"models: no model here is called {name}{unheard}, so that it allows nothing"
        yield _Name(name, words, models, alone=True)
    for name in _unknown(record.backends, backends):
        yield _Name(
            name, f"backends: no backend here is called {name}, so that it allows nothing", backends, alone=True
        )


def _unknown(names: Iterable[str] | None, known: Collection[str]) -> list[str]:
    return [name for name in names or () if not _there(name, known)][:MOST_NAMED]


def _there(name: str, known: Collection[str]) -> bool:
    return any(one.startswith(name[:-1]) for one in known) if name.endswith("*") else name in known


def _compared(names: Iterable[_Name]) -> list[str]:
    """Return in words each name that tells something, with the one that it may be meant for."""
    near = ((one, nearest(one.name, one.known[:MOST_COMPARED], _all(one.known) if one.alone else "")) for one in names)
    return [f"{one.words}; {hint}" for one, hint in near if hint]


def _all(known: Sequence[str]) -> str:
    more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    return f"known are: {', '.join(known[:MOST_NAMED])}{more}" if known else "it knows none at all"


def _shut(parts: Parts, record: KeyRecord, above: Iterable[Any]) -> list[str]:
    """Tell a key for calls that could call nothing, for all that its levels allow."""
    terms: list[Terms] = [*(one.record for one in above if one is not None), record]
    models, reach = parts.catalog().models, reach_of(terms)
    if "inference" not in record.scopes or not models or any(reachable(reach, model) for model in models):
        return []
    levels = "the models, backends and local_only of the key, its team and its organization"
    return [f"nothing that this gateway serves can be called with it: {levels} leave none"]


def _named(found: Iterable[Any]) -> list[str]:
    return [one.record.name for one in found]
