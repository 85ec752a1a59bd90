"""Faults at random, in company: `python -m tests.faults.composed --seed N --calls 10000` (soak).

Law: a call's number and the seed decide what each of its three deployments does with it; four calls share a model, and
so what is known of its deployments. No outcome is written down for so many: what is held is what holds always.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from policies.domain import Deadlines
from policies.rejections import SHAPES, Reason
from tests.faults import scripts
from tests.faults.outcomes import FAULTS, Fault
from tests.faults.theatre import Cast, Verdict, booked, lawful, theatre

PLACES = 3
SHARED = 4
"""Calls of one model."""

CALLERS = 64
"""Calls at a time."""

WELL = 0.3
"""The share of deployments that do nothing wrong."""

DEADLINES = Deadlines(total=5.0, first_content=1.0, stall=1.0)
WINDOWS = (None, 420, 4096, 131_072)
PROMPTS = ("hi there", "word " * 320)
TIMEOUTS = (None, None, None, 1.5)
"""Seconds that a caller gives a call, by header."""

TOLD_EVERY = 500
"""Calls between two lines about progress."""

ELSEWHERE = ("tls", "name", "closed")
"""Where a first deployment may be said to be that is nowhere; a name is not looked up for so many, though."""


@dataclass(frozen=True)
class Composition:
    """One call: what each place plays, and how it is asked."""

    id: str
    stream: bool
    faults: tuple[Fault | None, ...]
    prompt: str
    within: float | None

    def play(self, asked):
        """Play this call's part of a deployment."""
        fault = self.faults[asked.place]
        return (scripts.well if fault is None else fault.script)(asked)

    @property
    def story(self):
        """Say what is played, for people."""
        return " > ".join("well" if fault is None else fault.name for fault in self.faults)


def compose(seed, number):
    """Return the composition of one call."""
    dice = random.Random(f"{seed}/{number}")
    stream = dice.random() < 0.5
    able = [fault for fault in FAULTS if fault.at == "stage" and fault.ends(stream=stream) is not None]
    faults = tuple(None if dice.random() < WELL else dice.choice(able) for _ in range(PLACES))
    return Composition(f"{seed}-{number}", stream, faults, dice.choice(PROMPTS), dice.choice(TIMEOUTS))


def cast(seed, number, play):
    """Return a model: its windows, whether two of its places are a fallback's, and where the first is said to be."""
    dice = random.Random(f"{seed}/cast/{number}")
    windows = tuple(dice.choice(WINDOWS) for _ in range(PLACES))
    at = dice.choice(ELSEWHERE) if dice.random() < 0.1 else "stage"
    return Cast(number, (play,) * PLACES, DEADLINES, windows, dice.random() < 0.2, at)


@dataclass
class Figures:
    """What was seen. `ends`: calls by status, and by code where the no is ours; `attempts`: calls by their number."""

    calls: int = 0
    ends: Counter = field(default_factory=Counter)
    attempts: Counter = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    complaints: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


async def composed(folder, seed, count, transport="pooled", tell=None):
    """Make so many calls; return `Figures`. `tell` is called now and then with what was seen so far."""
    calls = {one.id: one for one in (compose(seed, number) for number in range(count))}

    def play(asked):
        return calls[asked.id].play(asked)

    casts = [cast(seed, number, play) for number in range(-(-count // SHARED))]
    figures, made, waiting = Figures(), {}, iter(calls.values())
    async with theatre(folder, transport, casts) as it:

        async def caller():
            for one in waiting:
                number = int(one.id.rpartition("-")[2])
                about = {"stream": one.stream, "prompt": one.prompt, "within": one.within}
                made[one.id] = call = await it.call(casts[number % len(casts)], one.id, **about)
                note(figures, one, call)
                if figures.calls % TOLD_EVERY == 0:
                    it.stage.forget()
                    if tell is not None:
                        tell(figures)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        figures.left = await it.left()
        records = await it.booked()
    for id_, call in made.items():
        verdict = Verdict()
        booked(verdict, call, records.get(id_))
        figures.complaints += [f"{complaint} ({calls[id_].story})" for complaint in verdict.complaints]
    return figures


def note(figures, one, call):
    """Take in a call that is over."""
    verdict, heard = Verdict(), call.heard
    # One that said when it is back may be asked again where the others lack the API, which is not counted.
    lawful(verdict, call, attempts=PLACES + 1)
    code = call.said.code
    ours = code is not None and code in set(Reason)
    if heard.status != 200:
        right = SHAPES[Reason(code)].status == heard.status if ours else any(heard.body == p.body for p in call.played)
        verdict.expect(right, heard.id, "got", heard.status, heard.body[:80])
    how = "whole" if call.said.looks_whole else "cut"
    figures.calls += 1
    figures.ends[f"{heard.status} {how if heard.status == 200 else code if ours else 'passed on'}"] += 1
    figures.attempts[len(call.played)] += 1
    figures.slowest = max(figures.slowest, (heard.took, f"{heard.id}: {one.story}"))
    figures.complaints += [f"{complaint} ({one.story})" for complaint in verdict.complaints]


def _table(seed, figures):
    table = Table("figure", "value", title=f"{figures.calls:,} compositions of faults, seed {seed}")
    for end, count in sorted(figures.ends.items()):
        table.add_row(end, f"{count:,}")
    for attempts, count in sorted(figures.attempts.items()):
        table.add_row(f"reached {attempts} upstreams", f"{count:,}")
    table.add_row("slowest call", f"{figures.slowest[0]:.2f} s of {DEADLINES.total:g} ({figures.slowest[1]})")
    table.add_row("broken laws", f"{len(figures.complaints):,}")
    table.add_row("left behind", f"{len(figures.left):,}")
    return table


def main():
    """Run, print, and return how many laws were broken."""
    parser = argparse.ArgumentParser(description="Faults at random, in company.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--transport", choices=("pooled", "httpx"), default="pooled")
    asked, console = parser.parse_args(), Console(width=140)

    def tell(figures):
        console.print(f"{figures.calls:,} calls, {len(figures.complaints)} broken laws")

    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(composed(Path(folder), asked.seed, asked.calls, asked.transport, tell))
    console.print(_table(asked.seed, figures))
    for complaint in [*figures.left, *figures.complaints[:50]]:
        console.print(complaint, markup=False)
    return len(figures.complaints) + len(figures.left)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
