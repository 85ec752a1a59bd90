"""The server that holds an organization's books is killed under load, and its replica takes over.

Law: what the store had acknowledged and lost with it is told, never passed over in silence.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field
from itertools import pairwise

from tests.faults.books import MINUTE_US, beyond_rate, calls
from tests.faults.crowd import pause_after
from tests.faults.sites import body, site
from tests.faults.upstreams import PLAIN, SLOW, STREAM, is_as_told, told
from tests.parts import stores

CALLERS = 16
PRESSING = 6
"""Callers of the key whose limits refuse."""

BEFORE, AFTER = 4.0, 10.0
"""Seconds of load before the kill and after it."""

RATE, BURST = 3600, 30

PLANS = {
    "narrow": {"requests_per_minute": {"limit": RATE, "burst": BURST}, "concurrent_requests": 50},
    "wide": {"tokens_per_week": 10**12},
}


@dataclass
class Figures:
    """What was seen.

    `bytes_lost`: of the store's log, acknowledged and lost. `lost`: settlements of what the store had lost; `repeated`:
    its calls made again.
    """

    calls: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    gap: float = 0.0
    """Seconds between two answers of 200, at most."""
    gap_of_one: float = 0.0
    """The same for the calls over one gateway, the worse of both."""
    told_wrong: list[str] = field(default_factory=list)
    unbooked: int = 0
    tokens_told: int = 0
    tokens_booked: int = 0
    tokens_unbooked: int = 0
    bytes_lost: int = 0
    lost: float = 0.0
    repeated: float = 0.0
    refused: int = 0
    beyond_rate: float = 0.0
    """By how many more calls than the limit allows the pressing key was served, in any window."""
    differences: list[dict] = field(default_factory=list)


class _Load:
    """A steady load, as long as it is told to."""

    def __init__(self, where):
        self.answers = []
        self.going = True
        self._where = where
        self._dice = random.Random(11)

    async def run(self, caller, gateway, plan):
        """Call until the end."""
        while self.going:
            shape = self._dice.choice((PLAIN, STREAM, SLOW))
            answer = await caller.ask(f"{shape}-{next(self._where.numbers)}", body(shape))
            self.answers.append((answer, gateway, plan))
            await pause_after(answer)
            await asyncio.sleep(0.02)
        caller.close()


async def failover(folder, kind, lag=0.0):
    """Kill the server of the organization's books in a store of that kind, `cluster` or `sentinels`.

    `lag`: seconds before for which its replica gets nothing more; what is acknowledged then is lost with the server.
    """
    figures = Figures()
    run = {"cluster": stores.cluster, "sentinels": stores.sentinels}[kind]
    async with run(folder / "store") as group, site(folder, group.url, 2, plans=PLANS) as where:
        load = _Load(where)
        narrow = await where.crowd(PRESSING, "narrow")
        wide = await where.crowd(CALLERS - PRESSING, "wide")
        tasks = [
            asyncio.ensure_future(load.run(caller, n % 2, plan))
            for plan, several in (("narrow", narrow), ("wide", wide))
            for n, caller in enumerate(several)
        ]
        await asyncio.sleep(BEFORE)
        master, replica = await _pair(group)
        acknowledged = await _kill(master, replica, lag)
        await asyncio.sleep(AFTER)
        ended = time.monotonic()
        load.going = False
        await asyncio.gather(*tasks)
        await where.settled()
        promoted = await replica.ask("INFO", "replication")
        figures.bytes_lost = max(0, acknowledged - promoted["second_repl_offset"] + 1)
        figures.lost = await where.metric("sluiceway_ledger_lost")
        figures.repeated = await where.metric("sluiceway_ledger_repeated")
        figures.differences = await where.audit()
        await _judge(where, load.answers, ended, figures)
    return figures


async def _pair(group):
    """Return the server that holds the books, and its replica."""
    if isinstance(group, stores.Sentinels):
        return group.master, group.replica
    slot = await group.masters[0].ask("CLUSTER KEYSLOT", "sw:{acme}:clock")
    number = min(2, slot // (stores.SLOTS // 3))
    return group.masters[number], group.replicas[number]


async def _kill(master, replica, lag):
    """Kill the master; return how many bytes it had to tell its replica until then."""
    if lag:
        replica.pause()
        await master.ask("CLIENT", "KILL", "TYPE", "replica")
        await asyncio.sleep(lag)
    told = (await master.ask("INFO", "replication"))["master_repl_offset"]
    master.kill()
    if lag:
        replica.go_on()
    return told


async def _judge(where, answers, ended, figures):
    booked = calls(await where.books.records())
    served = [(answer, gateway, plan) for answer, gateway, plan in answers if answer.status == 200 and answer.whole]
    figures.calls = len(served)
    figures.refused = sum(answer.status == 429 for answer, _, _ in answers)
    for answer, _, _ in answers:
        figures.statuses[answer.status] = figures.statuses.get(answer.status, 0) + 1
    figures.gap = _gap([answer.at for answer, _, _ in served], ended)
    figures.gap_of_one = max(_gap([a.at for a, gateway, _ in served if gateway == n], ended) for n in (0, 1))
    for answer, _, _ in served:
        usage, record = told(answer.id), booked.get(answer.id)
        figures.tokens_told += usage["total_tokens"]
        if record is None:
            figures.unbooked += 1
            figures.tokens_unbooked += usage["total_tokens"]
        elif not is_as_told(record):
            figures.told_wrong.append(f"{answer.id}: {record.head}")
    figures.tokens_booked = sum(record.head.input + record.head.output for record in booked.values())
    pressing = [answer.begun * 1e6 for answer, _, plan in served if plan == "narrow"]
    admitted = [booked[a.id].head.admitted_us for a, _, plan in served if plan == "narrow" and a.id in booked]
    figures.beyond_rate = beyond_rate(admitted, RATE, BURST) if admitted else 0.0
    # Of what is not booked nobody knows when it was admitted: over all of the time it must fit all the same.
    whole = len(pressing) - BURST - RATE * (max(pressing) - min(pressing)) / MINUTE_US
    figures.beyond_rate = max(figures.beyond_rate, whole)


def _gap(moments, ended):
    ranked = [*sorted(moments), ended]
    return max(later - earlier for earlier, later in pairwise(ranked))
