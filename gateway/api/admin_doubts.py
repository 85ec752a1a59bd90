"""What is probably a mistake in a tenant or a key, though it may be right: it is kept as it was said, and told.

Law: what can never be right is refused before (`admin_terms.py`, `admin_key_terms.py`). A model or a backend that this
gateway does not know may come with a later file, or be another gateway's; a tenant that is made on the way, and whose
name is nearly another's, may be one of its own. Names are compared in a thread, for there may be thousands, and each
that is not known with few: calls do not wait for that.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import pairwise
from typing import Annotated, Any

from msgspec import Meta, Struct

from gateway.api.admin_parts import Parts
from gateway.config.reading import nearest
from gateway.config.settings import Organization
from gateway.identity.principals import reach_of
from gateway.identity.records import KeyRecord, OrganizationRecord, TeamRecord, Terms
from gateway.upstream.catalog import Catalog
from policies.reach import family, reachable

MOST_COMPARED = 500
"""Names that one is compared with."""

MOST_MEASURED = 20
"""Names, of those, that it is compared with in earnest: that takes up to a millisecond each where they are alike."""

MOST_NAMED = 10
"""Names that are told, of those that are not known and of those that are."""

UNLIMITED = (
    "plan: none binds this key, its team or its organization, so that nothing limits its calls (`standard` would)"
)

Warnings = Annotated[
    tuple[str, ...],
    Meta(
        description="What is probably a mistake: a model or a backend that this gateway does not know (yet), a new "
        "tenant whose name is nearly another's, terms that leave nothing to call, a key that nothing limits or whose "
        "level is suspended. It was kept as it was said."
    ),
]

Doubted = OrganizationRecord | TeamRecord | KeyRecord


class _Name(Struct, frozen=True):
    """A name that is not known, what is said of it, and those that are; `alone`: it is told though none is near."""

    name: str
    words: str
    known: Sequence[str]
    alone: bool


class _Known:
    """Names that are known: whether one is among them is found without looking at each."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        self._set = frozenset(self.names)
        self._sorted = sorted(self._set)

    def lacks(self, names: Iterable[str]) -> list[str]:
        """Return the first few of some names that are not known; of `NAME*`, where none that is known begins so."""
        return [name for name in names if not self._has(name)][:MOST_NAMED]

    def _has(self, name: str) -> bool:
        if not name.endswith("*"):
            return name in self._set
        begin = name[:-1]
        at = bisect_left(self._sorted, begin)
        return at < len(self._sorted) and self._sorted[at].startswith(begin)


async def doubts(parts: Parts, record: Doubted, before: Doubted | None = None) -> tuple[str, ...]:
    """Return in words what of a tenant or a key is probably a mistake, before it is kept. Raises StoreDown.

    `before`: what it replaces; where that allows the same, nothing is told again.
    """
    if before is not None and _allowed(record) == _allowed(before):
        return ()
    above = await parts.registry.several(_levels_above(record))
    unbound = _unbound(record, above, parts.organizations) if isinstance(record, KeyRecord) else []
    made = await _newcomers(parts, record, above)
    catalog = parts.catalog()
    backends = [] if record.backends is None else [view.name for view in parts.backends()]
    return (*await asyncio.to_thread(_told, record, above, made, catalog, backends), *unbound)


def _allowed(terms: Terms) -> tuple[object, ...]:
    return terms.models, terms.backends, terms.local_only


def _levels_above(record: Doubted) -> list[tuple[type[Any], str]]:
    match record:
        case KeyRecord():
            team = (TeamRecord, f"{record.organization}/{record.team}")
            return [(OrganizationRecord, record.organization), team]
        case TeamRecord():
            return [(OrganizationRecord, record.organization)]
        case _:
            return []


async def _newcomers(parts: Parts, record: Doubted, above: Sequence[Any]) -> list[_Name]:
    """Return the organization, or else the team, that is made with a key or a team because it is not there."""
    if isinstance(record, OrganizationRecord):
        return []
    file = parts.organizations.get(record.organization)
    if above[0] is None and file is None:
        page = await parts.registry.page(OrganizationRecord, limit=MOST_COMPARED)
        kind, name, known = "organization", record.organization, [*_named(page.records), *parts.organizations]
    elif isinstance(record, KeyRecord) and above[1] is None and (file is None or record.team not in file.teams):
        teams = await parts.registry.page(TeamRecord, limit=MOST_COMPARED, organization=record.organization)
        kind, name, known = "team", record.team, [*_named(teams.records), *(file.teams if file else ())]
    else:
        return []
    return [_Name(name, f"{kind}: {name!r} was not there and is made with this {record.kind}", known, alone=False)]


def _told(
    record: Doubted, above: Sequence[Any], made: Sequence[_Name], catalog: Catalog, backends: Sequence[str]
) -> tuple[str, ...]:
    """Return all of it in words; of what is given alone, so that a thread can."""
    names = [*made, *_strangers(record, catalog, backends)]
    return (*_compared(names), *_shut(record, above, catalog))


def _strangers(record: Doubted, catalog: Catalog, backends: Sequence[str]) -> Iterator[_Name]:
    """Yield the models and backends that this gateway does not know, the first few of each."""
    unheard = f" (not heard of so far: {', '.join(catalog.unheard)})" if catalog.unheard else ""
    if record.models is not None:
        models = _Known(name for model in catalog.models for name in (model.name, *model.aliases))
        for name in models.lacks(record.models):
            words = f"models: no model here is called {name}{unheard}, so that it allows nothing"
            yield _Name(name, words, models.names, alone=True)
    if record.backends is not None:
        places = _Known(name for backend in backends for name in (family(backend), backend))
        for name in places.lacks(record.backends):
            words = f"backends: no backend here is called {name}, so that it allows nothing"
            yield _Name(name, words, places.names, alone=True)


def _compared(names: Iterable[_Name]) -> list[str]:
    """Return in words each name that tells something, with the one that it may be meant for."""
    near = ((one, nearest(one.name, _alike(one), _all(one.known) if one.alone else "")) for one in names)
    return [f"{one.words}; {hint}" for one, hint in near if hint]


def _alike(one: _Name) -> Sequence[str]:
    """Return the few known names that are most like one: by the pairs of letters that they share, which is cheap."""
    known, pairs = one.known[:MOST_COMPARED], _pairs(one.name)
    if len(known) <= MOST_MEASURED:
        return known

    def likeness(name: str) -> float:
        others = _pairs(name)
        return len(pairs & others) / (len(pairs) + len(others))

    return nlargest(MOST_MEASURED, known, key=likeness)


def _pairs(name: str) -> set[tuple[str, str]]:
    return set(pairwise(f" {name} "))


def _all(known: Sequence[str]) -> str:
    more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    return f"known are: {', '.join(known[:MOST_NAMED])}{more}" if known else "it knows none at all"


_SHUT = {
    "organization": "with its keys: the models, backends and local_only of the organization leave none",
    "team": "with its keys: the models, backends and local_only of the team and its organization leave none",
    "key": "with it: the models, backends and local_only of the key, its team and its organization leave none",
}
"""What is said of a record of each kind by which no call can be made."""


def _shut(record: Doubted, above: Iterable[Any], catalog: Catalog) -> list[str]:
    """Tell of terms for calls that could call nothing, for all that their levels allow."""
    terms: list[Terms] = [*(one.record for one in above if one is not None), record]
    models, reach = catalog.models, reach_of(terms)
    calls = not isinstance(record, KeyRecord) or "inference" in record.scopes
    if not calls or not models or any(reachable(reach, model) for model in models):
        return []
    return [f"nothing that this gateway serves can be called {_SHUT[record.kind]}"]


def _unbound(record: KeyRecord, above: Sequence[Any], file: Mapping[str, Organization]) -> list[str]:
    """Tell of a key that nothing limits, and of a level above it that is suspended."""
    if "inference" not in record.scopes:
        return []
    levels: list[Terms] = [one.record for one in above if one is not None]
    told = [f"{one.kind} {one.id} is suspended: nothing of it is served" for one in levels if one.state == "suspended"]
    organization = file.get(record.organization)
    plans = () if organization is None else (organization.plan, organization.teams.get(record.team))
    if not any(any(plans) or one.plan is not None or one.meters is not None for one in (*levels, record)):
        told.append(UNLIMITED)
    return told


def _named(found: Iterable[Any]) -> list[str]:
    return [one.record.name for one in found]
