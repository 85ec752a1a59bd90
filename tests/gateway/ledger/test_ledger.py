import asyncio

import pytest

from gateway.ledger import Ledger, wire
from gateway.ledger import ledger as module
from policies.domain import Claim, Reservation, Usage
from tests.gateway.ledger.support import DOWN, ScriptedStore

CLAIM = Claim("acme", "k", "m", (), tokens=5, prompt_tokens=2)
TOLD = Usage(3, 4, estimated=False)


@pytest.fixture
async def store():
    store = ScriptedStore()
    store.answer = lambda body: [wire.DONE, *[0] * 9] if body[0] == wire.ADMIT else [wire.DONE]
    return store


@pytest.fixture
async def ledger(store, monkeypatch):
    monkeypatch.setattr(module, "CLOSING", 0.2)
    ledger = Ledger(store, "g1")
    await ledger.start()
    yield ledger
    await ledger.close()


def bodies(store):
    return [body for flush in store.flushes for _, operations in flush for body in operations]


async def test_starting_loads_the_script(ledger, store):
    assert store.loaded == 1


async def test_a_starting_gateway_watches_over_every_organization_that_somebody_opened(store):
    """Whoever was killed before may have left slots there, and nobody else may be about."""
    store.organizations = [b"acme", b"quiet"]
    ledger = Ledger(store, "g2")
    await ledger.start()

    assert {holding.organization for holding in ledger._holdings.all()} == {"acme", "quiet"}
    await ledger.close()


async def test_a_first_admission_notes_its_organization(ledger, store):
    await asyncio.gather(*(ledger.admit(CLAIM) for _ in range(3)))

    assert store.organizations == [b"acme"]


async def test_reservations_are_named_after_their_gateway_and_never_alike(ledger):
    answers = await asyncio.gather(*(ledger.admit(CLAIM) for _ in range(20)))

    assert all(isinstance(answer, Reservation) for answer in answers)
    assert answers[0].id == "g1-1"
    assert len({answer.id for answer in answers}) == 20


async def test_every_admission_keeps_its_organization_among_those_beaten_for(ledger):
    await ledger.admit(CLAIM)
    holding = ledger._holdings.get("acme")
    holding.touched = 0.0

    await ledger.admit(CLAIM)

    assert holding.touched > 0.0


async def test_only_the_first_settlement_of_a_reservation_is_sent(ledger, store):
    reservation = await ledger.admit(CLAIM)
    assert ledger.open_reservations == 1

    ledger.settle(reservation, TOLD)
    ledger.settle(reservation, Usage(9, 9, estimated=False))
    assert ledger.open_reservations == 1
    await ledger.close()

    assert bodies(store)[1:] == [[wire.SETTLE, "g1-1", True, 3, 4, False]]
    assert ledger.open_reservations == 0


async def test_closing_tells_how_many_settlements_could_not_be_made(ledger, store):
    reservations = [await ledger.admit(CLAIM) for _ in range(3)]
    store.failures = [DOWN] * 1000

    for reservation in reservations:
        ledger.settle(reservation, TOLD)

    assert await ledger.close() == 3
    store.failures = []


async def test_every_growth_is_a_step_of_its_own(ledger, store):
    reservation = await ledger.admit(CLAIM)

    assert await ledger.grow(reservation, 7)
    assert await ledger.grow(reservation, 8)

    assert bodies(store)[1:] == [[wire.GROW, "g1-1", 1, 7], [wire.GROW, "g1-1", 2, 8]]


async def test_what_is_settled_neither_counts_nor_grows(ledger, store):
    reservation = await ledger.admit(CLAIM)
    ledger.follow(reservation, lambda: 3)
    assert ledger._holdings.get("acme").counts() == {"g1-1": 3}
    ledger.settle(reservation, TOLD)

    ledger.follow(reservation, lambda: 4)

    assert ledger._holdings.get("acme").counts() == {}
    assert await ledger.grow(reservation, 7) is False


async def test_a_caller_that_leaves_before_its_admission_is_sent_costs_nothing(ledger, store):
    store.held.clear()
    first = asyncio.ensure_future(ledger.admit(CLAIM))
    await asyncio.sleep(0.01)
    second = asyncio.ensure_future(ledger.admit(CLAIM))
    await asyncio.sleep(0.01)

    second.cancel()
    store.held.set()
    await asyncio.gather(first, second, return_exceptions=True)

    assert [body[1] for body in bodies(store)] == ["g1-1"]


async def test_a_caller_that_leaves_while_its_admission_is_in_flight_is_released(ledger, store):
    store.held.clear()
    task = asyncio.ensure_future(ledger.admit(CLAIM))
    await asyncio.sleep(0.01)

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    store.held.set()
    await ledger.close()

    assert bodies(store)[1] == [wire.SETTLE, "g1-1", False, 0, 0, False]
    assert ledger.open_reservations == 0
