import asyncio

import pytest

from gateway.ledger import Ledger, wire
from gateway.ledger import ledger as module
from gateway.ledger.ledger import Figures
from gateway.ledger.plans import pack
from gateway.store.door import StoreDown
from policies.domain import Bill, Claim, Level, Meter, MeterKind, Reservation, Usage
from policies.rejections import Rejection
from tests.gateway.ledger.support import DOWN, GRANTED, ScriptedStore

DAY = 86_400_000_000
DAILY = Level("key", "key:k", (Meter(MeterKind.TOKENS_PER_DAY, 100, 100), Meter(MeterKind.TOKENS_IN_ALL, 9, 9)))
CLAIM = Claim("acme", "t", "k", "m", (DAILY,), 2, 3)
BILL = Bill(Usage(3, 4, estimated=False), money=5, deployment="a/m")


@pytest.fixture
async def store():
    store = ScriptedStore()
    answers = {wire.SETTLE: [wire.DONE], wire.BEAT: [wire.DONE, [], [], 0, False]}
    store.answer = lambda body: answers.get(body[0], GRANTED)
    return store


def answer(store, code, *answers):
    """Let operations of that code be answered so, one after the other, and others as before."""
    usual, told = store.answer, iter(answers)
    store.answer = lambda body: next(told) if body[0] == code else usual(body)


@pytest.fixture
async def ledger(store, monkeypatch):
    monkeypatch.setattr(module, "CLOSING", 0.2)
    ledger = Ledger(store, "g1")
    await ledger.start()
    yield ledger
    await ledger.close()


def bodies(store):
    """Return all that was sent but the heartbeats."""
    return [body for flush in store.flushes for _, sent in flush for body in sent if body[0] != wire.BEAT]


def on_the_wire(operation):
    """Return an operation as it arrives."""
    return wire._decode(wire.pack(operation))


async def test_starting_loads_the_script(ledger, store):
    assert store.loaded == 1


async def test_a_starting_gateway_watches_over_every_organization_that_somebody_opened(store):
    """Whoever was killed before may have left slots there, and nobody else may be about."""
    store.organizations = [b"acme", b"quiet"]
    ledger = Ledger(store, "g2")
    await ledger.start()

    assert {holding.organization for holding in ledger._holdings.all()} == {"acme", "quiet"}
    await ledger.close()


async def test_a_start_by_another_door_asks_nothing_of_its_own_and_may_be_repeated(store):
    """Its own is not open before others have been read, too."""
    over = ScriptedStore()
    over.organizations = [b"acme"]
    ledger = Ledger(store, "g2")
    for _ in range(2):
        await ledger.start(over)

    assert (store.loaded, over.loaded) == (0, 2)
    assert [holding.organization for holding in ledger._holdings.all()] == ["acme"]
    assert [task.get_name() for task in asyncio.all_tasks()].count("ledger heartbeat") == 1
    await ledger.close()


async def test_a_first_admission_notes_its_organization(ledger, store):
    await asyncio.gather(*(ledger.admit(CLAIM) for _ in range(3)))

    assert store.organizations == [b"acme"]


async def test_a_first_admission_beats_for_its_organization_at_once_and_a_second_does_not(ledger, store):
    """How many gateways share what is left has to be known before the store goes away."""
    await ledger.admit(CLAIM)
    await ledger.admit(CLAIM)

    codes = [body[0] for flush in store.flushes for _, sent in flush for body in sent]
    assert sorted(codes) == [wire.ADMIT, wire.ADMIT, wire.BEAT]
    assert ledger.organizations == ["acme"]


async def test_reservations_are_named_after_their_gateway_and_never_alike(ledger, store):
    answers = await asyncio.gather(*(ledger.admit(CLAIM) for _ in range(20)))

    assert all(isinstance(answer, Reservation) for answer in answers)
    assert answers[0].id == "g1-1"
    assert answers[19].id == "g1-14"
    assert len({answer.id for answer in answers}) == 20
    assert [body[1] for body in bodies(store)] == [f"{i:x}" for i in range(1, 21)]


async def test_every_admission_keeps_its_organization_among_those_beaten_for(ledger):
    await ledger.admit(CLAIM)
    holding = ledger._holdings.get("acme")
    holding.touched = 0.0

    await ledger.admit(CLAIM)

    assert holding.touched > 0.0


async def test_an_admission_sends_the_meters_of_its_model(ledger, store):
    await ledger.admit(CLAIM)

    ((command,),) = store.commands
    assert command[8] == pack(CLAIM, round(module.clock.wall() * 1_000_000)).blob


async def test_a_grant_tells_the_shadows_that_would_have_refused(ledger, store):
    answer(store, wire.ADMIT, [*GRANTED[:9], [2]])

    reservation = await ledger.admit(CLAIM)

    assert reservation.shadows == (("key", MeterKind.TOKENS_IN_ALL),)


async def test_a_refusal_leaves_nothing_open(ledger, store):
    answer(store, wire.ADMIT, [wire.SPENT, 2, *GRANTED[2:]])

    rejection = await ledger.admit(CLAIM)

    assert isinstance(rejection, Rejection)
    assert rejection.meter == "tokens_in_all"
    assert ledger.open_reservations == 0


async def test_where_the_stores_clock_is_in_another_period_it_is_asked_again_with_the_periods_of_that_clock(
    ledger, store
):
    store.now_us = round(module.clock.wall() * 1_000_000) + 3 * DAY
    answer(store, wire.ADMIT, [wire.STALE], GRANTED)

    reservation = await ledger.admit(CLAIM)

    assert reservation.id == "g1-2"
    assert set(ledger._holdings.get("acme").open) == {"2"}
    first, second = (command[8] for (command,) in store.commands)
    assert first != second
    assert second == pack(CLAIM, store.now_us).blob


async def test_only_the_first_settlement_of_a_reservation_is_sent(ledger, store):
    reservation = await ledger.admit(CLAIM)
    assert ledger.open_reservations == 1

    ledger.settle(reservation, BILL)
    ledger.settle(reservation, Bill(Usage(9, 9, estimated=False)))
    assert ledger.open_reservations == 1
    assert await ledger.close() == 0

    assert bodies(store)[1:] == [on_the_wire(wire.settlement("1", BILL))]
    assert ledger.open_reservations == 0


async def test_a_bill_for_what_the_store_had_lost_is_counted(ledger, store):
    reservation = await ledger.admit(CLAIM)
    answer(store, wire.SETTLE, [wire.UNKNOWN])

    ledger.settle(reservation, BILL)
    await ledger.close()

    assert ledger.figures == Figures(reaped=0, lost=1, repeated=0, local=0)
    assert ledger.open_reservations == 0


async def test_what_another_server_was_told_again_and_what_was_reaped_is_counted(ledger, store):
    answer(store, wire.BEAT, [wire.DONE, [], [], 4, False])
    await ledger.admit(CLAIM)
    store.change(**{"store:6379": "second"})
    await ledger.admit(CLAIM)

    assert ledger.figures == Figures(reaped=4, lost=0, repeated=1, local=0)


async def test_closing_tells_how_many_settlements_could_not_be_made(ledger, store):
    reservations = [await ledger.admit(CLAIM) for _ in range(3)]
    store.failures = [DOWN] * 1000

    for reservation in reservations:
        ledger.settle(reservation, BILL)

    assert await ledger.close() == 3
    store.failures = []


async def test_with_the_store_known_to_be_down_questions_fail_at_once_and_settlements_wait_for_its_return(
    ledger, store
):
    reservation, other = [await ledger.admit(CLAIM) for _ in range(2)]
    store.down = "away"

    ledger.settle(reservation, BILL)
    with pytest.raises(StoreDown, match="away"):
        await ledger.admit(CLAIM)
    with pytest.raises(StoreDown, match="away"):
        await ledger.grow(other, 7, 8)
    assert len(bodies(store)) == 2

    store.come_back()
    await ledger.close()
    assert bodies(store)[2:] == [on_the_wire(wire.settlement("1", BILL))]
    assert ledger.open_reservations == 1


async def test_every_growth_is_a_step_of_its_own(ledger, store):
    reservation = await ledger.admit(CLAIM)

    assert await ledger.grow(reservation, 7, 70) is None
    assert await ledger.grow(reservation, 8, 0) is None

    assert bodies(store)[1:] == [[wire.GROW, "1", 1, 7, 70], [wire.GROW, "1", 2, 8, 0]]


async def test_growth_that_a_meter_refuses_tells_which(ledger, store):
    reservation = await ledger.admit(CLAIM)
    answer(store, wire.GROW, [wire.SPENT, 2, *GRANTED[2:]])

    rejection = await ledger.grow(reservation, 7, 70)

    assert (rejection.level, rejection.meter) == ("key", "tokens_in_all")
    assert ledger.open_reservations == 1


async def test_what_is_settled_neither_counts_nor_grows(ledger, store):
    reservation = await ledger.admit(CLAIM)
    ledger.follow(reservation, lambda: BILL)
    assert ledger._holdings.get("acme").counts() == {"1": BILL}
    ledger.settle(reservation, BILL)

    ledger.follow(reservation, lambda: BILL)

    assert ledger._holdings.get("acme").counts() == {}
    assert await ledger.grow(reservation, 7, 8) is None
    assert [body[0] for body in bodies(store)] == [wire.ADMIT]


async def test_a_caller_that_leaves_before_its_admission_is_sent_costs_nothing(ledger, store):
    store.held.clear()
    first = asyncio.ensure_future(ledger.admit(CLAIM))
    await asyncio.sleep(0.01)
    second = asyncio.ensure_future(ledger.admit(CLAIM))
    await asyncio.sleep(0.01)

    second.cancel()
    store.held.set()
    await asyncio.gather(first, second, return_exceptions=True)

    assert [body[1] for body in bodies(store)] == ["1"]


async def test_a_caller_that_leaves_while_its_admission_is_in_flight_is_released(ledger, store):
    store.held.clear()
    task = asyncio.ensure_future(ledger.admit(CLAIM))
    await asyncio.sleep(0.01)

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    store.held.set()
    await ledger.close()

    assert bodies(store)[1] == on_the_wire(wire.settlement("1", None))
    assert ledger.open_reservations == 0
