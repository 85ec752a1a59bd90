"""A whole gateway in the test's own loop, over an embedded store and upstreams that the test scripts."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import httpx
import msgspec

from gateway import server
from gateway.config.settings import (
    STANDARD,
    Backend,
    Limits,
    Listen,
    Organization,
    Settings,
    StoreSettings,
    Telemetry,
)
from gateway.identity.key_making import blank, create_key
from gateway.identity.records import Author
from gateway.ledger import reports
from gateway.ledger.reports import By
from policies.domain import Deadlines, Deployment, Model, Price
from policies.terms import RoutingTerms
from tests.parts.gateway import STORE_DEADLINE

TEXT = frozenset({"text"})
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def settings(folder, upstreams, kind="openai", **changes):
    """Make settings over `upstreams` (name -> server), each serving the model `m`, the first the cheapest."""
    backends = tuple(
        Backend(name, kind, f"{upstream.url}/v1", f"secret-{name}", probe_every=0)
        for name, upstream in upstreams.items()
    )
    deployments = tuple(
        Deployment(name, kind, "scripted", None, TEXT, Price(rank * 10**9, 0)) for rank, name in enumerate(upstreams)
    )
    terms = changes.pop("terms", RoutingTerms())
    total = changes.pop("total", 900.0)
    base = Settings(
        listen=Listen("127.0.0.1", 0),
        operations=Listen("127.0.0.1", 0),
        admin_key="admin",
        store=StoreSettings("embedded", folder / "data", deadline=STORE_DEADLINE),
        limits=Limits(),
        backends=backends,
        models=(Model("m", ("alias",), deployments, (), terms, Deadlines(total)),),
        plans={"standard": STANDARD},
        organizations={"acme": Organization(None, {})},
        telemetry=Telemetry(),
        digest="0123456789ab",
    )
    return msgspec.structs.replace(base, **changes)


async def new_key(gateway, organization="acme", plan=None, **terms):
    """Make an API key as an admin would, and return it."""
    wanted = msgspec.structs.replace(blank(organization, "team", "test", plan), **terms)
    _, key = await create_key(gateway.registry, Author("admin key"), wanted)
    return key


class Booked(NamedTuple):
    """What one key has used of one model."""

    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    estimated_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    money: int

    @classmethod
    def of(cls, row):
        sums = row.amounts
        tokens = sums.input, sums.output, sums.estimated, sums.cached, sums.reasoning
        return cls(row.values[1], sums.calls, *tokens, sums.money)


class Harness:
    """A running gateway, a key for it and a client that sends the key."""

    def __init__(self, running, client):
        self.running = running
        self.client = client
        self.gateway = running.gateway
        self.services = running.gateway.services

    async def key(self, plan=None, organization="acme", **terms):
        return await new_key(self.gateway, organization, plan, **terms)

    async def who(self):
        """Return the principal whose key the client sends."""
        credential = self.client.headers["authorization"].encode()
        return await self.services.identities.identify([(b"authorization", credential)], "127.0.0.1")

    async def ask(self, api="chat/completions", key=None, **members):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return await self.client.post(f"/v1/{api}", json=ASK | members, headers=headers)

    async def usage(self, organization="acme", *, platform=False):
        """Return what the ledger has booked by key and model, once nothing is open any more.

        `platform`: to the operator's own account instead.
        """
        await self.gateway.ledger._batches.drain(5.0)
        now = datetime.now(UTC)
        hours = reports.span(now - timedelta(hours=1), now + timedelta(hours=1), now)
        zones, by = {organization: UTC}, [By.KEY, By.MODEL]
        found = await reports.usage(self.gateway.store, zones, hours, by)
        return [Booked.of(row) for row in found.rows if (row.values[0] == reports.NOBODY) == platform]

    def metric(self, name, **labels):
        return self.services.metrics.registry.get_sample_value(name, labels) or 0.0


@contextlib.asynccontextmanager
async def running(folder, upstreams, **changes):
    """Run a gateway over `upstreams` and yield its harness."""
    started = await server.start(settings(folder, upstreams, **changes))
    try:
        async with httpx.AsyncClient(base_url=started.url, timeout=20) as client:
            harness = Harness(started, client)
            client.headers["authorization"] = f"Bearer {await harness.key()}"
            yield harness
    finally:
        await started.stop()


async def eventually(condition, within=20.0):
    """Wait until `condition()` holds, and return True. Raise TimeoutError where it never does."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - the condition is anybody's
            await asyncio.sleep(0.005)
    return True
