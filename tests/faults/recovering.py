"""A primary that goes down under steady load, and comes back: who serves, and how often it is looked for meanwhile.

Law: in the test, time is scaled by the breaker's pauses alone (`SCALE` of 10 s), and what is counted are calls, never
seconds. The command, `python -m tests.faults.recovering` (soak), scales nothing: a real engine is away for a minute.
"""

import asyncio
import itertools
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from policies import breaker
from tests.faults import scripts
from tests.faults.outcomes import PLENTY
from tests.faults.theatre import Cast, Verdict, lawful, theatre
from tests.parts.gateway import GatewayProcess, write_config
from tests.parts.llamacpp import LlamaServer
from tests.parts.ports import free_port
from tests.parts.tiny_model import write_model

SCALE = 1 / 20
"""Of real time: what is 60 s there takes 3 s here."""

DOWN = 60.0 * SCALE
EVERY = 0.02
"""Seconds between two calls."""

BACK = 90.0 * SCALE
"""Seconds within which a primary that is back must be found: pauses of 10, 20 and 40 s were begun while it was away."""

SOME = 50
"""Calls before it goes down, and after it is found again."""


@dataclass
class Figures:
    """What was seen. `places`: who served, call by call; `tried`: calls sent to the primary while it was down."""

    complaints: list[str] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    away: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    tried: int = 0
    found: bool = False
    left: list[str] = field(default_factory=list)


async def recovering(folder, monkeypatch, transport, play, *, stream):
    """Let the primary play `play` for a while; return `Figures`."""
    monkeypatch.setattr(breaker, "FIRST_PAUSE", breaker.FIRST_PAUSE * SCALE)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE", breaker.LONGEST_PAUSE * SCALE)
    cast = Cast(0, (scripts.well, scripts.well), PLENTY)
    figures, verdict, numbers = Figures(), Verdict(), itertools.count()

    async with theatre(folder, transport, [cast]) as it:

        async def call(places):
            made = await it.call(cast, f"call-{next(numbers)}", stream=stream)
            lawful(verdict, made, attempts=2)
            verdict.expect(made.heard.status == 200, made.heard.id, "got", made.heard.status, made.heard.body[-80:])
            places.append(made.played[-1].place if made.played else -1)
            figures.tried += places is figures.away and made.played[0].place == 0

        async def load(places, ended):
            calls = []
            while not ended():
                calls.append(asyncio.ensure_future(call(places)))
                await asyncio.sleep(EVERY)
            await asyncio.gather(*calls)

        def after(seconds):
            loop = asyncio.get_running_loop()
            end = loop.time() + seconds
            return lambda: loop.time() >= end

        await load(figures.before, lambda: len(figures.before) >= SOME)
        good = it.stage.plays
        it.stage.plays = good | {f"{cast.name}.0": play}
        await load(figures.away, after(DOWN))
        it.stage.plays = good
        late = after(BACK)
        back = []
        await load(back, lambda: 0 in back or late())
        figures.found = 0 in back
        await load(figures.after, lambda: len(figures.after) >= SOME)
        figures.left = await it.left()
    figures.complaints = verdict.complaints
    return figures


AWAY, RETURN = 60.0, 30.0
"""Seconds that a real primary is away, and within which it is to have calls again."""
FLANK = 5.0
"""Seconds of load before it goes and after it has calls again."""
PACE = 0.05
"""Seconds between two calls."""
TALK = {"model": "tiny", "messages": [{"role": "user", "content": "Talk."}], "max_tokens": 8}


@dataclass
class Answered:
    """One call: when it began (seconds of this clock), who served it, at which attempt, and how long it took."""

    begun: float
    backend: str
    attempts: int
    took: float
    good: bool


class Load:
    """Calls, plain and streamed by turns, one every `PACE` seconds, whatever becomes of those before."""

    def __init__(self, client):
        self.answers = []
        self._client = client
        self._under_way = set()

    async def last(self, seconds, until=lambda: False):
        """Go on for so long, or until something holds."""
        end = time.monotonic() + seconds
        for number in itertools.count():
            if time.monotonic() >= end or until():
                return
            task = asyncio.ensure_future(self._call(stream=bool(number % 2)))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            await asyncio.sleep(PACE)

    async def end(self):
        """Wait for the calls that are under way."""
        await asyncio.gather(*self._under_way)

    async def _call(self, *, stream):
        begun = time.monotonic()
        answer = await self._client.post("/v1/chat/completions", json=TALK | {"stream": stream})
        good = answer.status_code == 200 and (not stream or answer.text.rstrip().endswith("data: [DONE]"))
        backend, attempts = answer.headers.get("x-sluiceway-backend", ""), answer.headers.get("x-sluiceway-attempts")
        self.answers.append(Answered(begun, backend, int(attempts or 0), time.monotonic() - begun, good))

    def between(self, begin, end):
        """Return the calls that began in that time."""
        return [one for one in self.answers if begin <= one.begun < end]


@dataclass
class Return:
    """What was seen. `before`, `away`, `after`: calls by who served; `tried`: those that met the primary while away.

    Seconds since its return: `back`, until it served a call; `all_back`, until the last call began that it did not.
    """

    calls: int
    failed: int
    before: Counter
    away: Counter
    after: Counter
    tried: int
    slowest: float
    back: float | None
    all_back: float


async def returning(folder, model, *, hangs):
    """Kill a real primary, or let it hang, for `AWAY` seconds; return what `Return` tells."""
    async with AsyncExitStack() as stack:
        port = free_port()
        primary = await stack.enter_async_context(LlamaServer(model, port=port))
        spare = await stack.enter_async_context(LlamaServer(model))
        urls = {"primary": f"http://127.0.0.1:{port}/v1", "spare": f"{spare.url}/v1"}
        backends = {name: {"kind": "llamacpp", "base_url": url} for name, url in urls.items()}
        dear = {"input": 100, "output": 100}
        deployments = [{"backend": "primary", "model": "tiny"}, {"backend": "spare", "model": "tiny", "price": dear}]
        plans = {"wide": {"requests_per_minute": 10**6, "concurrent_requests": 1000}}
        # Money alone decides, so that the order is known: one that hung is believed to be slow for some minutes.
        models = {"tiny": {"deployments": deployments, "routing": {"value_of_time": 0}}}
        settings = {"backends": backends, "models": models, "plans": plans}
        gateway = await stack.enter_async_context(GatewayProcess(write_config(folder, settings)))
        headers = {"authorization": f"Bearer {await gateway.create_key(plan='wide')}"}
        limits = httpx.Limits(max_connections=None)
        client = httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=200, limits=limits)
        load = Load(await stack.enter_async_context(client))

        begun = time.monotonic()
        await load.last(FLANK)
        gone = time.monotonic()
        primary.suspend() if hangs else primary.kill()
        await load.last(AWAY)
        if hangs:
            primary.resume()
        else:
            await stack.enter_async_context(LlamaServer(model, port=port))
        there = time.monotonic()

        def served_again():
            return any(one.backend == "primary" for one in load.between(there, there + RETURN))

        await load.last(RETURN, served_again)
        await load.last(FLANK)
        await load.end()

    after = load.between(there, time.monotonic())
    firsts = sorted(one.begun + one.took for one in after if one.backend == "primary")
    lasts = max((one.begun for one in after if one.backend != "primary"), default=there)
    away = load.between(gone, there)
    return Return(
        calls=len(load.answers),
        failed=sum(not one.good for one in load.answers),
        before=Counter(one.backend for one in load.between(begun, gone)),
        away=Counter(one.backend for one in away),
        after=Counter(one.backend for one in after),
        tried=sum(one.attempts > 1 for one in away),
        slowest=max(one.took for one in load.answers),
        back=firsts[0] - there if firsts else None,
        all_back=lasts - there,
    )


async def main():
    """Print what a real primary's absence does, killed and hanging."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder))
        for hangs in (False, True):
            home = Path(folder) / ("hangs" if hangs else "killed")
            home.mkdir()
            seen = await returning(home, model, hangs=hangs)
            print(
                f"{home.name} for {AWAY:.0f} s: {seen.calls} calls, {seen.failed} failed, slowest {seen.slowest:.1f} s"
            )
            print(f"  before {dict(seen.before)}, after {dict(seen.after)}")
            print(f"  away for {AWAY:.0f} s {dict(seen.away)}, of which {seen.tried} tried the primary first")
            ends = "never" if seen.back is None else f"{seen.back:.1f} s, all calls after {seen.all_back:.1f} s"
            print(f"  back: a call after {ends}")


if __name__ == "__main__":
    asyncio.run(main())
