"""A TCP proxy before a store, which can spoil the connection on which a gateway waits for changes, and no other.

Law: bytes go on as they came, in order. A connection is the feed's from the first XREAD that it sends; what a spoiled
one swallows is never sent on, as with a peer whose cable was pulled.
"""

import asyncio
import contextlib
import socket
import struct
from typing import Literal, Self

from gateway.clock import spawn
from gateway.identity import registry

Link = Literal["whole", "slow", "blackholed", "reset"]

LAG = 0.15
"""Seconds that a slow link takes in each direction."""

CHUNK = 1 << 16

CHANGES = registry.CHANGES.encode()


class _Pair:
    """One client's connection and ours to the store for it."""

    def __init__(self, near, far):
        self.near, self.far = near, far
        self.is_feed = False

    def reset(self):
        """Break it (RST) at both ends."""
        for writer in (self.near, self.far):
            if writer.transport.is_closing():
                continue
            no_lingering = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
            writer.transport.abort()


class StoreProxy:
    """Listens on a free port of 127.0.0.1 and hands everything on to the store at `port`.

    `link` is how the feed's connections are served; `sent` is all that clients have sent, of every connection;
    `heard` counts what was handed on to the feed, `told` the parts of it that tell of changes.
    """

    def __init__(self, port: int) -> None:
        self.link: Link = "whole"
        self.sent = bytearray()
        self.heard = self.told = 0
        self._store = port
        self._pairs: set[_Pair] = set()
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """What a gateway takes for the store's address."""
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def spoil(self, link: Link) -> None:
        """Serve the feed's connections so from now on; those that are open are broken where it is `reset`."""
        self.link = link
        if link == "reset":
            for pair in [pair for pair in self._pairs if pair.is_feed]:
                pair.reset()

    async def mend(self) -> None:
        """Make the link whole and wait until the feed has been answered over it twice.

        What was swallowed cannot be made good: such connections are broken.
        """
        if self.link == "blackholed":
            self.spoil("reset")
        self.link = "whole"
        until = self.heard + 2
        async with asyncio.timeout(10):
            while self.heard < until:  # noqa: ASYNC110 - once a test, and the gateway asks when it asks
                await asyncio.sleep(0.01)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for pair in [*self._pairs]:
            pair.reset()
        await asyncio.gather(*self._serving)
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        serving = asyncio.current_task()
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        far_reader, far = await asyncio.open_connection("127.0.0.1", self._store)
        pair = _Pair(writer, far)
        self._pairs.add(pair)
        answers = spawn(self._copy(far_reader, writer, pair, asks=False), "store proxy")
        try:
            await self._copy(reader, far, pair, asks=True)
            await answers
        finally:
            answers.cancel()
            pair.reset()
            self._pairs.discard(pair)

    async def _copy(self, reader, writer, pair, *, asks):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                if asks:
                    self.sent += data
                    pair.is_feed = pair.is_feed or b"\r\nXREAD\r\n" in data
                if pair.is_feed and not await self._lets_on(pair):
                    continue
                if pair.is_feed and not asks:
                    self.heard += 1
                    self.told += CHANGES in data
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _lets_on(self, pair):
        """Do to bytes of the feed what the link does, and tell whether they get through."""
        if self.link == "slow":
            await asyncio.sleep(LAG)
        elif self.link == "reset":
            pair.reset()
        return self.link in ("whole", "slow")
