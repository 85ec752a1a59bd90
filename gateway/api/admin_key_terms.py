"""What a key may be made of, and how it may change.

Law: what opens less is never read as more: networks and times are taken only where they are plainly right.
"""

import re
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from gateway import clock
from gateway.api.admin_answers import wrong
from gateway.api.admin_fields import (
    LAST_SECOND,
    ROUTING,
    RULES,
    Backends,
    Metadata,
    Models,
    Moment,
    Name,
    Networks,
    PlanName,
    Routing,
    Scopes,
    State,
    Text,
    printable,
)
from gateway.api.admin_parts import Parts
from gateway.api.admin_terms import TermsBody, check_terms, mistaken, terms_of
from gateway.config.mistakes import ConfigError
from gateway.config.stored import stored_wishes
from gateway.identity.key_making import blank
from gateway.identity.records import KeyRecord
from gateway.identity.registry import Named

SECONDS: Final = {"h": 3600, "d": 86_400, "w": 604_800}

WholeRouting = Annotated[
    dict[str, Any],
    Meta(
        description="How its calls want to be routed, before what its plans wish; it takes the place of all the wishes "
        "that the key has, so that one which is left out is gone.",
        extra_json_schema=ROUTING,
    ),
]

_FROM_NOW = re.compile(r"([0-9]{1,5})([hdw])")


class NewKey(TermsBody, frozen=True, kw_only=True):
    """What a key is made of. Its `plan` or `meters` bind the key's own level only; its team's bind it as well."""

    organization: Name
    team: Name
    name: Text
    scopes: Scopes = ("inference",)
    networks: Networks | None = None
    expires: Moment | None = None
    routing: Routing | None = None


class KeyChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of a key that change, each as a whole; those left out stay as they are."""

    name: Text | UnsetType = UNSET
    plan: PlanName | UnsetType | None = UNSET
    meters: dict[str, Any] | UnsetType | None = UNSET
    models: Models | UnsetType | None = UNSET
    backends: Backends | UnsetType | None = UNSET
    local_only: bool | UnsetType = UNSET
    state: State | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET
    scopes: Scopes | UnsetType = UNSET
    networks: Networks | UnsetType | None = UNSET
    expires: Moment | UnsetType | None = UNSET
    routing: WholeRouting | UnsetType | None = UNSET


def made(data: NewKey) -> KeyRecord:
    """Return what to make a key of. Raises ValidationException."""
    return replace(blank(data.organization, data.team, data.name), **terms_of(data), **_own(data))


def changed(record: KeyRecord, data: KeyChange) -> KeyRecord:
    """Return `record` with what `data` tells. Raises ValidationException."""
    told = terms_of(data) | _own(data)
    for given, other in (("plan", "meters"), ("meters", "plan")):
        if told.get(given) is not None:
            told.setdefault(other, None)
    return replace(record, **told)


def narrows(data: KeyChange) -> bool:
    """Say whether a change tells anew where the key's calls may go."""
    return not (data.models is UNSET and data.backends is UNSET and data.local_only is UNSET)


async def check_key(parts: Parts, record: KeyRecord, before: KeyRecord | None) -> tuple[Named, ...]:
    """Return the records that must be there for a key to be as `record` has it; `before`: what it replaces.

    Raises ValidationException where it cannot be so, and StoreDown.
    """
    if not printable(record.name):
        raise wrong("name", RULES["name"])
    if len(set(record.scopes)) < len(record.scopes):
        raise wrong("scopes", RULES["scopes"])
    if record.routing is not None and (before is None or record.routing != before.routing):
        try:
            stored_wishes(record.routing)
        except ConfigError as error:
            raise mistaken(error, "The routing has mistakes.", "routing") from error
    return await check_terms(parts, record, before)


def moment(told: int | str) -> int:
    """Return the unix second that a caller means. Raises ValidationException."""
    at = told if isinstance(told, int) else _read(told, clock.wall())
    if at is None or at > LAST_SECOND:
        raise wrong("expires", RULES["expires"])
    return at


def _read(told: str, now: float) -> int | None:
    found = _FROM_NOW.fullmatch(told)
    if found is not None:
        return int(now) + int(found[1]) * SECONDS[found[2]]
    try:
        read = datetime.fromisoformat(told)
        return int((read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None


def _own(data: NewKey | KeyChange) -> dict[str, Any]:
    """Return what only keys have, as far as it is told."""
    told = {name: getattr(data, name) for name in ("name", "scopes", "networks", "expires", "routing")}
    told = {name: value for name, value in told.items() if value is not UNSET}
    if told.get("networks") is not None:
        told["networks"] = tuple(dict.fromkeys(map(_network, told["networks"])))
    if told.get("expires") is not None:
        told["expires"] = moment(told["expires"])
        if told["expires"] <= clock.wall():
            raise wrong("expires", "must be in the future")
    return told


def _network(told: str) -> str:
    """Return a range of addresses as it is kept. Raises ValidationException."""
    address, _, length = told.partition("/")
    try:
        exact = ip_address(address)
        meant = ip_network(told, strict=False)
    except ValueError as error:
        raise wrong("networks", f"{told!r} is no address and no range of them; {RULES['networks']}") from error
    if "%" in told or (not length.isdecimal() and "/" in told):
        raise wrong("networks", f"{told!r} is not plain; {RULES['networks']}")
    if exact != meant.network_address:
        raise wrong("networks", f"{told!r} has bits beyond its length; the range that holds it is {meant}")
    return str(meant)
