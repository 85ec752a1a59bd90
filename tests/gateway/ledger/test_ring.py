import pytest
from msgspec import msgpack

from gateway import clock
from gateway.ledger import ring as module
from gateway.ledger import wire
from gateway.ledger.batches import Batches
from gateway.ledger.contact import Contact
from gateway.ledger.plans import pack
from gateway.ledger.ring import KEPT, STALE, TOGETHER, Call, Ring
from gateway.store.door import StoreDown
from policies.domain import Bill, Claim, Level, Meter, MeterKind, Usage
from tests.gateway.ledger.support import DOWN, FORGOTTEN, GRANTED, Noted, ScriptedStore

THEN = 1_700_000_000_000_000
BILL = Bill(Usage(10, 20, estimated=False), money=7, deployment="a/m")


@pytest.fixture
async def store():
    return ScriptedStore()


@pytest.fixture
async def ring(store):
    made = Ring(store, "g1")
    await made.tell_again()  # the first server that it sees
    return made


def keep(ring, *operations, answers, at=None, organization="o", now_us=THEN):
    """Let the ring keep a call of these operations that was answered so."""
    call = Call(organization, msgpack.encode(operations), [b"plan"])
    ring.keep(clock.monotonic() if at is None else at, call, msgpack.encode([now_us, answers, [], 0]))


def admit(id_, forced=False):
    return [wire.ADMIT, id_, forced, 1, 2, 3, 4, 4]


def settle(id_):
    return msgpack.decode(msgpack.encode(wire.settlement(id_, None)))


async def test_a_new_connection_is_a_reason_to_look_once(ring, store):
    assert not ring.due

    store.connects += 1
    assert ring.due
    await ring.tell_again()

    assert not ring.due


async def test_the_first_server_that_is_seen_is_told_nothing(store):
    ring = Ring(store, "g1")
    keep(ring, admit("1"), answers=[GRANTED])

    await ring.tell_again()

    assert store.flushes == []


async def test_the_same_server_behind_a_new_connection_is_told_nothing(ring, store):
    keep(ring, admit("1"), answers=[GRANTED])
    store.connects += 1

    await ring.tell_again()

    assert (store.flushes, store.loaded, ring.repeated) == ([], 0, 0)


async def test_another_server_is_given_the_script_and_told_each_call_in_order(ring, store):
    keep(ring, admit("1"), answers=[GRANTED])
    keep(ring, settle("1"), answers=[[wire.DONE]], organization="p")
    store.change(**{"store:6379": "second"})

    await ring.tell_again()

    assert store.loaded == 1
    assert [stem for stem, _ in store.flushes[0]] == ["sw:{o}", "sw:{p}"]
    assert [command[4] for command in store.commands[0]] == ["g1", "g1"]
    assert [list(command[6:]) for command in store.commands[0]] == [[0, 0, b"plan"], [0, 0, b"plan"]]
    assert ring.repeated == 2

    await ring.tell_again()
    assert len(store.flushes) == 1


async def test_what_was_granted_is_granted_as_of_then_and_what_was_refused_or_only_a_beat_is_left_out(ring, store):
    operations = {
        "granted": (admit("1"), GRANTED),
        "granted as of long ago": (admit("2", THEN - 5), GRANTED),
        "refused": (admit("3"), [wire.REFUSED, 1, 1000, *[0] * 6, []]),
        "never": (admit("4"), [wire.SPENT, 1, 0, *[0] * 6, []]),
        "stale": (admit("5"), [wire.STALE]),
        "failed": (admit("6"), [wire.FAILED, "broken"]),
        "grown": ([wire.GROW, "1", 1, 5, 6], GRANTED),
        "not grown": ([wire.GROW, "1", 2, 5, 6], [wire.REFUSED, 1, 1000, *[0] * 6, []]),
        "beat": ([wire.BEAT, 4, 1, 1000, {}], [wire.DONE, [], [], 0, False]),
        "settled": (settle("1"), [wire.DONE]),
        "settled before": (settle("2"), [wire.REFUSED]),
        "not settled": (settle("7"), [wire.FAILED, "broken"]),
    }
    bodies, answers = zip(*operations.values(), strict=True)
    keep(ring, *bodies, answers=answers)
    store.change(**{"store:6379": "second"})

    await ring.tell_again()

    ((_, told),) = store.flushes[0]
    assert told == [
        admit("1", THEN),
        admit("2", THEN - 5),
        [wire.GROW, "1", 1, 5, 6],
        settle("1"),
        settle("2"),
    ]


async def test_a_call_of_which_nothing_is_to_be_told_is_not_made(ring, store):
    keep(ring, admit("1"), answers=[[wire.STALE]])
    keep(ring, settle("2"), answers=[[wire.DONE]])
    store.change(**{"store:6379": "second"})

    await ring.tell_again()

    assert store.sent() == [{"sw:{o}": ["2"]}]
    assert ring.repeated == 1


async def test_one_changed_server_of_a_cluster_is_enough(store):
    store.servers = {"a": "first", "b": "second"}
    ring = Ring(store, "g1")
    await ring.tell_again()
    keep(ring, admit("1"), answers=[GRANTED])
    store.change(a="first", b="third")

    await ring.tell_again()

    assert ring.repeated == 1


@pytest.mark.parametrize(("away", "told"), [(7, range(89, 100)), (3600, range(89, 100)), (STALE + 1, ())])
async def test_the_last_ten_seconds_before_it_went_are_told_however_long_it_was_away(
    ring, store, monkeypatch, away, told
):
    """Up to a time after which the store may not know any more what is done with."""
    now = 1000.0
    for i in range(100):
        keep(ring, settle(f"{i:x}"), answers=[[wire.DONE]], at=now + i)
    assert len(ring._calls) == KEPT + 1

    monkeypatch.setattr(module.clock, "monotonic", lambda: now + 99 + away)
    store.change(**{"store:6379": "second"})
    await ring.tell_again()

    assert [body[1] for calls in store.flushes for _, bodies in calls for body in bodies] == [f"{i:x}" for i in told]


async def test_many_calls_go_in_several_round_trips(ring, store):
    for i in range(TOGETHER + 6):
        keep(ring, settle(f"{i:x}"), answers=[[wire.DONE]])
    store.change(**{"store:6379": "second"})

    await ring.tell_again()

    assert [len(calls) for calls in store.flushes] == [TOGETHER, 6]
    assert ring.repeated == TOGETHER + 6


@pytest.mark.parametrize("failure", [DOWN, FORGOTTEN])
async def test_what_could_not_be_told_is_told_when_it_is_tried_again(ring, store, failure):
    keep(ring, settle("1"), answers=[[wire.DONE]])
    store.change(**{"store:6379": "second"})
    store.failures = [failure]

    with pytest.raises(type(failure)):
        await ring.tell_again()
    assert ring.due

    await ring.tell_again()
    assert store.sent() == [{"sw:{o}": ["1"]}] * 2
    assert not ring.due


async def test_a_store_that_is_down_cannot_be_looked_at(ring, store):
    store.down = "away"
    store.connects += 1

    with pytest.raises(StoreDown, match="away"):
        await ring.tell_again()
    assert ring.due


@pytest.fixture
async def line(store):
    return Batches(store, "g1", Contact(gap=10.0))


async def test_another_server_behind_the_address_is_told_what_it_may_have_lost_before_anything_else(line, store):
    line.submit(Noted("s"))
    await line.drain(5)
    store.change(**{"store:6379": "second"})

    line.submit(Noted("a"))
    await line.drain(5)

    assert store.sent() == [{"sw:{o}": ["s"]}, {"sw:{o}": ["s"]}, {"sw:{o}": ["a"]}]
    assert line.ring.repeated == 1


async def test_what_was_lost_goes_after_what_another_server_has_to_be_told_again(line, store):
    line.submit(Noted("s"))
    await line.drain(5)
    store.down = "away"
    line.submit(Noted("t", urgent=False, again=True))
    store.servers = {"store:6379": "second"}

    store.come_back()
    line.submit(Noted("a"))
    await line.drain(5)

    assert store.sent() == [{"sw:{o}": ["s"]}, {"sw:{o}": ["s"]}, {"sw:{o}": ["t"]}, {"sw:{o}": ["a"]}]


async def test_where_nobody_can_say_who_is_behind_the_address_whoever_waits_is_told(line, store):
    line.submit(Noted("a"))
    await line.drain(5)
    store.change(**{"store:6379": "second"})
    waits = Noted("b")
    line.submit(waits)
    store.down = "away"

    await line.drain(5)

    assert str(waits.outcome) == "away"
    assert store.sent() == [{"sw:{o}": ["a"]}]
    assert line.ring.due


METERS = (
    Meter(MeterKind.TOKENS_IN_ALL, 10**6, 10**6),
    Meter(MeterKind.BUDGET_IN_ALL, 40, 40),
    Meter(MeterKind.CONCURRENT_REQUESTS, 2, 2),
)
CLAIM = Claim("o", "t", "k", "m", (Level("key", "key:k", METERS),), 0, 0)


class Books:
    """The calls of one gateway on a real store, and what they leave behind."""

    def __init__(self, redis, organization):
        self.redis = redis
        self.stem = wire.stem(organization)
        self.made = []

    def call(self, *operations):
        arguments = wire.Arguments()
        plan = arguments.place(pack(CLAIM, self.redis.time()[0] * 10**6).blob)
        bodies = wire.pack([(*body, plan) if body[0] == wire.ADMIT else body for body in operations])
        reply = self.run(bodies, arguments.values)
        self.made.append((bodies, arguments.values, reply))
        return [answer[0] for answer in wire.read(reply).answers]

    def run(self, bodies, arguments):
        _, sha, count, _, *words = wire.call("", "g1", bodies, arguments, touched=False)
        return self.redis.evalsha(sha, count, self.stem, *words)

    def left(self):
        """Return every number that is not a moment of settling."""
        names = ("tokens_in_all", "budget_in_all", "concurrent_requests")
        used = {name: msgpack.decode(self.redis.hget(f"{self.stem}:level:key:k", name))[0] for name in names}
        reservations = self.redis.hgetall(f"{self.stem}:reservations:g1")
        hours = [self.redis.hgetall(key) for key in sorted(self.redis.scan_iter(f"{self.stem}:hour:*", count=1000))]
        return used, reservations, hours


@pytest.mark.parametrize("lost", ["nothing", "the last call", "everything"])
def test_told_again_to_a_store_the_calls_leave_what_they_had_left_whatever_it_had_lost(redis, organization, lost):
    books = Books(redis, organization)
    first = [
        (wire.ADMIT, "1", False, 10, 20, 30, 10**6),
        (wire.ADMIT, "2", False, 1, 2, 10, 10**6),
        (wire.ADMIT, "3", False, 0, 0, 9, 0),  # refused: the budget is set aside, and will be there again
        (wire.GROW, "2", 1, 5, 0),
    ]
    assert books.call(*first) == [wire.DONE, wire.DONE, wire.SPENT, wire.DONE]
    kept = {key: redis.dump(key) for key in redis.scan_iter(f"{books.stem}*", count=1000)}
    assert books.call(wire.settlement("1", BILL), (wire.ADMIT, "4", False, 1, 1, 1, 10**6)) == [wire.DONE, wire.DONE]
    before = books.left()

    if lost != "nothing":
        redis.delete(*redis.scan_iter(f"{books.stem}*", count=1000))
    if lost == "the last call":
        for key, dumped in kept.items():
            redis.restore(key, 0, dumped)
    for bodies, arguments, reply in books.made:
        books.run(wire.again(bodies, reply), arguments)

    assert books.left() == before


async def test_a_store_that_has_lost_what_it_acknowledged_does_nothing_until_it_is_told_again(redis, organization):
    """Its connection may have been made anew behind our back: the next call has it say that it is behind."""
    call = Call(organization, wire.pack([(wire.SETTLE, "1", False, 0, 0, 0, 0, 0, False, "", ["", ""], False)]), [])

    def run(asked):
        _, sha, count, *words = call.command("g1", asked=asked)
        return wire.read(redis.evalsha(sha, count, *words))

    assert run(0).asked == 0
    with pytest.raises(wire.StoreBehindError):
        run(1)
