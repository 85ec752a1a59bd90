"""Asking the store about ids that this gateway has never seen.

Law: however many strangers knock, the store hears at most `RATE` questions a second, and a good key among them is
still let in: those who wait for the next question go together in one command. A question full of strangers takes no
more, which bounds the memory.
"""

import asyncio

from gateway import clock
from gateway.identity.fence import Fence
from gateway.identity.registry import Registry

RATE = 200
"""Questions a second. One stranger waits 1/200 s at most for a turn, which nobody notices."""

TOGETHER = 1000
"""Ids in one question: 200,000 a second, more than a gateway can read requests, in commands of about 20 KB."""


class Crowded(Exception):  # noqa: N818 - a state of the world, not a programming error
    """The next question has no room left."""


class Strangers:
    """A lane to the store for unknown ids: a token bucket of one question, refilled `RATE` times a second."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._due = 0.0
        self._gathered: set[str] = set()
        self._next: asyncio.Task[tuple[Fence, frozenset[str]]] | None = None

    async def exists(self, key_id: str) -> tuple[Fence, bool]:
        """Whether `key_id` has a record, and where the server stood that says so. Raises `StoreDown` and `Crowded`."""
        if self._next is None:
            self._gathered = set()
            self._next = clock.spawn(self._ask(self._gathered), "ask about unknown keys")
        elif len(self._gathered) >= TOGETHER:
            raise Crowded
        self._gathered.add(key_id)
        stood, known = await asyncio.shield(self._next)
        return stood, key_id in known

    async def _ask(self, gathered: set[str]) -> tuple[Fence, frozenset[str]]:
        now = clock.monotonic()
        turn = max(self._due, now)
        self._due = turn + 1 / RATE
        await asyncio.sleep(turn - now)
        self._next = None
        return await self._registry.existing(gathered)
