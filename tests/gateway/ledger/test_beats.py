"""The script's heartbeat: who is reaped, what that books, and what the caller learns."""

import msgspec
import pytest

from gateway.ledger import wire
from policies.domain import Level, Meter, MeterKind

MINUTE = 60_000_000
METERS = (
    Meter(MeterKind.TOKENS_PER_MINUTE, 1, 10**6, MINUTE),
    Meter(MeterKind.CONCURRENT_REQUESTS, 1000, 1000, 0),
)
LEVELS = (Level("key", "k", METERS),)
SECOND = 1_000_000


class Gateway:
    """One gateway's calls of the script."""

    def __init__(self, redis, organization, name):
        self.redis = redis
        self.stem = wire.stem(organization)
        self.name = name

    def call(self, *bodies, arguments=None):
        arguments = arguments or wire.Arguments()
        _, sha, _, _, *args = wire.call("", self.name, list(bodies), arguments)
        _, answers = msgspec.msgpack.decode(self.redis.evalsha(sha, 1, self.stem, *args))
        return answers

    def admit(self, *ids, levels=LEVELS):
        arguments = wire.Arguments()
        plan = arguments.place(wire.pack_levels(levels))
        for answer in self.call(*((wire.ADMIT, id_, 100, 40, "k", "m", plan) for id_ in ids), arguments=arguments):
            assert answer[0] == wire.DONE

    def beat(self, *, counts=None, known=10**6, lost_after=10 * SECOND, suspects=None):
        arguments = wire.Arguments()
        place = arguments.place(wire.pack_counts(counts or {}))
        (answer,) = self.call((wire.BEAT, place, known, lost_after, suspects or {}), arguments=arguments)
        return answer

    def last_call(self):
        return self.redis.hget(f"{self.stem}:gateways", self.name).decode()

    def fall_silent(self, us):
        """Make its last call as old as that."""
        last = str(int(self.last_call()) - us)
        self.redis.hset(f"{self.stem}:gateways", self.name, last)
        return last

    def totals(self):
        return {name.decode(): int(value) for name, value in self.redis.hgetall(f"{self.stem}:usage").items()}

    def slots(self):
        return int(self.redis.hget(f"{self.stem}:level:k", "concurrent_requests"))


@pytest.fixture
def one(redis, organization):
    return Gateway(redis, organization, "one")


@pytest.fixture
def other(redis, organization):
    return Gateway(redis, organization, "other")


def test_a_beat_tells_everybodys_last_call(one, other):
    one.admit("a")

    _, calls, ids, reaped, more = other.beat()

    assert dict(zip(calls[::2], calls[1::2], strict=True)) == {"one": one.last_call(), "other": other.last_call()}
    assert (ids, reaped, more) == ([], 0, False)


def test_a_gateway_that_is_silent_by_both_clocks_is_reaped(one, other):
    one.admit("a", "b")
    one.beat(counts={"a": 70})
    last = one.fall_silent(11 * SECOND)

    assert other.beat(suspects={"one": last})[3:] == [2, False]

    assert one.totals() == {
        "k|m|requests": 2,
        "k|m|prompt_tokens": 80,
        "k|m|completion_tokens": 90,
        "k|m|estimated_tokens": 170,
    }
    assert one.slots() == 0
    assert one.call((wire.SETTLE, "a", True, 1, 1, False)) == [[wire.REFUSED]]
    assert one.totals()["k|m|requests"] == 2


def test_nobody_is_reaped_whose_silence_only_one_side_has_seen(one, other):
    one.admit("a")
    last = one.fall_silent(9 * SECOND)
    assert other.beat(suspects={"one": last})[3] == 0  # not long enough by the store's clock

    last = one.fall_silent(11 * SECOND)
    assert other.beat(suspects={})[3] == 0  # the caller has not seen it long enough
    assert other.beat(suspects={"one": str(int(last) - 1)})[3] == 0  # it has called since
    assert one.beat(suspects={"one": last})[3] == 0  # it calls now

    assert one.slots() == 1


def test_a_large_estate_is_reaped_page_by_page(one, other):
    for start in range(0, 900, 30):
        one.admit(*(f"r{i}" for i in range(start, start + 30)))
    last = one.fall_silent(11 * SECOND)

    pages = [other.beat(suspects={"one": last})[3:]]
    while pages[-1][1]:
        pages.append(other.beat(suspects={"one": last})[3:])

    assert len(pages) > 1
    assert sum(count for count, _ in pages) == 900
    assert other.totals()["k|m|requests"] == 900
    assert other.slots() == 0
    assert other.redis.hkeys(f"{other.stem}:gateways") == [b"other"]


def test_the_reservations_are_told_only_when_there_are_more_than_are_known(one):
    one.admit("a", "b")

    assert one.beat(known=2)[2] == []
    assert sorted(one.beat(known=1)[2]) == ["a", "b"]


@pytest.mark.parametrize("broken", ["last", "x", "y", "z"])  # the script meets them in no order of ours
def test_an_estate_that_cannot_be_read_to_its_end_is_left_whole(one, other, broken):
    one.admit(*(f"r{i}" for i in range(30)))
    one.admit(broken, levels=(*LEVELS, Level("team", "t", METERS)))
    last = one.fall_silent(11 * SECOND)
    before = one.redis.hgetall(f"{one.stem}:level:k")
    level = one.redis.dump(f"{one.stem}:level:t")
    one.redis.set(f"{one.stem}:level:t", "not a level")

    assert other.beat(suspects={"one": last})[0] == wire.FAILED
    assert one.redis.hgetall(f"{one.stem}:level:k") == before

    one.redis.restore(f"{one.stem}:level:t", 0, level, replace=True)
    assert other.beat(suspects={"one": last})[3] == 31
    assert other.slots() == 0
