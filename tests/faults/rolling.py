"""Gateways behind a real load balancer are restarted one after the other under streams: nothing may be lost.

Law: nobody tries anything twice, neither callers nor the balancer, so each call that breaks is seen. Every call has an
id of its own, by which its answer, what the upstream told, the books and the spans are held against each other.

As a command, with figures: `python -m tests.faults.rolling --restarts 20 --streams 200` (soak). Exits with 1 where a
promise is broken.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from gateway.ledger.records import What
from tests.faults.books import ORGANIZATION, Books, calls, settled, until
from tests.faults.crowd import GONE_FOR, Caller
from tests.faults.sites import BOOKS, PRICE
from tests.parts import stores
from tests.parts.balancer import BALANCERS, Balancer, HAProxy
from tests.parts.gateway import GatewayProcess, write_config
from tests.parts.otlp import OtlpReceiver
from tests.parts.ports import free_port
from tests.parts.scripted import Hang, ScriptedServer, plain, sse, usage

MODEL = "m"

PLAIN, TALK, LONG, ENDLESS = "plain", "talk", "long", "endless"
"""A whole answer; a stream of 1 to 3 s; one that outlives the pause; one that outlives the grace."""

PACE = 0.25
"""Seconds between two words of a stream."""

PAUSE, GRACE = 2.0, 30.0
"""Seconds. A balancer that looks every 0.5 s and believes the second no needs half of the pause, more on busy cores."""

PLAIN_CALLERS, LONG_CALLERS = 8, 4
"""Callers of other calls than streams of 1 to 3 s."""

THINK = 0.1
"""Seconds between two calls of one who asks for whole answers."""

PLANS = {"books": BOOKS, "wide": {"tokens_per_week": 10**12, "concurrent_requests": 10**5}}

_LAST = re.compile(rb"\r\nconnection: ?close", re.IGNORECASE)


def told(id_):
    """Return the usage that a whole answer to the call of that id tells."""
    shape, _, number = id_.partition("-")
    words = {PLAIN: 3, TALK: 4 + int(number) % 9, LONG: round((PAUSE + 2) / PACE), ENDLESS: 2000}[shape]
    return usage(5 + int(number) % 7, words)


@cache
def _script(shape, prompt, words):
    counted = usage(prompt, words)
    if shape == PLAIN:
        return plain("fine", told=counted, model=MODEL)
    if shape == ENDLESS:
        return [*sse(*["tok "] * words, every=PACE, end=False, model=MODEL), Hang()]
    return sse(*["tok "] * words, told=counted, every=PACE, model=MODEL)


class Upstream(ScriptedServer):
    """Answers by ids: `shape-number`."""

    def __init__(self):
        super().__init__(model=MODEL)

    def script(self, request):
        id_ = request.header("x-request-id")
        counted = told(id_)
        return _script(id_.partition("-")[0], counted["prompt_tokens"], counted["completion_tokens"])


def body(shape):
    """Return the body of a call of that shape; streams ask for their usage."""
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "hi there"}]}
    more = {} if shape == PLAIN else {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(asked | more).encode()


class Regular(Caller):
    """A caller who keeps its connection as long as it is not told otherwise."""

    def _end(self, *, whole):
        super()._end(whole=whole)
        if whole and self._transport is not None and _LAST.search(self._head):
            self._transport.close()


def is_good(answer):
    """Say whether the caller got all that the upstream told, and its end."""
    if answer.status != 200 or not answer.whole:
        return False
    counted = told(answer.id)
    if answer.id.startswith(PLAIN):
        return json.loads(answer.text)["usage"] == counted
    words = answer.text.count(b'"tok "')
    last = f'"usage": {json.dumps(counted)}'.encode()
    return words == counted["completion_tokens"] and last in answer.text and b"data: [DONE]\n\n" in answer.text


class Load:
    """Callers who ask again at once, through `url`. `answers`: what they got; `open`: streams under way."""

    def __init__(self, url, key):
        self.answers = []
        self.going = True
        self.open = 0
        self.numbers = itertools.count()
        self._url, self._key = url, key
        self._tasks = []

    def begin(self, shape, count, think=0.0):
        """Let so many callers ask for answers of that shape, until `end`."""
        self._tasks += [asyncio.ensure_future(self._run(shape, think)) for _ in range(count)]

    async def end(self):
        """Let each caller get its last answer."""
        self.going = False
        await asyncio.gather(*self._tasks)

    async def _run(self, shape, think):
        caller = Regular(self._url, self._key)
        while self.going:
            self.open += shape != PLAIN
            answer = await caller.ask(f"{shape}-{next(self.numbers)}", body(shape))
            self.open -= shape != PLAIN
            self.answers.append(answer)
            if think or answer.status != 200:
                await asyncio.sleep(think or GONE_FOR)
        caller.close()


@dataclass
class Figures:
    """What was seen; lists name calls, and must be empty.

    `noticed`: the longest that the balancer went on sending calls, seconds (0: it does not tell). `lost`: answered
    otherwise than the upstream answered. `unbooked`, `wrong`: not in the books, or otherwise than told. `strays`: in
    the books and never made. `untraced`, `traced_twice`: by server spans.
    """

    restarts: int = 0
    codes: list[int] = field(default_factory=list)
    streams: int = 0
    plain: int = 0
    least_open: int = 10**9
    longest_stop: float = 0.0
    longest_start: float = 0.0
    noticed: float = 0.0
    connections: int = 0
    reused: int = 0
    lost: list[str] = field(default_factory=list)
    unbooked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    expired: int = 0
    reservations: int = -1
    slots: int = -1
    differences: list[dict] = field(default_factory=list)
    untraced: list[str] = field(default_factory=list)
    traced_twice: list[str] = field(default_factory=list)


@dataclass
class Site:
    """`gateways` over one store, behind one `balancer` and before one `upstream`; `spans`: what they exported."""

    gateways: list[GatewayProcess]
    balancer: Balancer | None
    upstream: Upstream
    books: Books
    spans: OtlpReceiver
    key: str


@contextlib.asynccontextmanager
async def site(folder, url, *, kind="haproxy", count=2, pause=PAUSE, grace=GRACE, pair=None):
    """Run so many gateways over the store behind `url`; yield a `Site`.

    `kind`: of the balancer; None: there is none. `pair`: of a certificate and its key, for TLS.
    """
    async with contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Upstream())
        spans = stack.enter_context(OtlpReceiver())
        settings = {
            "backends": {"up": {"kind": "vllm", "base_url": f"{upstream.url}/v1"}},
            "models": {MODEL: {"deployments": [{"backend": "up", "model": MODEL, "price": PRICE}]}},
            "plans": PLANS,
            "organizations": {ORGANIZATION: {"plan": "books"}},
            "telemetry": {"otlp_endpoint": spans.endpoint, "sample": 1.0},
            "shutdown": {"pause": pause, "grace": grace},
        }
        gateways = []
        for number in range(count):
            home = folder / f"gateway-{number}"
            home.mkdir()
            store = {"store": {"url": url, "data_dir": str(home / "data"), "deadline": 5.0}}
            gateways.append(GatewayProcess(write_config(home, settings | store | _secured(pair))))
            stack.callback(gateways[-1].kill)
        await asyncio.gather(*(gateway.start(within=30.0) for gateway in gateways))
        balancer = None
        if kind is not None:
            balancer = await stack.enter_async_context(BALANCERS[kind](folder, gateways))
        books = await stack.enter_async_context(Books(url))
        key = await gateways[0].create_key(organization=ORGANIZATION, plan="wide")
        yield Site(gateways, balancer, upstream, books, spans, key)


def _secured(pair):
    """Return what of a configuration is for TLS."""
    if pair is None:
        return {}
    cert, key = map(str, pair)
    return {"listen": {"host": "127.0.0.1", "port": free_port(), "tls": {"cert": cert, "key": key}}}


async def rolling(folder, url, *, restarts=5, streams=100, **how):
    """Restart the gateways of a site one after the other under so many streams; return `Figures`."""
    figures = Figures()
    async with site(folder, url, **how) as where:
        load = Load(where.balancer.url, where.key)
        load.begin(TALK, streams)
        load.begin(LONG, LONG_CALLERS)
        load.begin(PLAIN, PLAIN_CALLERS, THINK)
        watching = asyncio.ensure_future(_watch(load, figures))
        await asyncio.sleep(1.0)  # that streams of every age are under way
        for number in range(restarts):
            await _restart(where, where.gateways[number % len(where.gateways)], figures, streams // 4)
        watching.cancel()
        await load.end()
        await settled(where.gateways)
        await _hold_books(where, figures, load.answers)
        for gateway in where.gateways:
            figures.codes.append(await gateway.terminate(within=60.0))
        _hold_spans(where, figures, load.answers)
    return figures


async def _watch(load, figures):
    """Note the fewest streams that are under way."""
    await asyncio.sleep(0.5)
    while True:
        figures.least_open = min(figures.least_open, load.open)
        await asyncio.sleep(0.01)


async def _restart(where, gateway, figures, busy):
    """Stop one gateway, start it again, and wait until it has so many calls again.

    Fewer may be a balancer's trials: nginx sends one every other second, and goes on taking the gateway for one that
    fails until one of them is over. If the other is stopped meanwhile, it knows nobody to send a call to.
    """
    tells = isinstance(where.balancer, HAProxy)
    begun = time.monotonic()
    gateway.send(signal.SIGTERM)
    if tells:
        await until(lambda: _out(where, gateway), 30.0)
        figures.noticed = max(figures.noticed, time.monotonic() - begun)
    figures.codes.append(await gateway.ended(within=90.0))
    ended = time.monotonic()
    await gateway.start(within=120.0)
    figures.longest_stop = max(figures.longest_stop, ended - begun)
    figures.longest_start = max(figures.longest_start, time.monotonic() - ended)
    await until(lambda: where.balancer.takes([gateway]), 30.0)
    await until(lambda: _is_busy(gateway, busy), 30.0)
    if tells:
        rows = (await where.balancer.told()).values()
        figures.connections = sum(int(row["connect"]) for row in rows if row["svname"] == "BACKEND")
        figures.reused = sum(int(row["reuse"]) for row in rows if row["svname"] == "BACKEND")
    figures.restarts += 1


async def _out(where, gateway):
    return not await where.balancer.takes([gateway])


async def _is_busy(gateway, calls):
    return (await gateway.metrics())["sluiceway_open_calls"] >= calls


async def _hold_books(where, figures, answers):
    """Hold what callers got and what the upstream told against the books."""
    found = await where.books.records()
    booked = calls(found)
    figures.expired = sum(record.head.what is not What.SETTLED for record in found)
    for answer in answers:
        figures.streams += not answer.id.startswith(PLAIN)
        figures.plain += answer.id.startswith(PLAIN)
        if not is_good(answer):
            figures.lost.append(f"{answer.id}: {answer.status} {answer.text[-200:]!r}")
        record = booked.pop(answer.id, None)
        if record is None:
            figures.unbooked.append(answer.id)
        elif not _as_told(record):
            figures.wrong.append(f"{answer.id}: {record.head}")
    figures.strays = sorted(booked)
    figures.reservations = sum((await where.books.reservations()).values())
    figures.slots = sum((await where.books.slots()).values())
    figures.differences = (await where.gateways[-1].admin("GET", "/ledger/check"))["differences"]


def _as_told(record):
    counted, head = told(record.request_id), record.head
    return (head.input, head.output, head.estimated) == (counted["prompt_tokens"], counted["completion_tokens"], False)


def _hold_spans(where, figures, answers):
    """Hold the calls against their server spans; one that a busy receiver got twice, by its id, is one."""
    spans = {span.span_id: span for span in where.spans.spans if span.kind == "server"}
    seen = Counter(span.attributes["sluiceway.request_id"] for span in spans.values())
    figures.untraced = [answer.id for answer in answers if answer.id not in seen]
    figures.traced_twice = [id_ for id_, times in seen.items() if times > 1]


def promises(seen, streams):
    """Yield each promise by its name, and whether it was kept."""
    yield "exit code 0 each time", not any(seen.codes) and len(seen.codes) >= seen.restarts
    yield "under so many streams", seen.least_open >= streams
    yield "over connections that were used again", seen.reused > seen.connections or not seen.noticed
    yield "nothing lost", seen.lost == []
    yield "no settlement missing", not (seen.unbooked or seen.wrong or seen.strays or seen.expired)
    yield "nothing held", seen.reservations == seen.slots == 0
    yield "audit", seen.differences == []
    yield "one span a call", not (seen.untraced or seen.traced_twice)


async def _main(arguments):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with stores.one(folder / "store") as store:
            return await rolling(
                folder, store.url, restarts=arguments.restarts, streams=arguments.streams, kind=arguments.balancer
            )


def main():
    """Print what was seen; return how many promises were broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.rolling")
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--balancer", choices=BALANCERS, default="haproxy")
    arguments = parser.parse_args()
    seen = asyncio.run(_main(arguments))
    for name, value in asdict(seen).items():
        told_ = f"{len(value)}: {value[:3]}" if isinstance(value, list) and value else value
        print(f"{name:16} {told_:.3g}" if isinstance(value, float) else f"{name:16} {told_}")
    kept = dict(promises(seen, arguments.streams))
    for promise, good in kept.items():
        print(f"{'kept' if good else 'BROKEN':7} {promise}")
    return sum(not good for good in kept.values())


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
