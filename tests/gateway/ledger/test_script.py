"""The script against its twin: the same histories, every answer and every number."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.ledger import plans, wire
from policies.domain import Level, Meter, MeterKind
from policies.meters import MOST, SORTS, Keeping, largest
from tests.gateway.ledger.twins import START, Driver, claim, head

MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
ENDING = ("ok", "req_1", "")

AMOUNTS = st.one_of(st.integers(0, 20), st.integers(0, 10**6), st.integers(0, 2 * 10**8))
IDS = st.integers(1, 40).map("{:x}".format)


def meters(kind):
    limits = st.sampled_from([1, 3, 7, 600, 400_000, 10**8]).map(lambda limit: min(limit, largest(kind)))
    bursts = st.sampled_from([1, 50, 100]) if SORTS[kind].keeping is Keeping.RATE else st.just(100)
    return st.builds(
        lambda limit, share, enforce, model: Meter(kind, limit, max(1, limit * share // 100), enforce, model),
        limits,
        bursts,
        st.sampled_from([True, True, True, False]),
        st.sampled_from([None, None, "m|1", "other"]),
    )


METERS = st.lists(
    st.sampled_from(sorted(MeterKind)).flatmap(meters), max_size=4, unique_by=lambda meter: (meter.kind, meter.model)
).map(tuple)
# Two principals of one organization and team, each with a key of its own.
PRINCIPALS = st.builds(
    lambda organization, team, one, other: [
        (Level("organization", "org", organization), Level("team", "team:t", team), Level("key", id_, key))
        for id_, key in (("key:1", one), ("key:2", other))
    ],
    METERS,
    METERS,
    METERS,
    METERS,
)
FORCED = st.one_of(st.just(False), st.just(False), st.integers(START - 2 * DAY, START + 9 * DAY))
OPERATIONS = st.one_of(
    st.tuples(
        st.just(wire.ADMIT),
        IDS,
        FORCED,
        AMOUNTS,
        AMOUNTS,
        AMOUNTS,
        st.integers(0, HOUR),
        st.integers(0, 1),
        st.sampled_from([0, 0, 0, DAY, -DAY, 40 * DAY]),
    ),
    st.tuples(
        st.just(wire.SETTLE),
        IDS,
        st.booleans(),
        AMOUNTS,
        AMOUNTS,
        AMOUNTS,
        AMOUNTS,
        AMOUNTS,
        st.booleans(),
        st.sampled_from(["a/m", "b/m"]),
        st.sampled_from([ENDING, ("ok", "req_1", "10.0.0.1:8000"), ("ok", "req_1", "10.0.0.2:80/a")]),
        st.one_of(st.just(False), st.tuples(AMOUNTS, AMOUNTS, AMOUNTS)),
    ),
    st.tuples(st.just(wire.GROW), IDS, st.integers(1, 3), AMOUNTS, AMOUNTS),
)
CLOCK = st.one_of(
    st.integers(0, 10**6), st.integers(0, 3 * HOUR), st.integers(0, 3 * DAY), st.integers(0, 70 * DAY), st.just(-DAY)
)
HISTORIES = st.lists(st.one_of(st.lists(OPERATIONS, min_size=1, max_size=8), CLOCK), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PRINCIPALS, st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"]), HISTORIES)
def test_the_script_and_its_twin_agree_on_every_answer_and_every_number(redis, principals, zone, history):
    driver = Driver(redis, principals, zone)
    for step in history:
        if isinstance(step, list):
            driver.batch(step)
        else:
            driver.clock(step)
        driver.compare()


def one(redis, *each):
    """Return a driver of one principal with these meters."""
    return Driver(redis, [(Level("organization", "org", tuple(each)),)])


def admit(id_, tokens=1, money=0, forced=False, ahead=0):
    return (wire.ADMIT, id_, forced, 0, tokens, money, MINUTE, 0, ahead)


def settle(id_, tokens=1, money=0):
    return (wire.SETTLE, id_, True, 0, tokens, 0, 0, money, False, "a/m", ENDING, False)


def rate(limit, burst=None, kind=MeterKind.TOKENS_PER_MINUTE):
    return Meter(kind, limit, burst or limit)


def stock(kind, limit):
    return Meter(kind, limit, limit)


def test_a_level_is_kept_until_48_hours_after_its_debt_is_paid(redis):
    driver = one(redis, rate(1))

    driver.batch([admit("1"), settle("1", 6000)])

    seconds, _ = redis.time()
    expires = redis.pexpiretime(driver.key("org")) * 1000
    assert expires >= driver.books.now + 100 * HOUR + 48 * HOUR - 1000
    assert seconds > 0


def test_debt_on_a_calendar_meter_outlives_the_periods_that_pay_it_and_a_total_is_never_forgotten(redis):
    driver = one(redis, stock(MeterKind.TOKENS_PER_MONTH, 10))
    driver.batch([admit("1"), settle("1", 100)])
    assert redis.pexpiretime(driver.key("org")) * 1000 > driver.books.now + 10 * 28 * DAY

    driver = one(redis, stock(MeterKind.TOKENS_IN_ALL, 10))
    driver.batch([admit("1")])
    assert redis.pexpiretime(driver.key("org")) * 1000 > driver.books.now + 36_500 * DAY


def test_numbers_up_to_the_edge_of_a_double_are_kept_exactly(redis):
    driver = one(redis, rate(7, MOST // MINUTE))

    driver.batch([admit("1", MOST // MINUTE), admit("2")])
    driver.compare()
    driver.batch([settle("1", 10**15), admit("3")])
    driver.compare()

    assert driver.books.states["org", "tokens_per_minute"][0] == MOST


def test_an_operation_that_comes_again_changes_nothing(redis):
    driver = one(redis, rate(1, 1000), stock(MeterKind.BUDGET_PER_DAY, 10**9), stock(MeterKind.CONCURRENT_REQUESTS, 9))
    twice = [admit("1", 10, 5), (wire.GROW, "1", 1, 20, 7), (wire.GROW, "1", 2, 30, 8), settle("1", 50, 9)]

    for operation in twice:
        driver.batch([operation, operation])
        driver.batch([operation])
        driver.compare()

    assert len(driver.records()) == 1
    assert driver.books.states["org", "tokens_per_minute"][0] == 50 * MINUTE


def test_what_was_admitted_is_told_again_at_any_length_and_counts_once(redis):
    driver = one(redis, rate(1, 2), stock(MeterKind.TOKENS_PER_DAY, 2), stock(MeterKind.CONCURRENT_REQUESTS, 2))
    then = driver.books.now
    driver.batch([admit("1"), admit("2"), settle("1")])
    driver.clock(MINUTE)
    driver.batch([admit("3", forced=then), settle("3", 4)])
    again = [admit("1", forced=then), admit("2", forced=then), settle("1"), admit("3", forced=then), settle("3", 4)]

    for first in range(len(again)):
        driver.batch(again[first : first + 2])
        driver.compare()

    assert len(driver.records()) == 2
    assert driver.books.states["org", "concurrent_requests"][0] == 1


def test_a_plan_of_another_period_is_refused_as_stale_and_changes_nothing(redis):
    driver = one(redis, stock(MeterKind.TOKENS_PER_DAY, 10))

    answers = driver.batch([admit("1", ahead=DAY), admit("2", ahead=-DAY), admit("3", ahead=-2 * DAY)])

    assert [answer[0] for answer in answers] == [wire.STALE, wire.DONE, wire.STALE]


def test_debt_of_a_day_opens_the_next_and_a_late_settlement_changes_what_is_owed(redis):
    driver = one(redis, stock(MeterKind.TOKENS_PER_DAY, 100))
    driver.batch([admit("1", 60), admit("2", 40), settle("1", 150)])
    driver.clock(DAY)
    (answer,) = driver.batch([admit("3", 20)])
    driver.compare()
    assert (answer[0], driver.books.states["org", "tokens_per_day"].owed) == (wire.REFUSED, 90)

    driver.batch([admit("4", 10), settle("2", 0)])
    driver.compare()

    assert driver.books.states["org", "tokens_per_day"].owed == 50
    (answer,) = driver.batch([admit("5", 40)])
    assert answer[0] == wire.DONE


def test_what_is_spent_for_good_is_told_before_what_takes_time_and_what_never_fits_before_that(redis):
    driver = one(redis, rate(1), stock(MeterKind.BUDGET_IN_ALL, 10), Meter(MeterKind.OUTPUT_TOKENS_PER_MINUTE, 5, 5))
    driver.batch([admit("1", 1, 10)])

    answers = driver.batch([admit("2", 1, 1), admit("3", 1), admit("4", 6, 1), admit("5", 0, 0)])

    assert [answer[:2] for answer in answers] == [
        [wire.SPENT, 2],
        [wire.REFUSED, 1],
        [wire.TOO_LARGE, 1],
        [wire.DONE, 0],
    ]


def test_a_slot_is_promised_for_the_earliest_end_that_was_predicted(redis):
    driver = one(redis, stock(MeterKind.CONCURRENT_REQUESTS, 2))
    driver.batch([(wire.ADMIT, "1", False, 0, 0, 0, 9 * MINUTE, 0)])
    driver.clock(MINUTE)
    driver.batch([(wire.ADMIT, "2", False, 0, 0, 0, MINUTE, 0)])
    driver.clock(1)

    waits = [driver.batch([admit("3")])[0][2]]
    driver.batch([settle("2"), (wire.ADMIT, "4", False, 0, 0, 0, 20 * MINUTE, 0)])
    waits += [driver.batch([admit("5")])[0][2]]
    driver.clock(9 * MINUTE)
    driver.batch([settle("4"), (wire.ADMIT, "6", False, 0, 0, 0, 0, 0)])
    waits += [driver.batch([admit("7")])[0][2]]

    assert waits == [MINUTE - 1, 8 * MINUTE - 1, 1_000_000]


def test_a_shadow_never_refuses_and_says_what_it_would_have_done(redis):
    driver = one(redis, Meter(MeterKind.REQUESTS_PER_HOUR, 1, 1, enforce=False))

    answers = driver.batch([admit("1"), admit("2")])

    assert [(answer[0], answer[9]) for answer in answers] == [(wire.DONE, []), (wire.DONE, [1])]


def test_a_shadow_of_requests_says_of_each_call_what_a_meter_in_force_would_say(redis):
    """A call that it would have refused takes nothing from those that come after."""
    driver = one(redis, Meter(MeterKind.REQUESTS_PER_SECOND, 20, 20, enforce=False))
    driver.batch([admit(f"{i:x}") for i in range(1, 21)])

    told = []
    for i in range(40, 80):
        driver.clock(25_000)
        (answer,) = driver.batch([admit(f"{i:x}")])
        told.append(answer[9] == [1])

    assert sum(told) == 20
    driver.compare()


def test_what_one_operation_cannot_read_fails_only_that_operation(redis):
    meter = Meter(MeterKind.REQUESTS_PER_MINUTE, 600, 600)
    good, bad = (Level("organization", "org", (meter,)),), (Level("key", "key:k", (meter,)),)
    driver = Driver(redis, [good])
    redis.set(driver.key("key:k"), "not a level")
    arguments = wire.Arguments()
    bodies = [
        (wire.ADMIT, id_, False, 1, 0, 0, 0, arguments.place(plans.pack(claim(levels), driver.books.now).blob))
        for id_, levels in (("1", good), ("2", good + bad), ("3", good))
    ]

    answers = driver.run(bodies, arguments)

    assert [answer[0] for answer in answers] == [wire.DONE, wire.FAILED, wire.DONE]
    assert "WRONGTYPE" in answers[1][1]
    reservations = redis.hgetall(f"{driver.stem}:reservations:g1")
    assert {id_: head(raw)[0] for id_, raw in reservations.items()} == {b"1": 1, b"3": 1}
