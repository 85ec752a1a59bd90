"""Whether a store is fit to keep the books: its version and role, what it does when full and over a restart.

Law: what would make the books wrong is an error: no gateway begins on it, and one that has begun takes the store for
away (`upkeep.py`), by each plan's stance. What could not, as things are, is an error that keeps only those from it who
have not begun: eviction where there is no `maxmemory`, a server that no longer tells. What only makes a bad day worse
is a warning. Every text says what was found, where, and what to do.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from redis.exceptions import NoPermissionError

from gateway.store.door import Store

LAYOUT = 2
"""The version of the data that this gateway reads and writes; `sw:layout` holds it."""

OLDEST_REDIS = (7, 0)
OLDEST_VALKEY = (8, 0)


class UnfitStore(Exception):  # noqa: N818 - a state of the world, not a programming error
    """The store must not be used as it is; `errors` says why, a sentence each.

    `harmless`: whoever keeps books there already loses none of them by that, as things are.
    """

    def __init__(self, errors: list[str], *, harmless: bool = False) -> None:
        super().__init__("; ".join(errors))
        self.errors = errors
        self.harmless = harmless


class Told(Struct, frozen=True):
    """What one primary says of itself: its INFO, and its snapshot points (None where CONFIG is not allowed)."""

    name: str
    info: Mapping[str, Any]
    save: str | None


class Verdict(Struct, frozen=True):
    """What is wrong with a store, a sentence each: `errors` forbid its use, `warnings` do not.

    `harmless`: as of `UnfitStore`.
    """

    errors: list[str]
    warnings: list[str]
    harmless: bool = False


async def examine(store: Store, *, allow_eviction: bool) -> list[str]:
    """Examine every primary and the data's version, which is set where there is none; return the warnings.

    `allow_eviction`: take a store that may drop data when it is full. Raises `UnfitStore` and `StoreDown`.
    """
    replies = await store.everywhere(("INFO",), ("CONFIG GET", "save"))
    if store.database and (error := await _without_database(store, replies)):
        raise UnfitStore([error])
    verdicts = [
        judge(_told(name, *told), clustered=store.clustered, allow_eviction=allow_eviction)
        for name, told in replies.items()
    ]
    if errors := [error for verdict in verdicts for error in verdict.errors]:
        raise UnfitStore(errors, harmless=all(verdict.harmless for verdict in verdicts if verdict.errors))
    _, found = await store.send(("SET", "sw:layout", str(LAYOUT), "NX"), ("GET", "sw:layout"))
    if error := wrong_layout(found):
        raise UnfitStore([error])
    return [warning for verdict in verdicts for warning in verdict.warnings]


def judge(told: Told, *, clustered: bool, allow_eviction: bool) -> Verdict:
    """Judge one primary by what it says; `clustered`: whether the URL says that it is of a cluster."""
    where = f"the store at {told.name}"
    wrong_place = _wrong_place(where, told.info, clustered=clustered)
    if wrong_place:
        return Verdict([wrong_place], [], harmless=not told.info)
    evicts = _evicts(where, told.info)
    errors = [error for error in (_too_old(where, told.info), evicts) if error]
    warnings = [warning for warning in (_forgets(where, told),) if warning]
    if allow_eviction and evicts:
        errors.remove(evicts)
        warnings.append(f"{evicts} (store.allow_eviction is on: it is used all the same)")
    return Verdict(errors, warnings, harmless=errors == [evicts] and told.info.get("maxmemory") == 0)


def wrong_layout(found: bytes | str | None) -> str | None:
    """Say what is wrong with a store whose `sw:layout` holds `found`; None if nothing is."""
    text = found.decode(errors="replace") if isinstance(found, bytes) else str(found)
    if text == str(LAYOUT):
        return None
    if not text.isdecimal():
        return (
            f"sw:layout in the store holds {text!r}, which no Sluiceway wrote (this one writes {LAYOUT}): "
            "something else uses the same keys; give Sluiceway a store or a database number of its own (store.url)"
        )
    if int(text) > LAYOUT:
        return (
            f"the data in the store are of version {text}, from a newer Sluiceway; this one reads version {LAYOUT}: "
            "run that newer version, or give this one a store of its own (store.url)"
        )
    return (
        f"the data in the store are of version {text}, from an older Sluiceway; this one reads version {LAYOUT} and "
        "does not convert them: run that older version, or give this one an empty store (store.url)"
    )


async def _without_database(store: Store, replies: Mapping[str, list[Any]]) -> str | None:
    """Say so if what keeps the server from answering is that it has no such database. Raises `StoreDown`."""
    ((name, (refused, _)),) = replies.items()  # a cluster has no other database than 0
    if not isinstance(refused, Exception):
        return None
    first = store.first()
    try:
        ((info, databases),) = (await first.everywhere(("INFO",), ("CONFIG GET", "databases"))).values()
    finally:
        await first.close()
    where = f"the store at {name}"
    if not isinstance(info, dict):
        return None  # it refuses that in every database
    if wrong_place := _wrong_place(where, info, clustered=False):
        return wrong_place
    if isinstance(refused, NoPermissionError):
        return (
            f"{where} does not let us choose database {store.database}: allow its user the command SELECT "
            "(ACL SETUSER ... +select), or name database 0 in store.url"
        )
    count = _setting(databases, "databases")
    there = f"databases 0 to {int(count) - 1}" if count else "the first is 0"
    return f"{where} has no database {store.database} ({there}): name one that it has in store.url"


def _setting(reply: Any, name: str) -> str | None:  # noqa: ANN401 - redis-py's reply, or the error it got
    """Read the answer to CONFIG GET; None where it is not allowed."""
    value = reply.get(name, reply.get(name.encode())) if isinstance(reply, dict) else None
    return value.decode() if isinstance(value, bytes) else value


def _told(name: str, info: Any, save: Any) -> Told:  # noqa: ANN401 - redis-py's replies, or the errors it got
    return Told(name, info if isinstance(info, dict) else {}, _setting(save, "save"))


def _wrong_place(where: str, info: Mapping[str, Any], *, clustered: bool) -> str | None:
    """Say that this is no primary of the deployment that the URL names, if so."""
    if not info:
        return f"{where} does not let us ask INFO: allow its user the command INFO (ACL SETUSER ... +info)"
    mode = info.get("redis_mode") or info.get("server_mode")
    if mode == "sentinel":
        return f"{where} is a Sentinel and keeps no data: write store.url as redis+sentinel://HOST:PORT/NAME"
    if mode == "cluster" and not clustered:
        return f"{where} is a node of a cluster: write store.url as redis+cluster://HOST:PORT,HOST:PORT"
    if info.get("role", "master") != "master":
        return (
            f"{where} is a replica of {info.get('master_host')}:{info.get('master_port')} and takes no writes: "
            "name that one in store.url, or name the Sentinels, who know which one it is (redis+sentinel://)"
        )
    return None


def _too_old(where: str, info: Mapping[str, Any]) -> str | None:
    valkey = info.get("valkey_version")
    if valkey is not None:
        product, version, oldest = "Valkey", str(valkey), OLDEST_VALKEY
    else:
        product, version, oldest = "Redis", str(info.get("redis_version", "")), OLDEST_REDIS
    parts = version.split(".")
    if len(parts) >= 2 and parts[0].isdecimal() and parts[1].isdecimal():
        if (int(parts[0]), int(parts[1])) >= oldest:
            return None
        return f"{where} is {product} {version}, which is too old: it takes Redis 7.0 or Valkey 8.0, or a later one"
    return f"{where} does not say which version it is ({version!r}): it takes Redis 7.0 or Valkey 8.0, or a later one"


def _evicts(where: str, info: Mapping[str, Any]) -> str | None:
    policy = info.get("maxmemory_policy")
    if policy is None or policy == "noeviction":
        return None
    return (
        f"{where} has maxmemory-policy {policy}: when it is full it drops counters, and spent budgets are whole again. "
        "Set maxmemory-policy noeviction, or store.allow_eviction: true to live with it"
    )


def _forgets(where: str, told: Told) -> str | None:
    if told.info.get("aof_enabled") or told.save:
        return None
    if told.save is None and told.info.get("rdb_saves", 0):
        return None  # CONFIG is not allowed, but it has made snapshots
    return (
        f"{where} keeps nothing over a restart: appendonly is off and no snapshots are "
        f"{'set' if told.save is not None else 'seen'}. All usage and every budget would begin at zero; "
        "set appendonly yes"
    )
