"""A gateway is killed while the store is away: what it had let in and settled by itself is booked by its next life."""

import asyncio
from dataclasses import dataclass, field

from gateway.ledger.records import What
from tests.faults.books import calls, until
from tests.faults.crowd import pause_after
from tests.faults.sites import body, site
from tests.faults.upstreams import LONG, PLAIN, STREAM, is_as_told
from tests.parts import stores

CALLERS = 8

HOLDING = 4
"""Streams that are under way at the kill."""

BEFORE, AWAY = 1.0, 2.0
"""Seconds of calls before the outage, and in it."""

ON_DISK = 0.5
"""Seconds for which a settlement may be on its way to the disk."""

NOTICED = 0.5
"""Seconds after which an outage is known; what was under way until then may be charged as of the last heartbeat."""

PLANS = {"wide": {"tokens_per_week": 10**12, "concurrent_requests": 1000, "when_down": "local"}}


@dataclass
class Figures:
    """What was seen.

    `unbooked`: calls that were let in without the store and answered whole, and are not in the books. `between`: the
    same of calls that were under way when it went.
    """

    calls: int = 0
    away: int = 0
    unbooked: list[str] = field(default_factory=list)
    between: list[str] = field(default_factory=list)
    told_wrong: list[str] = field(default_factory=list)
    expired: int = 0
    held: int = -1
    slots: int = -1
    differences: list[dict] = field(default_factory=list)


class _Load:
    def __init__(self, where):
        self.answers = []
        self.going = True
        self._where = where

    async def run(self, caller):
        shapes = (PLAIN, STREAM)
        while self.going:
            number = next(self._where.numbers)
            shape = shapes[number % 2]
            answer = await caller.ask(f"{shape}-{number}", body(shape))
            self.answers.append(answer)
            await pause_after(answer)
            await asyncio.sleep(0.01)

    async def hold(self, caller):
        await caller.ask(f"{LONG}-{next(self._where.numbers)}", body(LONG))


async def widow(folder):
    """Kill the only gateway in an outage, and start it anew when the store is back; return `Figures`."""
    figures = Figures()
    loop = asyncio.get_running_loop()
    async with (
        stores.one(folder / "store", appendonly="yes") as store,
        site(folder, store.url, 1, plans=PLANS, when_down="local") as where,
    ):
        (gateway,) = where.gateways
        load = _Load(where)
        callers = await where.crowd(CALLERS, "wide")
        running = [asyncio.ensure_future(load.run(caller)) for caller in callers]
        holders = await where.crowd(HOLDING, "wide")
        early, late = holders[: HOLDING // 2], holders[HOLDING // 2 :]
        holding = [asyncio.ensure_future(load.hold(caller)) for caller in early]
        await asyncio.sleep(BEFORE)
        gone = loop.time()
        store.pause()
        await asyncio.sleep(AWAY / 2)
        holding += [asyncio.ensure_future(load.hold(caller)) for caller in late]
        await asyncio.sleep(AWAY / 2)
        load.going = False
        await asyncio.gather(*running)
        await asyncio.sleep(ON_DISK)
        gateway.kill()
        store.go_on()
        await asyncio.gather(*holding)
        await gateway.start(within=30.0)
        await until(lambda: _nothing_held(where), 60.0)
        figures.held = sum((await where.books.reservations()).values())
        figures.slots = sum((await where.books.slots()).values())
        figures.differences = await where.audit()
        found = await where.books.records()
        booked = calls(found)
        figures.expired = sum(record.head.what is What.EXPIRED for record in found)
        for answer in load.answers:
            _judge_call(answer, booked, gone, figures)
    return figures


def _judge_call(answer, booked, gone, figures):
    if answer.status != 200 or not answer.whole:
        return
    figures.calls += 1
    figures.away += answer.begun > gone
    record = booked.get(answer.id)
    if record is None:
        (figures.unbooked if answer.begun > gone + NOTICED else figures.between).append(answer.id)
    elif not is_as_told(record):
        figures.told_wrong.append(answer.id)


async def _nothing_held(where):
    return not sum((await where.books.reservations()).values())
