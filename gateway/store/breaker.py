"""Whether the store is there: known at once from the first failure, and asked again by one task alone.

Law: half-open with one prober. While the store is down nobody but the prober touches it; the switch is logged once each
way. An outage that begins soon after another is probed at the other's pace, so a store that flaps cannot make it spin.
While it is held it is down for everybody, whatever it would answer, and nobody asks.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable

import structlog

from gateway import clock
from gateway.store.failures import StoreDown

log = structlog.get_logger("sluiceway.store")

FIRST_PAUSE, LAST_PAUSE = 0.05, 1.0
"""Seconds between two questions of the prober; doubled each time. Before the first there is none."""

STEADY = 5.0
"""Seconds without an outage after which the prober begins anew with its shortest pause."""


class Breaker:
    """Open while `why` says why the store is down; `since` is when that began (monotonic seconds).

    `era` counts its returns: a failure of what was sent in an earlier one says nothing about now.
    """

    def __init__(self, ask: Callable[[], Awaitable[None]], what: str = "the store") -> None:
        """`ask` returns if the store serves again, and raises StoreDown with the reason if not; `what`: for the log."""
        self.why: str | None = None
        self.since: float | None = None
        self.era = 0
        self._ask = ask
        self._is_down, self._is_back = f"{what} is down", f"{what} is back"
        self._callbacks: list[Callable[[], None]] = []
        self._prober: asyncio.Task[None] | None = None
        self._closed = False
        self._pause = 0.0
        self._returned = -math.inf

    def on_return(self, callback: Callable[[], None]) -> None:
        """Call `callback` each time the store is back, from then on."""
        self._callbacks.append(callback)

    def trip(self, why: str, era: int) -> None:
        """Take the store for down if it is not yet, by a failure of what was sent in `era`; start the prober."""
        if self.why is not None or era != self.era or self._closed:
            return
        now = clock.monotonic()
        self.why, self.since = why, now
        if now - self._returned > STEADY:
            self._pause = 0.0
        log.error(self._is_down, why=why)
        self._prober = clock.spawn(self._probe(), "store prober")

    def hold(self, why: str) -> None:
        """Have the store down until `free`: `why` says for what it waits, and may change."""
        if self._prober is not None:
            self._prober.cancel()
        self.why = why
        if self.since is None:
            self.since = clock.monotonic()

    def free(self) -> None:
        """Let the store be asked; whoever waits for its return is called."""
        self._serve_again(clock.monotonic())

    async def close(self) -> None:
        """End the prober; nothing starts another."""
        self._closed = True
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.wait({self._prober})

    async def _probe(self) -> None:
        while not await self._answers():
            pass
        now = clock.monotonic()
        away = now - (self.since or now)
        log.warning(self._is_back, away_s=round(away, 3))
        self._serve_again(now)

    def _serve_again(self, now: float) -> None:
        self.why = self.since = None
        self.era += 1
        self._returned = now
        for callback in self._callbacks:
            try:
                callback()
            except Exception:
                log.exception("what was to be done on the store's return failed")

    async def _answers(self) -> bool:
        """Pause, then ask. A prober that ended by an error would leave the store down for good: it goes on."""
        await asyncio.sleep(self._pause)
        self._pause = min(LAST_PAUSE, max(FIRST_PAUSE, self._pause * 2))
        try:
            await self._ask()
        except StoreDown as error:
            self.why = str(error)
        except Exception:
            log.exception("asking whether the store is back failed")
        else:
            return True
        return False
