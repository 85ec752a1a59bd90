"""What was changed in the store, told as it happens, and whether everything is known that was.

Law: `trusted` is true only while nothing that was changed more than a second ago can be missing here. Where history
may have a hole (another connection, another server, numbers that do not follow one another) `epoch` grows, and what was
read before says nothing any more. The store's numbers are consecutive, so a hole shows.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any, cast

import structlog
from msgspec import Struct

from gateway import clock
from gateway.identity.fence import fence, read_fence
from gateway.identity.records import Kind
from gateway.identity.registry import CHANGES
from gateway.store.door import Store, StoreDown

log = structlog.get_logger("sluiceway.identity")

FRESH = 0.875
"""Seconds from before a poll was sent in which its answer counts: what was changed before that is known.

Less than the second that a change may take: a call that begins at the end of it has to be answered as well.
"""

BLOCK_MS = 200
"""Milliseconds a poll waits for a change. Servers end it up to 100 late, and two polls in a row must fit in `FRESH`."""

PAUSE = 0.1
"""Seconds before another try while the store is away or its history does not go on."""

EPOCHS_KEPT = 100
"""Epochs whose end is remembered."""

Told = Callable[[Kind, str, int], None]


class Change(Struct, frozen=True):
    """One change: the record's kind and name, and its number."""

    kind: Kind
    name: str
    version: int


class _Hole(Exception):  # noqa: N818 - a state of the world, not a programming error
    """Something may have been changed that nobody was told of."""


class Feed:
    """The changes of all records, from when it was started. `now`: monotonic seconds.

    `epoch` grows whenever there may be a hole; it is 0 before the first answer. `history`: the name of the history that
    it tells of (`fence.py`).
    """

    def __init__(self, store: Store, now: Callable[[], float] = clock.monotonic) -> None:
        """`store`: one of its own, as every poll blocks; its deadline is longer than `BLOCK_MS` and 0.1 s."""
        self.epoch = 0
        self.history = b""
        self._store = store
        self._now = now
        self._told: list[Told] = []
        self._renewed: list[Callable[[], None]] = []
        self._proven: dict[int, float] = {}
        self._sent = -math.inf
        self._last: int | None = None  # None: history has to be begun anew
        self._connects = 0
        self._running: asyncio.Task[None] | None = None

    @property
    def trusted(self) -> bool:
        """Whether everything up to one second ago is known."""
        return self._now() - self._sent < FRESH

    def proven(self, epoch: int) -> float:
        """Return when the last poll of `epoch` was sent (monotonic seconds), minus infinity where nobody knows.

        What was read in that epoch and was not told of since was true then.
        """
        return self._proven.get(epoch, -math.inf)

    def on_change(self, callback: Told) -> None:
        """Call `callback` with the kind, the name and the version of each change, in their order."""
        self._told.append(callback)

    def on_epoch(self, callback: Callable[[], None]) -> None:
        """Call `callback` each time `epoch` has grown."""
        self._renewed.append(callback)

    async def start(self) -> None:
        """Begin, and wait for the first answer or failure; with the store away it keeps trying."""
        await self._turn()
        self._running = clock.spawn(self._run(), "changes of the records")

    async def close(self) -> None:
        """End it; the store is left open."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})

    async def _run(self) -> None:
        while True:
            if not await self._turn():
                await asyncio.sleep(PAUSE)

    async def _turn(self) -> bool:
        """Ask once; say whether to ask again at once."""
        try:
            await (self._begin() if self._last is None else self._poll(self._last))
        except _Hole as hole:
            log.warning("the changes of the records are read anew", why=str(hole))
        except StoreDown:
            pass  # the door has logged it; until it is back nothing here is trusted
        except Exception:
            log.exception("the changes of the records cannot be followed")
        else:
            return True
        self._last = None
        return False

    async def _begin(self) -> None:
        """Begin a new epoch at the last version there is: whatever is read from now on is at least as new."""
        sent = self._now()
        (reply,) = await self._store.send(fence())
        told = read_fence(reply)
        self._connects = self._store.connects
        self._last, self.history = told.version, told.history
        self.epoch += 1
        self._hear(sent)
        for callback in self._renewed:
            callback()

    async def _poll(self, last: int) -> None:
        """Wait for changes after `last` and tell them. Raises _Hole and StoreDown."""
        sent = self._now()
        after = ("XREAD", "BLOCK", BLOCK_MS, "STREAMS", CHANGES, f"{last}-0")
        reply, entries = await self._store.send(fence(), after)
        told = read_fence(reply)
        version = told.version
        changes = _changes(entries)
        for change in changes:  # whatever is wrong with them, nobody may go on believing what they are about
            for callback in self._told:
                callback(change.kind, change.name, change.version)
        numbers = [change.version for change in changes]
        if self._store.connects != self._connects:
            raise _Hole("the connection is another")
        if told.history != self.history:
            raise _Hole("the store is another server")
        if version < last:
            raise _Hole(f"the store is at version {version}, {last} was seen")
        if numbers != list(range(last + 1, last + 1 + len(numbers))):
            raise _Hole(f"versions {numbers[0]} to {numbers[-1]} came after {last}")
        self._last = last + len(numbers)
        if version > self._last:
            raise _Hole(f"the store is at version {version}, its changes end at {self._last}")
        self._hear(sent)

    def _hear(self, sent: float) -> None:
        self._sent = self._proven[self.epoch] = sent
        if len(self._proven) > EPOCHS_KEPT:
            del self._proven[next(iter(self._proven))]


def _changes(reply: dict[bytes, Any]) -> list[Change]:
    """Read the answer to XREAD, as redis-py gives it: stream -> [[(number, fields), ...]], empty without any."""
    return [
        Change(cast(Kind, fields[b"kind"].decode()), fields[b"name"].decode(), int(number.partition(b"-")[0]))
        for batches in (reply or {}).values()
        for batch in batches
        for number, fields in batch
    ]
