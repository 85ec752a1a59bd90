"""What a supervisor and one of its workers tell each other, over a pair of sockets that nobody else holds.

Law: a message comes whole or not at all, and nobody waits to send one. The end of the channel is the end of whoever
held its other end. Settings travel here, credentials and all, and never as arguments, which all of a machine can read.
"""

import asyncio
import pickle
import socket
import struct
from typing import Self

from msgspec import Struct

from gateway.config.mistakes import ConfigError, Mistake
from gateway.config.settings import Settings

_LENGTH = struct.Struct("<I")


class Task(Struct, frozen=True):
    """What a worker is to do, the first thing that it is told.

    `number`: which of `workers` it is, from 1; `callers`, `turns`: descriptors of the callers' socket, which is bound,
    and of the memory of `Turns`; `discover`: local engines on their usual ports are backends too.
    """

    number: int
    workers: int
    callers: int
    turns: int
    settings: Settings
    discover: bool


class Handed(Struct, frozen=True):
    """What the file says from now on: `settings`, or all `mistakes` in it, or that it is `unread`.

    `renews`: the callers' certificate is to be read anew as well.
    """

    settings: Settings | None = None
    mistakes: tuple[Mistake, ...] = ()
    unread: OSError | None = None
    renews: bool = False

    def read(self) -> Settings:
        """Return the settings as if they had just been read. Raises ConfigError and OSError."""
        if self.settings is not None:
            return self.settings
        raise ConfigError(self.mistakes) if self.unread is None else self.unread


class Stop(Struct, frozen=True):
    """Stop, as at SIGTERM; `at_once`: and cut the calls that are open."""

    at_once: bool = False


class Listening(Struct, frozen=True):
    """A worker takes calls. `port`: of its operations, on 127.0.0.1; `backends`, `models`: names, as far as known.

    `why`: why it refuses calls for now (None: it does not).
    """

    port: int
    backends: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    why: str | None = None


class Failed(Struct, frozen=True):
    """A worker could not start; `why` is None where there was nothing to serve."""

    why: str | None


Message = Task | Handed | Stop | Listening | Failed


class Channel:
    """One end of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """Return the channel's end over one of a pair of sockets, which is its own from now on."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, message: Message) -> None:
        """Send a message, if somebody is there still."""
        if not self._writer.is_closing():
            data = pickle.dumps(message)
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> Message | None:
        """Wait for the next message; None: nobody is there any more."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            data = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        message: Message = pickle.loads(data)  # noqa: S301 - whoever holds the other end is ourselves
        return message

    async def flush(self) -> None:
        """Wait until what was sent is with the kernel, which delivers it even if we end."""
        try:
            await self._writer.drain()
        except ConnectionError:
            return

    def close(self) -> None:
        """End it."""
        self._writer.close()
