"""The script's heartbeat: who is reaped, what that books, and what becomes of whoever was reaped and lives."""

import time
from collections import Counter

import pytest
from msgspec import msgpack
from msgspec.structs import replace

from gateway.ledger import plans, records, wire
from policies.domain import Bill, Claim, Level, Meter, MeterKind, Usage

SECOND = 1_000_000
DAY_MS = 86_400_000
METERS = (
    Meter(MeterKind.TOKENS_PER_MINUTE, 1, 10**6),
    Meter(MeterKind.CONCURRENT_REQUESTS, 1000, 1000),
    Meter(MeterKind.TOKENS_PER_MONTH, 10**6, 10**6),
    Meter(MeterKind.BUDGET_IN_ALL, 10**6, 10**6),
)
LEVELS = (Level("key", "k", METERS),)
INPUT, OUTPUT, MONEY = 40, 60, 500
COUNTED = Bill(Usage(40, 30, estimated=True, cached_tokens=5, reasoning_tokens=3), money=200, deployment="a/m")
TOLD = Bill(Usage(41, 70, estimated=False, cached_tokens=6, reasoning_tokens=2), 300, "a/m", "ok", "req_1")


class Gateway:
    """One gateway's calls of the script."""

    def __init__(self, redis, organization, name):
        self.redis = redis
        self.stem = wire.stem(organization)
        self.name = name

    def command(self, *bodies, arguments=(), touched=False):
        _, sha, count, _, *words = wire.call("", self.name, wire.pack(bodies), list(arguments), touched=touched)
        return sha, count, self.stem, *words

    def call(self, *bodies, arguments=()):
        return wire.read(self.redis.evalsha(*self.command(*bodies, arguments=arguments))).answers

    def admit(self, *ids, levels=LEVELS, forced=False):
        seconds, micros = self.redis.time()
        claim = Claim("o", "t", "k", "m", levels, INPUT, OUTPUT, MONEY)
        blob = plans.pack(claim, seconds * SECOND + micros).blob
        bodies = (wire.admission(id_, claim, 5, forced=forced) for id_ in ids)
        for answer in self.call(*bodies, arguments=[blob]):
            assert answer[0] == wire.DONE

    def beat(self, *, counts=None, known=10**6, lost_after=10 * SECOND, suspects=None):
        body = wire.heartbeat(5, known, lost_after, suspects or {}, must_look=bool(suspects))
        (answer,) = self.call(body, arguments=[wire.pack_counts(counts or {})])
        return answer

    def beat_among(self, living, *, left, must_look=False):
        """Beat where so many gateways were counted and that is believed for `left` ms; return what it saw, and `left`.

        All at one moment of the store.
        """
        key = f"{self.stem}:living"
        with self.redis.pipeline() as at_once:
            at_once.set(key, living, px=left)
            at_once.evalsha(*self.command(wire.heartbeat(None, 0, 1, {}, must_look=must_look)))
            at_once.pttl(key)
            _, reply, left = at_once.execute()
        return wire.read(reply).answers[0][1], left

    def living(self):
        """Ask, by a call that is not a beat, how many gateways live."""
        return wire.read(self.redis.evalsha(*self.command(touched=True))).live

    def settle(self, id_, bill=TOLD):
        ((outcome, *_),) = self.call(wire.settlement(id_, bill))
        return outcome

    def last_call(self):
        return self.redis.hget(f"{self.stem}:gateways", self.name).decode()

    def fall_silent(self, us=11 * SECOND):
        """Make its last call as old as that."""
        last = str(int(self.last_call()) - us)
        self.redis.hset(f"{self.stem}:gateways", self.name, last)
        return last

    def is_reaped_by(self, other):
        """Fall silent and be reaped; return how many reservations that ended."""
        _, _, _, reaped, more = other.beat(suspects={self.name: self.fall_silent()})
        assert more is False
        return reaped

    def records(self):
        entries = self.redis.xrange(f"{self.stem}:records")
        return [record for _, entry in entries for record in records.records(entry[b"r"])]

    def sums(self):
        """Yield (account, deployment, letter, amount) of all roll-ups."""
        for key in self.redis.scan_iter(f"{self.stem}:hour:*", count=1000):
            for name, amount in self.redis.hgetall(key).items():
                of = records.cell(name)
                yield of.account, of.deployment, chr(name[-1]), int(amount)

    def totals(self):
        """Return the sums of all roll-ups of the account, by their letter."""
        found = Counter()
        for account, _, letter, amount in self.sums():
            assert account == records.Account("t", "k", "m")
            found[letter] += amount
        return {letter: amount for letter, amount in found.items() if amount}

    def summed(self):
        """Return the deployments that roll-ups tell of."""
        return {deployment for _, deployment, _, _ in self.sums()}

    def used(self, field):
        return msgpack.decode(self.redis.hget(f"{self.stem}:level:k", field))[0]

    def slots(self):
        return self.used("concurrent_requests")

    def expired(self):
        """Return what is kept of reaped reservations, by id; # is the watermark."""
        return {name.decode() for name in self.redis.hkeys(f"{self.stem}:expired:{self.name}")}


@pytest.fixture
def one(redis, organization):
    return Gateway(redis, organization, "one")


@pytest.fixture
def other(redis, organization):
    return Gateway(redis, organization, "other")


def test_a_beat_tells_everybodys_last_call(one, other):
    one.admit("1")
    other.beat()

    _, calls, ids, reaped, more = other.beat()

    told = dict(zip(calls[::2], calls[1::2], strict=True))
    assert set(told) == {"one", "other"}
    assert told["one"] == one.last_call()
    assert (ids, reaped, more) == ([], 0, False)


def test_whoever_beats_is_told_among_those_that_live_even_by_its_first_beat(one):
    """Shares of what is left are made by the number of gateways that live."""
    assert one.beat()[1] == ["one", one.last_call()]


def looks(one, living, *, left, must_look=False):
    """Return whether a beat looks where so many live, which is believed for `left` ms, and whether it takes a turn."""
    calls = {f"{number}": one.last_call() for number in range(living - 1)}
    one.redis.hset(f"{one.stem}:gateways", mapping=calls)

    seen, then = one.beat_among(living, left=left, must_look=must_look)

    assert seen is False or len(seen) == 2 * living
    assert then <= 5000
    return seen is not False, then > left or left > 5000


def test_among_few_gateways_every_beat_looks_at_the_others(one):
    one.beat()
    assert looks(one, 10, left=5000) == (True, False)


def test_of_many_gateways_one_a_second_looks_at_the_others(one):
    """None for a second after one that did in its turn; then the next."""
    one.beat()
    assert [looks(one, 11, left=left) for left in (5000, 4100, 4000)] == [(False, False), (False, False), (True, True)]


def test_whoever_must_look_takes_nobodys_turn(one):
    one.beat()
    assert [looks(one, 11, left=left, must_look=True) for left in (5000, 3000)] == [(True, False)] * 2


def test_a_clock_that_was_set_back_keeps_nobody_from_looking(one):
    one.beat()
    assert looks(one, 11, left=3_600_000) == (True, True)


def test_a_call_is_told_how_many_gateways_live_as_the_beats_have_counted(one, other):
    """So that no call reads what all of them have called."""
    one.beat()
    one.redis.set(f"{one.stem}:living", 7, keepttl=True)

    assert [one.living(), one.living()] == [7, 7]


def test_whoever_comes_is_counted_by_its_first_call(redis, organization):
    """Were it told of fewer than live, all shares of what is left would be more than that."""
    many = [Gateway(redis, organization, f"{number}") for number in range(13)]

    assert [one.living() for one in many] == [*range(1, 14)]
    assert {one.living() for one in many} == {13}


def test_a_store_that_stood_still_counts_everybody_by_their_next_call(redis, organization):
    """No heartbeat is between: it may stand still again before the next."""
    many = [Gateway(redis, organization, f"{number}") for number in range(13)]
    for one in many:
        one.living()
    for one in many:
        one.fall_silent(20 * SECOND)
    redis.delete(f"{one.stem}:living")

    assert [one.living() for one in many] == [*range(1, 14)]
    assert {one.living() for one in many} == {13}


def test_one_that_was_reaped_and_calls_again_is_counted_at_once(one, other):
    one.beat()
    one.is_reaped_by(other)
    other.redis.delete(f"{other.stem}:living")
    assert other.living() == 1

    assert (one.living(), other.living()) == (2, 2)


def test_a_gateway_is_counted_while_its_last_call_is_of_15_seconds(one, other):
    other.beat()
    other.fall_silent(16 * SECOND)
    one.beat()
    assert one.living() == 1

    other.beat()
    other.fall_silent(14 * SECOND)
    one.beat()
    assert one.living() == 2


def test_where_nobody_beats_calls_count_by_themselves_and_take_no_beats_turn(one):
    calls = {f"{number}": str(int(time.time()) * SECOND) for number in range(20)}
    one.redis.hset(f"{one.stem}:gateways", mapping=calls)

    assert one.living() == 21

    assert 3000 < one.redis.pttl(f"{one.stem}:living") <= 4000
    assert len(one.beat()[1]) == 42


def test_a_beat_with_no_bills_to_tell_leaves_what_was_told(one):
    one.admit("1")
    one.beat(counts={"1": COUNTED})

    one.call(wire.heartbeat(None, 1, SECOND, {}, must_look=False))

    assert msgpack.decode(one.redis.get(f"{one.stem}:counts:one")) == {"1": [40, 30, 5, 3, 200, "a/m", ""]}


def test_a_beat_keeps_the_bills_so_far(one):
    one.admit("1")

    one.beat(counts={"1": COUNTED})

    assert msgpack.decode(one.redis.get(f"{one.stem}:counts:one")) == {"1": [40, 30, 5, 3, 200, "a/m", ""]}


def test_a_gateway_that_is_silent_by_both_clocks_is_reaped_and_charged_as_last_counted_or_as_reserved(one, other):
    one.admit("1", "2")
    one.beat(counts={"1": COUNTED})

    assert one.is_reaped_by(other) == 2

    assert one.totals() == {"n": 2, "i": 80, "o": 90, "c": 5, "r": 3, "m": 700, "e": 170}
    assert (one.slots(), one.used("tokens_per_month"), one.used("budget_in_all")) == (0, 170, 700)
    assert one.settle("1", None) == wire.DONE
    assert one.totals()["n"] == 1


def test_what_a_lost_gateway_held_is_recorded_as_expired(one, other):
    one.admit("1", "2")
    one.beat(counts={"1": COUNTED})
    one.is_reaped_by(other)

    told = {record.head.id: record for record in one.records()}

    assert set(told) == {"one-1", "one-2"}
    first, second = told["one-1"], told["one-2"]
    assert (first.head.what, second.head.what) == (records.What.EXPIRED, records.What.EXPIRED)
    assert (first.deployment, first.outcome, first.request_id) == ("a/m", "gateway_lost", "")
    assert (second.deployment, second.outcome) == ("", "gateway_lost")
    names = ("input", "output", "cached", "reasoning", "money", "estimated")
    assert [getattr(first.head, name) for name in names] == [40, 30, 5, 3, 200, True]
    assert [getattr(second.head, name) for name in names] == [INPUT, OUTPUT, 0, 0, MONEY, True]
    assert first.head.admitted_us <= first.head.settled_us


def test_what_was_grown_is_charged_as_reserved_too(one, other):
    one.admit("1")
    ((outcome, *_),) = one.call((wire.GROW, "1", 1, 7, 9))
    assert outcome == wire.DONE

    one.is_reaped_by(other)

    assert (one.totals()["o"], one.totals()["m"]) == (OUTPUT + 7, MONEY + 9)
    assert one.used("tokens_per_month") == INPUT + OUTPUT + 7


def test_nobody_is_reaped_whose_silence_only_one_side_has_seen(one, other):
    one.admit("1")
    last = one.fall_silent(9 * SECOND)
    assert other.beat(suspects={"one": last})[3] == 0  # not long enough by the store's clock

    last = one.fall_silent(11 * SECOND)
    assert other.beat(suspects={})[3] == 0  # the caller has not seen it long enough
    assert other.beat(suspects={"one": str(int(last) - 1)})[3] == 0  # it has called since

    assert one.slots() == 1


def test_nobody_reaps_itself(one):
    one.admit("1")
    last = one.fall_silent()

    assert one.beat(suspects={"one": last})[3] == 0  # it calls now

    assert one.slots() == 1
    assert one.settle("1") == wire.DONE


def test_a_large_estate_is_reaped_page_by_page(one, other):
    for start in range(1, 901, 30):
        one.admit(*(f"{i:x}" for i in range(start, start + 30)))
    last = one.fall_silent()

    pages = [other.beat(suspects={"one": last})[3:]]
    while pages[-1][1]:
        pages.append(other.beat(suspects={"one": last})[3:])

    assert len(pages) > 1
    assert sum(count for count, _ in pages) == 900
    assert other.totals()["n"] == 900
    assert len(other.records()) == 900
    assert other.slots() == 0
    assert set(other.redis.hkeys(f"{other.stem}:gateways")) == {b"other"}
    assert len(one.expired()) == 901


def test_the_largest_estate_is_reaped_to_its_end(one, other):
    """Each page leaves the front of the table emptier than the page before."""
    one.admit("1")
    key = f"{one.stem}:reservations:one"
    raw = one.redis.hget(key, "1")
    one.redis.hset(key, mapping={f"{i:x}": raw for i in range(2, 20_001)})
    last = one.fall_silent()

    reaped = 0
    for _ in range(200):
        count, more = other.beat(suspects={"one": last})[3:]
        reaped += count
        assert count, f"a page without any: {reaped} reaped and more left"
        if not more:
            break

    assert reaped == 20_000


def test_the_reservations_are_told_only_when_there_are_more_than_are_known(one):
    one.admit("1", "2")

    assert one.beat(known=2)[2] == []
    assert sorted(one.beat(known=1)[2]) == ["1", "2"]


@pytest.mark.parametrize("broken", ["1f", "a1", "b2", "c3"])  # the script meets them in no order of ours
def test_an_estate_that_cannot_be_read_to_its_end_is_left_whole(one, other, broken):
    one.admit(*(f"{i:x}" for i in range(1, 31)))
    one.admit(broken, levels=(*LEVELS, Level("team", "t", METERS)))
    last = one.fall_silent()
    before = one.redis.hgetall(f"{one.stem}:level:k")
    level = one.redis.dump(f"{one.stem}:level:t")
    one.redis.set(f"{one.stem}:level:t", "not a level")

    assert other.beat(suspects={"one": last})[0] == wire.FAILED
    assert one.redis.hgetall(f"{one.stem}:level:k") == before
    assert one.records() == []

    one.redis.restore(f"{one.stem}:level:t", 0, level, replace=True)
    assert other.beat(suspects={"one": last})[3] == 31
    assert other.slots() == 0


def test_what_has_expired_is_kept_for_a_day(one, other):
    one.admit("1", "2")

    one.is_reaped_by(other)

    assert one.expired() == {"1", "2", "#"}
    assert DAY_MS - 60_000 < one.redis.pttl(f"{one.stem}:expired:one") <= DAY_MS


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("estimated", [True, False])
def test_a_settlement_after_an_expiry_makes_the_books_what_they_would_have_been(one, other, counted, estimated):
    usage = Usage(41, 70, estimated=estimated, cached_tokens=6, reasoning_tokens=2)
    one.admit("1")
    one.beat(counts={"1": COUNTED} if counted else {})
    one.is_reaped_by(other)

    assert one.settle("1", Bill(usage, 300, "a/m", "ok", "req_1")) == wire.DONE

    told = {"n": 1, "i": 41, "o": 70, "c": 6, "r": 2, "m": 300, "e": 111}
    assert one.totals() == {letter: amount for letter, amount in told.items() if estimated or letter != "e"}
    assert (one.slots(), one.used("tokens_per_month"), one.used("budget_in_all")) == (0, 111, 300)
    assert one.expired() == {"#"}


def test_a_settlement_after_an_expiry_is_recorded_by_difference_and_once(one, other):
    one.admit("1")
    one.beat(counts={"1": COUNTED})
    one.is_reaped_by(other)

    assert [one.settle("1"), one.settle("1")] == [wire.DONE, wire.REFUSED]

    expired, corrected = one.records()
    head = corrected.head
    assert (head.id, head.what, head.admitted_us) == ("one-1", records.What.CORRECTED, expired.head.admitted_us)
    assert (head.input, head.output, head.cached, head.reasoning, head.money) == (1, 40, 1, -1, 100)
    assert head.estimated is False
    assert (corrected.account, corrected.deployment) == (records.Account("t", "k", "m"), "a/m")
    assert (corrected.outcome, corrected.request_id) == ("ok", "req_1")


def test_a_replica_is_told_by_the_records_and_all_of_a_backend_are_one_sum(one, other):
    """Counted on one, lost, and settled by another: the sums are of the backend at every moment."""
    one.admit("1")
    one.beat(counts={"1": replace(COUNTED, replica="10.0.0.1:8000")})
    one.is_reaped_by(other)
    assert one.summed() == {"a/m"}

    one.settle("1", replace(TOLD, replica="10.0.0.2:8000", wasted=Usage(3, 4, estimated=True)))

    assert [(record.head.what, record.deployment) for record in one.records()] == [
        (records.What.EXPIRED, "a@10.0.0.1:8000/m"),
        (records.What.CORRECTED, "a@10.0.0.2:8000/m"),
        (records.What.PLATFORM, ""),
    ]
    assert one.summed() == {"a/m", ""}


def test_what_a_gateway_of_before_has_counted_and_settles_is_booked_as_it_tells_it(one, other):
    """Its beats and settlements name no replica, and its deployments are replicas."""
    one.admit("1", "2")
    counted = wire.pack({"1": [40, 30, 5, 3, 200, "a@10.0.0.1:8000/m"]})
    one.call(wire.heartbeat(5, 10**6, 10 * SECOND, {}, must_look=False), arguments=[counted])
    one.is_reaped_by(other)
    assert one.summed() == {"a@10.0.0.1:8000/m", ""}

    one.call((*wire.settlement("1", TOLD)[:9], "a@10.0.0.1:8000/m", ("ok", "req_1"), False))

    assert {record.deployment for record in one.records()} == {"a@10.0.0.1:8000/m", ""}
    assert one.totals()["n"] == 2


def test_what_failed_attempts_cost_is_booked_after_an_expiry_too(one, other):
    one.admit("1")
    one.is_reaped_by(other)

    one.settle("1", Bill(TOLD.usage, 300, "a/m", wasted=Usage(3, 4, estimated=True), wasted_money=9))

    platform = [record for record in one.records() if record.head.what == records.What.PLATFORM]
    assert [(each.head.input, each.head.output, each.head.money) for each in platform] == [(3, 4, 9)]
    assert platform[0].account.is_platform


def test_a_release_after_an_expiry_takes_back_what_was_charged(one, other):
    one.admit("1")
    one.is_reaped_by(other)

    assert one.settle("1", None) == wire.DONE

    assert one.totals() == {}
    assert (one.slots(), one.used("tokens_per_month"), one.used("budget_in_all")) == (0, 0, 0)
    _, corrected = one.records()
    assert (corrected.head.what, corrected.head.input, corrected.head.money) == (2, -INPUT, -MONEY)


def test_the_number_of_the_last_reservation_outlives_its_gateway(one, other):
    one.admit("1", "2", "3")
    one.settle("2")
    one.is_reaped_by(other)

    assert one.redis.hget(f"{one.stem}:gateways", "one#") is None
    assert one.settle("2") == wire.REFUSED  # settled before it was lost
    assert one.settle("4") == wire.UNKNOWN  # never asked for


def test_what_was_admitted_before_an_expiry_and_is_told_again_is_not_opened_again(one, other):
    one.admit("1", "2")
    one.is_reaped_by(other)
    seconds, _ = one.redis.time()

    one.admit("1", "2", forced=seconds * SECOND)

    assert one.beat(known=0)[2] == []
    assert one.slots() == 0
    one.admit("3", forced=seconds * SECOND)
    assert one.slots() == 1


def test_a_gateway_that_lives_on_after_it_was_reaped_goes_on_from_its_last_reservation(one, other):
    one.admit("1", "2")
    one.is_reaped_by(other)

    one.admit("3")

    assert one.redis.hget(f"{one.stem}:gateways", "one#") == b"3"
    assert one.settle("1") == wire.DONE
    assert one.settle("1") == wire.REFUSED


def test_the_number_of_the_last_reservation_survives_a_second_reaping(one, other):
    one.admit("1", "2")
    one.settle("1")
    one.is_reaped_by(other)
    one.beat()  # it lives, and asks for nothing
    one.is_reaped_by(other)

    assert one.settle("1") == wire.REFUSED


def test_what_is_unknown_grows_no_more(one, other):
    one.admit("1")
    one.is_reaped_by(other)

    assert one.call((wire.GROW, "1", 1, 7, 9)) == [[wire.REFUSED, 0]]
    assert one.used("tokens_per_month") == INPUT + OUTPUT
