"""What the ledger promises over every store: admission, settlement, and what callers that leave cost."""

import asyncio
import random

import pytest

from gateway.ledger.records import Amounts
from gateway.store.door import StoreDown
from policies.domain import MeterKind, Reservation, Standing
from policies.rejections import Reason, Rejection
from tests.contract.support import (
    BUDGET,
    MINUTE_US,
    MONTHLY,
    REQUESTS,
    SLOTS,
    TOKENS,
    USD,
    bill,
    callers,
    claim,
    level,
    meter,
    settled,
    until,
    usage,
)


async def test_a_refusal_burns_nothing_at_any_level(server, gateway):
    ledger = await gateway()
    wide = (meter(REQUESTS, 600), meter(TOKENS, 1000), meter(SLOTS, 3), meter(MONTHLY, 1000), meter(BUDGET, USD))
    asked = claim(level("organization", *wide), level("team", *wide), level("key", meter(REQUESTS, 1)), money=5)
    assert isinstance(await ledger.admit(asked), Reservation)
    before = [await server.level(name) for name in ("org", "team:t1", "key:k1")]

    refused = await ledger.admit(asked)

    assert (refused.level, refused.meter) == ("key", REQUESTS.value)
    assert [await server.level(name) for name in ("org", "team:t1", "key:k1")] == before
    assert len(await server.reservations()) == 1


@pytest.mark.parametrize(
    ("kind", "limit", "burst"),
    [
        (MeterKind.REQUESTS_PER_SECOND, 4, 1),
        (REQUESTS, 240, 1),
        (MeterKind.REQUESTS_PER_HOUR, 14_400, 1),
        (TOKENS, 2400, 10),
        (MeterKind.INPUT_TOKENS_PER_MINUTE, 960, 4),
        (MeterKind.OUTPUT_TOKENS_PER_HOUR, 86_400, 6),
    ],
)
async def test_the_retry_time_is_the_first_moment_that_admits(server, gateway, kind, limit, burst):
    ledger = await gateway()
    asked = claim(level("key", meter(kind, limit, burst)))
    await ledger.admit(asked)

    before = await server.now()
    refused = await ledger.admit(asked)
    due = before + refused.retry_after_us, await server.now() + refused.retry_after_us

    assert 0 < refused.retry_after_us <= 250_000
    answer = refused
    while isinstance(answer, Rejection):
        assert before < due[1]
        await asyncio.sleep(0.02)
        before = await server.now()
        answer = await ledger.admit(asked)
    assert await server.now() >= due[0]


async def test_the_refusal_with_the_longest_wait_is_told(gateway):
    ledger = await gateway()
    asked = claim(level("organization", meter(REQUESTS, 600, 1)), level("team", meter(REQUESTS, 6, 1)))
    await ledger.admit(asked)

    refused = await ledger.admit(asked)

    assert refused.level == "team"
    assert 9_000_000 < refused.retry_after_us <= 10_000_000
    assert refused.message.startswith("team 't1' has used its 6 requests_per_minute; try again in ")


async def test_a_claim_larger_than_a_bucket_is_refused_without_a_time(server, gateway):
    ledger = await gateway()

    refused = await ledger.admit(claim(level("key", meter(TOKENS, 100), meter(REQUESTS, 5)), tokens=(50, 51)))

    assert (refused.reason, refused.retry_after_us) == (Reason.TOO_LARGE_FOR_LIMIT, None)
    assert (refused.level, refused.meter) == ("key", TOKENS.value)
    assert refused.requests == Standing("key", meter(REQUESTS, 5), 5, 5, 0)
    assert await server.level("key:k1") == {}


async def test_the_tightest_standing_is_told_with_every_answer(gateway):
    ledger = await gateway()
    of_all, of_key = (meter(REQUESTS, 600), meter(TOKENS, 15)), (meter(REQUESTS, 2), meter(TOKENS, 1000))
    asked = claim(level("organization", *of_all), level("key", *of_key), tokens=(2, 3))

    answers = [await ledger.admit(asked) for _ in range(3)]

    assert [answer.requests.limit for answer in answers] == [2, 2, 2]
    assert [answer.requests.level for answer in answers] == ["key", "key", "key"]
    assert [answer.requests.remaining for answer in answers] == [1, 0, 0]
    assert [answer.tokens.remaining for answer in answers] == [10, 5, 5]
    assert [answer.tightest.meter for answer in answers] == [of_key[0], of_key[0], of_key[0]]
    assert 59_000_000 < answers[1].requests.reset_us <= MINUTE_US
    assert isinstance(answers[2], Rejection)
    free = await ledger.admit(claim())
    assert (free.requests, free.tokens, free.tightest) == (None, None, None)


async def test_a_settlement_books_what_was_used_and_returns_the_rest(server, gateway):
    ledger = await gateway()
    meters = meter(REQUESTS, 600), meter(TOKENS, 1000), meter(SLOTS, 2), meter(BUDGET, 10 * USD)
    asked = claim(level("key", *meters), tokens=(300, 500), money=8 * USD, model="a|b")
    first = await ledger.admit(asked)

    ledger.settle(first, bill(100, 50, 3 * USD, estimated=True))
    second = await ledger.admit(claim(*asked.levels, tokens=(300, 500), money=6 * USD, model="a|b"))

    assert second.tokens.remaining in {50, 51, 52}
    assert second.requests.remaining in {598, 599}
    assert await server.slots("key:k1") == 1
    assert await server.used("key:k1", BUDGET) == 9 * USD
    assert await usage(ledger) == {("k1", "a|b"): Amounts(1, 100, 0, 50, 0, 3 * USD, 150)}
    assert await usage(ledger, organization="other") == {}


async def test_an_overrun_is_debt_that_later_refill_pays(gateway):
    ledger = await gateway()
    asked = claim(level("key", meter(TOKENS, 60, 10)))

    ledger.settle(await ledger.admit(asked), bill(5, 65))
    refused = await ledger.admit(asked)

    assert 69_000_000 < refused.retry_after_us <= 70_000_000
    assert refused.tokens.remaining == 0


async def test_a_settlement_counts_once_however_often_it_is_made(server, gateway):
    ledger = await gateway()
    asked = claim(level("key", meter(SLOTS, 5), meter(MONTHLY, 100)))
    reservation, other = await ledger.admit(asked), await ledger.admit(asked)

    for completion in (6, 7, 8):
        ledger.settle(reservation, bill(4, completion))
        await settled(ledger, left=1)

    assert await server.slots("key:k1") == 1
    assert await usage(ledger) == {("k1", "m"): Amounts(1, 4, 0, 6)}
    assert ledger.open_reservations == 1
    ledger.settle(other, bill())


async def test_32_callers_share_their_round_trips(gateway):
    ledger = await gateway()
    asked = claim(level("key", meter(REQUESTS, 10**6), meter(SLOTS, 64)))
    before = ledger.store.round_trips

    async def one(ledger):
        for _ in range(50):
            reservation = await ledger.admit(asked)
            await asyncio.sleep(0)
            ledger.settle(reservation, bill())

    await callers(32, [ledger], one)

    assert (ledger.store.round_trips - before) / (32 * 50) <= 0.3


async def test_a_store_that_forgot_the_script_is_given_it_again(server, gateway):
    ledger = await gateway()
    await server.redis.script_flush()

    answers = await asyncio.gather(*(ledger.admit(claim(organization=name)) for name in ("acme", "bolt", "acme")))

    assert all(isinstance(answer, Reservation) for answer in answers)
    assert [len(await server.reservations(name)) for name in ("acme", "bolt")] == [2, 1]


async def nothing_is_left(server):
    return not await server.reservations() and not await server.slots("key:k1")


@pytest.mark.parametrize("iterations", range(6))
async def test_an_admission_that_is_cancelled_at_any_moment_leaves_nothing_behind(server, gateway, iterations):
    ledger = await gateway()
    asked = claim(level("key", meter(SLOTS, 100), meter(MONTHLY, 1000)))
    tasks = [asyncio.ensure_future(ledger.admit(asked)) for _ in range(40)]
    dice = random.Random(iterations)
    for task in tasks:
        for _ in range(dice.randrange(2 * iterations + 1)):
            await asyncio.sleep(0)
        task.cancel()

    await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            ledger.settle(task.result(), bill())

    assert await ledger.close() == 0
    assert ledger.open_reservations == 0
    assert await nothing_is_left(server)
    kept = sum(not task.cancelled() for task in tasks)
    assert await server.used("key:k1", MONTHLY) == 10 * kept
    assert len(await server.records()) == kept


async def test_an_admission_that_is_cancelled_as_its_answer_arrives_is_released(server, gateway):
    ledger = await gateway()
    task = asyncio.ensure_future(ledger.admit(claim(level("key", meter(SLOTS, 1)))))
    while not ledger.open_reservations:  # noqa: ASYNC110 - the very loop iteration counts
        await asyncio.sleep(0)

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert task.cancelled()
    await settled(ledger)
    assert await server.slots("key:k1") == 0


async def test_what_is_broken_for_one_organization_fails_only_that_one(server, gateway):
    ledger = await gateway()
    await server.redis.hset("sw:{bad}:clock", "not", "a clock")

    bad, good = await asyncio.gather(
        ledger.admit(claim(organization="bad")), ledger.admit(claim(organization="good")), return_exceptions=True
    )

    assert isinstance(bad, StoreDown)
    assert "WRONGTYPE" in str(bad)
    assert isinstance(good, Reservation)
    await server.redis.delete("sw:{bad}:clock")


async def test_a_clock_that_stepped_back_refills_nothing_and_recovers(server, gateway):
    ledger = await gateway()
    asked = claim(level("key", meter(REQUESTS, 600, 1)))
    ahead = await server.now() + 1_000_000
    await server.redis.set("sw:{acme}:clock", ahead)
    await ledger.admit(asked)

    refused = await ledger.admit(asked)
    assert refused.retry_after_us == 100_000

    async def admitted():
        return isinstance(await ledger.admit(asked), Reservation)

    await until(admitted)
    assert await server.now() >= ahead + 100_000


async def test_closing_makes_every_settlement(server, gateway):
    ledger = await gateway()
    asked = claim(level("key", meter(SLOTS, 100)))
    for reservation in [await ledger.admit(asked) for _ in range(70)]:
        ledger.settle(reservation, bill())

    assert await ledger.close() == 0
    assert await server.reservations() == {}
    assert await usage(ledger) == {("k1", "m"): Amounts(70, 280, 0, 420)}
