"""A primary that goes down under steady load, and comes back: who serves, and how often it is looked for meanwhile.

Law: time is scaled by the breaker's first pause alone (`SCALE` of 10 s); what is counted are calls, never seconds.
"""

import asyncio
import itertools
from dataclasses import dataclass, field

from policies import breaker
from tests.faults import scripts
from tests.faults.outcomes import PLENTY
from tests.faults.theatre import Cast, Verdict, lawful, theatre

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
