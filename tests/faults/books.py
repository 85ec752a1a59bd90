"""The books as a store holds them, and what they must agree with.

Law: read from outside, by the formats of CONTRIBUTING.md alone; moments are microseconds of the store's clock.
"""

import asyncio

from msgspec import msgpack

from gateway.ledger.records import What, records
from gateway.store.door import Store

ORGANIZATION = "acme"

PAGE = 2000
MINUTE_US = 60_000_000


class Books:
    """One organization's books in the store behind `url`."""

    def __init__(self, url, organization=ORGANIZATION):
        self._store = Store(url, deadline=30.0)
        self._stem = f"sw:{{{organization}}}"

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        await self._store.close()

    async def ask(self, *command):
        """Send one command; the name of a key begins after the organization's stem: `:records`."""
        words = [self._stem + word if isinstance(word, str) and word.startswith(":") else word for word in command]
        (reply,) = await self._store.send(words)
        return reply

    async def records(self):
        """Return every record, in the order in which they were written."""
        found, first = [], "-"
        while True:
            entries = await self.ask("XRANGE", ":records", first, "+", "COUNT", PAGE)
            for _, fields in entries:
                found += records(fields[b"r"])
            if len(entries) < PAGE:
                return found
            first = b"(" + entries[-1][0]

    async def keys(self, pattern):
        """Return the keys whose names match, after the stem."""
        return sorted(set(await self._store.keys(self._stem + pattern)))

    async def reservations(self):
        """Return the number of open reservations of each gateway."""
        keys = await self.keys(":reservations:*")
        return {key.decode().rpartition(":")[2]: await self.ask("HLEN", key) for key in keys}

    async def slots(self):
        """Return the slots in use of each key that has such a meter."""
        found = {}
        for level in await self.keys(":level:key:*"):
            packed = await self.ask("HGET", level, "concurrent_requests")
            if packed is not None:
                found[level.decode().rpartition(":")[2]] = msgpack.decode(packed)[0]
        return found


def calls(found):
    """Return the records of calls alone, by request id: none has two."""
    settled = [record for record in found if record.head.what is What.SETTLED]
    by_id = {record.request_id: record for record in settled}
    assert len(by_id) == len(settled), "a call was booked twice"
    return by_id


def beyond_rate(moments_us, limit, burst, period_us=MINUTE_US):
    """Return by how many, at most, admissions exceed `burst` + `limit` a period in any window; at most 0 is right."""
    ranked = sorted(moments_us)
    worst, lowest = float("-inf"), float("inf")
    for number, at in enumerate(ranked):
        level = number * period_us - limit * (at - ranked[0])  # whole numbers, that nothing is rounded
        lowest = min(lowest, level)
        worst = max(worst, level - lowest)
    return worst / period_us + 1 - burst


def most_at_once(spans):
    """Return the most spans (beginning, end) that lie over one moment."""
    changes = sorted(change for begun, ended in spans for change in ((begun, 1), (ended, -1)))
    most = now = 0
    for _, change in changes:  # at one moment ends come before beginnings
        now += change
        most = max(most, now)
    return most


async def until(condition, seconds):
    """Wait until an async condition holds; fail when it does not in all that time."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - the condition is in another process
            await asyncio.sleep(0.05)


async def settled(gateways, seconds=30.0):
    """Wait until these gateways have nothing open."""

    async def nothing_is_open():
        return not any([(await one.metrics())["sluiceway_open_reservations"] for one in gateways])

    await until(nothing_is_open, seconds)
