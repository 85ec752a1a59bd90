"""What one gateway lets in by itself while its store is away."""

import asyncio
import threading

import pytest
from msgspec import msgpack
from structlog.testing import capture_logs

from gateway import clock
from gateway.ledger import journal as journal_module
from gateway.ledger import local as local_module
from gateway.ledger import wire
from gateway.ledger.holdings import Holding, Open
from gateway.ledger.local import FRESH, Frozen, Local, Told
from gateway.ledger.plans import pack
from gateway.store.door import StoreDown
from policies.domain import Reservation
from policies.rejections import Rejection
from tests.contract.support import (
    IN_ALL,
    SLOTS,
    bill,
    claim,
    differences,
    meter,
    settled,
)
from tests.gateway.ledger.outages import (
    WIDE,
    admitted,
    back,
    gone,
    ledgers,
    local,
    store,
    touch,
)
from tests.gateway.ledger.support import ScriptedStore


@pytest.fixture
async def books(tmp_path):
    async with store(tmp_path) as books:
        yield books


@pytest.fixture
async def start(books, tmp_path):
    async with ledgers(books, tmp_path) as start:
        yield start


@pytest.mark.parametrize("live", [1, 2])
async def test_all_gateways_together_admit_what_was_left_and_no_more(books, start, live):
    asked = claim(local("key", meter(IN_ALL, 200)))  # 10 tokens a call
    ledgers = [await start(f"a{i}") for i in range(live)]
    await touch(asked, *ledgers)
    spent = await admitted(ledgers[0], asked, 4)
    ledgers[0].settle(spent.pop(), bill(10, 10))  # 50 of 200
    await settled(*ledgers, left=3)
    for ledger in ledgers:
        ledger.settle(await ledger.admit(asked), bill(0, 0))  # learns of them
    await settled(*ledgers, left=3)

    await gone(books, *ledgers)
    got = [await admitted(ledger, asked, 30) for ledger in ledgers]
    refused = await ledgers[0].admit(asked)

    assert [len(each) for each in got] == [15 // live] * live
    assert (refused.level, refused.meter) == ("key", IN_ALL)
    assert [ledger.figures.local for ledger in ledgers] == [15 // live] * live
    await back(books, *ledgers)
    for ledger, each in zip(ledgers, got, strict=True):
        for one in each:
            ledger.settle(one, bill(4, 6))
    for one in spent:
        ledgers[0].settle(one, bill(4, 6))
    await settled(*ledgers)
    assert await books.used("key:k1", IN_ALL) == 20 + 30 + 10 * (15 // live) * live
    assert await differences(ledgers[0]) == []


async def test_a_gateways_slots_are_its_share_whoever_held_them_before(books, start):
    asked = claim(local("key", meter(SLOTS, 7)))
    first, second = await start("a1"), await start("a2")
    await touch(asked, first, second)
    held = await admitted(first, asked, 2)

    await gone(books, first, second)
    more = [await admitted(first, asked, 5), await admitted(second, asked, 5)]

    assert [len(each) for each in more] == [1, 3]
    first.settle(held[0], bill())
    more[0] += await admitted(first, asked, 5)
    assert len(more[0]) == 2
    await back(books, first, second)
    for ledger, each in zip((first, second), more, strict=True):
        for one in each:
            ledger.settle(one, bill())
    first.settle(held[1], bill())
    await settled(first, second)
    assert await books.slots("key:k1") == 0
    assert len(await books.records()) == 9  # 2 of the beginning


@pytest.mark.parametrize(
    "levels",
    [
        [local("key", meter(IN_ALL, 1000), stance="deny")],
        [local("organization", meter(IN_ALL, 1000)), local("key", meter(IN_ALL, 1000), stance="deny")],
        [local("key", stance="deny")],
    ],
)
async def test_a_plan_that_says_deny_is_not_served(books, start, levels):
    ledger = await start()
    asked = claim(*levels)
    await touch(asked, ledger)

    await gone(books, ledger)
    with pytest.raises(StoreDown, match="did not answer"):
        await ledger.admit(asked)

    assert ledger.figures.local == 0
    assert ledger.open_reservations == 0
    await back(books, ledger)


async def test_what_was_never_touched_is_not_served_and_nor_is_another_model(books, start):
    ledger = await start()
    known = claim(local("key", meter(IN_ALL, 1000), meter(IN_ALL, 100, model="other")))
    await touch(known, ledger)

    await gone(books, ledger)
    strange = [
        claim(*known.levels, organization="bolt"),
        claim(*known.levels, model="other"),
        claim(local("team", meter(IN_ALL, 5)), *known.levels),
    ]
    for asked in strange:
        with pytest.raises(StoreDown):
            await ledger.admit(asked)

    assert isinstance(await ledger.admit(known), Reservation)
    await back(books, ledger)


async def test_without_a_journal_nothing_is_local(books, start):
    ledger = await start(journal=None)
    await touch(WIDE, ledger)

    await gone(books, ledger)
    with pytest.raises(StoreDown):
        await ledger.admit(WIDE)

    assert (ledger.figures.local, ledger.fault) == (0, None)
    await back(books, ledger)


async def test_a_reservation_made_locally_grows_within_the_share(books, start):
    ledger = await start()
    asked = claim(local("key", meter(IN_ALL, 100)))
    await touch(asked, ledger)

    await gone(books, ledger)
    one = await ledger.admit(asked)
    assert await ledger.grow(one, 80, 0) is None
    refused = await ledger.grow(one, 11, 0)
    assert isinstance(refused, Rejection)
    assert refused.meter == IN_ALL
    ledger.settle(one, bill(4, 6))
    other = await ledger.admit(asked)
    assert await ledger.grow(other, 80, 0) is None  # what was grown and not used is back
    await back(books, ledger)
    ledger.settle(other, bill(4, 86))
    await settled(ledger)

    assert await books.used("key:k1", IN_ALL) == 100
    assert await differences(ledger) == []


async def test_growth_is_within_the_share_even_before_anything_was_admitted_locally(books, start):
    """Else a dearer attempt of a call that was under way would end as a 503."""
    ledger = await start()
    asked = claim(local("key", meter(IN_ALL, 100)))
    await touch(asked, ledger)
    one = await ledger.admit(asked)

    await gone(books, ledger)
    assert await ledger.grow(one, 90, 0) is None
    assert isinstance(await ledger.grow(one, 1, 0), Rejection)

    await back(books, ledger)
    ledger.settle(one, bill(4, 96))
    await settled(ledger)
    assert await books.used("key:k1", IN_ALL) == 100


async def test_a_store_that_comes_back_for_a_moment_gives_no_second_share(books, start):
    """What it was not told yet is still spent."""
    ledger = await start()
    asked = claim(local("key", meter(IN_ALL, 2000)))
    await touch(asked, ledger)
    await gone(books, ledger)
    got = await admitted(ledger, asked, 300)
    assert len(got) == 200

    send, answered = ledger.store.send, asyncio.Event()

    async def one_call_alone(*commands):
        replies = await send(*commands)
        if commands[0][0] == "EVALSHA":
            ledger.store.send = send
            books.pause()
            answered.set()
        return replies

    ledger.store.send = one_call_alone
    books.resume()
    await answered.wait()
    got += await admitted(ledger, asked, 300)

    assert len(got) == 200
    await back(books, ledger)
    for one in got:
        ledger.settle(one, bill(4, 6))
    await settled(ledger)
    assert await books.used("key:k1", IN_ALL) == 2000


@pytest.fixture
async def alone(tmp_path):
    """Make a local part without a ledger."""
    part = Local(tmp_path / "journal", "a1", ScriptedStore())
    yield part
    await part.close()


def told(number=1):
    return Told(f"{number:x}", WIDE, pack(WIDE, 0), 1000 + number)


async def test_what_is_written_as_the_journal_is_dropped_stays(alone, tmp_path):
    """The store may be gone again before the drop has begun."""
    alone.write(told(1))
    await alone._journal.flushed()

    alone.caught_up()
    alone.write(told(2))
    await asyncio.sleep(0.2)
    await alone.close()

    (entries,) = [entries for _, entries in journal_module.read_all(tmp_path / "journal")]
    last = msgpack.decode(msgpack.decode(entries[-1])[1])
    assert last[0][:3] == [wire.ADMIT, "2", 1002]


async def test_a_disk_that_hangs_does_not_hold_the_end(alone, monkeypatch):
    """What is not on it is lost, and the log says so."""
    monkeypatch.setattr(local_module, "LAST", 0.1)
    hung = threading.Event()
    alone._journal._file.save = lambda _: hung.wait(20)
    alone.write(told(1))
    with capture_logs() as logs:
        await asyncio.wait_for(alone.close(), 10)

    assert not hung.is_set()
    hung.set()
    assert [(entry["log_level"], "no longer waited for" in entry["event"]) for entry in logs] == [("error", True)]


async def test_what_is_told_once_more_is_told_as_it_was(alone):
    body = told(7).body(wire.Arguments())

    assert body[:7] == (wire.ADMIT, "7", 1007, 4, 6, 50, 0)
    assert told().failed(StoreDown("away"))
    assert (told().urgent, told().ordered, told().wanted()) == (False, True, True)


async def test_the_stores_clock_goes_on_by_ours(monkeypatch):
    at = 100.0
    monkeypatch.setattr(clock, "monotonic", lambda: at)
    frozen = Frozen()
    frozen.heard(wire.Reply(5_000_000, [], [], 0, 1))
    at = 102.5

    assert frozen.now_us() == 7_500_000


def test_a_meter_that_nobody_has_touched_for_long_is_forgotten():
    """What was told of it would not be shared out any more; a key that came once must not cost memory for ever."""
    frozen, start = Frozen(), 5_000_000
    for second in range(600):
        level = f"key:{second}"
        frozen.heard(wire.Reply(start + second * 1_000_000, [], ["org", "f", second, level, "f", 1], 0, 1))

    known = frozen.shared(Holding("acme"), "UTC")._known
    assert len(frozen._told) <= 2 * FRESH + 2
    assert ("org", "f") in known
    assert ("key:599", "f") in known
    assert ("key:500", "f") not in known


async def test_nothing_is_known_before_the_first_heartbeat_was_answered(alone):
    holding = Holding("acme")
    alone.heard("acme", wire.Reply(1, [], [], 0, 0))
    assert alone.ask(holding, claim(local("key"))) is None

    alone.heard("acme", wire.Reply(1, [], [], 0, 1))
    assert isinstance(alone.ask(holding, claim(local("key"))), int)
    assert alone.admissions == 1


async def test_an_organization_that_was_quiet_for_a_minute_is_not_served(books, start):
    """Others may have used since what was left then."""
    ledger = await start()
    await touch(WIDE, ledger)
    ledger._local._frozen["acme"].at -= 70
    await gone(books, ledger)

    with pytest.raises(StoreDown):
        await ledger.admit(WIDE)
    await back(books, ledger)


async def test_what_was_told_of_a_meter_long_before_the_last_answer_is_not_known(alone):
    holding = Holding("acme")
    asked = claim(local("key", meter(IN_ALL, 100)))
    alone.heard("acme", wire.Reply(1_000_000, [], ["key:k1", IN_ALL.value, 5], 0, 1))
    alone.heard("acme", wire.Reply(62_000_000, [], [], 0, 1))

    assert alone.ask(holding, asked) is None
    alone.heard("acme", wire.Reply(62_000_000, [], ["key:k1", IN_ALL.value, 5], 0, 1))
    assert isinstance(alone.ask(holding, asked), int)


async def test_a_slot_is_free_again_when_its_call_ends_before_the_store_was_told_of_it(books, start):
    """Be the store there by then or not."""
    ledger = await start(heartbeat=5.0)
    asked = claim(local("key", meter(SLOTS, 1)))
    await touch(asked, ledger)
    send, failing = ledger.store.send, True

    async def sent(*commands):
        if failing and commands[0][0] == "EVALSHA":
            ledger.store._breaker.trip("it was silent", ledger.store._breaker.era)
            raise StoreDown("it was silent")
        return await send(*commands)

    ledger.store.send = sent
    for _ in range(3):
        one = await ledger.admit(asked)
        assert isinstance(one, Reservation)
        ledger.settle(one, bill())
    failing = False
    await settled(ledger)
    assert len(await books.records()) == 4


async def test_growth_at_a_meter_of_which_nothing_is_known_is_not_granted(alone):
    """Nor refused: the call goes on, and asks again."""
    holding, asked = Holding("acme"), claim(local("key", meter(IN_ALL, 100)))
    alone.heard("acme", wire.Reply(1, [], [], 0, 1))

    with pytest.raises(StoreDown):
        alone.grow(holding, asked, Open(pack(asked, 1)), 5, 0)
