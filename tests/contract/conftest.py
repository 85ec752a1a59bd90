"""One suite over every store: the embedded Valkey always, Debian's redis-server in the ci lane."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec import msgpack
from redis.asyncio import Redis

from gateway import clock
from gateway.ledger import Ledger
from gateway.ledger.records import end_of, records
from gateway.store.door import DEADLINE, Store
from gateway.store.embedded import embedded
from tests.parts import stores

STORES = [pytest.param("valkey", id="valkey")]
if os.environ.get("SLUICEWAY_LANE") == "ci":
    STORES.append(pytest.param("redis", id="redis", marks=pytest.mark.ci))


def pytest_generate_tests(metafunc):
    for fixture in ("server", "restartable"):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, STORES, indirect=True)


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


class Books:
    """What a store holds, as a client of its own reads it."""

    def __init__(self, url, redis):
        self.url = url
        self.redis = redis

    async def now(self):
        seconds, us = await self.redis.time()
        return seconds * 1_000_000 + us

    async def set_clock(self, us, organization="acme"):
        """Let an organization's clock stand still at a moment to come: it never steps back to the store's own."""
        assert us > await self.now()
        await self.redis.set(f"sw:{{{organization}}}:clock", us)

    async def reservations(self, organization="acme"):
        """Return the heads of all open reservations, by gateway and id: input, output, money, step, admitted, ends."""
        found = {}
        async for key in self.redis.scan_iter(f"sw:{{{organization}}}:reservations:*"):
            gateway = key.rpartition(b":")[2].decode()
            for id_, packed in (await self.redis.hgetall(key)).items():
                found[f"{gateway}-{id_.decode()}"] = msgpack.decode(packed[: end_of(packed, 0)])
        return found

    async def level(self, level, organization="acme"):
        """Return the states of a level's meters, by field."""
        fields = await self.redis.hgetall(f"sw:{{{organization}}}:level:{level}")
        return {name.decode(): msgpack.decode(packed) for name, packed in fields.items() if name != b"expires"}

    async def used(self, level, field, organization="acme"):
        """Return what is used of a meter (of a rate, as it was last written), 0 of one that never was."""
        return (await self.level(level, organization)).get(field, [0])[0]

    async def slots(self, level, organization="acme"):
        return await self.used(level, "concurrent_requests", organization)

    async def records(self, organization="acme"):
        """Return all records, oldest first."""
        entries = await self.redis.xrange(f"sw:{{{organization}}}:records")
        return [record for _, fields in entries for record in records(fields[b"r"])]


class Server(Books):
    """A running store that can be stopped for a while."""

    def __init__(self, url, redis, pid):
        super().__init__(url, redis)
        self.pid = pid

    def pause(self):
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self):
        os.kill(self.pid, signal.SIGCONT)


class Restartable(Books):
    """A store that can be killed, and started again without what it last wrote to its append-only file."""

    def __init__(self, process, redis):
        super().__init__(process.url, redis)
        self._process = process

    def _file(self):
        """Return the file that it writes to; nothing rewrites it in the time of a test."""
        (file,) = self._process.directory.glob("appendonlydir/*.incr.aof")
        return file

    def written(self):
        """Return how much it has written down: whatever it has acknowledged is in the file."""
        return self._file().stat().st_size

    def kill(self):
        self._process.kill()

    async def start_with(self, size):
        """Start it with the first `size` bytes of what it had written."""
        assert 0 <= size <= self.written()
        os.truncate(self._file(), size)
        await self._process.start()


@pytest.fixture
async def server(request, tmp_path):
    start = {"valkey": embedded, "redis": debian_redis}[request.param]
    async with start(tmp_path) as url, Redis.from_url(url, protocol=3) as redis:
        server = Server(url, redis, (await redis.info("server"))["process_id"])
        yield server
        server.resume()


@pytest.fixture
async def noon(server, monkeypatch):
    """Let all clocks stand still at noon of Wednesday, the 16th of June 2100, by UTC: the store's and the gateways'."""
    at = datetime(2100, 6, 16, 12, tzinfo=UTC).timestamp()
    await server.set_clock(round(at) * 1_000_000)
    monkeypatch.setattr(clock, "wall", lambda: at)
    return round(at) * 1_000_000


@pytest.fixture
async def restartable(request, tmp_path, monkeypatch):
    if request.param == "redis":
        monkeypatch.setattr(stores, "binary", lambda: shutil.which("redis-server"))
    async with (
        stores.one(tmp_path / "store", appendonly="yes") as process,
        Redis(port=process.port, protocol=3) as redis,
    ):
        yield Restartable(process, redis)


@asynccontextmanager
async def gateways(books):
    """Start gateways' ledgers on a store; each is closed at the end."""
    opened = []

    async def start(name="g1", *, patience=DEADLINE, **options):
        store = Store(books.url, deadline=patience)
        ledger = Ledger(store, name, **options)
        await ledger.start()
        opened.append((ledger, store))
        ledger.store = store
        return ledger

    try:
        yield start
    finally:
        if isinstance(books, Server):
            books.resume()
        for ledger, store in opened:
            await ledger.close()
            await store.close()


@pytest.fixture
async def gateway(server):
    async with gateways(server) as start:
        yield start


@pytest.fixture
async def healing(restartable):
    """Start gateways on the store that can be restarted."""
    async with gateways(restartable) as start:
        yield start
