"""All records of one kind, as every gateway follows them: drained backends, stored plans.

Law: what was read is read anew at every change of one, and after every doubt; while the store is away it stays as last
known.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import structlog

from gateway import clock
from gateway.identity.changes import Feed
from gateway.identity.records import Kind, Record
from gateway.identity.registry import Registry
from gateway.store.door import StoreDown

R = TypeVar("R", bound=Record)

log = structlog.get_logger("sluiceway.following")

AGAIN = 1.0
"""Seconds until a store that was away is asked again."""


class Following(Generic[R]):
    """Calls `told` with all records of `sort`, at the start and whenever they may have changed."""

    def __init__(self, registry: Registry, feed: Feed, sort: type[R], told: Callable[[Sequence[R]], Any]) -> None:
        self._registry = registry
        self._sort = sort
        self._tell = told
        self._stale = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        feed.on_change(self._changed)
        feed.on_epoch(self._stale.set)

    async def start(self, over: Registry | None = None) -> None:
        """Read them, and then follow them. Raises StoreDown.

        `over`: what to read them by at first, where its own registry's store is not open yet. May be called again.
        """
        self._stale.clear()
        await self._read(self._registry if over is None else over)
        if self._task is None:
            self._task = clock.spawn(self._follow(), f"follow every {self._sort.kind}")

    def close(self) -> None:
        """Follow no more."""
        if self._task is not None:
            self._task.cancel()

    def _changed(self, kind: Kind, _name: str, _version: int) -> None:
        if kind == self._sort.kind:
            self._stale.set()

    async def _follow(self) -> None:
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                await self._read(self._registry)
            except StoreDown:
                self._stale.set()
                await asyncio.sleep(AGAIN)
            except Exception:
                log.exception("records cannot be followed; they are read again", kind=self._sort.kind)
                self._stale.set()
                await asyncio.sleep(AGAIN)

    async def _read(self, registry: Registry) -> None:
        self._tell([stored.record for stored in await registry.every(self._sort)])
