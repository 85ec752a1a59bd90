from zoneinfo import ZoneInfo

from msgspec import msgpack

from gateway.ledger.counters import Counter, Index, Name, Tally, counters, held, slots
from gateway.ledger.records import Account
from policies.meters import SORTS, Keeping, Measure
from policies.periods import current_and_next
from tests.gateway.ledger.written import HOUR_US, NOW_US, account, meter, pack

UTC = ZoneInfo("UTC")


def packed(states):
    return {field.encode(): pack(state) for field, state in states.items()} | {b"expires": b"1"}


def test_totals_and_calendar_meters_are_counters_and_rates_and_slots_are_not():
    states = {
        "tokens_in_all": [7, 100, 200],
        "budget_per_day|a|b": [5, 9, 100, 200, 3, 0, 0],
        "requests_per_minute": [1, 2],
        "concurrent_requests": [3, []],
        "something_else": [1],
    }
    assert counters("org", packed(states), UTC) == [
        Counter(Name("org", "tokens_in_all"), Measure.TOKENS, 7, 0, 100, 200),
        Counter(Name("org", "budget_per_day|a|b"), Measure.MONEY, 5, 3, 100, 200),
    ]
    assert slots("org", packed(states)) == {Name("org", "concurrent_requests"): 3}
    assert (Name("org", "budget_per_day|a|b").kind, Name("org", "budget_per_day|a|b").model) == (
        "budget_per_day",
        "a|b",
    )
    assert Name("org", "tokens_in_all").model is None


def test_the_count_of_the_period_before_is_of_that_period_in_the_time_zone():
    zone = ZoneInfo("America/New_York")
    for kind, sort in SORTS.items():
        if sort.keeping is not Keeping.CALENDAR:
            continue
        now, _ = current_and_next(sort.calendar, zone, NOW_US)
        earlier = now
        for _ in range(3):
            earlier, _ = current_and_next(sort.calendar, zone, earlier.start_us - 1)
        state = [5, now.ordinal, now.start_us, NOW_US, 0, 77, earlier.ordinal]
        _, before = counters("org", packed({kind: state}), zone)
        assert before == Counter(
            Name("org", kind.value, "before"), sort.measure, 77, None, earlier.start_us, earlier.end_us - 1
        )
        assert earlier.ordinal == now.ordinal - 3
        state[-1] = now.ordinal - 5000
        assert len(counters("org", packed({kind: state}), zone)) == 1


def test_a_tally_has_what_is_of_its_hours_and_what_is_of_later_ones():
    begun = 10 * HOUR_US + 5
    tally = Tally(Counter(Name("org", "tokens_in_all"), Measure.TOKENS, 0, 0, begun, 12 * HOUR_US))
    for hour in range(9, 15):
        tally.add(hour, 10**hour)
    assert (tally.recorded, tally.after) == (10**10 + 10**11 + 10**12, 10**13 + 10**14)


def test_each_amount_of_a_roll_up_goes_to_whom_it_concerns():
    of = {
        "tokens_in_all": Measure.TOKENS,
        "tokens_in_all|m": Measure.TOKENS,
        "budget_in_all": Measure.MONEY,
        "input": Measure.INPUT,
        "output": Measure.OUTPUT,
        "requests": Measure.REQUESTS,
    }
    tallies = {
        (level, field): Tally(Counter(Name(level, field), measure, 0, 0, 0, NOW_US))
        for level in ("org", "team:research", "team:other", "key:k1", "key:platform", "team:")
        for field, measure in of.items()
    }
    index = Index(tallies.values())
    for model, power in (("m", 1), ("n", 1000)):
        for letter, amount in zip(b"nicorme", (1, 2, 4, 8, 16, 32, 64), strict=True):
            field = account(model=model) + pack("d") + bytes([letter])
            for _ in range(2):
                index.add(5, {field: str(amount * power).encode()})
            index.add(5, {account("", "platform", model) + pack("") + bytes([letter]): b"1"})
    for level in ("org", "team:research", "key:k1"):
        sums = {field: tallies[level, field].recorded for field in of}
        assert sums == {
            "tokens_in_all": 20 * 1001,
            "tokens_in_all|m": 20,
            "budget_in_all": 64 * 1001,
            "input": 4 * 1001,
            "output": 16 * 1001,
            "requests": 2 * 1001,
        }
    assert not any(tallies[level, field].recorded for level in ("team:other", "key:platform", "team:") for field in of)
    assert index.of(Account("", "platform", "m")) == []


def test_open_reservations_hold_what_their_own_plan_says():
    def reservation(admitted_us, levels):
        plan = [account(), [[level, [meter(name) for name in names]] for level, names in levels.items()]]
        return msgpack.encode([3, 40, 500, 1, admitted_us, admitted_us + 1]) + msgpack.encode(plan)

    first, second = NOW_US - 3 * HOUR_US, NOW_US
    found = held(
        [
            reservation(first, {"org": ["tokens_in_all", "requests_per_minute"], "key:k1": ["concurrent_requests"]}),
            reservation(second, {"org": ["tokens_in_all", "budget_in_all"]}),
        ]
    )
    assert set(found.held) == {
        Name("org", "tokens_in_all"),
        Name("org", "budget_in_all"),
        Name("key:k1", "concurrent_requests"),
    }
    assert found.hours == {first // HOUR_US, second // HOUR_US}

    def of(field, begun, last, when="now"):
        return found.of(Counter(Name("org", field, when), Measure.TOKENS, 0, 0, begun, last))

    assert of("tokens_in_all", first, second) == 86
    assert of("tokens_in_all", first + 1, second) == of("tokens_in_all", first, second - 1) == 43
    assert of("tokens_in_all", first, second, "before") == 86
    assert of("budget_in_all", first, second) == 500
    assert of("tokens_per_day", first, second) == 0
