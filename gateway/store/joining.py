"""How a gateway comes to its store: at the start if the store is there, else as soon as it comes.

Law: until the store has been looked at, and everything done that must precede the first call, it is down for everybody
but us. A store that cannot be reached keeps no gateway from starting, whatever the reason; one that is there and must
not be used does.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gateway import clock
from gateway.store.door import NoScriptError, Store, StoreDown
from gateway.store.preconditions import UnfitStore

log = structlog.get_logger("sluiceway.store")

AGAIN = 1.0
"""Seconds until what failed is tried again, if the store does not come back before that."""

NOT_YET = "the store is not joined yet"


class Joining:
    """One gateway's way to `store`. `why`: why it has not come there, None once it has."""

    def __init__(
        self, store: Store, prepare: Callable[[Store], Awaitable[None]], begin: Callable[[], Awaitable[None]]
    ) -> None:
        """`prepare`: do what must precede the first call, over the store that it is given; again after a failure.

        `begin`: do, once, what begins when everybody is let in.
        """
        self.why: str | None = NOT_YET
        self._store = store
        self._over = store.another()
        self._prepare = prepare
        self._begin = begin
        self._back = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._over.on_return(self._back.set)

    async def start(self) -> None:
        """Join, or go on without the store and join when it comes. Raises `UnfitStore`."""
        began = clock.monotonic()
        self._store.hold(NOT_YET)
        try:
            await self._prepare(self._over)
        except (StoreDown, NoScriptError) as error:
            self._waits_for(error)
            log.error("this gateway starts without the store and joins it when it comes", why=str(error))  # noqa: TRY400 - the store is at fault
            self._task = clock.spawn(self._join_later(began), "join the store")
        else:
            await self._join()

    async def close(self) -> None:
        """Wait for the store no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._over.close()

    async def _join_later(self, began: float) -> None:
        while not await self._prepared():
            try:
                async with asyncio.timeout(AGAIN):
                    await self._back.wait()
            except TimeoutError:
                continue
            self._back.clear()
        try:
            await self._join()
        except Exception as error:  # what was begun cannot be begun again
            self.why = f"{NOT_YET}, and cannot be before a restart: {error!r}"
            log.exception("the store cannot be joined: restart this gateway")
        else:
            log.warning("the store is joined", waited_s=round(clock.monotonic() - began, 3))

    async def _prepared(self) -> bool:
        """Try once; tell why not where that is news."""
        try:
            await self._prepare(self._over)
        except (StoreDown, NoScriptError, UnfitStore) as error:
            news = self._waits_for(error)
            if news and self._over.down is None:  # else the door has logged it
                log.error("the store cannot be joined", why=str(error))  # noqa: TRY400 - the store is at fault
        except Exception as error:
            if self._waits_for(error):
                log.exception("the store cannot be joined; it is tried again")
        else:
            return True
        return False

    def _waits_for(self, error: Exception) -> bool:
        """Say so to everybody, and return whether it is another reason than before."""
        before, self.why = self.why, f"{NOT_YET}: {error}"
        self._store.hold(self.why)
        return self.why != before

    async def _join(self) -> None:
        """Let everybody in. It is joined once all has begun, whatever becomes of the door that led there."""
        self._store.free()
        await self._begin()
        self.why = None
        try:
            await self._over.close()
        except Exception:
            log.exception("a connection to the store could not be closed; it is of no use any more")
