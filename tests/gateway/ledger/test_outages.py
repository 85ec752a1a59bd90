"""Real servers that are stopped and killed, and what the books say afterwards: everything, once."""

import asyncio

import pytest

from gateway.ledger import ring as ring_module
from gateway.store.door import StoreDown
from policies.domain import Reservation
from tests.contract.support import (
    BUDGET,
    IN_ALL,
    bill,
    claim,
    differences,
    settled,
    until,
)
from tests.gateway.ledger.outages import (
    WIDE,
    Callers,
    admitted,
    assert_booked_once,
    back,
    back_again,
    ended,
    gone,
    ledgers,
    store,
    storming,
    touch,
)


@pytest.fixture
async def books(tmp_path):
    async with store(tmp_path) as books:
        yield books


@pytest.fixture
async def start(books, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.ledger.ledger.CLOSING", 1.0)  # of books that cannot be mended
    async with ledgers(books, tmp_path) as start:
        yield start


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.ci) for seed in (1, 2))])
async def test_calls_of_every_phase_of_outages_that_follow_each_other_are_booked_once(books, start, seed):
    """They begin before, during, between and after; and end in each."""
    ledgers = [await start("a1"), await start("a2")]
    await touch(WIDE, *ledgers)
    did = Callers(ledgers, seed)
    await did.work(40)

    for away in (0.4, 0.02, 0.7, 0.3, 0.02):
        working = asyncio.ensure_future(did.work(40))
        await asyncio.sleep(0.02)
        books.pause()
        await asyncio.sleep(away)
        await did.work(20)
        did.end_half()
        books.resume()
        await did.work(40)
        await working
        did.end_half()
    await back(books, *ledgers)
    await did.finish()

    assert did.failed == 0
    assert sum(ledger.figures.local for ledger in ledgers) > 40
    await assert_booked_once(books, ledgers[0], did, before=2)


async def test_a_store_that_is_killed_and_comes_back_has_everything_once(books, start):
    ledgers = [await start("a1"), await start("a2")]
    await touch(WIDE, *ledgers)
    did = Callers(ledgers, 9)
    await did.work(30)

    for _ in range(2):
        working = asyncio.ensure_future(did.work(60))
        await asyncio.sleep(0.02)
        books.kill()
        await did.work(60)
        did.end_half()
        await working
        restarting = asyncio.ensure_future(books.start())
        while not restarting.done():
            await did.work(30)
        await restarting
    await back_again(*ledgers)
    await did.finish()

    assert did.failed == 0
    await assert_booked_once(books, ledgers[0], did, before=2)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.ci) for seed in (1, 2))])
async def test_no_admission_overtakes_one_that_was_made_locally_however_many_come_on_the_return(books, start, seed):
    """It would be taken for done: it has the lower number."""
    ledger = await start()
    await touch(WIDE, ledger)
    did = Callers([ledger], seed)
    await gone(books, ledger)
    await did.work(400, keep=0.5)

    storm = asyncio.ensure_future(storming(did, 40))
    await asyncio.sleep(0.1)
    for _ in range(4):  # back for moments, in which some of it is told
        books.resume()
        await asyncio.sleep(0.03 + 0.02 * seed)
        books.pause()
        await asyncio.sleep(0.3)
    books.resume()
    await asyncio.sleep(0.3)
    await storm
    await back(books, ledger)
    await did.finish()

    assert did.failed == 0
    assert ledger.figures.lost == 0
    await assert_booked_once(books, ledger, did, before=1)


async def test_an_organization_whose_books_are_broken_holds_up_nobody_else(books, start):
    """Its calls fail, as they do without the local stance; the others' are the store's to decide."""
    ledger = await start()
    bad, good = claim(*WIDE.levels, organization="bad"), claim(*WIDE.levels, organization="good")
    await touch(bad, ledger)
    await touch(good, ledger)
    await books.redis.delete("sw:{bad}:clock")
    await books.redis.hset("sw:{bad}:clock", "not", "a clock")

    with pytest.raises(StoreDown, match="WRONGTYPE"):
        await ledger.admit(bad)
    answers = [await ledger.admit(good) for _ in range(5)]

    assert [answer.tightest is not None for answer in answers] == [True] * 5  # the store itself has answered
    assert ledger.figures.local == 0
    await books.redis.delete("sw:{bad}:clock")


async def test_books_that_break_while_the_store_is_away_hold_up_nobody_else(books, start):
    ledger = await start()
    bad, good = claim(*WIDE.levels, organization="bad"), claim(*WIDE.levels, organization="good")
    await touch(bad, ledger)
    await touch(good, ledger)
    await books.redis.delete("sw:{bad}:clock")
    await books.redis.hset("sw:{bad}:clock", "not", "a clock")
    await gone(books, ledger)
    one = await ledger.admit(bad)
    assert isinstance(one, Reservation)

    await back(books, ledger)
    await asyncio.sleep(0.2)
    answers = [await ledger.admit(good) for _ in range(5)]

    assert [answer.tightest is not None for answer in answers] == [True] * 5
    await books.redis.delete("sw:{bad}:clock")
    ledger.settle(one, bill())
    await settled(ledger, left=5)
    assert len(await books.records("bad")) == 2


def journals(tmp_path):
    return {path.name: path.read_bytes() for path in (tmp_path / "journal").glob("*")}


async def test_whoever_starts_after_a_gateway_that_was_killed_in_an_outage_tells_what_it_could_not(
    books, start, tmp_path
):
    """Ended calls are booked as they ended, others as those of any lost gateway; and however often it is told, once."""
    killed = await start("a1")
    await touch(WIDE, killed)
    before = await admitted(killed, WIDE, 2)
    await gone(books, killed)
    during = await admitted(killed, WIDE, 2)
    killed.settle(before[0], bill(4, 1, 10))
    killed.settle(during[0], bill(4, 2, 20))
    await ended(killed, settle=False)
    kept = journals(tmp_path)
    assert list(kept) == ["a1.journal"]

    books.resume()
    for life in ("b1", "c1", "d1"):
        ledger = await start(life)
        assert journals(tmp_path) == {}

        async def all_is_back():
            return not await books.reservations() and not await books.slots("org")

        await until(all_is_back)
        records = {record.head.id: record for record in await books.records()}
        assert len(records) == len(await books.records()) == 5  # one of touching it
        told = [(records[one.id].outcome, records[one.id].head.output) for one in (*before, *during)]
        assert told == [("ok", 1), ("gateway_lost", 6), ("ok", 2), ("gateway_lost", 6)]
        assert await books.used("org", IN_ALL) == 5 + 10 + 6 + 10
        assert await books.used("key:k1", BUDGET) == 130
        assert await differences(ledger) == []
        (tmp_path / "journal" / "a1.journal").write_bytes(kept["a1.journal"])  # its removal was lost, say


async def test_a_settlement_that_was_in_flight_when_the_store_went_is_on_disk_too(books, start):
    """It is lost with the gateway otherwise, and the call is charged what it had reserved."""
    killed = await start("a1")
    await touch(WIDE, killed)
    one = await killed.admit(WIDE)
    books.pause()
    killed.settle(one, bill(4, 1, 10))
    await asyncio.sleep(0.5)
    await ended(killed, settle=False)

    books.kill()  # with what it had not read
    await books.start()
    ledger = await start("b1")

    async def it_is_told():
        return len(await books.records()) == 2

    await until(it_is_told)
    assert [(record.outcome, record.head.output) for record in await books.records()][1] == ("ok", 1)
    assert await differences(ledger) == []


async def test_what_was_told_is_on_disk_no_more(books, start, tmp_path):
    ledger = await start()
    await touch(WIDE, ledger)
    await gone(books, ledger)
    got = await admitted(ledger, WIDE, 3)
    await ledger._local._journal.flushed()
    assert list(journals(tmp_path)) == ["a1.journal"]

    await back(books, ledger)

    async def it_is_gone():
        return journals(tmp_path) == {}

    await until(it_is_gone)
    for one in got:
        ledger.settle(one, bill())
    await settled(ledger)
    assert journals(tmp_path) == {}


async def test_a_journal_of_broken_books_is_kept_and_keeps_nobody_from_starting(books, start, tmp_path):
    killed = await start("a1")
    for name in ("bad", "good"):
        await touch(claim(*WIDE.levels, organization=name), killed)
    await gone(books, killed)
    for name in ("bad", "good"):
        one = await killed.admit(claim(*WIDE.levels, organization=name))
        killed.settle(one, bill(4, 1, 10))
    await ended(killed, settle=False)
    books.resume()
    await books.redis.delete("sw:{bad}:clock")
    await books.redis.hset("sw:{bad}:clock", "not", "a clock")

    await start("b1")

    assert list(journals(tmp_path)) == ["a1.journal"]
    assert [record.head.output for record in await books.records("good")] == [0, 1]
    await books.redis.delete("sw:{bad}:clock")
    await start("c1")
    assert [record.head.output for record in await books.records("bad")] == [0, 1]
    assert [record.head.output for record in await books.records("good")] == [0, 1]
    assert journals(tmp_path) == {}


async def test_a_disk_that_cannot_be_written_fails_no_call_and_is_told(books, start, tmp_path):
    (tmp_path / "file").write_text("no folder")
    ledger = await start(journal=tmp_path / "file")
    await touch(WIDE, ledger)
    await gone(books, ledger)

    (one,) = await admitted(ledger, WIDE, 1)
    assert not await ledger._local._journal.flushed()
    assert "file" in ledger.fault

    await back(books, ledger)
    ledger.settle(one, bill())
    await settled(ledger)
    assert len(await books.records()) == 2


async def test_what_a_store_had_lost_is_told_again_however_long_it_was_away(books, start, monkeypatch):
    """The last seconds before it went count, not those before its return."""
    monkeypatch.setattr(ring_module, "KEPT", 0.5)
    ledger = await start(heartbeat=5.0)
    await touch(WIDE, ledger)
    await asyncio.sleep(0.6)
    size = books.written()
    acknowledged = await admitted(ledger, WIDE, 3)
    ledger.settle(acknowledged.pop(), bill(4, 1, 10))
    await settled(ledger, left=2)

    books.kill()
    during = await admitted(ledger, WIDE, 3)
    await asyncio.sleep(0.8)
    await books.start_with(size)
    await back_again(ledger)
    for one in (*acknowledged, *during):
        ledger.settle(one, bill(4, 2, 20))
    await settled(ledger)

    assert sorted(record.head.output for record in await books.records()) == [0, 1, 2, 2, 2, 2, 2]
    assert ledger.figures.lost == 0
    assert await differences(ledger) == []


async def test_no_admission_overtakes_one_that_could_not_be_told_at_once(books, start):
    """The store is there, but a call of it failed: whoever comes before it is told again is admitted locally, too."""
    ledger = await start(heartbeat=5.0)
    await touch(WIDE, ledger)
    send, failures = ledger.store.send, 2

    async def failing(*commands):
        nonlocal failures
        if failures and commands[0][0] == "EVALSHA":
            failures -= 1
            ledger.store._breaker.trip("it was silent", ledger.store._breaker.era)
            raise StoreDown("it was silent")
        return await send(*commands)

    ledger.store.send = failing
    got = await admitted(ledger, WIDE, 1)
    while failures:  # noqa: ASYNC110 - the very loop iteration counts
        await asyncio.sleep(0)
    while got[-1].tightest is None:  # made locally
        got += await asyncio.gather(*(ledger.admit(WIDE) for _ in range(10)))
        await asyncio.sleep(0.01)
    for one in got:
        ledger.settle(one, bill(4, 1, 10))
    await settled(ledger)

    assert ledger.figures.local >= 11
    assert ledger.figures.lost == 0
    assert len(await books.records()) == 1 + len(got)
    assert await differences(ledger) == []


async def test_a_gateway_that_ends_as_the_store_returns_leaves_nothing_on_disk(books, start, tmp_path):
    """What lies there is told again by the next start, for which the store may have forgotten that it knows."""
    ledger = await start()
    await touch(WIDE, ledger)
    await gone(books, ledger)
    for one in await admitted(ledger, WIDE, 40):
        ledger.settle(one, bill(4, 1, 10))
    await ledger._local._journal.flushed()

    books.resume()
    assert await ledger.close() == 0

    assert journals(tmp_path) == {}
    assert len(await books.records()) == 41
