"""Forgetting records: by their age, and by the room they take. Roll-ups end by themselves.

Law: records are for looking closely, roll-ups for the books: no sum of whole hours depends on a record. A trim takes
whole nodes of the stream and a bounded number of entries at a time, so that it never holds the store.
"""

from gateway import clock
from gateway.ledger import wire
from gateway.store.door import Store

DAYS = 7
"""Days for which records are kept."""

MOST_BYTES = 1 << 30
"""Bytes that the records of one organization may take; beyond, the oldest go."""

LEFT = 0.9
"""The share of `MOST_BYTES` that is left then, so that it is not done again at once."""

AT_ONCE = 10_000
"""Entries that one command takes away."""

TRIMS = 50
"""Commands in one call, at most: what is left over waits for the next."""


async def retain(
    store: Store, organization: str, *, days: float = DAYS, most_bytes: int = MOST_BYTES, trims: int = TRIMS
) -> int:
    """Take away records older than `days` or beyond `most_bytes`; return how many entries went. Raises `StoreDown`.

    To be called about once a minute for every organization that is active.
    """
    stream = f"{wire.stem(organization)}:records"
    oldest = int((clock.wall() - days * 86_400) * 1000)
    gone = await _trim(store, stream, "MINID", f"{oldest}-0", trims)
    taken, entries = await store.send(["MEMORY", "USAGE", stream], ["XLEN", stream])
    if taken is not None and taken > most_bytes:
        gone += await _trim(store, stream, "MAXLEN", int(entries * most_bytes * LEFT / taken), trims)
    return gone


async def _trim(store: Store, stream: str, by: str, bound: str | int, trims: int) -> int:
    gone = 0
    for _ in range(trims):
        (now,) = await store.send(["XTRIM", stream, by, "~", bound, "LIMIT", AT_ONCE])
        if not now:
            break
        gone += now
    return gone
