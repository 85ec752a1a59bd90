"""A wire between a client and a server that keeps what the client sent.

Law: every byte passes unchanged, both ways; nothing is answered here.
"""

import asyncio
from typing import Self
from urllib.parse import urlsplit


class Tap:
    """Listens on a port of its own (`url`) and passes all to the server at `target`. An async context manager."""

    def __init__(self, target: str) -> None:
        self.url = ""
        self._target = urlsplit(target)
        self._sent = bytearray()
        self._server: asyncio.Server | None = None

    @property
    def heads(self) -> list[dict[str, str]]:
        """The headers of every POST so far, by their names in lower case."""
        heads = [part.partition(b"\r\n\r\n")[0] for part in bytes(self._sent).split(b"POST /")[1:]]
        pairs = [[line.decode("latin-1").partition(": ") for line in head.split(b"\r\n")[1:]] for head in heads]
        return [{name.lower(): value for name, _, value in lines} for lines in pairs]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, back = await asyncio.open_connection(self._target.hostname, self._target.port)
        await asyncio.gather(self._pass(reader, back, self._sent), self._pass(onward, writer, bytearray()))

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, kept: bytearray) -> None:
        try:
            while data := await source.read(65_536):
                kept += data
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass  # whoever left is told by the end of the other side
        finally:
            target.close()
