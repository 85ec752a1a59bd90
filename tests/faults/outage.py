"""The store stops for a while, or is killed and comes back from its append-only file, and gateways go on by themselves.

It may come back with the end of that file torn off, as after a power failure: then what it had acknowledged is lost.

Law: callers see no more of it than a little delay; afterwards the books are as if nothing had been.
"""

import asyncio
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from gateway.ledger.records import What
from tests.faults.books import beyond_rate, calls, most_at_once, until
from tests.faults.crowd import pause_after
from tests.faults.sites import body, site
from tests.faults.upstreams import ENDLESS, LONG, PACE, PLAIN, SLOW, STREAM, is_as_told
from tests.parts import stores

CALLERS = {"narrow": 8, "wide": 8, "quiet": 6, "purse": 2}
"""Callers of each plan's key."""

LONG_STREAMS = 12

BEFORE, AFTER = 3.0, 8.0
"""Seconds of load before the outage, enough for each gateway to be told of the other by a heartbeat, and after it."""

RATE, BURST, SLOTS = 1800, 20, 6
"""Of the pressing key, and of the quiet one, which is called once before the outage and pressed during it: requests a
minute, at once, and under way."""

PURSE = 3_000
"""Tokens in all that a third key, as quiet before, may use."""

LEAVING = 0.1
"""The share of calls that leave."""

SOON = 0.5
"""Seconds after which an outage is known to all gateways."""

AWAY = {"stop": 30.0, "kill": 10.0, "tear": 3.0}
"""Seconds of an outage, by its kind."""

TORN = 100_000
"""Bytes torn off the append-only file: some hundred milliseconds of it."""


def plans():
    """Return the plans of the callers."""
    narrow = {"requests_per_minute": {"limit": RATE, "burst": BURST}, "concurrent_requests": SLOTS}
    return {
        "narrow": narrow | {"when_down": "local"},
        "quiet": narrow | {"when_down": "local"},
        "purse": {"tokens_in_all": PURSE, "when_down": "local"},
        "wide": {"tokens_per_week": 10**12, "when_down": "local"},
    }


@dataclass
class Figures:
    """What was seen. Latencies are of calls that were admitted and whose upstream answered at once, in seconds."""

    kind: str = ""
    gateways: int = 0
    statuses_before: dict[int, int] = field(default_factory=dict)
    statuses_away: dict[int, int] = field(default_factory=dict)
    statuses_after: dict[int, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    p50_before: float = 0.0
    p99_before: float = 0.0
    p50_away: float = 0.0
    p99_away: float = 0.0
    longest_away: float = 0.0
    added_p99: float = 0.0
    served_alone: float = 0.0
    beyond_share: float = float("-inf")
    """By how many more calls than its share a gateway served a key while the store was away, at most."""
    beyond_rate: float = float("-inf")
    """The same of all of them together and of the whole limit, over all of the time."""
    purse_share: float = 0.0
    """The most that one gateway let be used of what was left in the purse, in shares of its own."""
    purse: int = 0
    """What was used of it in all."""
    slots_away: int = 0
    """The most of a limited key's calls under way at one gateway, and at all of them together."""
    slots_all: int = 0
    reaped: float = 0.0
    expired: int = 0
    long_streams_whole: int = 0
    cuts: int = 0
    cut_outside: list[str] = field(default_factory=list)
    told_wrong: list[str] = field(default_factory=list)
    unbooked: list[str] = field(default_factory=list)
    calls: int = 0
    lost: float = 0.0
    repeated: float = 0.0
    differences: list[dict] = field(default_factory=list)


class _Load:
    """A steady load, and streams that outlive the outage."""

    def __init__(self, where):
        self.answers = []
        self.going = True
        self.gone = asyncio.Event()
        self._where = where
        self._dice = random.Random(13)

    async def run(self, caller, plan):
        """Call until the end; of some plans only once before the store goes."""
        if plan in ("quiet", "purse"):
            await self._call(caller, plan)
            await self.gone.wait()
        while self.going:
            await self._call(caller, plan)
            await asyncio.sleep(0.02)
        caller.close()

    async def _call(self, caller, plan):
        leaves = plan == "wide" and self._dice.random() < LEAVING
        shape = ENDLESS if leaves else self._dice.choice((PLAIN, PLAIN, STREAM, SLOW))
        id_ = f"{shape}-{next(self._where.numbers)}"
        answer = await caller.ask(id_, body(shape), leave_after=2 if leaves else None, lag=self._dice.random() * PACE)
        self.answers.append((answer, plan))
        await pause_after(answer)

    async def hold(self, caller):
        """Read one long stream to its end."""
        self.answers.append((await caller.ask(f"{LONG}-{next(self._where.numbers)}", body(LONG)), LONG))
        caller.close()


async def outage(folder, kind, gateways=1, seconds=None):
    """Take the store away, `stop`, `kill` or `tear`, under the load of so many gateways; return `Figures`."""
    figures = Figures(kind, gateways)
    async with (
        stores.one(folder / "store", appendonly="yes") as store,
        site(folder, store.url, gateways, plans=plans(), when_down="local") as where,
    ):
        load = _Load(where)
        tasks = [asyncio.ensure_future(load.hold(caller)) for caller in await where.crowd(LONG_STREAMS, "wide")]
        for plan, count in CALLERS.items():
            tasks += [asyncio.ensure_future(load.run(caller, plan)) for caller in await where.crowd(count, plan)]
        await asyncio.sleep(BEFORE)
        gone = time.monotonic()
        await _away(store, kind, AWAY[kind] if seconds is None else seconds, load.gone)
        back = time.monotonic()
        await asyncio.sleep(AFTER)
        load.going = False
        await asyncio.gather(*tasks)
        await until(lambda: _all_is_told(where), 30.0)
        await where.settled()
        figures.served_alone = await where.metric("sluiceway_ledger_local")
        figures.reaped = await where.metric("sluiceway_ledger_reaped")
        figures.lost = await where.metric("sluiceway_ledger_lost")
        figures.repeated = await where.metric("sluiceway_ledger_repeated")
        figures.differences = await where.audit()
        await _judge(where, load.answers, gone, back, figures)
    return figures


async def _away(store, kind, seconds, gone):
    """Take the store away for so long; `gone` is set when it is."""
    (store.pause if kind == "stop" else store.kill)()
    if kind == "tear":
        _tear(store)
    await asyncio.sleep(SOON)
    gone.set()
    await asyncio.sleep(seconds - SOON)
    if kind == "stop":
        store.go_on()
    else:
        await store.start()


def _tear(store):
    (path,) = (store.directory / "appendonlydir").glob("*.incr.aof")
    os.truncate(path, path.stat().st_size - TORN)


async def _all_is_told(where):
    return not await where.metric("sluiceway_store_down")


async def _judge(where, answers, gone, back, figures):
    found = await where.books.records()
    booked = calls(found)
    written = where.upstream.by_id
    phases = {"before": [], "away": [], "after": []}
    for answer, plan in answers:
        phase = "before" if answer.begun < gone else "away" if answer.begun < back else "after"
        phases[phase].append(answer)
        _judge_call(answer, booked, written, figures)
        figures.long_streams_whole += plan == LONG and answer.whole
    for phase, several in phases.items():
        getattr(figures, f"statuses_{phase}").update(Counter(answer.status for answer in several))
    figures.calls = sum(answer.status == 200 for answer, _ in answers)
    before, away = (_latencies(phases[phase]) for phase in ("before", "away"))
    figures.p50_before, figures.p99_before, _ = _quantiles(before)
    figures.p50_away, figures.p99_away, figures.longest_away = _quantiles(away)
    figures.added_p99 = figures.p99_away - figures.p99_before
    figures.expired = sum(record.head.what is What.EXPIRED for record in found)
    ahead = time.time() - time.monotonic()  # the store's clock is this machine's
    away_us = ((gone + SOON / 2 + ahead) * 1e6, (back + ahead) * 1e6)
    for plan in ("narrow", "quiet"):
        _judge_limits(_booked_of(plan, answers, booked), written, away_us, figures)
    purse = _booked_of("purse", answers, booked)
    figures.purse = sum(_tokens(record) for record in purse)
    left = PURSE - sum(_tokens(record) for record in purse if record.head.admitted_us < away_us[0])
    for alone in _by_gateway(purse, away_us):
        figures.purse_share = max(figures.purse_share, sum(map(_tokens, alone)) * figures.gateways / left)


def _booked_of(plan, answers, booked):
    return [booked[answer.id] for answer, its in answers if its == plan and answer.id in booked]


def _tokens(record):
    return record.head.input + record.head.output


def _judge_call(answer, booked, written, figures):
    record = booked.get(answer.id)
    if answer.left:
        figures.cuts += 1
        if record is None or not answer.words <= record.head.output <= written[answer.id].tokens:
            figures.cut_outside.append(f"{answer.id}: {answer.words}, {record and record.head}")
    elif answer.status >= 500 or answer.status == 0 or (answer.status == 200 and not answer.whole):
        figures.failures.append(f"{answer.id}: {answer.status} {answer.text[:200]!r}")
    elif answer.status == 200:
        if record is None:
            figures.unbooked.append(answer.id)
        elif not is_as_told(record):
            figures.told_wrong.append(f"{answer.id}: {record.head}")


def _by_gateway(found, between_us):
    """Yield the records of each gateway of calls that were admitted between two moments."""
    first, last = between_us
    ours = {}
    for record in found:
        if first < record.head.admitted_us < last:
            ours.setdefault(record.head.id.partition("-")[0], []).append(record)
    return ours.values()


def _judge_limits(found, written, away_us, figures):
    """Hold a key's calls against its limits."""
    figures.beyond_rate = max(figures.beyond_rate, beyond_rate([one.head.admitted_us for one in found], RATE, BURST))
    figures.slots_all = max(figures.slots_all, most_at_once(_under_way(found, written)))
    live = figures.gateways
    for alone in _by_gateway(found, away_us):
        moments = [record.head.admitted_us for record in alone]
        figures.beyond_share = max(figures.beyond_share, beyond_rate(moments, RATE / live, BURST / live))
        figures.slots_away = max(figures.slots_away, most_at_once(_under_way(alone, written)))


def _under_way(found, written):
    """Return from when to when the upstream was at work for each: a part of the time for which a slot was held."""
    under_way = (written[record.request_id] for record in found)
    return [(call.request.at, call.written[-1][0]) for call in under_way]


def _latencies(answers):
    quick = (PLAIN, STREAM)
    return [one.at - one.begun for one in answers if one.status == 200 and one.id.partition("-")[0] in quick]


def _quantiles(values):
    ranked = sorted(values)
    return ranked[len(ranked) // 2], ranked[int(len(ranked) * 0.99)], ranked[-1]
