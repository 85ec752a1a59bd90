"""What is measured: each scenario sets the upstream's answer and loads one site for a round.

Law: a round's figures come from one site under one load; nothing is compared here. Figures are named with their unit.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx

from tests.bench.load import closed_loop, open_loop, quantile, request, streams
from tests.bench.sites import cpu_seconds, resident

LOAD_SHARE = 0.2
"""Share of our own saturated throughput at which the added latency is measured."""

LITELLM = frozenset({"litellm"})
"""It carries 30 streams and 200 plain calls a second: a round of these would take it minutes."""


class UnexpectedError(RuntimeError):
    """A site answered something else than what the scenario is about."""


def chat(model, *, stream=False, padding=0, image=0):
    """Return a chat's body, its prompt or image that many bytes longer."""
    content = "Say a word. " + "lorem ipsum " * (padding // 12)
    if image:
        url = "data:image/png;base64," + "iVBORw0KGgoA" * (image // 12)
        content = [{"type": "text", "text": content}, {"type": "image_url", "image_url": {"url": url}}]
    body = {"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": content}]}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


async def set_answer(upstream, events=0, rate=0):
    """Say what the upstream answers from now on."""
    async with httpx.AsyncClient(trust_env=False) as client:
        (await client.put(f"{upstream}/answer?events={events}&rate={rate}")).raise_for_status()


def _expect(statuses, status):
    if set(statuses) - {status} or not statuses[status]:
        raise UnexpectedError(f"expected only {status}, got {dict(statuses)}")


@dataclass
class Bench:
    """What a scenario may use: the upstream's URL, the seconds of a round, and our saturated rate once known."""

    upstream: str
    seconds: float
    our_rate: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """One thing to measure. `key`: the figure that is compared, `higher` is better or not; `only`: the site it is for.

    `slow`: sites that are left out because they cannot keep the pace, by far.
    """

    name: str
    text: str
    measure: Callable[..., Awaitable[dict]]
    key: str = "per_second"
    higher: bool = True
    only: str = ""
    slow: frozenset[str] = frozenset()
    events: int = 0
    rate: float = 0


def saturated(connections, status=200, headers="headers", **body):
    """Measure how many calls a second a site carries with so many callers that ask again and again."""

    async def measure(bench, site):
        wire = request(site.url, site.path, getattr(site, headers), chat(site.model, **body))
        trips = await _round_trips(site)
        before = cpu_seconds(site.pids)
        if status == 429:
            await closed_loop(site.url, wire, 1, 0)  # takes what the limit holds
        statuses, latencies, took = await closed_loop(site.url, wire, connections, bench.seconds)
        used = cpu_seconds(site.pids) - before
        _expect(statuses, status)
        count = statuses[status]
        figures = {
            "per_second": count / took,
            "p50_ms": quantile(latencies, 0.5) * 1e3,
            "p99_ms": quantile(latencies, 0.99) * 1e3,
        }
        if site.pids:
            figures |= {"cpu_us": used / count * 1e6, "core_busy": used / took}
        if trips is not None:
            figures["round_trips"] = (await _round_trips(site) - trips) / count
        return figures

    return measure


async def _round_trips(site):
    return None if site.gateway is None else (await site.gateway.metrics())["sluiceway_store_round_trips"]


async def added(bench, site):
    """Measure latencies at a fixed rate, a share of what we can carry."""
    rate = LOAD_SHARE * bench.our_rate
    wire = request(site.url, site.path, site.headers, chat(site.model))
    statuses, latencies = await open_loop(site.url, wire, rate, bench.seconds * 2)
    _expect(statuses, 200)
    return {"rate": rate, "p50_ms": quantile(latencies, 0.5) * 1e3, "p99_ms": quantile(latencies, 0.99) * 1e3}


def paced(count, events, rate):
    """Measure how far behind the upstream's pace the events of so many streams are."""

    async def measure(bench, site):
        wire = request(site.url, site.path, site.headers, chat(site.model, stream=True))
        peak = []
        empty = resident(site.pids)
        before = cpu_seconds(site.pids)
        statuses, delays, excess, took = await streams(
            site.url, wire, count, events / rate / 2, lambda: peak.append(resident(site.pids))
        )
        _expect(statuses, 200)
        figures = {
            "events": len(delays) / count,
            "delay_p50_ms": quantile(delays, 0.5) * 1e3,
            "delay_p99_ms": quantile(delays, 0.99) * 1e3,
            "gap_p99_ms": quantile(excess, 0.99) * 1e3,
            "pace": events / rate / quantile(took, 0.99),
        }
        if site.pids:
            figures["kb_a_stream"] = max(0, peak[0] - empty) / count / 1024
            figures["cpu_us_an_event"] = (cpu_seconds(site.pids) - before) / len(delays) * 1e6
        return figures

    return measure


SCENARIOS = (
    Scenario("plain", "a small chat, 32 callers", saturated(32)),
    Scenario("prompt", "a prompt of 100 KB, 32 callers", saturated(32, padding=100_000)),
    Scenario("image", "an image of 4 MB, 4 callers", saturated(4, image=4_000_000)),
    Scenario("burst", "a stream of 50 events at once, 32 callers", saturated(32, stream=True), events=50),
    Scenario("added", "a small chat at a fifth of our rate, open loop", added, "p50_ms", False, slow=LITELLM),
    Scenario("paced-300", "300 streams of 50 events/s", paced(300, 150, 50), "gap_p99_ms", False, "", LITELLM, 150, 50),
    Scenario(
        "paced-1000", "1,000 streams of 10 events/s", paced(1000, 40, 10), "gap_p99_ms", False, "", LITELLM, 40, 10
    ),
    Scenario("401", "an unknown key, 32 callers", saturated(32, 401, "unknown"), only="sluiceway"),
    Scenario("429", "a key over its limit, 32 callers", saturated(32, 429, "narrow"), only="sluiceway"),
)
