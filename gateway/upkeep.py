"""What a gateway does once a minute whether anybody calls or not: look whether the store is fit, forget old records.

Law: nothing here is on a call's way, and nothing that fails here ends it; a store that is away is looked at next time.
"""

import asyncio

import structlog

from gateway import clock
from gateway.ledger.ledger import Ledger
from gateway.ledger.retention import retain
from gateway.store.door import Store, StoreDown
from gateway.store.preconditions import UnfitStore, examine

log = structlog.get_logger("sluiceway.upkeep")

EVERY = 60.0
"""Seconds between two rounds."""


class Upkeep:
    """The rounds of one gateway. `unfit`: why the store must not keep the books, None while it may."""

    def __init__(self, store: Store, ledger: Ledger, *, allow_eviction: bool, every: float = EVERY) -> None:
        self.unfit: str | None = None
        self._store = store
        self._ledger = ledger
        self._allow_eviction = allow_eviction
        self._every = every
        self._warned: list[str] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look at the store, and then again and again. Raises `UnfitStore` and `StoreDown`."""
        self._warn(await examine(self._store, allow_eviction=self._allow_eviction))
        self._task = clock.spawn(self._run(), "upkeep")

    def close(self) -> None:
        """End the rounds."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                await self._round()
            except StoreDown:
                continue  # the door has logged it
            except Exception:
                log.exception("the upkeep failed; it is tried again")

    async def _round(self) -> None:
        try:
            self._warn(await examine(self._store, allow_eviction=self._allow_eviction))
        except UnfitStore as error:
            if self.unfit != str(error):
                log.error("the store is not fit to keep the books", why=str(error))  # noqa: TRY400 - a setting is at fault
            self.unfit = str(error)
        else:
            self.unfit = None
        for organization in self._ledger.organizations:
            await retain(self._store, organization)

    def _warn(self, warnings: list[str]) -> None:
        """Log what has not been logged yet."""
        for warning in warnings:
            if warning not in self._warned:
                log.warning("the store could be better", why=warning)
        self._warned = warnings
