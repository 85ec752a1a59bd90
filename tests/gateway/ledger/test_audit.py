from zoneinfo import ZoneInfo

import pytest

from gateway.ledger import audit
from gateway.ledger.counters import Name
from gateway.store.door import Store
from tests.gateway.ledger.written import HOUR_US, NOW_US, Written, account

DAY_US = 24 * HOUR_US
UTC, KOLKATA = ZoneInfo("UTC"), ZoneInfo("Asia/Kolkata")
MIDNIGHT_US = NOW_US // DAY_US * DAY_US
TODAY = MIDNIGHT_US // DAY_US + 719_163
"""The day's ordinal, by UTC."""


@pytest.fixture
async def store(store_url):
    store = Store(store_url, deadline=5.0)
    yield store
    await store.close()


@pytest.fixture
async def books(store, organization, monkeypatch):
    monkeypatch.setattr(audit, "PAUSE", 0)
    books = Written(store, organization)
    await books.begin()
    return books


def day(used, *, begun=MIDNIGHT_US, last=NOW_US, owed=0, before=0, before_ordinal=0):
    """Return the state of a meter of a day."""
    return [used, TODAY, begun, last, owed, before, before_ordinal]


@pytest.fixture
def check(store, organization):
    """Audit the organization; return (meters, [(level, field, when, difference)], [the same with why])."""

    async def check(zone=UTC):
        levels = (await audit.levels_of(store, organization))[organization]
        found = await audit.check(store, organization, levels, zone)
        assert found.organization == organization
        differences = [(*line.name, line.difference) for line in found.differences]
        return found.meters, differences, [(*line.name, line.why) for line in found.unchecked]

    return check


async def test_an_organization_without_calls_agrees(check):
    assert await check() == (0, [], [])


async def test_counters_are_what_is_owed_recorded_and_held(books, check):
    """At each level, of its own calls; by model where the meter says so; by tokens or money."""
    await books.settle(NOW_US - HOUR_US, input=100, output=20, money=7_000)
    await books.settle(NOW_US - 5, of=account(key="k2"), input=1, money=1)
    await books.settle(NOW_US - 5, of=account("other", "k3", "n"), output=1000, money=50)
    await books.settle(NOW_US - 5, of=account("", "platform"), input=1 << 40, money=1 << 40)
    charged = {"org": ["tokens_per_day", "budget_in_all"], "team:research": ["tokens_per_day|m"], "key:k2": []}
    await books.open(NOW_US - 1, charged, tokens_in=30, tokens_out=300, money=900)
    await books.level(
        "org",
        {
            "tokens_per_day": day(5 + 120 + 1 + 1000 + 330, owed=5),
            "budget_in_all": [7_000 + 1 + 50 + 900, MIDNIGHT_US, NOW_US],
            "requests_per_minute": [12, NOW_US],
        },
    )
    await books.level("team:research", {"tokens_per_day|m": day(121 + 330), "tokens_per_day|n": day(0)})
    await books.level("team:other", {"tokens_per_day|n": day(1000), "tokens_per_day|m": day(0)})
    await books.level("key:k2", {"tokens_in_all": [1, MIDNIGHT_US, NOW_US]})
    assert await check() == (7, [], [])


@pytest.mark.parametrize("by", [1, -1, 1 << 52])
async def test_a_counter_that_is_not_as_its_books_is_told_with_all_that_it_should_be(books, check, store, by):
    await books.settle(NOW_US - HOUR_US, input=1 << 52, money=9)
    await books.open(NOW_US, {"org": ["tokens_per_day"]}, tokens_out=10)
    await books.level("org", {"tokens_per_day": day((1 << 52) + 12 + by, owed=2), "budget_per_day": day(9)})
    assert await check() == (2, [("org", "tokens_per_day", "now", by)], [])
    (line,) = (await audit.check(store, books.organization, ["org"])).differences
    assert (line.owed, line.recorded, line.reserved) == (2, 1 << 52, 10)


async def test_slots_are_the_open_reservations_that_hold_one(books, check):
    """Of every gateway, also of one that is lost; and of calls of the meter's model only."""
    both = {"org": ["concurrent_requests", "concurrent_requests|m"], "key:k1": ["concurrent_requests"]}
    await books.begin(gateways=("g1", "lost"))
    await books.open(NOW_US, both)
    await books.open(NOW_US - 30 * HOUR_US, both, gateway="lost")
    await books.open(NOW_US, {"org": ["concurrent_requests"]})
    states = {"concurrent_requests": [3, [NOW_US]], "concurrent_requests|m": [2, []], "concurrent_requests|n": [0, []]}
    await books.level("org", states)
    await books.level("key:k1", {"concurrent_requests": [3, []]})
    assert await check() == (4, [("key:k1", "concurrent_requests", "now", 1)], [])


async def test_a_level_that_is_gone_while_calls_are_charged_to_it_differs(books, check, store):
    await books.open(
        NOW_US, {"team:gone": ["concurrent_requests", "tokens_per_day", "requests_per_minute"]}, tokens_in=7
    )
    assert (await check())[1] == [
        ("team:gone", "concurrent_requests", "now", -1),
        ("team:gone", "tokens_per_day", "now", -7),
    ]


async def test_what_was_admitted_before_a_counter_began_or_after_it_was_last_counted_is_not_its(books, check):
    """In the middle of an hour its records say which calls those were: the plan was changed there."""
    begun, last = MIDNIGHT_US + 90 * 60_000_000, NOW_US - HOUR_US
    for moment, amount in ((begun - 1, 1), (begun, 2), (begun + HOUR_US, 4), (last, 8), (last + 1, 16), (NOW_US, 32)):
        await books.settle(moment, input=amount)
        await books.settle(moment, of=account("other", "k9"), input=amount * 100)
        await books.open(moment, {"team:research": ["tokens_per_day"]}, tokens_in=amount * 1000)
    await books.level("team:research", {"tokens_per_day": day(14_014, begun=begun, last=last)})
    assert await check() == (1, [], [])
    await books.level("team:research", {"tokens_per_day": day(14_015, begun=begun, last=last)})
    assert await check() == (1, [("team:research", "tokens_per_day", "now", 1)], [])


async def test_where_the_records_of_an_hour_are_gone_nothing_is_claimed(books, check):
    begun, last = MIDNIGHT_US + 30 * 60_000_000, MIDNIGHT_US + 2 * HOUR_US + 5
    await books.settle(begun - 1, input=1, kept=False)
    await books.settle(begun, input=2)
    await books.settle(last, input=4)
    await books.level("org", {"tokens_per_day": day(6, begun=begun, last=last)})
    await books.level("key:k1", {"tokens_per_day": day(7, begun=begun, last=last)})
    assert await check() == (2, [], [("org", "tokens_per_day", "now", audit.GONE)])


async def test_a_counter_older_than_its_roll_ups_is_not_told(books, check):
    await books.settle(NOW_US, input=5)
    await books.level("org", {"tokens_in_all": [50, NOW_US - 401 * DAY_US, NOW_US]})
    assert await check() == (1, [], [("org", "tokens_in_all", "now", audit.GONE)])


async def test_corrections_and_expiries_count_as_they_are_recorded(books, check):
    await books.settle(NOW_US - 5, what=1, estimated=True, input=10, output=100, money=70)
    await books.settle(NOW_US - 5, what=2, input=-3, output=-80, money=-70)
    await books.settle(NOW_US - 5, what=3, of=account("", "platform"), input=40)
    await books.level("org", {"tokens_per_day": day(27), "budget_in_all": [0, NOW_US - 6, NOW_US - 5]})
    assert await check() == (2, [], [])


async def test_the_period_before_is_told_where_it_adds_up(books, check):
    """Where it does not, it may have owed something, which nobody knows any more."""
    await books.settle(MIDNIGHT_US - DAY_US - 1, input=1000)
    await books.settle(MIDNIGHT_US - DAY_US, input=1)
    await books.settle(MIDNIGHT_US - 1, input=2)
    await books.settle(MIDNIGHT_US, input=4)
    await books.open(MIDNIGHT_US - 1, {"org": ["tokens_per_day"], "key:k1": ["tokens_per_day"]}, tokens_in=100)
    before = {"owed": 3, "before": 103, "before_ordinal": TODAY - 1}
    await books.level("org", {"tokens_per_day": day(7, **before)})
    await books.level("key:k1", {"tokens_per_day": day(7, **before | {"before": 104})})
    await books.level("team:research", {"tokens_per_day": day(4, before=1000, before_ordinal=TODAY - 2)})
    assert await check() == (3, [], [("key:k1", "tokens_per_day", "before", audit.UNKNOWN)])


async def test_periods_are_those_of_the_organizations_time_zone(books, check):
    """One that begins at half past, too: its hour is told call by call."""
    begun = MIDNIGHT_US - 5 * HOUR_US - HOUR_US // 2
    await books.settle(begun - DAY_US, input=1)
    await books.settle(begun - 1, input=2)
    await books.settle(begun, input=4)
    await books.settle(NOW_US, input=8)
    await books.level("org", {"tokens_per_day": day(12, begun=begun, before=3, before_ordinal=TODAY - 1)})
    assert await check(KOLKATA) == (1, [], [])


async def test_a_call_that_is_settled_between_two_readings_is_no_difference(books, check, store, monkeypatch):
    """It is in the reservations of the first, and in the roll-up of an hour that was read before the second."""
    levels = {"org": ["tokens_per_day", "concurrent_requests"]}
    await books.settle(MIDNIGHT_US, input=10)
    open_ = await books.open(MIDNIGHT_US, levels, tokens_in=100)
    await books.level("org", {"tokens_per_day": day(110), "concurrent_requests": [1, []]})
    read, settled = audit.hours.read, []

    async def meanwhile(*arguments):
        async for piece in read(*arguments):
            yield piece
        if not settled:
            settled.append(True)
            await store.send(["HDEL", f"{books.stem}:reservations:g1", open_])
            await books.settle(MIDNIGHT_US, input=60)
            await books.level("org", {"tokens_per_day": day(70), "concurrent_requests": [0, []]})

    monkeypatch.setattr(audit.hours, "read", meanwhile)
    assert await check() == (2, [], [])
    assert settled


@pytest.mark.parametrize("begins", [MIDNIGHT_US, MIDNIGHT_US - DAY_US])
async def test_a_counter_that_begins_anew_or_counts_on_between_two_readings_is_no_difference(
    books, check, monkeypatch, begins
):
    """By the first reading it was last counted an hour ago, or yesterday in the period before."""
    await books.settle(MIDNIGHT_US - DAY_US, input=1)
    await books.settle(MIDNIGHT_US + 5, input=10)
    old = MIDNIGHT_US if begins == MIDNIGHT_US else MIDNIGHT_US - DAY_US
    await books.level("org", {"tokens_per_day": day(10 if begins == MIDNIGHT_US else 1, begun=old, last=old + 5)})
    read, counted = audit.hours.read, []

    async def meanwhile(*arguments):
        async for piece in read(*arguments):
            yield piece
        if not counted:
            counted.append(True)
            await books.settle(NOW_US, input=100)
            await books.level("org", {"tokens_per_day": day(110, last=NOW_US)})

    monkeypatch.setattr(audit.hours, "read", meanwhile)
    assert await check() == (1, [], [])
    assert counted


async def test_a_difference_that_the_second_look_does_not_see_is_not_told(books, check, monkeypatch):
    """And one that is another at every look is told as that."""
    looks = []
    look = audit._Books.look

    async def wavering(self, levels):
        looks.append(levels)
        return [audit.Line(Name("org", "tokens_per_day"), off[len(looks) - 1], 0, 0, 0) for _ in "1"]

    monkeypatch.setattr(audit._Books, "look", wavering)
    await books.level("org", {"tokens_per_day": day(0)})
    for off, told in (
        ([5, 0], ([], [])),
        ([5, 5], ([("org", "tokens_per_day", "now", 5)], [])),
        ([5, 6, 6], ([("org", "tokens_per_day", "now", 6)], [])),
        ([5, 6, 7, 8, 9], ([], [("org", "tokens_per_day", "now", audit.MOVED)])),
    ):
        looks.clear()
        assert await check() == (1, *told)
        assert len(looks) == len(off)
    monkeypatch.setattr(audit._Books, "look", look)


async def test_a_gateway_that_is_new_at_the_second_reading_is_read_too(books, check, store, monkeypatch):
    await books.level("org", {"concurrent_requests": [1, []]})
    await books.begin(gateways=("g1", "new"))
    await books.open(NOW_US, {"org": ["concurrent_requests"]}, gateway="new")
    assert await check() == (1, [], [])


async def test_levels_are_found_by_organization(books, store, organization):
    other = Written(store, f"{organization}.x")
    await books.level("org", {"tokens_per_day": day(0)})
    await books.level("team:a:b}:level:c", {"tokens_per_day": day(0)})
    await other.level("org", {"tokens_per_day": day(0)})
    assert {name: sorted(levels) for name, levels in (await audit.levels_of(store, organization)).items()} == {
        organization: ["org", "team:a:b}:level:c"]
    }
    found = await audit.levels_of(store)
    assert found[f"{organization}.x"] == ["org"]
    assert sorted(found[organization]) == ["org", "team:a:b}:level:c"]
    assert await audit.levels_of(store, "nobody") == {"nobody": []}
