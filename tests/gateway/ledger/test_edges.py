import pytest

from gateway.ledger import edges
from gateway.ledger.counters import Counter, Name, Tally
from gateway.store.door import Store
from policies.meters import Measure
from tests.gateway.ledger.written import HOUR_US, NOW_US, Written, account

HALF_US = HOUR_US // 2
BEGUN_US = NOW_US // HOUR_US * HOUR_US - 10 * HOUR_US + HALF_US


@pytest.fixture
async def store(store_url):
    store = Store(store_url, deadline=5.0)
    yield store
    await store.close()


@pytest.fixture
def books(store, organization):
    return Written(store, organization)


def tally(level="org", begun=BEGUN_US, last=NOW_US, measure=Measure.TOKENS):
    field = "budget_in_all" if measure is Measure.MONEY else "tokens_in_all"
    return Tally(Counter(Name(level, field), measure, 0, 0, begun, last))


@pytest.fixture
def outside(store, books):
    async def outside(*tallies, seen=None, until=None):
        if until is None:
            ((last, _),) = (await store.send(["XREVRANGE", f"{books.stem}:records", "+", "-", "COUNT", 1]))[0]
            until = last
        found = await edges.outside(store, books.organization, tallies, seen or {}, until)
        return {name.level: amount for name, amount in found.items()}

    return outside


async def test_what_was_admitted_in_the_hour_before_a_counter_began_is_not_its(books, outside):
    await books.settle(BEGUN_US - HALF_US - 1, input=1)
    await books.settle(BEGUN_US - HALF_US, input=10)
    await books.settle(BEGUN_US - 1, of=account("other", "k2"), output=100, money=5)
    await books.settle(BEGUN_US, input=1000)
    await books.settle(NOW_US, input=10_000)
    await books.settle(NOW_US + 1, input=100_000)
    assert await outside(tally("org"), tally("team:other"), tally("key:k1"), tally("key:k9")) == {
        "org": 100_110,
        "team:other": 100,
        "key:k1": 100_010,
        "key:k9": 0,
    }
    assert await outside(tally(measure=Measure.MONEY)) == {"org": 5}


async def test_an_hour_that_a_counter_counted_whole_needs_no_records(books, outside, store):
    await books.settle(BEGUN_US, input=1, kept=False)
    await books.settle(NOW_US, input=1)
    begun = BEGUN_US - HALF_US
    assert await outside(tally(begun=begun, last=begun + HOUR_US - 1)) == {"org": 0}
    assert await outside(tally(begun=begun, last=begun + HOUR_US)) == {"org": 0}
    assert await outside(tally(begun=begun, last=begun + HOUR_US - 2)) == {}


async def test_records_that_do_not_add_up_to_their_hour_are_not_believed(books, outside):
    await books.settle(BEGUN_US - 1, input=1, kept=False)
    await books.settle(BEGUN_US - 2, input=1)
    await books.settle(NOW_US, input=1)
    assert await outside(tally("org"), tally("key:k1", begun=NOW_US)) == {"key:k1": 0}


async def test_what_is_recorded_after_the_roll_up_was_seen_is_not_read(books, outside, store):
    await books.settle(NOW_US, input=1)
    (fields,) = await store.send(["HGETALL", f"{books.stem}:hour:{NOW_US // HOUR_US}"])
    ((until, _),) = (await store.send(["XREVRANGE", f"{books.stem}:records", "+", "-", "COUNT", 1]))[0]
    await books.settle(NOW_US + 2000, input=5)
    one = tally(begun=NOW_US)
    assert await outside(one, seen={NOW_US // HOUR_US: fields}, until=until) == {"org": 0}
    assert await outside(one) == {"org": 5}


async def test_records_are_read_in_pages_and_no_further_than_needed(books, outside, store, monkeypatch):
    monkeypatch.setattr(edges, "ENTRIES", 7)
    for number in range(50):
        await books.settle(BEGUN_US - 1 - number, input=1)
    for number in range(500):
        await books.settle(BEGUN_US + 2 * HOUR_US + number * 1000, input=1)
    begun = tally(last=BEGUN_US + HOUR_US + HALF_US - 1)
    before = store.round_trips
    assert await outside(begun) == {"org": 50}
    assert store.round_trips - before < 15


async def test_hours_beyond_retention_and_late_records_are_not_looked_for(books, outside, store, monkeypatch):
    monkeypatch.setattr(edges, "ENTRIES", 2)
    await books.settle(BEGUN_US - 8 * 24 * HOUR_US, input=1)
    old = tally(begun=BEGUN_US - 8 * 24 * HOUR_US + 1, last=NOW_US)
    await books.settle(NOW_US, input=1)
    assert await outside(old) == {}
    lacking = BEGUN_US - 3 * 24 * HOUR_US
    await books.settle(lacking - 1, input=1, kept=False)
    for number in range(100):
        await books.settle(NOW_US + number * 1000, input=1)
    before = store.round_trips
    assert await outside(tally(begun=lacking, last=lacking + HALF_US - 1)) == {}
    assert store.round_trips - before < 10


async def test_where_there_are_no_records_at_all_nothing_is_known_of_partial_hours(store, books):
    await books.settle(BEGUN_US, input=1, kept=False)
    assert await edges.outside(store, books.organization, [tally()], {}, None) == {}
