"""The books: whatever callers do, and however often an operation arrives, records, roll-ups and counters agree."""

import asyncio
import random
from collections import Counter

import pytest

from gateway.ledger.records import What
from gateway.ledger.reports import By
from policies.domain import Bill, MeterKind, Usage
from policies.rejections import Rejection
from tests.contract.support import (
    BUDGET,
    IDS,
    IN_ALL,
    MONTHLY,
    SLOTS,
    USD,
    bill,
    claim,
    differences,
    level,
    meter,
    settled,
    usage,
)


def twice(ledger):
    """Let every call of the script reach the store twice, and only its second answer come back."""
    once = ledger.store.send

    async def send(*commands):
        if commands[0][0] == "EVALSHA":
            await once(*commands)
        return await once(*commands)

    ledger.store.send = send


class Callers:
    """Callers who do all that a caller can do, and what the books must say of it."""

    def __init__(self, levels, seed):
        self._levels = levels
        self._dice = random.Random(seed)
        self.booked = {}  # id -> (model, bill)
        self.open = {}  # id -> (model, tokens, money)
        self.refused = 0

    async def call(self, ledger):
        dice = self._dice
        model = dice.choice(["m", "n"])
        tokens, money = (dice.randrange(100), dice.randrange(100)), dice.randrange(USD)
        admission = asyncio.ensure_future(ledger.admit(claim(*self._levels, tokens=tokens, money=money, model=model)))
        if dice.random() < 0.1:  # leaves, before it is sent or while it is on its way
            await asyncio.sleep(dice.choice([0, 0.001]))
            admission.cancel()
            (answer,) = await asyncio.gather(admission, return_exceptions=True)
            if isinstance(answer, asyncio.CancelledError):
                return
        answer = await admission
        if isinstance(answer, Rejection):
            self.refused += 1
            return
        output, paid = tokens[1], money
        for _ in range(dice.randrange(3)):
            more = dice.randrange(50), dice.randrange(USD)
            if await ledger.grow(answer, *more) is None:
                output, paid = output + more[0], paid + more[1]
            await asyncio.sleep(dice.choice([0, 0.002]))
        if dice.random() < 0.1:
            self.open[answer.id] = model, tokens[0] + output, paid
            return
        self.settle(ledger, answer, model)

    def settle(self, ledger, reservation, model):
        told = self.bill()
        self.booked[reservation.id] = model, told
        ledger.settle(reservation, told)
        if self._dice.random() < 0.3:
            ledger.settle(reservation, self.bill())

    def bill(self):
        dice = self._dice
        prompt, completion, cached, reasoning = [dice.choice([0, dice.randrange(200)]) for _ in range(4)]
        wasted = Usage(dice.randrange(50), dice.randrange(50), estimated=True) if dice.random() < 0.2 else None
        return Bill(
            Usage(prompt, completion, dice.random() < 0.3, cached, reasoning),
            money=dice.randrange(2 * USD),
            deployment=dice.choice(["", "a/m", "b/m"]),
            replica=dice.choice(["", "10.0.0.1:8000", "10.0.0.2:8000/base"]),
            request_id=f"req_{dice.randrange(1000)}",
            wasted=wasted,
            wasted_money=dice.randrange(USD) if wasted is not None else 0,
        )


@pytest.mark.parametrize("arrives", ["once", "twice"])
async def test_records_and_roll_ups_and_counters_agree_after_300_random_calls(server, gateway, arrives):
    ledgers = [await gateway("g1", patience=5.0), await gateway("g2", patience=5.0)]
    if arrives == "twice":
        for ledger in ledgers:
            twice(ledger)
    levels = (
        level("organization", meter(IN_ALL, 25_000), meter(SLOTS, 100)),
        level("team", meter(MONTHLY, 60_000), meter(IN_ALL, 30_000, model="n")),
        level("key", meter(BUDGET, 200 * USD), meter(MeterKind.BUDGET_PER_MONTH, 500 * USD, enforce=False)),
    )
    did = Callers(levels, seed=7)

    async def one(number):
        for _ in range(25):
            await did.call(ledgers[number % 2])

    await asyncio.gather(*(one(number) for number in range(12)))
    await settled(*ledgers, left=len(did.open))

    assert len(did.booked) > 150
    assert did.refused > 10
    assert len(did.open) > 5
    await compare(server, ledgers[0], did)


async def compare(server, ledger, did):
    """Compare what the store holds with what was done."""
    records = await server.records()
    own = [record for record in records if record.head.what is What.SETTLED]
    platform = [record for record in records if record.head.what is What.PLATFORM]
    assert len(own) + len(platform) == len(records)
    told = {record.head.id: numbers(record) for record in own}
    assert len(told) == len(own)
    assert told == {id_: expected(model, one) for id_, (model, one) in did.booked.items()}
    wasted = {id_: one for id_, (_, one) in did.booked.items() if one.wasted is not None}
    assert Counter(record.head.id for record in platform) == Counter(wasted.keys())

    rows = await usage(ledger, By.KEY, By.MODEL, By.DEPLOYMENT)
    sums = Counter()
    for record in records:
        account, head = record.account, record.head
        deployment = record.deployment.replace("@10.0.0.1:8000/", "/").replace("@10.0.0.2:8000/base/", "/")
        who = "(platform)" if account.is_platform else account.key, account.model, deployment
        sums[who, "calls"] += head.what is What.SETTLED
        for what in ("input", "output", "cached", "reasoning", "money"):
            sums[who, what] += getattr(head, what)
        sums[who, "estimated"] += (head.input + head.output) * head.estimated
    assert {who for who, _ in sums} == rows.keys()
    assert +sums == +Counter({(who, what): getattr(row, what) for who, row in rows.items() for what in FIELDS})

    held = await server.reservations()
    assert {id_: (sum(head[:2]), head[2]) for id_, head in held.items()} == {
        id_: (tokens, money) for id_, (_, tokens, money) in did.open.items()
    }
    bills = list(did.booked.values())
    used = sum(one.usage.total for _, one in bills) + sum(tokens for _, tokens, _ in did.open.values())
    used_of_n = sum(one.usage.total for model, one in bills if model == "n")
    used_of_n += sum(tokens for model, tokens, _ in did.open.values() if model == "n")
    paid = sum(one.money for _, one in bills) + sum(money for *_, money in did.open.values())
    assert await server.used("org", IN_ALL) == await server.used("team:t1", MONTHLY) == used
    assert await server.used("team:t1", f"{IN_ALL}|n") == used_of_n
    assert await server.used("key:k1", BUDGET) == await server.used("key:k1", "budget_per_month") == paid
    assert await server.slots("org") == len(did.open)
    assert await differences(ledger) == []


FIELDS = ("calls", "input", "output", "cached", "reasoning", "money", "estimated")


def numbers(record):
    """Return what a record tells of its call."""
    head = record.head
    tokens = head.input, head.output, head.cached, head.reasoning
    return (record.account.model, *tokens, head.money, head.estimated, record.deployment, record.request_id)


def expected(model, told):
    usage = told.usage
    tokens = usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens
    backend, slash, upstream = told.deployment.partition("/")
    name = f"{backend}@{told.replica}/{upstream}" if slash and told.replica else told.deployment
    return (model, *tokens, told.money, usage.estimated, name, told.request_id)


async def test_a_record_tells_who_called_what_and_how_it_ended(server, gateway):
    ledger = await gateway(patience=5.0)
    before = await server.now()
    told = Usage(100, 50, estimated=False, cached_tokens=30, reasoning_tokens=20)
    lost = Usage(7, 9, estimated=True)
    reservation = await ledger.admit(claim(level("key", meter(IN_ALL, 1000)), model="large"))

    ledger.settle(reservation, Bill(told, 777, "b/large-2", "cancelled", "req_1", lost, 55))
    await settled(ledger)

    own, platform = await server.records()
    assert own.head.id == platform.head.id == reservation.id
    assert before <= own.head.admitted_us <= own.head.settled_us <= await server.now()
    assert (own.account.team, own.account.key) == ("t1", "k1")
    assert numbers(own) == ("large", 100, 50, 30, 20, 777, False, "b/large-2", "req_1")
    assert (own.outcome, platform.outcome) == ("cancelled", "cancelled")
    assert (platform.head.what, platform.account.is_platform) == (What.PLATFORM, True)
    assert numbers(platform) == ("large", 7, 9, 0, 0, 55, True, "", "req_1")
    assert await server.used("key:k1", IN_ALL) == 150


async def test_growth_and_settlements_that_arrive_again_and_late_count_once(server, gateway):
    """In any order, after what came after them, and by another connection."""
    ledger = await gateway(patience=5.0)
    sent = []
    once = ledger.store.send

    async def send(*commands):
        sent.extend(commands)
        return await once(*commands)

    levels = level("organization", meter(SLOTS, 100)), level("key", meter(IN_ALL, 1000), meter(BUDGET, USD))
    held = [await ledger.admit(claim(*levels, money=5)) for _ in range(10)]
    ledger.store.send = send
    for reservation in held[:8]:
        assert await ledger.grow(reservation, 10, 5) is None
        assert await ledger.grow(reservation, 20, 5) is None
    for reservation in held[:6]:
        ledger.settle(reservation, bill(4, 8, 7))
    await settled(ledger, left=4)

    async def kept():
        return [await server.records(), await server.reservations(), *[await server.level(id_) for id_ in IDS.values()]]

    before = await kept()
    for seed in range(3):
        random.Random(seed).shuffle(sent)
        for command in sent:
            await server.redis.execute_command(*command)

    assert len(sent) > 8
    assert await kept() == before
    assert await server.used("key:k1", IN_ALL) == 6 * 12 + 2 * 40 + 2 * 10
    assert await server.used("key:k1", BUDGET) == 6 * 7 + 2 * 15 + 2 * 5
    assert (len(before[0]), len(before[1]), await server.slots("org")) == (6, 4, 4)
    assert await differences(ledger) == []
