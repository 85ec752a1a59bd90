"""What a gateway does once a minute whether anybody calls or not: look whether the store is fit, forget what is old.

Law: nothing here is on a call's way, and nothing that fails here ends it; a store that is away is looked at when it is
back, for it may be another. One that must not keep the books any more is down for everybody, as if it were away, and
asked again by us alone until it is mended: what may be forgotten at any moment limits nobody. One whose fault costs
nothing, as things are, is used on, and told.
"""

import asyncio
from contextlib import suppress

import structlog

from gateway import clock
from gateway.identity.retention import Retention
from gateway.ledger.ledger import Ledger
from gateway.ledger.retention import retain
from gateway.store.door import Store, StoreDown
from gateway.store.preconditions import UnfitStore, examine

log = structlog.get_logger("sluiceway.upkeep")

EVERY = 60.0
"""Seconds between two rounds."""

AGAIN = 1.0
"""Seconds after which a store that is held is looked at again."""


class Upkeep:
    """The rounds of one gateway. `unfit`: why the store must not keep the books, None while it may.

    `harmless`: it keeps them all the same, for none of them is lost by that as things are.
    """

    def __init__(self, store: Store, ledger: Ledger, *, allow_eviction: bool, every: float = EVERY) -> None:
        self.unfit: str | None = None
        self.harmless = False
        self._store = store
        self._over: Store | None = None  # another door to the store, while its own is held
        self._back = asyncio.Event()
        store.on_return(self._back.set)
        self._ledger = ledger
        self._identity = Retention(store)
        self._allow_eviction = allow_eviction
        self._every = every
        self._due = 0.0
        self._warned: list[str] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self, over: Store | None = None) -> None:
        """Look at the store, and then again and again. Raises `UnfitStore` and `StoreDown`.

        `over`: the store by another door for the first look, where its own is not open yet. May be called again.
        """
        self._warn(await examine(self._store if over is None else over, allow_eviction=self._allow_eviction))
        if self._task is None:
            self._task = clock.spawn(self._run(), "upkeep")

    def close(self) -> None:
        """End the rounds."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        self._due = clock.monotonic() + self._every
        try:
            while True:
                whole = await self._wait()
                try:
                    await self._look()
                    if whole and self._over is None:
                        await self._forget()
                except StoreDown:
                    continue  # the door has logged it
                except Exception:
                    log.exception("the upkeep failed; it is tried again")
        finally:
            if self._over is not None:
                await self._over.close()

    async def _wait(self) -> bool:
        """Wait for the next round, and return whether it is a whole one: not because the store is back, or held.

        A return puts no whole one off: else a store that goes and comes all the time would never be rid of what is old.
        """
        back, left = False, self._due - clock.monotonic() if self._over is None else min(AGAIN, self._every)
        if left > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    back = await self._back.wait()
        self._back.clear()
        if back or self._over is not None:
            return False
        self._due = clock.monotonic() + self._every
        return True

    async def _look(self) -> None:
        """Look whether the store is fit, and go by that."""
        why, harmless = None, False
        if self._over is not None and self._over.down is None:
            for door in (self._over, self._store):
                await door.renew()  # it may be mended by another server in its place
        try:
            self._warn(await examine(self._over or self._store, allow_eviction=self._allow_eviction))
        except UnfitStore as error:
            why, harmless = str(error), error.harmless
        before, self.unfit, self.harmless = (self.unfit, self.harmless), why, harmless
        if why is None or harmless:
            await self._let_in()
        else:
            self._over = self._over or self._store.another()
            self._store.hold(why)
        if before == (why, harmless):
            return
        if why is None:
            log.warning("the store is fit to keep the books again")
        else:
            log.error("the store is not fit to keep the books", why=why, used_on=harmless)

    async def _let_in(self) -> None:
        """Let everybody in again, if they were kept out."""
        over, self._over = self._over, None
        if over is not None:
            self._store.free()
            self._back.clear()  # nobody came back whom we have not seen
            await over.close()

    async def _forget(self) -> None:
        """Take away what is old."""
        for organization in self._ledger.organizations:
            await retain(self._store, organization)
        await self._identity.step()

    def _warn(self, warnings: list[str]) -> None:
        """Log what has not been logged yet."""
        for warning in warnings:
            if warning not in self._warned:
                log.warning("the store could be better", why=warning)
        self._warned = warnings
