"""What the ledger promises over every store."""

import asyncio
import random

import pytest

from gateway.ledger import UsageTotal
from gateway.store.door import StoreDown
from policies.domain import Reservation, Standing, Usage
from policies.rejections import Reason, Rejection
from tests.contract.support import MINUTE, REQUESTS, SLOTS, TOKENS, claim, level, meter, until

TOLD = Usage(4, 6, estimated=False)


async def callers(many, ledgers, one):
    """Run `many` callers at a time, spread over the ledgers."""
    await asyncio.gather(*(one(ledgers[i % len(ledgers)]) for i in range(many)))


@pytest.mark.parametrize(("kind", "each"), [(REQUESTS, 1), (TOKENS, 10)])
async def test_64_callers_on_two_gateways_get_the_bucket_and_its_refill_and_never_more(server, gateway, kind, each):
    ledgers = [await gateway("g1"), await gateway("g2")]
    asked = claim(level("team", meter(kind, 6000 * each, 50 * each)), level("key", meter(SLOTS, 64)))
    admitted = 0
    start = await server.now()

    async def one(ledger):
        nonlocal admitted
        while await server.now() < start + 1_000_000:
            answer = await ledger.admit(asked)
            if isinstance(answer, Reservation):
                admitted += 1
                ledger.settle(answer, TOLD)
            else:
                assert answer.reason is Reason.RATE_LIMITED
                await asyncio.sleep(random.uniform(0, 0.02))

    await callers(64, ledgers, one)

    elapsed = await server.now() - start
    assert 50 + 0.5 * 100 * elapsed / 1e6 <= admitted <= 50 + 100 * elapsed / 1e6


async def test_slots_are_never_taken_above_the_limit(server, gateway):
    ledgers = [await gateway("g1"), await gateway("g2")]
    asked = claim(level("organization", meter(SLOTS, 5)), level("key", meter(SLOTS, 50)))
    running = most = served = 0

    async def one(ledger):
        nonlocal running, most, served
        for _ in range(20):
            answer = await ledger.admit(asked)
            if isinstance(answer, Rejection):
                assert (answer.level, answer.meter, answer.retry_after_us) == ("organization", SLOTS.value, 1_000_000)
                continue
            running, served = running + 1, served + 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            ledger.settle(answer, TOLD)

    await callers(64, ledgers, one)

    assert most == 5
    assert served > 50
    await until(lambda: settled(server))


async def settled(server):
    return await server.reservations() == 0 and await server.slots("organization:1") == 0


async def test_a_refusal_burns_nothing_at_any_level(server, gateway):
    ledger = await gateway()
    wide = (meter(REQUESTS, 600), meter(TOKENS, 1000), meter(SLOTS, 3))
    asked = claim(level("organization", *wide), level("team", *wide), level("key", meter(REQUESTS, 1)))
    assert isinstance(await ledger.admit(asked), Reservation)
    before = [await server.level(name) for name in ("organization:1", "team:1", "key:1")]

    refused = await ledger.admit(asked)

    assert (refused.level, refused.meter) == ("key", REQUESTS.value)
    assert [await server.level(name) for name in ("organization:1", "team:1", "key:1")] == before
    assert await server.reservations() == 1


@pytest.mark.parametrize("kind", [REQUESTS, TOKENS])
async def test_the_retry_time_is_the_first_moment_that_admits(server, gateway, kind):
    ledger = await gateway()
    asked = claim(level("key", meter(kind, 200 if kind is REQUESTS else 2000, 1 if kind is REQUESTS else 10)))
    await ledger.admit(asked)

    before = await server.now()
    refused = await ledger.admit(asked)
    due = before + refused.retry_after_us, await server.now() + refused.retry_after_us

    assert 250_000 < refused.retry_after_us <= 300_000
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
    assert refused.message.startswith("team '1' has used its 6 requests_per_minute; try again in ")


async def test_a_claim_larger_than_a_bucket_is_refused_without_a_time(server, gateway):
    ledger = await gateway()

    refused = await ledger.admit(claim(level("key", meter(TOKENS, 100), meter(REQUESTS, 5)), tokens=101))

    assert (refused.reason, refused.retry_after_us) == (Reason.TOO_LARGE_FOR_LIMIT, None)
    assert refused.requests == Standing(5, 5, 0)
    assert await server.level("key:1") == {}


async def test_the_tightest_standing_is_told_with_every_answer(gateway):
    ledger = await gateway()
    asked = claim(
        level("organization", meter(REQUESTS, 600), meter(TOKENS, 15)), level("key", meter(REQUESTS, 2)), tokens=5
    )

    answers = [await ledger.admit(asked) for _ in range(3)]

    assert [answer.requests.limit for answer in answers] == [2, 2, 2]
    assert [answer.requests.remaining for answer in answers] == [1, 0, 0]
    assert [answer.tokens.remaining for answer in answers] == [10, 5, 5]
    assert 59_000_000 < answers[1].requests.reset_us <= MINUTE
    assert isinstance(answers[2], Rejection)
    assert (await ledger.admit(claim())).tokens is None


async def test_a_settlement_books_what_was_used_and_returns_the_rest(server, gateway):
    ledger = await gateway()
    asked = claim(level("key", meter(REQUESTS, 600), meter(TOKENS, 1000), meter(SLOTS, 2)), tokens=800, model="a|b")
    first = await ledger.admit(asked)

    ledger.settle(first, Usage(100, 50, estimated=True))
    second = await ledger.admit(asked)

    assert second.tokens.remaining in {50, 51, 52}
    assert await server.slots("key:1") == 1
    assert await ledger.usage("acme") == [UsageTotal("k1", "a|b", 1, 100, 50, 150)]
    assert await ledger.usage("other") == []


async def test_an_overrun_is_debt_that_later_refill_pays(gateway):
    ledger = await gateway()
    asked = claim(level("key", meter(TOKENS, 60, 10)))

    ledger.settle(await ledger.admit(asked), Usage(5, 65, estimated=False))
    refused = await ledger.admit(asked)

    assert 69_000_000 < refused.retry_after_us <= 70_000_000
    assert refused.tokens.remaining == 0


async def test_a_settlement_counts_once_however_often_it_is_made(server, gateway):
    ledger = await gateway()
    reservation = await ledger.admit(claim(level("key", meter(SLOTS, 5), meter(TOKENS, 100))))
    other = await ledger.admit(claim(level("key", meter(SLOTS, 5), meter(TOKENS, 100))))

    for _ in range(3):
        ledger.settle(reservation, TOLD)
        await asyncio.sleep(0.01)

    assert await server.slots("key:1") == 1
    assert [total.requests for total in await ledger.usage("acme")] == [1]
    assert ledger.open_reservations == 1
    ledger.settle(other, TOLD)


async def test_settlements_made_while_the_store_is_stopped_are_booked_once_on_its_return(server, gateway):
    ledger = await gateway()
    asked = claim(level("key", meter(SLOTS, 50), meter(REQUESTS, 600)))
    reservations = [await ledger.admit(asked) for _ in range(40)]

    server.pause()
    for reservation in reservations:
        ledger.settle(reservation, TOLD)
    await asyncio.sleep(0.8)  # several deadlines: what was sent will be read late, and is sent again
    assert ledger.open_reservations == 40
    server.resume()
    await until(lambda: done(ledger))

    assert await ledger.usage("acme") == [UsageTotal("k1", "m", 40, 160, 240, 0)]
    assert await server.slots("key:1") == 0


async def done(ledger):
    return ledger.open_reservations == 0


async def test_an_admission_that_the_store_answers_too_late_leaves_nothing_behind(server, gateway):
    ledger = await gateway(heartbeat=0.1, lost_after=0.5)
    asked = claim(level("key", meter(SLOTS, 50)))
    await ledger.usage("acme")

    server.pause()
    outcomes = await asyncio.gather(*(ledger.admit(asked) for _ in range(40)), return_exceptions=True)
    server.resume()

    assert all(isinstance(outcome, StoreDown) for outcome in outcomes)
    await until(lambda: settled_key(server))
    assert await ledger.usage("acme") == []


async def settled_key(server):
    return await server.reservations() == 0 and await server.slots("key:1") == 0


async def test_callers_behind_a_silent_store_are_all_told_within_one_deadline(server, gateway):
    ledger = await gateway()
    loop = asyncio.get_running_loop()
    server.pause()
    start = loop.time()

    outcomes = await asyncio.gather(*(ledger.admit(claim()) for _ in range(500)), return_exceptions=True)

    assert all(isinstance(outcome, StoreDown) for outcome in outcomes)
    assert loop.time() - start < 2.0


async def test_an_orphan_in_the_store_is_released(server, gateway):
    ledger = await gateway(heartbeat=0.05, lost_after=5.0)
    asked = claim(level("key", meter(SLOTS, 2), meter(TOKENS, 100)))
    kept, orphan = await ledger.admit(asked), await ledger.admit(asked)
    del ledger._holdings.get("acme").open[orphan.id]

    await until(lambda: one_left(server))

    assert await server.slots("key:1") == 1
    assert await ledger.usage("acme") == []
    ledger.settle(kept, TOLD)


async def one_left(server):
    return await server.reservations() == 1


async def killed(gateway, server, *, counted, slots=10):
    """Leave three reservations of a gateway that then falls silent, the first of them counted."""
    lost = await gateway("lost", heartbeat=0.05, lost_after=0.3)
    asked = claim(level("key", meter(SLOTS, slots), meter(TOKENS, 10_000)), tokens=100, prompt=40)
    held = [await lost.admit(asked) for _ in range(3)]
    if counted:
        lost.follow(held[0], lambda: counted)
        await until(lambda: server.redis.strlen("sw:{acme}:counts:lost"))
        await asyncio.sleep(0.15)
    lost._beating.cancel()
    return asked


@pytest.mark.parametrize(("counted", "prompt", "completion"), [(0, 120, 180), (70, 120, 150), (25, 105, 120)])
async def test_a_lost_gateway_gives_all_back_charged_to_its_last_heartbeat(
    server, gateway, counted, prompt, completion
):
    asked = await killed(gateway, server, counted=counted)
    other = await gateway("other", heartbeat=0.05, lost_after=0.3)

    other.settle(await other.admit(asked), Usage(0, 0, estimated=False))
    await until(lambda: settled_key(server))

    (total,) = await other.usage("acme")
    assert (total.requests, total.prompt_tokens, total.completion_tokens) == (4, prompt, completion)
    assert total.estimated_tokens == prompt + completion
    assert other.reaped == 3
    assert await server.redis.hkeys("sw:{acme}:gateways") == [b"other"]
    assert await server.redis.exists("sw:{acme}:counts:lost") == 0


async def test_slots_that_a_lost_gateway_holds_come_back_to_one_that_could_not_get_any(server, gateway):
    asked = await killed(gateway, server, counted=0, slots=3)
    other = await gateway("other", heartbeat=0.05, lost_after=0.3)
    assert isinstance(await other.admit(asked), Rejection)

    async def admitted():
        return isinstance(await other.admit(asked), Reservation)

    await until(admitted)


async def test_nobody_is_lost_because_the_store_was_away(server, gateway):
    ledgers = [await gateway(name, heartbeat=0.1, lost_after=0.5) for name in ("g1", "g2")]
    asked = claim(level("key", meter(SLOTS, 10)))
    held = [await ledger.admit(asked) for ledger in ledgers]
    await asyncio.sleep(0.8)

    server.pause()
    await asyncio.sleep(1.5)
    server.resume()
    await asyncio.sleep(1.0)

    assert await server.slots("key:1") == 2
    assert [ledger.reaped for ledger in ledgers] == [0, 0]
    for ledger, reservation in zip(ledgers, held, strict=True):
        ledger.settle(reservation, TOLD)


async def test_nobody_is_lost_because_the_clock_jumped(server, gateway):
    ledgers = [await gateway(name, heartbeat=0.1, lost_after=0.5) for name in ("g1", "g2")]
    asked = claim(level("key", meter(SLOTS, 10)))
    held = [await ledger.admit(asked) for ledger in ledgers]
    await asyncio.sleep(0.8)

    await server.redis.set("sw:{acme}:clock", await server.now() + 10 * MINUTE)
    await asyncio.sleep(1.5)

    assert await server.slots("key:1") == 2
    for ledger, reservation in zip(ledgers, held, strict=True):
        ledger.settle(reservation, TOLD)


async def test_a_reservation_grows_while_the_buckets_allow(server, gateway):
    ledger = await gateway()
    reservation = await ledger.admit(claim(level("key", meter(TOKENS, 100)), tokens=50))

    assert await ledger.grow(reservation, 40) is True
    assert await ledger.grow(reservation, 20) is False
    assert await ledger.grow(reservation, 1000) is False
    ledger.settle(reservation, Usage(0, 0, estimated=False))
    await until(lambda: done(ledger))
    assert (await server.level("key:1"))[TOKENS.value] == 0
    assert await ledger.grow(reservation, 1) is False


async def test_32_callers_share_their_round_trips(gateway):
    ledger = await gateway()
    asked = claim(level("key", meter(REQUESTS, 10**6), meter(SLOTS, 64)))
    before = ledger.store.round_trips

    async def one(ledger):
        for _ in range(50):
            reservation = await ledger.admit(asked)
            await asyncio.sleep(0)
            ledger.settle(reservation, TOLD)

    await callers(32, [ledger], one)

    assert (ledger.store.round_trips - before) / (32 * 50) <= 0.3


async def test_a_store_that_forgot_the_script_is_given_it_again(server, gateway):
    ledger = await gateway()
    await server.redis.script_flush()

    answers = await asyncio.gather(*(ledger.admit(claim(organization=name)) for name in ("acme", "bolt", "acme")))

    assert all(isinstance(answer, Reservation) for answer in answers)
    assert (await server.reservations("acme"), await server.reservations("bolt")) == (2, 1)


@pytest.mark.parametrize("iterations", range(6))
async def test_an_admission_that_is_cancelled_at_any_moment_leaves_nothing_behind(server, gateway, iterations):
    ledger = await gateway()
    asked = claim(level("key", meter(SLOTS, 100)))
    tasks = [asyncio.ensure_future(ledger.admit(asked)) for _ in range(40)]
    dice = random.Random(iterations)
    for task in tasks:
        for _ in range(dice.randrange(2 * iterations + 1)):
            await asyncio.sleep(0)
        task.cancel()

    await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            ledger.settle(task.result(), TOLD)

    assert await ledger.close() == 0
    assert ledger.open_reservations == 0
    assert await settled_key(server)


async def test_an_admission_that_is_cancelled_as_its_answer_arrives_is_released(server, gateway):
    ledger = await gateway()
    task = asyncio.ensure_future(ledger.admit(claim(level("key", meter(SLOTS, 1)))))
    while not ledger.open_reservations:  # noqa: ASYNC110 - the very loop iteration counts
        await asyncio.sleep(0)

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert task.cancelled()
    await until(lambda: done(ledger))
    assert await server.slots("key:1") == 0


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
    await ledger.admit(asked)
    ahead = await server.now() + 500_000
    await server.redis.set("sw:{acme}:clock", ahead)
    await server.redis.hset("sw:{acme}:level:key:1", f"{REQUESTS}@", ahead)

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
        ledger.settle(reservation, TOLD)

    assert await ledger.close() == 0
    assert await server.reservations() == 0
    assert [total.requests for total in await ledger.usage("acme")] == [70]
