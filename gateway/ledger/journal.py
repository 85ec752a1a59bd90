"""What was admitted and spent while the store was away, on disk, until it has been told to the store.

Law: nobody waits for the disk, and no disk fails a call: an entry is appended in memory and is on disk with the next
batch, within 50 ms where the disk keeps up. What a killed process had on disk is read whole by the next one: an entry
that was cut off or changed ends its file. A disk that cannot be written is logged once, told by `fault`, and tried
again with everything that is not on it.

A file is one life of one gateway, locked as long as that one lives. An entry is its length and a checksum of length and
content (each 4 bytes, little-endian), then its content.
"""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from struct import Struct
from typing import BinaryIO
from zlib import crc32

import structlog

from gateway import clock
from gateway.files import apart

PAUSE = 0.05
"""Seconds from one batch to the next."""

RETRY = 1.0
"""Seconds until a disk that could not be written is tried again."""

SUFFIX = ".journal"

_LENGTH = Struct("<I")
_HEAD = Struct("<II")

log = structlog.get_logger("sluiceway.ledger")


class Journal:
    """The journal of the gateway with the id `gateway` in `folder`: a file that exists only while it holds something.

    `fault` is what went wrong with the last batch, None where it is on disk.
    """

    def __init__(self, folder: Path, gateway: str) -> None:
        self.fault: str | None = None
        self._file = _File(folder, gateway)
        self._disk = asyncio.Lock()
        self._pending: list[bytes] = []
        self._saved: asyncio.Future[bool] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._life = 0

    def append(self, entry: bytes) -> None:
        """Add an entry; never waits, never raises."""
        if not self._pending:
            self._saved = asyncio.get_running_loop().create_future()
        self._pending.append(entry)
        if self._writer is None or self._writer.done():
            self._writer = clock.spawn(self._write(), "journal")

    async def flushed(self) -> bool:
        """Wait for the batch of the last entry; return whether it is on disk."""
        return self._saved is None or await asyncio.shield(self._saved)

    async def drop(self) -> None:
        """Forget all that was appended so far: it has been told to the store. Later entries begin a new file."""
        self._life += 1
        self._pending.clear()
        self._settle(self._saved, on_disk=True)
        async with self._disk:
            try:
                await apart(self._file.remove)
            except (OSError, RuntimeError) as error:  # a disk at fault, or no thread to spare
                self._failed(error)
            else:
                self._worked()

    async def close(self) -> None:
        """Wait for the last batch and let go of the file, which stays; what could not be written is lost."""
        await self.flushed()
        self._pending.clear()
        async with self._disk:
            with suppress(RuntimeError):  # no thread to spare: the process ends without it
                await apart(self._file.close)

    async def _write(self) -> None:
        while self._pending:
            batch, saved, life = self._pending, self._saved, self._life
            self._pending = []
            async with self._disk:
                if life != self._life:
                    self._settle(saved, on_disk=True)
                    continue
                try:
                    await apart(partial(self._file.save, batch))
                except (OSError, RuntimeError) as error:
                    self._failed(error)
                else:
                    self._worked()
            if self.fault is not None and life == self._life:
                self._again(batch)
            self._settle(saved, on_disk=self.fault is None)
            await asyncio.sleep(PAUSE if self.fault is None else RETRY)

    def _again(self, batch: list[bytes]) -> None:
        if not self._pending:
            self._saved = asyncio.get_running_loop().create_future()
        self._pending[:0] = batch

    def _failed(self, error: OSError | RuntimeError) -> None:
        if self.fault is None:
            log.error("the journal cannot be written", path=str(self._file.path), why=str(error))
        self.fault = str(error)

    def _worked(self) -> None:
        if self.fault is not None:
            log.warning("the journal is written again", path=str(self._file.path))
        self.fault = None

    @staticmethod
    def _settle(saved: asyncio.Future[bool] | None, *, on_disk: bool) -> None:
        if saved is not None and not saved.done():
            saved.set_result(on_disk)


def read_all(folder: Path) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the gateway and the entries of each journal whose gateway lives no more, for all to be told to the store.

    `forget` each when that is done. Raises OSError where one cannot be read.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with suppress(FileNotFoundError, BlockingIOError):
            yield path.name.removesuffix(SUFFIX), _left(path)


def forget(folder: Path, gateway: str) -> None:
    """Remove the journal of a gateway that lives no more, if it is there. Raises OSError where that fails."""
    path = folder / f"{gateway}{SUFFIX}"
    with suppress(FileNotFoundError, BlockingIOError), path.open("r+b") as file:
        _lock(file.fileno(), path)
        path.unlink()
        _persist_names(folder)


class _File:
    """The file, as a thread writes it: one at a time."""

    def __init__(self, folder: Path, gateway: str) -> None:
        self.path = folder / f"{gateway}{SUFFIX}"
        self._descriptor: int | None = None
        self._length = 0

    def save(self, batch: list[bytes]) -> None:
        """Write entries behind the last that are on disk, over what a failed batch may have left there.

        Raises OSError where they may not all be on disk.
        """
        descriptor = self._open() if self._descriptor is None else self._descriptor
        data = b"".join(map(_framed, batch))
        written = 0
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], self._length + written)
        os.fsync(descriptor)
        self._length += len(data)

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)
        if self._descriptor is not None:
            self.close()
            _persist_names(self.path.parent)

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._length = None, 0

    def _open(self) -> int:
        """Open and lock the file; a new one has its name only once it is locked, so that nobody takes it for left."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        fresh = not self.path.exists()
        descriptor = os.open(new if fresh else self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(descriptor, self.path)
            if fresh:
                new.rename(self.path)
                _persist_names(self.path.parent)
            self._length = _whole(descriptor, self.path)
            os.ftruncate(descriptor, self._length)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return descriptor


def _framed(entry: bytes) -> bytes:
    length = _LENGTH.pack(len(entry))
    return _HEAD.pack(len(entry), crc32(entry, crc32(length))) + entry


def _entries(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Yield the entries of a journal up to the first that is not whole."""
    size, place = os.fstat(file.fileno()).st_size, 0
    while place + _HEAD.size <= size:
        length, checksum = _HEAD.unpack(file.read(_HEAD.size))
        place += _HEAD.size + length
        entry = file.read(length) if place <= size else b""
        if len(entry) != length or crc32(entry, crc32(_LENGTH.pack(length))) != checksum:
            place -= _HEAD.size + length
            break
        yield entry
    if place < size:
        log.warning("the end of a journal is not whole and is left out", path=str(path), bytes=size - place)


def _left(path: Path) -> list[bytes]:
    """Read a journal. Raises BlockingIOError if its gateway lives."""
    with path.open("r+b") as file:
        _lock(file.fileno(), path)
        return list(_entries(file, path))


def _whole(descriptor: int, path: Path) -> int:
    """Return how many bytes of a journal are whole entries."""
    with open(descriptor, "rb", closefd=False) as file:  # not by its name: to close that may undo the lock
        return sum(_HEAD.size + len(entry) for entry in _entries(file, path))


def _lock(descriptor: int, path: Path) -> None:
    """Lock a file for as long as it is open. Raises BlockingIOError if another has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, "the gateway that writes this journal lives", str(path)) from None


def _persist_names(folder: Path) -> None:
    """Have what files a folder holds survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
