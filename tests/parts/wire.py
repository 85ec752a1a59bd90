"""A connection to an upstream without a socket: what comes is the test's own doing."""

import asyncio

from gateway.upstream.connection import Connection

REQUEST = b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n"


class Wire(asyncio.Transport):
    """Stands where a socket would; notes what is done to it. `held`: bytes written that are not out yet."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.aborted = self.paused = False
        self.held = 0

    def write(self, data):
        self.written += data

    def get_write_buffer_size(self):
        return self.held

    def abort(self):
        self.aborted = True

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False


async def sent():
    """Return a connection that has sent a request, and its wire."""
    connection, wire = Connection(), Wire()
    connection.connection_made(wire)
    await connection.send(REQUEST, b"{}")
    return connection, wire
