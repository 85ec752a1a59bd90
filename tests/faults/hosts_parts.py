"""What stands on the test hosts: gateways, a store cluster, engines and a load balancer, each on one of its own."""

import asyncio
import contextlib
import socket
import subprocess
from dataclasses import dataclass

from tests.faults.books import ORGANIZATION, Books
from tests.faults.hosts_load import MODEL, script
from tests.faults.hosts_net import Network
from tests.faults.sites import BOOKS, PRICE
from tests.parts import stores
from tests.parts.gateway import GatewayProcess, write_config
from tests.parts.http1 import Connection
from tests.parts.llamacpp import LlamaServer
from tests.parts.scripted import ScriptedServer
from tests.parts.tiny_model import write_model

CALLERS, OPERATIONS, ENGINE, STORE = 8600, 8601, 8000, 6379
"""Ports: a gateway's two, of which the balancer has the first, an engine's, a store server's."""


class HostedGateway(GatewayProcess):
    """A gateway on a host. `config`: its file, which can be rolled out anew."""

    def __init__(self, host, folder, settings):
        where = {"host": host.address("front")}
        ports = {"listen": {**where, "port": CALLERS}, "operations": {**where, "port": OPERATIONS}}
        folder.mkdir()
        self.host = host
        self.config = write_config(folder, settings | ports)
        super().__init__(self.config)
        self._command = host.command(*self._command)

    def roll_out(self, text):
        """Put a new file in the place of the old one, whole."""
        new = self.config.with_suffix(".new")
        new.write_text(text)
        new.replace(self.config)


class HostedServer(stores.Server):
    """A store server on a host."""

    def __init__(self, host, folder, **options):
        self.host = host
        self.address = host.address("store")
        self.before = host.command()
        super().__init__(folder, STORE, protected_mode="no", **options)


class HostedCluster(stores.Cluster):
    """Three masters and a replica of each, on six hosts."""

    def __init__(self, hosts, folder):
        options = {"cluster_enabled": "yes", "cluster_node_timeout": 1000, "repl_diskless_sync_delay": 0}
        self.servers = [HostedServer(host, folder / host.name, **options) for host in hosts]
        self._buses = [STORE + 10_000] * len(hosts)
        self.masters, self.replicas = self.servers[:3], self.servers[3:]

    async def pair(self, key):
        """Return the master that holds a key now, and its replica."""
        slot = await self.servers[0].ask("CLUSTER KEYSLOT", key)
        number = min(2, slot // (stores.SLOTS // 3))
        pair = self.masters[number], self.replicas[number]
        first = (await pair[0].ask("INFO", "replication"))["role"] == "master"
        return pair if first else pair[::-1]


class HostedEngine(ScriptedServer):
    """A scripted engine on a host, in this process, which answers by ids."""

    def __init__(self, host):
        super().__init__(model=MODEL)
        self.host = host

    def script(self, request):
        return script(request.header("x-request-id"))

    @property
    def url(self):
        return f"http://{self.host.address('front')}:{ENGINE}"

    async def start(self):
        with self.host.inside():
            listening = socket.create_server((self.host.address("front"), ENGINE))
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), sock=listening)
        return self


class HostedLlama(LlamaServer):
    """A real llama.cpp on a host."""

    def __init__(self, host, model):
        super().__init__(model, port=ENGINE, parallel=16, context=1024)
        where = ["env", f"LISTEN={host.address('front')}"]
        command = [*where, self._command[0], "-m", "tests.faults.hosts_llama", *self._command[3:]]
        self._command = host.command(*command)


_HAPROXY = """
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 2s
  timeout client 300s
  timeout server 300s
frontend callers
  bind {address}:{port}
  default_backend gateways
backend gateways
  balance leastconn
  option httpchk GET /readyz
  http-check expect status 200
  default-server check inter 500ms fall 2 rise 1
{servers}
"""


@contextlib.asynccontextmanager
async def balancer(host, folder, gateways):
    """Run haproxy on a host before the gateways, which it asks for readiness; yield its URL."""
    servers = [f"  server {one.host.name} {one.host.address('front')}:{CALLERS} port {OPERATIONS}" for one in gateways]
    address = host.address("front")
    path, log = folder / "haproxy.cfg", folder / "haproxy.log"
    path.write_text(_HAPROXY.format(address=address, port=CALLERS, servers="\n".join(servers)))
    with log.open("wb") as file:
        command = host.command("haproxy", "-db", "-f", path)
        process = subprocess.Popen(command, stdout=file, stderr=file)  # noqa: ASYNC220 - it is ended by its pid
    try:
        await stores.until(lambda: _listens(address))
        yield f"http://{address}:{CALLERS}"
    finally:
        process.kill()
        process.wait()


async def _listens(address):
    _, writer = await asyncio.open_connection(address, CALLERS)
    writer.close()
    return True


@dataclass
class Site:
    """All of it. `engines`: the scripted ones; `url`: the balancer's; `key`: the callers'; `books`: their own."""

    gateways: list[HostedGateway]
    cluster: HostedCluster
    engines: list[HostedEngine]
    url: str
    key: str
    books: Books


PLANS = {"books": BOOKS, "wide": {"tokens_per_week": 10**12, "concurrent_requests": 10**5}}

STALL = 5.0
"""Seconds of silence that end an attempt to stream."""


@contextlib.asynccontextmanager
async def site(folder):
    """Make the hosts and what stands on them; yield a `Site`. This process has moved to the callers' host by then."""
    async with contextlib.AsyncExitStack() as stack:
        network = stack.enter_context(contextlib.closing(Network()))
        desk = network.host("callers", "front", "store")
        stack.enter_context(desk.inside())
        cluster = HostedCluster([network.host(f"store{n}", "store") for n in range(6)], folder / "store")
        for server in cluster.servers:
            stack.callback(server.kill)
        await cluster.start()
        engines = [HostedEngine(network.host(f"engine{n}", "front")) for n in range(2)]
        for engine in engines:
            await stack.enter_async_context(engine)
        real = network.host("real", "front")
        await stack.enter_async_context(HostedLlama(real, write_model(folder)))
        settings = _settings(folder, cluster, engines, real)
        gateways = [
            HostedGateway(network.host(f"gateway{n}", "front", "store"), folder / f"gateway{n}", settings)
            for n in range(3)
        ]
        for gateway in gateways:
            stack.callback(gateway.kill)
        await asyncio.gather(*(gateway.start(within=60.0) for gateway in gateways))
        url = await stack.enter_async_context(balancer(network.host("balancer", "front"), folder, gateways))
        key = await gateways[0].create_key(organization=ORGANIZATION, name="wide", plan="wide")
        books = await stack.enter_async_context(Books(cluster.url))
        yield Site(gateways, cluster, engines, url, key, books)


def _settings(folder, cluster, engines, real):
    replicas = folder / "replicas"
    replicas.write_text("".join(f"{engine.url}/v1\n" for engine in engines))
    return {
        "store": {"url": cluster.url, "when_down": "local"},
        "backends": {
            "pair": {"kind": "vllm", "list": str(replicas)},
            "real": {"kind": "llamacpp", "base_url": f"http://{real.address('front')}:{ENGINE}/v1"},
        },
        "models": {
            MODEL: {
                "deployments": [
                    {"backend": "pair", "model": MODEL, "price": PRICE},
                    {"backend": "real", "model": "tiny", "price": PRICE},
                ],
                "deadlines": {"total": 200, "first_content": STALL, "stall": STALL},
            }
        },
        "plans": PLANS,
        "organizations": {ORGANIZATION: {"plan": "books"}},
    }
