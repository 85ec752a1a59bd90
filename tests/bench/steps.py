"""What each step of a call costs by itself: `python -m pytest tests/bench/steps.py`. BUDGET.md has its part for each.

Law: a step is measured as the call does it, over real objects, with nothing else in the way; figures are microseconds
on a warm, otherwise idle core, so that they compare with one another and not between machines.
"""

import asyncio
import json
import random
from contextlib import AsyncExitStack
from functools import partial

import httpx
import pytest
import uvloop

from gateway.config.settings import STANDARD, Backend, Issuer
from gateway.config.stored import stored_plan
from gateway.errors import error_body
from gateway.identity import keys
from gateway.identity.changes import Feed
from gateway.identity.identify import Identities
from gateway.identity.issuers import Issuers
from gateway.identity.key_making import blank, create_key
from gateway.identity.last_used import LastUsed
from gateway.identity.records import Author
from gateway.identity.registry import Registry
from gateway.ledger import Ledger
from gateway.metrics import Metrics
from gateway.reply import Reply
from gateway.store.door import Store
from gateway.store.embedded import embedded
from gateway.telemetry import Telemetry, propagate
from gateway.upstream.connection import Connection
from gateway.upstream.fleet import Fleet
from gateway.upstream.transport import open_transport
from policies.dialects import DIALECTS
from policies.domain import Bill, Claim, Deadlines, Deployment, Level, Meter, MeterKind, Model, Plan, Price, Usage
from policies.estimates import Estimates
from policies.rejections import Reason, Rejection
from policies.request import read
from policies.rewrite import rewrite
from policies.routing import route
from policies.subjects import Mapping
from policies.taps import tap_of
from policies.terms import RoutingTerms
from policies.usage import usage_of
from tests.bench.scenarios import chat
from tests.bench.upstream import _PLAIN, event
from tests.fakes.identity_provider import IdentityProvider
from tests.parts.fast import fast_upstream

WIDE = Plan(
    "wide",
    (
        Meter(MeterKind.REQUESTS_PER_MINUTE, 60_000_000, 60_000_000),
        Meter(MeterKind.TOKENS_PER_MINUTE, 150_000_000, 150_000_000),
        Meter(MeterKind.CONCURRENT_REQUESTS, 10_000, 10_000),
    ),
)
DEPLOYMENTS = tuple(
    Deployment(f"up{n}", "vllm", "m", 262_144, frozenset({"text", "image"}), Price(n, n)) for n in range(4)
)
MODEL = Model("m", (), DEPLOYMENTS, (), RoutingTerms(), Deadlines())
SIZES = {"small": chat("m"), "100 KB": chat("m", padding=100_000), "4 MB image": chat("m", image=4_000_000)}


@pytest.fixture(scope="module")
def loop():
    made = uvloop.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def fleet():
    made = Fleet()
    for deployment in DEPLOYMENTS:
        made.add(Backend(deployment.backend, "vllm", "http://127.0.0.1:9/v1"))
    return made


@pytest.mark.parametrize("size", SIZES)
def test_read(benchmark, size):
    assert benchmark(read, "chat", SIZES[size]).model == "m"


@pytest.mark.parametrize("size", SIZES)
def test_rewrite(benchmark, size):
    request = read("chat", SIZES[size])
    assert benchmark(rewrite, request, DEPLOYMENTS[0], DIALECTS["vllm"])[0].startswith(b"{")


def test_route(benchmark, fleet):
    request, dice = read("chat", SIZES["small"]), random.Random(1)
    estimate = Estimates().of("key", request)

    def plan():
        return route(request, [MODEL], {"m": fleet.snapshots(MODEL, 1.0)}, estimate, dice)

    assert len(benchmark(plan).order) == 4


def test_estimate(benchmark):
    request, estimates = read("chat", SIZES["small"]), Estimates()
    assert benchmark(estimates.of, "key", request).prompt_tokens


def test_usage_of(benchmark):
    assert benchmark(usage_of, _PLAIN).prompt_tokens == 5


def test_tap_fifty_events(benchmark):
    wire = b"".join(part.split(b"\r\n", 1)[1][:-2] for part in (event(f"word{n}") for n in range(50)))

    def feed():
        tap = tap_of("chat", withhold_usage=True)
        tap.feed(wire)
        return tap

    assert benchmark(feed).events == 50


def test_tap_one_event(benchmark):
    part = event("word").split(b"\r\n", 1)[1][:-2]
    tap = tap_of("chat", withhold_usage=True)
    tap.feed(part)
    assert benchmark(tap.feed, part) == part


def test_error_body(benchmark):
    assert json.loads(benchmark(error_body, Rejection(Reason.NO_KEY, "No."), "req_1"))


@pytest.mark.parametrize("credential", ["key", "token"])
def test_identify_from_memory(benchmark, loop, tmp_path, credential):
    """Time stands still, so that what is known stays proven."""

    async def prepare():
        async with AsyncExitStack() as stack:
            store = Store(await stack.enter_async_context(embedded(tmp_path)))
            provider = await stack.enter_async_context(IdentityProvider())
            mapping = Mapping(organization="acme", team="team")
            issuer = Issuer(name="idp", issuer=provider.issuer, audience=("sluiceway",), mapping=mapping)
            registry, feed = Registry(store), Feed(store, now=lambda: 0.0)
            identities = Identities(
                registry,
                feed,
                plans={"standard": STANDARD},
                organizations={},
                when_down="deny",
                grace=600.0,
                compile_plan=partial(stored_plan, models=None),
                issuers=Issuers([issuer]),
                last_used=LastUsed(store),
                now=lambda: 0.0,
            )
            stack.push_async_callback(store.close)
            stack.push_async_callback(feed.close)
            stack.push_async_callback(identities._issuers.close)
            _, key = await create_key(registry, Author("admin key"), blank("acme", "team", "bench"))
            told = {"key": key.encode(), "token": provider.token()}[credential]
            headers = [(b"host", b"x"), (b"authorization", b"Bearer " + told)]
            await feed.start()
            await identities.identify(headers, "127.0.0.1")
            return identities, headers

    identities, headers = loop.run_until_complete(prepare())
    assert benchmark(identities.cached, headers, "127.0.0.1").organization == "acme"


def test_key_digest(benchmark):
    assert benchmark(keys.digest, b"sw_" + b"0" * 60)


def test_ledger_admit_and_settle_thirty_two_at_once(benchmark, loop, tmp_path):
    """The figure is for 32 calls; divide."""

    async def prepare():
        served = embedded(tmp_path)
        store = Store(await served.__aenter__())
        ledger = Ledger(store, "bench")
        await ledger.start()
        return served, store, ledger

    served, store, ledger = loop.run_until_complete(prepare())
    claim = Claim(
        "acme", "t", "key", "m", (Level("organization", "org", WIDE.meters), Level("key", "key:k", WIDE.meters)), 50, 50
    )

    async def one():
        ledger.settle(await ledger.admit(claim), Bill(Usage(5, 5, estimated=False)))

    async def many():
        await asyncio.gather(*(one() for _ in range(32)))

    benchmark(lambda: loop.run_until_complete(many()))

    async def end():
        await ledger.close()
        await store.close()
        await served.__aexit__(None, None, None)

    loop.run_until_complete(end())


def test_spans_unsampled(benchmark):
    telemetry = Telemetry("http://127.0.0.1:9", 0.0, version="0", instance="i")
    headers = [(b"host", b"x"), (b"content-type", b"application/json"), (b"authorization", b"Bearer x")]

    def both():
        return propagate(telemetry.server_span("/v1/chat/completions", headers, "127.0.0.1"))

    assert benchmark(both)
    telemetry._provider.shutdown()


def test_metrics(benchmark):
    metrics = Metrics()

    def call():
        metrics.requests("chat", "m", "200").inc()
        metrics.tokens("m", "prompt", "told").inc(5)
        metrics.tokens("m", "completion", "told").inc(5)
        metrics.attempts("up", "ok").inc()
        metrics.overhead.observe(0.001)

    benchmark(call)
    assert metrics.registry.get_sample_value("sluiceway_requests_total", {"api": "chat", "model": "m", "status": "200"})


def test_transport_round_trip(benchmark, loop):
    """Both ends of it: the bare upstream runs in the same loop."""
    opened = open_transport(Backend("up", "vllm", "http://127.0.0.1:9/v1"))
    served = fast_upstream()
    url = httpx.URL(loop.run_until_complete(served.__aenter__()) + "/v1/chat/completions")
    headers = [(b"host", url.netloc), (b"content-type", b"application/json")]

    async def one():
        answer = await opened.post(url, headers, b"{}", lambda: None)
        body = await answer.read()
        return body if await answer.read() is None else None

    assert benchmark(lambda: loop.run_until_complete(one()))
    loop.run_until_complete(opened.aclose())
    loop.run_until_complete(served.__aexit__(None, None, None))


def test_parse_an_answer(benchmark):
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_PLAIN)
    connection = Connection()

    def parse():
        connection._busy = True
        connection._begin_answer()
        connection.data_received(head + _PLAIN)
        return connection.status

    assert benchmark(parse) == 200


def test_reply(benchmark, loop):
    async def send(message):
        pass

    async def answer():
        reply = Reply(send, "req_0", b"0123456789ab")
        await reply.head(200, "application/json", len(_PLAIN))
        await reply.body(_PLAIN, more=False)

    def drive():
        coroutine = answer()
        try:
            coroutine.send(None)
        except StopIteration:
            return True
        return False

    assert benchmark(drive)
