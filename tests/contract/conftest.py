"""One suite over every store: the embedded Valkey always, Debian's redis-server in the ci lane."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.ledger import Ledger
from gateway.store.door import Store
from gateway.store.embedded import embedded

STORES = [pytest.param("valkey", id="valkey")]
if os.environ.get("SLUICEWAY_LANE") == "ci":
    STORES.append(pytest.param("redis", id="redis", marks=pytest.mark.ci))


def pytest_generate_tests(metafunc):
    if "server" in metafunc.fixturenames:
        metafunc.parametrize("server", STORES, indirect=True)


def accepts(address):
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(address)) == 0


def spawned(*command):
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


@asynccontextmanager
async def debian_redis(directory):
    """Run redis-server of PATH, set up like the embedded store."""
    runtime = Path(tempfile.mkdtemp(prefix="sw-"))
    address = runtime / "store"
    options = ["--port", "0", "--unixsocket", address, "--appendonly", "yes", "--save", "", "--dir", directory]
    process = spawned("redis-server", *options)
    try:
        while not accepts(address):
            assert process.poll() is None
            await asyncio.sleep(0.005)
        yield f"unix://{address}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(runtime)


class Server:
    """A running store: where it is, a client of its own, and how to stop it for a while."""

    def __init__(self, url, redis, pid):
        self.url = url
        self.redis = redis
        self.pid = pid

    def pause(self):
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self):
        os.kill(self.pid, signal.SIGCONT)

    async def now(self):
        seconds, us = await self.redis.time()
        return seconds * 1_000_000 + us

    async def reservations(self, organization="acme"):
        keys = [key async for key in self.redis.scan_iter(f"sw:{{{organization}}}:reservations:*")]
        return sum([await self.redis.hlen(key) for key in keys])

    async def level(self, level, organization="acme"):
        fields = await self.redis.hgetall(f"sw:{{{organization}}}:level:{level}")
        return {name.decode(): int(value) for name, value in fields.items()}

    async def slots(self, level, organization="acme"):
        return (await self.level(level, organization)).get("concurrent_requests", 0)


@pytest.fixture
async def server(request, tmp_path):
    start = {"valkey": embedded, "redis": debian_redis}[request.param]
    async with start(tmp_path) as url, Redis.from_url(url, protocol=3) as redis:
        server = Server(url, redis, (await redis.info("server"))["process_id"])
        yield server
        server.resume()


@pytest.fixture
async def gateway(server):
    """Start gateways' ledgers on the store; each is closed at the end."""
    opened = []

    async def start(name="g1", **options):
        store = Store(server.url)
        ledger = Ledger(store, name, **options)
        await ledger.start()
        opened.append((ledger, store))
        ledger.store = store
        return ledger

    yield start
    server.resume()
    for ledger, store in opened:
        await ledger.close()
        await store.close()
