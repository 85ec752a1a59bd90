import pytest

from gateway.ledger import hours
from gateway.ledger.records import cell
from gateway.store.door import Store
from tests.gateway.ledger.written import account, pack


@pytest.fixture
async def store(store_url):
    store = Store(store_url, deadline=5.0)
    yield store
    await store.close()


async def fill(store, organization, hour, fields):
    """Give an hour that many fields, each worth 1."""
    key = hours.key(organization, hour)
    for first in range(0, fields, 5000):
        page = [
            part
            for number in range(first, min(fields, first + 5000))
            for part in (account(key=f"k{number}") + pack("d") + b"n", 1)
        ]
        await store.send(["HSET", key, *page])


async def read(store, organization, asked):
    """Return (hour, fields) of every piece."""
    return [(hour, len(fields)) async for hour, fields in hours.read(store, organization, asked)]


async def test_hours_are_read_in_order_and_those_without_calls_are_passed_over(store, organization):
    for hour, fields in ((7, 1), (5, 3), (1200, 2)):
        await fill(store, organization, hour, fields)
    assert await read(store, organization, range(2000)) == [(5, 3), (7, 1), (1200, 2)]
    assert await read(store, organization, []) == []


async def test_what_is_read_at_once_is_bounded_by_its_fields(store, organization):
    """And every field is told once."""
    long = hours.FIELDS * 2 + 10
    sizes = {1: 3000, 2: 3000, 3: long, 4: 10, 5: 1}
    for hour, fields in sizes.items():
        await fill(store, organization, hour, fields)
    before = store.round_trips
    pieces = [(hour, fields) async for hour, fields in hours.read(store, organization, range(10))]
    assert max(len(fields) for _, fields in pieces) <= hours.FIELDS
    found = {}
    for hour, fields in pieces:
        assert not found.setdefault(hour, {}).keys() & fields.keys()
        found[hour] |= fields
    assert {hour: len(fields) for hour, fields in found.items()} == sizes
    assert {cell(field).account.key for field in found[3]} == {f"k{number}" for number in range(long)}
    assert store.round_trips - before >= 6


async def test_another_organizations_hours_are_not_read(store, organization):
    await fill(store, f"{organization}x", 5, 1)
    assert await read(store, organization, range(10)) == []
