"""Some gateways over one store and one upstream that says what it wrote."""

import asyncio
import contextlib
import itertools
import json

from tests.faults.books import ORGANIZATION, Books, settled
from tests.faults.crowd import Caller
from tests.faults.upstreams import MODEL, PLAIN, Upstream
from tests.parts.gateway import GatewayProcess, write_config

PRICE = {"input": 1.0, "output": 2.0}
"""USD a million tokens."""

BOOKS = {"tokens_per_day": 10**12, "tokens_in_all": 10**13, "budget_per_month": 10**5, "concurrent_requests": 10**5}
"""Meters that refuse nobody here and that an audit can tell."""

BODIES = {
    stream: json.dumps(
        {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": "hi there"}]}
    ).encode()
    for stream in (False, True)
}


def body(shape):
    """Return the body of a call of that shape."""
    return BODIES[shape != PLAIN]


class Site:
    """`gateways`, the `upstream` behind them and the `books` they share; `numbers` gives each call its own."""

    def __init__(self, gateways, upstream, books):
        self.gateways, self.upstream, self.books = gateways, upstream, books
        self.numbers = itertools.count()

    async def crowd(self, count, plan, organization=ORGANIZATION):
        """Return so many callers of one new key, in turn over the gateways."""
        key = await self.gateways[0].create_key(organization=organization, name=plan, plan=plan)
        return [Caller(self.gateways[n % len(self.gateways)].url, key) for n in range(count)]

    async def audit(self):
        """Return what an audit finds wrong, after waiting for nothing."""
        return (await self.gateways[-1].admin("GET", "/ledger/check"))["differences"]

    async def metric(self, name):
        """Return the sum of a metric over the gateways."""
        return sum([(await gateway.metrics()).total(name) for gateway in self.gateways])

    async def settled(self):
        """Wait until nothing is open."""
        await settled(self.gateways)


@contextlib.asynccontextmanager
async def site(folder, url, count, *, plans, **store):
    """Run so many gateways over the store behind `url`; yield a `Site`. `plans` beside `books`, the organization's.

    `store`: what else is configured of the store.
    """
    async with contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Upstream())
        settings = {
            "backends": {"up": {"kind": "vllm", "base_url": f"{upstream.url}/v1"}},
            "models": {MODEL: {"deployments": [{"backend": "up", "model": MODEL, "price": PRICE}]}},
            "plans": {"books": BOOKS | {name: store[name] for name in ("when_down",) if name in store}, **plans},
            "organizations": {ORGANIZATION: {"plan": "books"}},
        }
        processes = []
        for number in range(count):
            home = folder / f"gateway-{number}"
            home.mkdir()
            where = {"store": {"url": url, "data_dir": str(home / "data"), **store}}
            processes.append(GatewayProcess(write_config(home, settings | where)))
            stack.callback(processes[-1].kill)
        await asyncio.gather(*(process.start(within=30.0) for process in processes))
        books = await stack.enter_async_context(Books(url))
        yield Site(processes, upstream, books)
