import pytest

from gateway import clock
from gateway.ledger import retention, wire
from gateway.store.door import Store

DAY_MS = 86_400_000


@pytest.fixture
async def store(store_url):
    store = Store(store_url, deadline=5.0)
    yield store
    await store.close()


async def write(store, organization, days_ago, entries, size=100):
    """Write records of that age; return where."""
    stream = f"{wire.stem(organization)}:records"
    at = int(clock.wall() * 1000) - int(days_ago * DAY_MS)
    await store.send(*(["XADD", stream, f"{at}-{number}", "r", b"x" * size] for number in range(1, entries + 1)))
    return stream


async def test_what_is_older_than_seven_days_goes_and_nothing_younger(store, organization):
    """But for what shares a node with it: nodes go whole."""
    await write(store, organization, 8, 1000)
    stream = await write(store, organization, 6.9, 1000)
    gone = await retention.retain(store, organization)
    assert 900 <= gone <= 1000
    assert await store.send(["XLEN", stream]) == [2000 - gone]
    assert await retention.retain(store, organization) == 0


async def test_what_takes_too_much_room_goes_to_nine_tenths_of_it_oldest_first(store, organization):
    stream = await write(store, organization, 1, 4000, size=1000)
    (taken,) = await store.send(["MEMORY", "USAGE", stream])
    gone = await retention.retain(store, organization, most_bytes=taken // 2)
    left, after = await store.send(["XLEN", stream], ["MEMORY", "USAGE", stream])
    assert left == 4000 - gone
    assert 0.40 * taken < after < 0.5 * taken
    ((first, _),) = (await store.send(["XRANGE", stream, "-", "+", "COUNT", 1]))[0]
    assert int(first.partition(b"-")[2]) == gone + 1
    assert await retention.retain(store, organization, most_bytes=taken // 2) == 0


async def test_one_call_takes_away_a_bounded_number_of_entries(store, organization, monkeypatch):
    monkeypatch.setattr(retention, "AT_ONCE", 500)
    await write(store, organization, 8, 5000)
    assert 0 < await retention.retain(store, organization, trims=2) <= 1000
    gone = 1
    while gone:
        gone = await retention.retain(store, organization, trims=2)
    (left,) = await store.send(["XLEN", f"{wire.stem(organization)}:records"])
    assert left <= 100


async def test_an_organization_without_records_is_left_alone(store, organization):
    assert await retention.retain(store, organization) == 0
