"""The readers of the books against the writer of them: the real script, with calls under way."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from msgspec import msgpack

from gateway import clock
from gateway.ledger import Ledger, audit, edges, records, reports, wire
from gateway.ledger.reports import By
from gateway.store.door import Store
from policies.domain import Bill, Claim, Level, Meter, MeterKind, Reservation, Usage
from policies.meters import largest

KINDS = (
    "tokens_per_day",
    "budget_per_month",
    "tokens_per_week",
    "concurrent_requests",
    "budget_in_all",
    "tokens_per_hour",
)
METERS = tuple(Meter(kind, largest(kind), largest(kind)) for kind in map(MeterKind, KINDS))
MODEL_METER = Meter(MeterKind.TOKENS_IN_ALL, 10**9, 10**9, model="m1")
ZONE = "Asia/Kolkata"
REPLICAS = [("vllm/m", "10.0.0.1:8000"), ("vllm/m", "10.0.0.2:8000"), ("vllm@10.0.0.1:8000/m", "")]
"""What served, and which of it; the last as it was told when sums were of replicas."""
COUNTERS = 6 + 2 * 4 + 4 * 5
"""Of the organization, two teams and four keys; a rate is none."""


def levels(team, key):
    """Return the levels of a key, with meters of all kinds."""
    return (
        Level("organization", "org", (*METERS, MODEL_METER)),
        Level("team", f"team:{team}", METERS[:4]),
        Level("key", f"key:{key}", METERS),
    )


LEVELS = {(team, f"{key}{team}"): levels(team, f"{key}{team}") for team in "ab" for key in ("x", "y")}


@pytest.fixture
async def store(store_url):
    store = Store(store_url, deadline=5.0)
    yield store
    await store.close()


@pytest.fixture
async def ledgers(store):
    ledgers = [Ledger(store, f"g{clock.token_hex(3)}") for _ in range(3)]
    for ledger in ledgers:
        await ledger.start()
    yield ledgers
    for ledger in ledgers:
        await ledger.close()


class Callers:
    """Calls at random; `told` is what their upstreams told, by model."""

    def __init__(self, ledgers, organization):
        self.ledgers, self.organization = ledgers, organization
        self.dice = random.Random(7)
        self.told = {}
        self.wasted = 0
        self.open = []

    async def call(self, *, stays=False):
        """Make one call, which may grow, use more or less than was reserved, and have failed attempts."""
        dice = self.dice
        (team, key), model = dice.choice(list(LEVELS)), dice.choice(["m1", "m2"])
        amounts = [dice.randrange(1000), dice.randrange(1000), dice.randrange(10**9)]
        claim = Claim(self.organization, team, key, model, LEVELS[team, key], *amounts, 1.0, ZONE)
        ledger = dice.choice(self.ledgers)
        reservation = await ledger.admit(claim)
        assert isinstance(reservation, Reservation)
        if dice.random() < 0.3:
            await asyncio.sleep(dice.random() * 0.01)
            assert await ledger.grow(reservation, dice.randrange(100), dice.randrange(10**6)) is None
        if stays:
            self.open.append((ledger, reservation))
        else:
            self.settle(ledger, reservation)

    def settle(self, ledger, reservation):
        """End a call."""
        dice = self.dice
        usage = Usage(dice.randrange(1000), dice.randrange(2000), dice.random() < 0.5, 3, 4)
        wasted = Usage(5, 6, estimated=True) if dice.random() < 0.2 else None
        deployment, replica = dice.choice(REPLICAS)
        bill = Bill(usage, dice.randrange(10**9), deployment, "ok", "req", wasted, 7 if wasted else 0, replica)
        ledger.settle(reservation, bill)
        calls, tokens, money = self.told.get(reservation.claim.model, (0, 0, 0))
        self.told[reservation.claim.model] = calls + 1, tokens + usage.total, money + bill.money
        self.wasted += bill.wasted_money

    async def are_settled(self):
        """Wait until the store has every settlement: nobody else does."""
        while sum(ledger.open_reservations for ledger in self.ledgers) > len(self.open):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture
def callers(ledgers, organization):
    return Callers(ledgers, organization)


@pytest.fixture
def check(store, organization, monkeypatch):
    monkeypatch.setattr(audit, "PAUSE", 0)

    async def check():
        levels = (await audit.levels_of(store, organization))[organization]
        found = await audit.check(store, organization, levels, ZoneInfo(ZONE))
        return found.meters, found.differences, found.unchecked

    return check


async def test_the_audit_is_clean_while_calls_go_on(callers, check):
    """With no second look needed: every reading is of one moment."""
    over = asyncio.Event()

    async def caller():
        while not over.is_set():
            await callers.call()

    await asyncio.gather(*(callers.call(stays=True) for _ in range(20)))
    calling = [clock.spawn(caller(), "a caller") for _ in range(16)]
    for _ in range(25):
        assert await check() == (COUNTERS, [], [])
    over.set()
    await asyncio.gather(*calling)
    for ledger, reservation in callers.open:
        callers.settle(ledger, reservation)
    assert (await check())[1:] == ([], [])


async def test_what_is_tampered_with_is_found(callers, check, store, organization):
    await asyncio.gather(*(callers.call(stays=True) for _ in range(5)), *(callers.call() for _ in range(40)))
    await callers.are_settled()
    key = f"{wire.stem(organization)}:level:team:a"
    fields = ["tokens_per_day", "concurrent_requests"]
    for packed, field in zip((await store.send(["HMGET", key, *fields]))[0], fields, strict=True):
        state = msgpack.decode(packed)
        state[0] += 3
        await store.send(["HSET", key, field, msgpack.encode(state)])
    _, differences, unchecked = await check()
    assert {(*line.name, line.difference) for line in differences} == {("team:a", field, "now", 3) for field in fields}
    assert unchecked == []


async def test_reports_and_records_tell_what_was_settled(callers, store, organization):
    await asyncio.gather(*(callers.call() for _ in range(60)))
    await callers.are_settled()
    now = datetime.fromtimestamp(clock.wall(), UTC)
    within = reports.span(now - timedelta(hours=2), now, now)
    report = await reports.usage(store, {organization: UTC}, within, [By.TEAM, By.MODEL])
    told, wasted = {}, 0
    for (team, model), sums in ((row.values, row.amounts) for row in report.rows):
        if team == reports.NOBODY:
            wasted += sums.money
            continue
        calls, tokens, money = told.get(model, (0, 0, 0))
        told[model] = calls + sums.calls, tokens + sums.input + sums.output, money + sums.money
    assert (told, wasted) == (callers.told, callers.wasted)
    assert report.total.calls == 60

    (entries,) = await store.send(["XRANGE", f"{wire.stem(organization)}:records", "-", "+"])
    written = [one for _, fields in entries for one in records.records(fields[b"r"])]
    assert sum(one.head.money for one in written) == report.total.money
    assert {one.outcome for one in written} == {"ok"}
    assert {one.head.what for one in written} == {records.What.SETTLED, records.What.PLATFORM}

    by_deployment = (await reports.usage(store, {organization: UTC}, within, [By.DEPLOYMENT])).rows
    assert {row.values[0] for row in by_deployment} == {"", "vllm/m", "vllm@10.0.0.1:8000/m"}
    assert sum(row.amounts.money for row in by_deployment) == report.total.money
    replicas = {one.deployment for one in written}
    assert replicas == {"", "vllm@10.0.0.1:8000/m", "vllm@10.0.0.2:8000/m"}


async def test_an_hour_of_which_a_counter_saw_a_part_is_told_by_the_scripts_records(
    callers, check, store, organization, monkeypatch
):
    """A plan that got its meters in the middle of an hour."""
    monkeypatch.setattr(edges, "ENTRIES", 3)
    await asyncio.gather(*(callers.call() for _ in range(30)))
    await callers.are_settled()
    assert (await check())[1:] == ([], [])
    for level in (await audit.levels_of(store, organization))[organization]:
        await store.send(["DEL", f"{wire.stem(organization)}:level:{level}"])
    await asyncio.gather(*(callers.call() for _ in range(30)))
    meters, differences, unchecked = await check()
    assert (meters, differences, unchecked) == (COUNTERS, [], [])
