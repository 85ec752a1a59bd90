"""The workers that are there, and that as many are.

Law: a worker that ends by itself is replaced, at once if it lived, else the later the oftener it died young; only where
none came up at the start nothing more is tried. One that hangs is ended. Once a stop is told nobody is replaced, and
nobody outlives it.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import structlog

from gateway import clock
from gateway.patience import Patience
from gateway.server import NothingToServeError
from gateway.workers.channel import Failed, Handed, Listening
from gateway.workers.child import Child

log = structlog.get_logger("sluiceway.workers")

YOUNG = 10.0
"""Seconds: a worker that ends sooner has died young."""

SOONEST, LATEST = 0.1, 5.0
"""Seconds until one that died young is replaced: the first, doubled each time, up to the second."""

LAST = 15.0
"""Seconds in which a worker must have ended once no call is left to wait for; then it is killed. Half of what the chart
leaves beyond all pauses, so that this is done before Kubernetes kills us all."""

SILENT = 60.0
"""Seconds in which a worker must have said how its start went; then it is killed."""

LOOK_EVERY = 10.0
"""Seconds between two looks at whether a worker answers ..."""

MISSES = 6
"""... and how often in a row it may miss to; then it is killed. Both are those of the chart's liveness probe."""


class CannotStart(RuntimeError):  # noqa: N818 - a state of the world, not a programming error
    """No worker could start; the text says why."""


class Crew:
    """So many workers. `begin` starts the one with a number, from 1; `restarts`: how often each was replaced, by it."""

    def __init__(self, count: int, begin: Callable[[int], Awaitable[Child]]) -> None:
        self.restarts = dict.fromkeys(range(1, count + 1), 0)
        self._begin = begin
        self._children: dict[int, Child] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._over = asyncio.Event()
        self._patience = Patience()

    @property
    def stopping(self) -> bool:
        """Whether a stop was told."""
        return self._over.is_set()

    @property
    def ports(self) -> Mapping[int, int | None]:
        """Each worker's operations port on 127.0.0.1, by its number; None where it does not listen."""
        return dict.fromkeys(self.restarts) | {number: child.port for number, child in self._children.items()}

    @property
    def answering(self) -> Sequence[int]:
        """The operations ports of those that listen, and answered when they were last looked at."""
        return [child.port for child in self._children.values() if child.port is not None and not child.missed]

    async def start(self) -> Listening:
        """Start them all; return what the first that listens tells, as soon as it does.

        Raises OSError, CannotStart and NothingToServeError, where none listens, as soon as each has said so.
        """
        children = [await self._begun(number) for number in self.restarts]
        waits = [clock.spawn(child.spoke.wait(), f"hear worker {child.number}") for child in children]
        for wait in asyncio.as_completed(waits):
            await wait
            for child in children:
                if isinstance(child.told, Listening):
                    self._keepers = [clock.spawn(self._keep(one), f"keep worker {one.number}") for one in children]
                    return child.told
        hows = [await child.ended for child in children]
        for child in children:
            if isinstance(child.told, Failed) and child.told.why is None:
                raise NothingToServeError
            if isinstance(child.told, Failed):
                raise CannotStart(child.told.why)
        raise CannotStart(f"worker 1 {hows[0]} before it listened, and so it went with all")

    def hand(self, file: Handed) -> None:
        """Tell every worker what the file says now."""
        for child in self._children.values():
            child.hand(file)

    async def stop(self, within: float) -> bool:
        """Ask all to stop, give their calls `within` seconds, and return whether each has ended as it should."""
        self._over.set()
        for child in self._children.values():
            if child.told is None and child.code is None:  # it may hang, and has no calls to wait for
                _break_off(child)
            else:
                child.stop()
        with suppress(TimeoutError), self._patience as patience:
            patience.wait(within + LAST)
            await asyncio.wait(self._keepers)
        await self.end()
        return all(child.code == 0 or _broken_off(child) for child in self._children.values())

    def cut(self) -> None:
        """Ask all to cut their open calls, and wait no longer for them than that takes."""
        for child in self._children.values():
            child.stop(at_once=True)
        self._patience.wait(LAST)

    async def end(self) -> None:
        """Leave none behind: whoever is there still is killed."""
        self._over.set()
        for child in self._children.values():
            if child.code is None:
                if child.told is None:
                    _break_off(child)
                else:
                    _kill(child, "it had not ended when all had to have")
            await child.ended
        await asyncio.gather(*self._keepers)

    async def _keep(self, child: Child) -> None:
        """Replace a worker whenever it ends, until a stop is told."""
        pause = 0.0
        while True:
            how = await child.ended
            if self._over.is_set():
                return
            lived = clock.monotonic() - child.begun
            pause = 0.0 if lived >= YOUNG else min(LATEST, max(SOONEST, 2 * pause))
            told = {"how": how, "lived_s": round(lived, 1), "next_in_s": pause}
            if isinstance(child.told, Failed):
                told["why"] = child.told.why
            log.error("a worker has ended and is replaced", worker=child.number, **told)
            self.restarts[child.number] += 1
            another = await self._another(child.number, pause)
            if another is None:
                return
            child = another

    async def _another(self, number: int, pause: float) -> Child | None:
        """Start a worker in `pause` seconds; None where a stop is told meanwhile."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), pause)
            if self._over.is_set():
                return None
            try:
                child = await self._begun(number)
            except OSError as error:
                pause = LATEST
                log.error("a worker cannot be started", worker=number, why=str(error), next_in_s=pause)  # noqa: TRY400 - the system is at fault
            else:
                if self._over.is_set():  # it came to be while the others were told
                    _break_off(child)
                return child

    async def _begun(self, number: int) -> Child:
        """Start a worker, and look after it."""
        child = self._children[number] = await self._begin(number)
        looking = clock.spawn(_look_after(child), f"look after worker {number}")
        child.ended.add_done_callback(lambda _: looking.cancel())
        return child


async def _look_after(child: Child) -> None:
    """End a worker whose start takes for ever, or that answers no more: so it is replaced as any that ends."""
    try:
        await asyncio.wait_for(child.spoke.wait(), SILENT)
    except TimeoutError:
        _kill(child, f"it has not said within {SILENT:g} s how its start went")
        return
    wait = LOOK_EVERY
    while child.missed < MISSES:
        await asyncio.sleep(wait)
        asked = clock.monotonic()
        child.missed = 0 if await child.answers() else child.missed + 1
        wait = max(0.0, asked + LOOK_EVERY - clock.monotonic())
    _kill(child, f"it has not answered {MISSES} times in a row")


def _break_off(child: Child) -> None:
    log.info("a worker is ended in the midst of its start", worker=child.number)
    child.kill()


def _broken_off(child: Child) -> bool:
    return child.told is None and child.code == -signal.SIGKILL


def _kill(child: Child, why: str) -> None:
    log.error("a worker hangs and is killed", worker=child.number, why=why)
    child.kill()
