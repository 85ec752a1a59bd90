"""A gateway is killed while it holds streams: what it held comes back, charged as of its last heartbeat."""

import asyncio
import statistics
import time
from dataclasses import dataclass, field

from gateway.ledger.records import What
from tests.faults.books import until
from tests.faults.crowd import pause_after
from tests.faults.sites import body, site
from tests.faults.upstreams import ENDLESS, PLAIN
from tests.parts import stores
from tests.parts.gateway import STORE_DEADLINE

STREAMS = 100

HOLDING = 7.0
"""Seconds for which the streams go on before the kill: one heartbeat at least, and some time after it."""

BACK_WITHIN = 25.0

IN_FLIGHT = 25
"""Events that may be on their way to a gateway on busy cores at the moment of a heartbeat: half a second of them."""

PLANS = {"hundred": {"concurrent_requests": STREAMS}}


@dataclass
class Figures:
    """What was seen.

    `stale`: tokens written at the kill less tokens charged; `bias`: tokens charged less tokens written at the last
    heartbeat, by the store's clock; both means over the streams.
    """

    refused_while_held: int = 0
    back_after: float = 0.0
    admitted_after: float = 0.0
    expired: int = 0
    outside: list[str] = field(default_factory=list)
    beat_age: float = 0.0
    bias: float = 0.0
    stale: float = 0.0
    reaped: float = 0.0
    slots_left: int = -1
    differences: list[dict] = field(default_factory=list)


async def killing(folder):
    """Kill one of two gateways that holds 100 streams; return `Figures`."""
    figures = Figures()
    async with (
        stores.one(folder / "store") as store,
        site(folder, store.url, 2, plans=PLANS, deadline=STORE_DEADLINE) as where,
    ):
        doomed, survivor = where.gateways
        callers = await where.crowd(2 * (STREAMS + 1), "hundred")
        holding, others = callers[::2], callers[1::2]
        streams = [
            asyncio.ensure_future(caller.ask(f"{ENDLESS}-{next(where.numbers)}", body(ENDLESS)))
            for caller in holding[:STREAMS]
        ]
        await until(lambda: _all_talk(where), 20.0)
        await asyncio.sleep(HOLDING)
        figures.refused_while_held = (await _ask(where, others[0])).status
        (name,) = await where.books.reservations()
        last_beat = int(await where.books.ask("HGET", ":gateways", name)) / 1e6
        doomed.kill()
        killed = time.monotonic()
        figures.beat_age = time.time() - last_beat
        await asyncio.gather(*streams)
        await until(lambda: _nothing_held(where), 60.0)
        figures.back_after = time.monotonic() - killed
        while (await _ask(where, others[1])).status != 200:
            pass
        figures.admitted_after = time.monotonic() - killed
        figures.reaped = (await survivor.metrics()).total("sluiceway_ledger_reaped")
        await until(lambda: _nothing_held(where), 20.0)
        (figures.slots_left,) = (await where.books.slots()).values()
        figures.differences = await where.audit()
        await _judge(where, figures, killed, killed - figures.beat_age)
    return figures


async def _all_talk(where):
    calls = where.upstream.calls
    return len(calls) == STREAMS and all(call.tokens for call in calls)


async def _nothing_held(where):
    return not sum((await where.books.reservations()).values())


async def _ask(where, caller):
    answer = await caller.ask(f"{PLAIN}-{next(where.numbers)}", body(PLAIN))
    await pause_after(answer)
    return answer


async def _judge(where, figures, killed, last_beat):
    """Hold what was charged against what had been written at the last heartbeat and at the kill."""
    expired = [record for record in await where.books.records() if record.head.what is What.EXPIRED]
    figures.expired = len(expired)
    # A gateway's reservations have the numbers of its calls, in their order; so have the upstream's calls theirs.
    written = [call for call in where.upstream.calls if call.request.header("x-request-id").startswith(ENDLESS)]
    charged = sorted(record.head.output for record in expired)
    at_beat = sorted(call.written_by(last_beat) for call in written)
    at_kill = sorted(call.written_by(killed) for call in written)
    for booked, least, most in zip(charged, at_beat, at_kill, strict=True):
        if not least - IN_FLIGHT <= booked <= most:
            figures.outside.append(f"{least} <= {booked} <= {most}")
    figures.bias = statistics.fmean(charged) - statistics.fmean(at_beat)
    figures.stale = statistics.fmean(at_kill) - statistics.fmean(charged)
