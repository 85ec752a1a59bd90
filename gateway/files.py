"""Files as they are read while calls are served: apart from these, and each by one thread at a time.

Law: a file may lie where nobody answers, at a network mount whose server is gone. No call waits for that, no lookup of
a name, and no end of the process; it costs one thread, however often somebody asks. What was read last stays in force,
and the file is told once when it is late and once when it has answered.
"""

import asyncio
import concurrent.futures
import errno
import threading
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar
from weakref import WeakValueDictionary

import structlog

from gateway import clock

log = structlog.get_logger("sluiceway.files")

LATE = 5.0
"""Seconds after which a file that has not answered is told."""

T = TypeVar("T")

_here = threading.local()


class Unanswered(OSError):  # noqa: N818 - a state of the world, not a programming error
    """A file that is late and still waited for: which (`filename`), and since when (`strerror`)."""

    @classmethod
    def since(cls, begun: float, file: Path) -> Self:
        """Return what is told of a file that has not answered since `begun` (unix seconds)."""
        moment = datetime.fromtimestamp(begun, UTC)
        return cls(errno.ETIMEDOUT, f"no answer since {moment:%Y-%m-%d %H:%M:%S} UTC", str(file))


class NoThread(RuntimeError):  # noqa: N818 - a state of the world, not a programming error
    """The system has no thread to spare."""


class _Place:
    """Where a thread is that reads files: the one that it has opened last."""

    def __init__(self, file: Path) -> None:
        self.file = file


def opening(file: Path) -> Path:
    """Return `file`, which is read next: so it is the one that is told where that takes long."""
    place: _Place | None = getattr(_here, "place", None)
    if place is not None:
        place.file = file
    return file


def apart(work: Callable[[], T]) -> asyncio.Future[T]:
    """Do `work` in a thread that nobody waits for who does not wait for this: neither its canceller, nor the process.

    It is no thread of an executor, which the process would wait for at its end, and which lookups of names need.
    Raises NoThread.
    """
    done: concurrent.futures.Future[T] = concurrent.futures.Future()
    done.set_running_or_notify_cancel()  # from here on it cannot be cancelled, and so can always be told

    def run() -> None:
        try:
            came = work()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            done.set_exception(error)
        else:
            done.set_result(came)

    try:
        threading.Thread(target=run, name="files", daemon=True).start()
    except RuntimeError as error:
        raise NoThread(str(error)) from error
    return asyncio.wrap_future(done)


class Reader:
    """Reads a file, and those that it refers to, one reading at a time.

    `file`: the one that a reading begins with; `stays`: what is in force until it has answered, for the log; `tell`: is
    told when it is late. `late`: that it is.
    """

    def __init__(self, file: Path, stays: str, tell: Callable[[Unanswered], None] | None = None) -> None:
        self.late: Unanswered | None = None
        self._file = file
        self._stays = stays
        self._tell = tell
        self._under_way: asyncio.Task[Any] | None = None

    async def read(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, begun when no reading is under way any more, also none that nobody waits for.

        Raises what it raises, and NoThread.
        """
        while self._under_way is not None:
            await asyncio.wait({self._under_way})
        reading = self._under_way = clock.spawn(self._read(work), f"read {self._file}")
        return await asyncio.shield(reading)

    async def _read(self, work: Callable[[], T]) -> T:
        place, begun = _Place(self._file), clock.wall()

        def run() -> T:
            _here.place = place
            return work()

        try:
            answer = apart(run)
            await asyncio.wait({answer}, timeout=LATE)
            if not answer.done():
                await self._wait_on(answer, Unanswered.since(begun, place.file))
            return await answer
        finally:
            self._under_way = None

    async def _wait_on(self, answer: asyncio.Future[Any], late: Unanswered) -> None:
        """Wait for a file that is late, and tell so."""
        self.late = late
        log.warning("a file does not answer", file=late.filename, why=late.strerror, meanwhile=self._stays)
        if self._tell is not None:
            self._tell(late)
        await asyncio.wait({answer})
        self.late = None
        log.info("a file has answered", file=late.filename, late=late.strerror)


class Anew:
    """Does `work` once for all who ask before it begins: one at a time, and at most one waits for that."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._work = work
        self._name = name
        self._under_way: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    def ask(self) -> asyncio.Task[None]:
        """Have it done anew, and return what does it: others may wait for that too, so cancel it for nobody."""
        if self._next is None:
            self._next = clock.spawn(self._do(self._under_way), self._name)
        return self._next

    async def _do(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        self._under_way, self._next = self._next, None
        await self._work()


class Readers:
    """The reader of each file, the same one for as long as somebody has it or it reads. `stays`: as of `Reader`.

    Files that are read together have one of their own: who asks for one of them with another waits for neither.
    """

    def __init__(self, stays: str) -> None:
        self._stays = stays
        self._readers: WeakValueDictionary[tuple[Path, ...], Reader] = WeakValueDictionary()

    def of(self, *files: Path) -> Reader:
        """Return the reader of `files`, which are read together, the first one first."""
        reader = self._readers.get(files)
        if reader is None:
            reader = self._readers[files] = Reader(files[0], self._stays)
        return reader

    def late(self, together: Iterable[tuple[Path, ...]]) -> list[Unanswered]:
        """Return which files do not answer, of those that are read `together`."""
        readers = [self._readers.get(files) for files in dict.fromkeys(together)]
        return [reader.late for reader in readers if reader is not None and reader.late is not None]


Mark = tuple[int, ...]
"""What changes when a file does."""


def mark_of(file: Path) -> Mark:
    """Return the mark of a file, behind whatever links it lies; an empty one where it is not there."""
    try:
        stat = opening(file).stat()
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino  # the second one changes with its permissions
