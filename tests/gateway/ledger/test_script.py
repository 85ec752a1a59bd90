"""The script against its twin: the same histories, every answer and every number."""

from itertools import count

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.ledger import wire
from policies.buckets import MOST
from policies.domain import Level, Meter, MeterKind
from tests.gateway.ledger.books import Books

MINUTE = 60_000_000
HOUR = 60 * MINUTE
LIMITS = st.sampled_from([1, 3, 7, 600, 400_000, 10**8])
TOKENS = st.one_of(st.integers(0, 20), st.integers(0, 10**6), st.integers(0, 2 * 10**8), st.just(10**15))
IDS = st.integers(0, 7).map("r{}".format)

RATES = st.builds(
    lambda kind, limit, share: Meter(kind, limit, max(1, limit * share // 100), MINUTE),
    st.sampled_from([MeterKind.REQUESTS_PER_MINUTE, MeterKind.TOKENS_PER_MINUTE]),
    LIMITS,
    st.sampled_from([1, 50, 100]),
)
SLOTS = st.integers(1, 4).map(lambda limit: Meter(MeterKind.CONCURRENT_REQUESTS, limit, limit, 0))
METERS = st.lists(st.one_of(RATES, SLOTS), max_size=3, unique_by=lambda meter: meter.kind).map(tuple)
# Two principals of one organization and team, each with a key of its own.
PLANS = st.builds(
    lambda organization, team, one, other: [
        (Level("organization", "organization", organization), Level("team", "team:t", team), Level("key", id_, key))
        for id_, key in (("key:1", one), ("key:2", other))
    ],
    METERS,
    METERS,
    METERS,
    METERS,
)
OPERATIONS = st.one_of(
    st.tuples(st.just(wire.ADMIT), IDS, TOKENS, st.integers(0, 100), st.integers(0, 1)),
    st.tuples(st.just(wire.SETTLE), IDS, st.booleans(), TOKENS, TOKENS, st.booleans()),
    st.tuples(st.just(wire.GROW), IDS, st.integers(1, 3), TOKENS),
)
ELAPSE = st.tuples(st.just("elapse"), st.one_of(st.integers(0, 10**6), st.integers(0, 3 * HOUR)))
CLOCK = st.tuples(st.just("clock"), st.integers(1, MINUTE))
HISTORIES = st.lists(st.one_of(st.lists(OPERATIONS, min_size=1, max_size=8), ELAPSE, CLOCK), min_size=1, max_size=12)

_organizations = count()


class Driver:
    """Drives the script and the twin through one history."""

    def __init__(self, redis, plans):
        self.redis = redis
        self.plans = plans
        self.books = Books()
        self.stem = wire.stem(f"twin{next(_organizations)}")

    def batch(self, operations):
        arguments = wire.Arguments()
        bodies = []
        for code, *rest in operations:
            if code == wire.ADMIT:
                id_, tokens, prompt, principal = rest
                place = arguments.place(wire.pack_levels(self.plans[principal]))
                bodies.append((code, id_, tokens, prompt, f"k{principal}", "m|1", place))
            else:
                bodies.append((code, *rest))
        _, sha, _, _, *args = wire.call("", "g1", bodies, arguments)
        now, answers = msgspec.msgpack.decode(self.redis.evalsha(sha, 1, self.stem, *args))
        assert now >= self.books.now
        self.books.now = now
        assert answers == [self.twin(*operation) for operation in operations]

    def twin(self, code, *rest):
        if code == wire.ADMIT:
            id_, tokens, prompt, principal = rest
            return self.books.admit(id_, tokens, prompt, (f"k{principal}", "m|1"), self.plans[principal])
        return self.books.settle(*rest) if code == wire.SETTLE else self.books.grow(*rest)

    def elapse(self, us):
        self.books.elapse(us)
        for (level, kind), (_, at) in self.books.rates().items():
            self.redis.hset(f"{self.stem}:level:{level}", f"{kind}@", at)

    def clock(self, us):
        """Let the clock have been `us` ahead: until then it stands still."""
        if self.books.now:
            self.redis.set(f"{self.stem}:clock", self.books.now + us)
            self.books.now += us

    def compare(self):
        levels = {}
        for (level, kind), value in self.books.used.items():
            fields = levels.setdefault(level, {})
            fields[kind], fields[f"{kind}@"] = value if isinstance(value, tuple) else (value, None)
        for level, fields in levels.items():
            kept = {name.decode(): int(value) for name, value in self.redis.hgetall(self.key(level)).items()}
            del kept["expires"]
            assert kept == {name: value for name, value in fields.items() if value is not None}
        reservations = self.redis.hgetall(f"{self.stem}:reservations:g1")
        assert {id_.decode(): head(raw) for id_, raw in reservations.items()} == {
            id_: one[1:] for id_, one in self.books.open.items()
        }
        usage = self.redis.hgetall(f"{self.stem}:usage")
        assert {field.decode(): int(value) for field, value in usage.items()} == self.books.usage

    def key(self, level):
        return f"{self.stem}:level:{level}"


def head(raw):
    """Read the first of the two msgpack values of a reservation."""
    return msgspec.msgpack.decode(b"\x92" + raw)[0]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PLANS, HISTORIES)
def test_the_script_and_its_twin_agree_on_every_answer_and_every_number(redis, plans, history):
    driver = Driver(redis, plans)
    for step in history:
        if isinstance(step, list):
            driver.batch(step)
        else:
            getattr(driver, step[0])(step[1])
        driver.compare()


def test_a_level_is_kept_until_48_hours_after_its_debt_is_paid(redis):
    debt = Meter(MeterKind.TOKENS_PER_MINUTE, 1, 1, MINUTE)
    driver = Driver(redis, [(Level("organization", "o", (debt,)),)])

    driver.batch([(wire.ADMIT, "r", 1, 1, 0), (wire.SETTLE, "r", True, 0, 6000, False)])

    assert redis.pttl(driver.key("o")) >= (100 * HOUR + 48 * HOUR) // 1000 - 1000


def test_the_time_to_live_is_set_anew_before_it_runs_short(redis):
    meter = Meter(MeterKind.REQUESTS_PER_MINUTE, 600, 600, MINUTE)
    driver = Driver(redis, [(Level("organization", "o", (meter,)),)])
    driver.batch([(wire.ADMIT, "r", 0, 0, 0)])
    redis.hset(driver.key("o"), "expires", driver.books.now + HOUR)
    redis.pexpire(driver.key("o"), HOUR // 1000)

    driver.batch([(wire.SETTLE, "r", True, 0, 0, False), (wire.ADMIT, "s", 0, 0, 0)])

    assert redis.pttl(driver.key("o")) > 48 * HOUR // 1000


def test_numbers_up_to_the_edge_of_a_double_are_kept_exactly(redis):
    meter = Meter(MeterKind.TOKENS_PER_MINUTE, 7, MOST // MINUTE, MINUTE)
    driver = Driver(redis, [(Level("organization", "o", (meter,)),)])

    driver.batch([(wire.ADMIT, "r", MOST // MINUTE, 0, 0), (wire.ADMIT, "s", 1, 0, 0)])
    driver.compare()
    driver.batch([(wire.SETTLE, "r", True, 10**15, 10**15, True), (wire.ADMIT, "s", 1, 0, 0)])
    driver.compare()

    assert driver.books.used["o", meter.kind][0] == MOST


def test_an_operation_that_comes_again_changes_nothing(redis):
    meter = Meter(MeterKind.TOKENS_PER_MINUTE, 1, 1000, MINUTE)
    driver = Driver(redis, [(Level("organization", "o", (meter,)),)])
    twice = [
        (wire.ADMIT, "r", 10, 5, 0),
        (wire.GROW, "r", 1, 20),
        (wire.GROW, "r", 2, 30),
        (wire.SETTLE, "r", True, 50, 50, False),
    ]

    for operation in twice:
        driver.batch([operation, operation])
        driver.batch([operation])
        driver.compare()

    assert driver.books.usage["k0|m|1|requests"] == 1
    assert 99 * MINUTE < driver.books.used["o", meter.kind][0] <= 100 * MINUTE


def test_a_level_that_is_ahead_of_the_clock_refills_nothing(redis):
    meter = Meter(MeterKind.TOKENS_PER_MINUTE, 600, 1000, MINUTE)
    driver = Driver(redis, [(Level("organization", "o", (meter,)),)])
    driver.batch([(wire.ADMIT, "r", 100, 5, 0)])

    driver.elapse(-MINUTE)
    driver.batch([(wire.ADMIT, "s", 10, 5, 0)])

    driver.compare()
    assert driver.books.used["o", meter.kind][0] == 110 * MINUTE


def test_what_one_operation_cannot_read_fails_only_that_operation(redis):
    meter = Meter(MeterKind.REQUESTS_PER_MINUTE, 600, 600, MINUTE)
    plans = [
        (Level("organization", "o", (meter,)),),
        (Level("organization", "o", (meter,)), Level("key", "k", (meter,))),
    ]
    driver = Driver(redis, plans)
    redis.set(driver.key("k"), "not a level")
    arguments = wire.Arguments()
    bodies = [
        (wire.ADMIT, id_, 1, 1, "k", "m", arguments.place(wire.pack_levels(plan)))
        for id_, plan in (("a", plans[0]), ("b", plans[1]), ("c", plans[0]))
    ]

    _, sha, _, _, *args = wire.call("", "g1", bodies, arguments)
    _, answers = msgspec.msgpack.decode(redis.evalsha(sha, 1, driver.stem, *args))

    assert [answer[0] for answer in answers] == [wire.DONE, wire.FAILED, wire.DONE]
    assert "WRONGTYPE" in answers[1][1]
    assert set(redis.hkeys(f"{driver.stem}:reservations:g1")) == {b"a", b"c"}
    assert int(redis.hget(driver.key("o"), meter.kind)) <= 2 * MINUTE
