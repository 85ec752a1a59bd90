"""Many callers over three gateways, some of whom leave: limits hold by the store's clock and every token is booked."""

import asyncio
import contextlib
import random
import statistics
from dataclasses import dataclass, field

from tests.faults.books import beyond_rate, calls, most_at_once
from tests.faults.crowd import pause_after
from tests.faults.sites import body, site
from tests.faults.upstreams import ENDLESS, PACE, PLAIN, STREAM, is_as_told
from tests.parts import stores
from tests.parts.gateway import STORE_DEADLINE

GATEWAYS, CALLERS, CALLS = 3, 64, 20_000
PRESSING = 24
"""Callers of the key whose limits refuse."""

RATE, BURST, SLOTS = 6000, 60, 12
"""Of that key: requests a minute, at once, and under way."""

LEAVING = 0.2
"""The share of calls that leave."""

PLANS = {
    "narrow": {"requests_per_minute": {"limit": RATE, "burst": BURST}, "concurrent_requests": SLOTS},
    "wide": {"tokens_per_week": 10**12},
}


@dataclass
class Figures:
    """What was seen. Biases are tokens booked less tokens that the upstream had written when the caller left."""

    calls: int = 0
    refused: int = 0
    broken: int = 0
    cuts: int = 0
    beyond_rate: float = 0.0
    most_slots: int = 0
    most_slots_sampled: int = 0
    told_wrong: list[str] = field(default_factory=list)
    unbooked: list[str] = field(default_factory=list)
    cut_outside: list[str] = field(default_factory=list)
    bias: float = 0.0
    bias_error: float = 0.0
    bias_worst: int = 0
    rows_wrong: list[str] = field(default_factory=list)
    differences_midway: list[dict] = field(default_factory=list)
    differences: list[dict] = field(default_factory=list)
    round_trips_a_call: float = 0.0
    seconds: float = 0.0


class _Crowd:
    """The callers' loop: it ends when so many calls were admitted."""

    def __init__(self, where, count):
        self.answers = []
        self.refused = 0
        self.midway = asyncio.Event()
        self._where = where
        self._count = count
        self._dice = random.Random(7)

    async def run(self, caller):
        """Call until there were enough."""
        dice = self._dice
        while len(self.answers) < self._count:
            leaves = dice.random() < LEAVING
            shape = ENDLESS if leaves else dice.choice((PLAIN, STREAM))
            number = next(self._where.numbers)
            after = dice.randint(1, 4) if leaves else None
            lag = dice.random() * PACE
            answer = await caller.ask(f"{shape}-{number}", body(shape), leave_after=after, lag=lag)
            if answer.status == 429:
                self.refused += 1
            else:
                self.answers.append(answer)
                if len(self.answers) > self._count // 2:
                    self.midway.set()
            await pause_after(answer)
        caller.close()


async def crowding(folder, count=CALLS):
    """Make `count` calls; return `Figures`."""
    loop = asyncio.get_running_loop()
    figures = Figures()
    async with (
        stores.one(folder / "store") as store,
        site(folder, store.url, GATEWAYS, plans=PLANS, deadline=STORE_DEADLINE) as where,
    ):
        narrow = await where.crowd(PRESSING, "narrow")
        wide = await where.crowd(CALLERS - PRESSING, "wide")
        crowd = _Crowd(where, count)
        begun = loop.time()
        sampling = asyncio.ensure_future(_sample_slots(where, figures))
        midway = asyncio.ensure_future(_audit_midway(where, crowd, figures))
        await asyncio.gather(*(crowd.run(caller) for caller in (*narrow, *wide)))
        figures.seconds = loop.time() - begun
        sampling.cancel()
        await asyncio.gather(midway, return_exceptions=False)
        with contextlib.suppress(asyncio.CancelledError):
            await sampling
        trips = await where.metric("sluiceway_store_round_trips")
        figures.round_trips_a_call = trips / (len(crowd.answers) + crowd.refused)
        await where.settled()
        figures.differences = await where.audit()
        await _judge(where, crowd, figures)
    return figures


async def _audit_midway(where, crowd, figures):
    await crowd.midway.wait()
    figures.differences_midway = await where.audit()


async def _sample_slots(where, figures):
    while True:
        slots = (await where.books.slots()).values()
        figures.most_slots_sampled = max(figures.most_slots_sampled, *slots, 0)
        await asyncio.sleep(0.1)


async def _judge(where, crowd, figures):
    """Hold the books against what the upstream and the callers say."""
    found = await where.books.records()
    booked = calls(found)
    written = where.upstream.by_id
    figures.calls, figures.refused = len(crowd.answers), crowd.refused
    biases = []
    for answer in crowd.answers:
        record = booked.get(answer.id)
        if record is None:
            figures.unbooked.append(answer.id)
        elif answer.left:
            head, call = record.head, written[answer.id]
            biases.append(head.output - call.written_by(answer.at))
            if not answer.words <= head.output <= call.tokens or not head.estimated:
                figures.cut_outside.append(f"{answer.id}: {answer.words} <= {head.output} <= {call.tokens}")
        elif not answer.whole or answer.status != 200:
            figures.broken += 1
        elif not is_as_told(record):
            figures.told_wrong.append(f"{answer.id}: {record.head}")
    figures.cuts = len(biases)
    figures.bias = statistics.fmean(biases)
    figures.bias_error = statistics.stdev(biases) / len(biases) ** 0.5
    figures.bias_worst = max(biases, key=abs)
    _judge_limits(found, figures)
    await _judge_rows(where, found, figures)


def _judge_limits(found, figures):
    """Look at the pressing key, which is the one with fewer calls."""
    by_key = {}
    for record in found:
        by_key.setdefault(record.account.key, []).append(record)
    pressing = min(by_key.values(), key=len)
    figures.beyond_rate = beyond_rate([record.head.admitted_us for record in pressing], RATE, BURST)
    figures.most_slots = most_at_once([(record.head.admitted_us, record.head.settled_us) for record in pressing])


async def _judge_rows(where, found, figures):
    """Hold the usage report against the records."""
    rows = await where.gateways[1].usage()
    sums = {
        "calls": len(found),
        "input_tokens": sum(record.head.input for record in found),
        "output_tokens": sum(record.head.output for record in found),
        "estimated_tokens": sum(record.head.input + record.head.output for record in found if record.head.estimated),
    }
    for name, wanted in sums.items():
        if (got := sum(row[name] for row in rows)) != wanted:
            figures.rows_wrong.append(f"{name}: {got}, and by the records {wanted}")
