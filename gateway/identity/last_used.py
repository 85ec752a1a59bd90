"""When each key and each token's subject was last used, told to the store once a minute.

Law: no call waits for it and none fails by it. It is true to a minute: a gateway tells what it saw since it told last,
and of two gateways' words the later stands.
"""

import asyncio
from collections.abc import Callable, Sequence

from gateway import clock
from gateway.identity.records import PREFIX
from gateway.store.door import Store, StoreDown

USED = f"{PREFIX}used"

EVERY = 60.0
"""Seconds between two tellings."""

REMEMBERED = 100_000
"""Names that wait to be told, about 10 MB; of more in one minute nothing is noted."""

TOGETHER = 5_000
"""Names in one command, about 200 KB."""


class LastUsed:
    """What was used since the store was told last. `wall`: unix seconds."""

    def __init__(self, store: Store, wall: Callable[[], float] = clock.wall) -> None:
        self._store = store
        self._wall = wall
        self._used: dict[str, float] = {}
        self._running: asyncio.Task[None] | None = None

    def touch(self, name: str) -> None:
        """Note that `name`, a key's id or a subject's key, is used now."""
        used = self._used
        if len(used) < REMEMBERED or name in used:
            used[name] = self._wall()

    async def flush(self) -> None:
        """Tell the store; what it does not take is told next time, with the rest."""
        waiting = list(self._used.items())
        for start in range(0, len(waiting), TOGETHER):
            told = waiting[start : start + TOGETHER]
            try:
                await self._store.send(("HSET", USED, *(part for name, at in told for part in (name, int(at)))))
            except StoreDown:
                return
            for name, at in told:
                if self._used[name] == at:
                    del self._used[name]

    def start(self) -> None:
        """Begin to tell it every minute."""
        self._running = clock.spawn(self._run(), "last use of keys")

    async def close(self) -> None:
        """End it, and tell the rest."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        await self.flush()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            await self.flush()


async def last_used(store: Store, names: Sequence[str]) -> list[int | None]:
    """Return when each was last used (unix seconds), None for never. Raises StoreDown."""
    if not names:
        return []
    (found,) = await store.send(("HMGET", USED, *names))
    return [None if at is None else int(at) for at in found]
