"""Freezes, waits and deadlines of one call, through a whole gateway; then the room where calls wait for a place."""

import asyncio
import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import clock, waiting
from gateway.waiting import WaitingRoom
from policies.needs import needs_any
from policies.rejections import Reason, Rejection
from tests.gateway.harness import eventually

NO = Rejection(Reason.NO_DEPLOYMENT, "gone")


def outcomes(*ends):
    """Return an attempt that ends so, one after the other: an error is raised."""
    left = iter(ends)

    def attempt():
        end = next(left)
        if isinstance(end, Exception):
            raise end
        return end

    return attempt


class Seat(str):
    """A place of a kind; `places`: whose it is. Who has it may have to ask `says` whether that holds."""

    __slots__ = ("given_back", "places")

    @property
    def where(self):
        return str(self)

    def certain(self):
        return self.places.says is None

    async def asked(self):
        self.places.asking.append(self)
        try:
            yes = await self.places.says()
        except BaseException:
            self.drop()
            raise
        if not yes:
            self.drop()
        return yes

    def drop(self):
        if not self.given_back:
            self.given_back = True
            self.places.give_back(str(self))


class Places:
    """So many free places, each of a kind, and who has been given one or has given it back.

    A call that can have places of several kinds names them in one, with spaces. `says`: whom to ask whether a place
    that was taken is had, None: nobody. `asking`: places that were asked for.
    """

    def __init__(self, room, **free):
        self.room, self.free = room, Counter(free)
        self.says, self.asking = None, []
        self.had, self.back, self.asked = [], [], []

    def attempt(self, name, kind):
        def take():
            self.asked.append(name)
            free = next((one for one in kind.split() if self.free[one]), None)
            if free is None:
                return None
            self.free[free] -= 1
            self.had.append(name)
            seat = Seat(free)
            seat.places, seat.given_back = self, False
            return seat

        return take

    def add(self, number=1, kind="any"):
        self.free[kind] += number

    async def free_and_tell(self, number=1, kind="any"):
        for _ in range(number):
            self.add(1, kind)
            await self.tell()

    async def tell(self, deployment=None):
        """Tell of places; they are offered when this returns, and who was given one does not know it yet."""
        self.room.freed(deployment)
        await asyncio.sleep(0)

    def give_back(self, kind):
        self.back.append(kind)
        self.free[kind] += 1

    async def wants(self, name, *, kind="any", model="m", attempt=None, **joins):
        attempt = attempt or self.attempt(name, kind)
        found = await self.room.at_once(model, attempt)
        if found is not None:
            return found
        joins = {
            "priority": "normal",
            "work": 100.0,
            "pace": 0.01,
            "max_wait": 30.0,
            "needs": needs_any(kind.split()),
        } | joins
        waiter = self.room.join(model, attempt, tenant=name[0], **joins)
        return waiter if isinstance(waiter, Rejection) else await self.room.wait(waiter)

    async def waits(self, name, **asks):
        """Let a call come, up to where it waits or has ended."""
        task = clock.spawn(self.wants(name, **asks), name)
        await asyncio.sleep(0)
        return task


@pytest.fixture
def room():
    return WaitingRoom(1000)


@pytest.fixture
def places(room):
    return Places(room)


def assert_empty(room):
    """Nothing is left of anybody: no call, no line, no timer."""
    assert (room.waiting, room._calls, room._rounds, room._lines, room._ticking) == (0, {}, {}, {}, None)
    assert not room.busy("m")


async def test_whoever_finds_a_place_does_not_wait(room, places):
    places.add()

    assert await places.wants("a") == "any"
    assert_empty(room)


async def test_a_place_is_taken_before_anybody_else_runs(room, places):
    """Else a new call could have it first."""
    task = await places.waits("a")
    assert room.busy("m")
    assert room.waiting == 1
    (call,) = room._calls.values()
    await places.free_and_tell()

    assert places.had == ["a"]
    assert call.timer.cancelled()
    assert_empty(room)
    assert await task == "any"


async def test_a_small_tenant_does_not_wait_for_a_flood(room, places):
    """Of the first ten places it has every other one, and its four calls are served by the eighth."""
    tasks = [await places.waits(f"F{number}") for number in range(100)]
    tasks += [await places.waits(f"s{number}") for number in range(4)]
    await places.free_and_tell(10)

    assert [name for name in places.had[:8] if name[0] == "s"] == ["s0", "s1", "s2", "s3"]
    await places.free_and_tell(100)
    assert await asyncio.gather(*tasks) == ["any"] * 104
    assert places.had[10:] == [f"F{number}" for number in range(6, 100)]


async def test_the_better_class_has_the_place(room, places):
    tasks = [
        await places.waits(name, priority=priority) for name, priority in (("l", "low"), ("n", "normal"), ("h", "high"))
    ]
    await places.free_and_tell(3)
    await asyncio.gather(*tasks)

    assert places.had == ["h", "n", "l"]


async def test_a_place_that_nobody_tells_of_is_found(room, places):
    """A freeze ends, another gateway's call does."""
    task = await places.waits("a")
    places.add()

    assert await task == "any"
    assert_empty(room)


async def test_a_new_call_goes_behind_those_who_wait(room, places):
    """Also where two places have become free and nobody has told: it has the second, at once."""
    first = await places.waits("a")
    places.add(2)

    assert await places.wants("b") == "any"
    assert await first == "any"
    assert places.had == ["a", "b"]


async def test_a_refusal_is_cheap_under_overload(room, places, monkeypatch):
    """A hundred calls that come at once do not have all who wait ask again and again."""
    monkeypatch.setattr(waiting, "PAUSE", 60.0)
    tasks = [await places.waits(f"a{number}") for number in range(50)]
    places.asked.clear()
    refused = [await places.wants(f"b{number}", max_wait=0.0) for number in range(100)]

    assert {no.reason for no in refused} == {Reason.OVERLOADED}
    assert len(places.asked) <= 100 + 1
    await places.free_and_tell(50)
    await asyncio.gather(*tasks)


async def test_a_wait_that_is_too_long_is_refused_at_once(room, places):
    """With the wait as retry-after."""
    task = await places.waits("a", pace=20.0)
    refused = await places.wants("a", pace=20.0, max_wait=30.0)

    assert refused.reason is Reason.OVERLOADED
    assert 39_000_000 < refused.retry_after_us < 42_000_000
    assert room.waiting == 1
    await places.free_and_tell()
    await task


async def test_a_full_room_refuses(places):
    room = places.room = WaitingRoom(2)
    tasks = [await places.waits("a"), await places.waits("b")]

    assert (await places.wants("c")).reason is Reason.OVERLOADED
    places.add(2)
    await places.tell()
    assert await asyncio.gather(*tasks) == ["any", "any"]
    assert_empty(room)


async def test_fewer_places_to_wait_refuse_whoever_comes_and_nobody_who_waits(places):
    """A file that was changed is no reason to send anybody away."""
    room = places.room = WaitingRoom(4)
    tasks = [await places.waits("a"), await places.waits("b")]
    room.bound(2)
    assert (await places.wants("c")).reason is Reason.OVERLOADED
    room.bound(5)
    tasks.append(await places.waits("c"))
    places.add(3)
    await places.tell()

    assert await asyncio.gather(*tasks) == ["any", "any", "any"]
    assert_empty(room)


async def test_patience_ends(room, places):
    """The call is refused, and nothing of it is left."""
    other = await places.waits("b")
    refused = await places.wants("a", max_wait=0.05)

    assert "has waited for a place for the 0.05 s that it may" in refused.message
    assert refused.retry_after_us > 0
    assert room.waiting == 1
    await places.free_and_tell()
    assert await other == "any"
    assert_empty(room)


async def test_whoever_is_cancelled_vanishes(room, places):
    """The others go on, and the place is not offered to it."""
    first, second = await places.waits("a"), await places.waits("a")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first

    assert room.waiting == 1
    await places.free_and_tell()
    assert await second == "any"
    assert_empty(room)


async def test_one_that_is_being_cancelled_is_not_offered_a_place(room, places):
    """Although its task has not run yet, the place goes to the next."""
    first, second = await places.waits("a0"), await places.waits("a1")
    places.asked.clear()
    first.cancel()
    await places.free_and_tell()

    assert places.asked == ["a1"]
    assert await second == "any"
    with pytest.raises(asyncio.CancelledError):
        await first
    assert places.back == []
    assert_empty(room)


async def test_what_was_given_to_one_that_is_cancelled_is_given_back(room, places):
    """In the very moment between the grant and the waking; the next has it at once."""
    first, second = await places.waits("a0"), await places.waits("a1")
    await places.free_and_tell()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first

    assert places.back == ["any"]
    assert places.had == ["a0", "a1"]
    assert await second == "any"
    assert_empty(room)


@pytest.mark.parametrize("end", [NO, OSError("broken")])
async def test_nothing_is_given_back_where_nothing_was_given(room, places, end):
    """And the loop does not complain of an error that nobody took."""
    task = await places.waits("a", attempt=outcomes(None, end))
    await places.tell()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert places.back == []
    assert_empty(room)


async def test_an_attempts_no_ends_the_waiting(room, places):
    """The model may be gone meanwhile."""
    task = await places.waits("a", attempt=outcomes(None, NO))
    await places.tell()

    assert await task is NO
    assert_empty(room)


async def test_what_was_refused_does_not_count_as_served(room, places):
    """Its tenant has had nothing of it."""
    gone = []
    tasks = [await places.waits("a", attempt=lambda: NO if gone else None)]
    tasks += [await places.waits("a"), await places.waits("b")]
    gone.append("m")
    await places.tell()
    assert room.waiting == 2
    await places.free_and_tell(2)
    await asyncio.gather(*tasks)

    assert places.had == ["a", "b"]


async def test_an_attempt_that_fails_ends_its_own_waiting_only(room, places):
    """The one behind it has the place."""
    broken = await places.waits("a", attempt=outcomes(None, OSError("broken")))
    sound = await places.waits("a")
    await places.free_and_tell()

    assert await sound == "any"
    with pytest.raises(OSError, match="broken"):
        await broken
    assert_empty(room)


async def test_one_whose_needs_differ_does_not_stand_in_the_way(room, places):
    """What it cannot use goes to the next."""
    picky, plain = await places.waits("a", kind="sees"), await places.waits("a")
    await places.free_and_tell()
    assert await plain == "any"
    await places.free_and_tell(kind="sees")

    assert await picky == "sees"


async def test_nor_do_fifty(room, places):
    """All places that are free are used in one round, and each later one in the moment in which it is told."""
    picky = [await places.waits(f"a{number}", kind="sees") for number in range(50)]
    plain = [await places.waits(f"a{number}") for number in range(50, 80)]
    places.add(10)
    await places.tell()
    assert places.had == [f"a{number}" for number in range(50, 60)]

    for number in range(60, 80):
        await places.free_and_tell()
        assert places.had[-1] == f"a{number}"
    await asyncio.gather(*plain)
    await places.free_and_tell(50, kind="sees")
    assert await asyncio.gather(*picky) == ["sees"] * 50
    assert_empty(room)


async def test_however_they_are_mixed(room, places):
    """Those that can have a place stand anywhere among those that cannot."""
    tasks = [await places.waits(f"a{number}", kind="sees" if number % 8 else "any") for number in range(1, 40)]
    places.add(4)
    await places.tell()

    assert places.had == ["a8", "a16", "a24", "a32"]
    await places.free_and_tell(40, kind="sees")
    await asyncio.gather(*tasks)


async def test_a_round_asks_one_of_each_kind_in_vain(room, places):
    """However many wait."""
    kinds = ("any", "sees", "any sees")
    tasks = [await places.waits(f"a{number}", kind=kinds[number % 3]) for number in range(300)]
    places.asked.clear()
    await places.tell()

    assert places.asked == ["a0", "a1", "a2"]
    places.asked.clear()
    places.add(20)
    await places.tell()
    assert len(places.asked) == 20 + 3
    places.add(300)
    await places.free_and_tell(300, kind="sees")
    await asyncio.gather(*tasks)


@given(
    st.lists(st.tuples(st.sampled_from(("any", "sees", "any sees")), st.integers(0, 8)), max_size=60),
    st.lists(st.tuples(st.sampled_from(("any", "sees")), st.integers(1, 3)), max_size=20),
)
def test_no_place_stays_free_that_somebody_could_use(came, freed):
    """For longer than the round that is told of it, whoever waits in whatever order."""

    async def happens():
        room = WaitingRoom(1000)
        places = Places(room)
        tasks = []
        for number, (kind, who) in enumerate(came):
            name, priority = f"{'abc'[who % 3]}{number}", ("high", "normal", "low")[who // 3]
            tasks.append(await places.waits(name, kind=kind, priority=priority))
        for kind, more in freed:
            places.asked.clear()
            before = len(places.had)
            places.add(more, kind)
            await places.tell()
            waiting = {one for waiter in room._calls for one in waiter.needs[1]}
            assert not [one for one, free in places.free.items() if free and one in waiting]
            assert len(places.asked) <= len(places.had) - before + 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert_empty(room)

    asyncio.run(happens())


async def test_of_very_many_kinds_a_round_asks_some_and_the_next_rounds_the_others(room, places, monkeypatch):
    """However many callers make: no round takes long, and what one call alone could use is found all the same."""
    monkeypatch.setattr(waiting, "TICK", 60.0)
    most = waiting.MOST_IN_VAIN
    kinds = 10 * most
    tasks = [await places.waits(f"a{number}", kind=f"k{number}", max_wait=6e3) for number in range(kinds)]
    places.add(1, kind=f"k{kinds - 1}")
    rounds = []
    while not tasks[-1].done():
        places.asked.clear()
        await places.tell()
        rounds.append(len(places.asked))
        assert places.asked[:most] == [f"a{number}" for number in range(most)], "the first are asked in order"
        await asyncio.sleep(0)

    assert most <= sum(rounds) / len(rounds) <= 3 * most
    assert len(rounds) <= 200, "it has a chance of one in ten, each time"
    assert await tasks[-1] == f"k{kinds - 1}"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert_empty(room)


def needing(waits, says):
    """Return what says what a call needs of another catalog, noting which one was asked."""

    def anew():
        says.append(waits)
        return needs_any(["new"])

    return anew


async def turns(condition):
    """Let turns of the loop pass until `condition()` holds."""
    for _ in range(1000):
        if condition():
            return True
        await asyncio.sleep(0)
    return False


@pytest.fixture
def moments(monkeypatch):
    """Have one call asked what it needs in each turn of the loop."""
    monkeypatch.setattr(waiting, "TICK", 60.0)
    monkeypatch.setattr(waiting, "MOMENT", -1.0)


async def test_another_catalog_has_few_calls_asked_in_one_turn_of_the_loop(room, places, moments):
    """Streams move on meanwhile, however many wait; then what has come is offered, in their order."""
    says = []
    tasks = [await places.waits(f"a{number}", kind="any new", anew=needing(number, says)) for number in range(20)]
    places.add(2, "new")
    room.lists("m", ["new"])
    asked = []
    while len(says) < 20:
        asked.append(len(says))
        assert places.had == []
        await asyncio.sleep(0)

    assert asked == [*range(20)]
    assert says == [*range(20)], "those that have waited longest first"
    assert await asyncio.gather(*tasks[:2]) == ["new", "new"]
    assert {waiter.needs for waiter in room._calls} == {needs_any(["new"])}
    await places.free_and_tell(18, "new")
    await asyncio.gather(*tasks)
    assert_empty(room)


async def test_who_comes_or_leaves_meanwhile_stands_where_it_belongs(room, places, moments):
    """One that has left is not asked, and one that has come goes behind those that waited."""
    says = []
    first = [await places.waits(f"a{number}", kind="any new", anew=needing(number, says)) for number in range(6)]
    room.lists("m", ["new"])
    assert await turns(lambda: len(says) == 3)
    for number in (1, 3, 5):
        first[number].cancel()
    last = await places.waits("a9", kind="new")
    assert await turns(lambda: not room._changes)

    assert says == [0, 1, 2, 3, 4], "the fourth before its task has heard that it is cancelled"
    await places.free_and_tell(3, "new")
    assert places.had == ["a0", "a2", "a4"]
    await places.free_and_tell(1, "new")
    assert await last == "new"
    ends = await asyncio.gather(*first, return_exceptions=True)
    assert [str(end) for end in ends] == ["new", "", "new", "", "new", ""]
    assert_empty(room)


async def test_a_catalog_that_comes_while_another_is_gone_by_takes_its_place(room, places, moments):
    """Each is asked by the last; those of another line are asked too, and one that fails stands in nobody's way."""
    says, others, fails = [], [], []
    tasks = [await places.waits(f"a{number}", anew=needing(number, says)) for number in range(4)]
    tasks += [await places.waits(f"b{number}", model="n", anew=needing(number, others)) for number in range(4)]
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: fails.append(context["exception"]))
    tasks.append(await places.waits("c", model="o", anew=outcomes(ValueError("broken"))))
    for name in ("m", "n", "o"):
        room.lists(name, ["new"])
    assert await turns(lambda: len(others) == 2)
    room.lists("n", ["newer"])
    assert await turns(lambda: not room._changes)

    assert [str(error) for error in fails] == ["broken"]
    assert says == [0, 1, 2, 3]
    assert others == [0, 1, 0, 1, 2, 3]
    assert {waiter.needs for waiter in room._calls if waiter.model != "o"} == {needs_any(["new"])}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert_empty(room)


async def test_models_do_not_stand_in_one_anothers_way(room, places):
    """Each has its line; who names no deployment offers to all."""
    tasks = [await places.waits("a", model=model, where=[f"gpu/{model}"]) for model in ("m", "n")]
    places.asked.clear()
    places.add()
    await places.tell("gpu/other")
    assert places.asked == []
    await places.tell("gpu/n")
    assert await tasks[1] == "any"
    assert (room.busy("m"), room.busy("n")) == (True, False)
    await places.free_and_tell()
    assert await tasks[0] == "any"


async def test_a_call_that_ends_has_only_those_asked_who_may_want_its_place(room, places):
    """And once, however many end in one turn of the loop."""
    tasks = [await places.waits("a", model=f"m{number}", where=["x", f"y{number}"]) for number in range(20)]
    places.asked.clear()
    for _ in range(100):
        room.freed("y3")
    await places.tell("y4")
    assert len(places.asked) == 2

    places.asked.clear()
    for _ in range(100):
        room.freed("x")
    await places.tell("x")
    assert len(places.asked) == 20
    await places.free_and_tell(20)
    await asyncio.gather(*tasks)


async def test_places_that_nobody_tells_of_go_to_those_who_wait(room, places, monkeypatch):
    """However many come meanwhile: right after a round they join, and others go behind those that were asked."""
    monkeypatch.setattr(waiting, "TICK", 60.0)
    tasks = [await places.waits(f"h{number}", priority="high") for number in range(20)]
    came = []
    for _ in range(20):
        places.add()
        came += [await places.waits(f"l{number}", priority="low", max_wait=0.001) for number in range(5)]
        assert await eventually(lambda: not places.free["any"])

    assert {name[0] for name in places.had} == {"h"}
    assert await asyncio.gather(*tasks) == ["any"] * 20
    assert {no.reason for no in await asyncio.gather(*came)} == {Reason.OVERLOADED}
    assert_empty(room)


async def test_whoever_waits_at_another_gateway_has_its_share_of_places_that_nobody_tells_of(room, places, monkeypatch):
    """However evenly they become free: of rounds that kept their order the first would have every one."""
    monkeypatch.setattr(waiting, "TICK", 0.006)
    others = Places(WaitingRoom(1000))
    others.free = places.free
    tasks = [await at.waits(f"a{number}") for number in range(100) for at in (places, others)]
    for _ in range(100):
        places.add()
        await asyncio.sleep(0.01)

    assert await eventually(lambda: not places.free["any"])
    assert len(places.had) + len(others.had) == 100
    assert min(len(places.had), len(others.had)) >= 20
    await places.free_and_tell(200)
    await others.tell()
    assert await asyncio.gather(*tasks) == ["any"] * 200


async def test_who_comes_goes_behind_those_who_need_the_same(room, places):
    """Though others stand before them who need what is not there; what none of them can use he has at once."""
    picky = [await places.waits(f"a{number}", kind="sees") for number in range(16)]
    plain = await places.waits("b0")
    room._rounds["m"].at = 0.0
    places.add()
    last = await places.waits("c0")
    assert places.had == ["b0"]

    room._rounds["m"].at = 0.0
    places.add(1, "hears")
    assert await places.wants("d0", kind="hears") == "hears"
    await places.free_and_tell()
    await places.free_and_tell(16, kind="sees")
    await asyncio.gather(*picky, plain, last)
    assert_empty(room)


class Store:
    """Whom all gateways ask: gives answers once they are told."""

    def __init__(self):
        self.open = []

    async def says(self):
        self.open.append(asyncio.get_running_loop().create_future())
        return await self.open[-1]

    async def answer(self, yes):
        """Answer the one that asked first, and let its call hear it."""
        self.open.pop(0).set_result(yes)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.fixture
def store(places):
    store = Store()
    places.says = store.says
    return store


async def test_a_call_keeps_its_turn_until_it_is_granted(room, places, store):
    """A no of the store costs it nothing: the next place is its own, before those that came later."""
    first, second = await places.waits("a0"), await places.waits("a1")
    for _ in range(5):
        await places.free_and_tell()
        assert await eventually(lambda: len(store.open) == 1)
        await store.answer(False)
        assert room.waiting == 2
        places.free.clear()

    assert places.had == ["a0"] * 5
    assert room._lines["m"].tenants["a"].counter == 0.0
    assert room._lines["m"].pace._departures == 0.0
    await places.free_and_tell()
    assert await eventually(lambda: len(store.open) == 1)
    await store.answer(True)
    assert await first == "any"
    assert room._lines["m"].tenants["a"].counter == 100.0
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert_empty(room)


async def test_who_could_not_use_what_is_granted_goes_on_ageing(room, places, store):
    """As of `policies/queueing.py`; who could have, begins anew."""
    tasks = [await places.waits(f"a{number}", kind=kind) for number, kind in enumerate(("sees", "any", "any any2"))]
    await places.free_and_tell()
    assert await eventually(lambda: len(store.open) == 1)
    await store.answer(True)
    assert await tasks[1] == "any"
    lanes = {needs: lane.served_at > 0 for (_, needs), lane in room._lines["m"].tenants["a"].lanes.items()}

    assert lanes == {needs_any(["sees"]): False, needs_any(["any", "any2"]): True}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_nor_does_one_lose_its_age_who_stands_behind_those_that_could(room, places):
    """It was not asked before a place was given that it has no use for."""
    tasks = [await places.waits(f"a{number}", kind=kind) for number, kind in enumerate(("any", "sees", "any"))]
    places.add()
    await places.tell()
    lanes = {needs: lane.served_at > 0 for (_, needs), lane in room._lines["m"].tenants["a"].lanes.items()}

    assert await tasks[0] == "any"
    assert lanes == {needs_any(["sees"]): False, needs_any(["any"]): True}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_grant_has_the_next_one_ask(room, places, store):
    """A burst is used at once, one after the other."""
    tasks = [await places.waits(f"a{number}") for number in range(3)]
    await places.free_and_tell()
    await asyncio.sleep(0)
    places.add()
    await store.answer(True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert places.had == ["a0", "a1"]
    places.add()
    await store.answer(True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await store.answer(True)
    assert await asyncio.gather(*tasks) == ["any"] * 3
    assert_empty(room)


async def test_no_denial_lengthens_patience(room, places, store):
    """However often its turn comes; and one that asks when it ends still hears the answer."""
    task = await places.waits("a", max_wait=0.05)
    (call,) = room._calls.values()
    await places.free_and_tell()
    assert await eventually(lambda: call.late)
    await store.answer(False)
    refused = await task
    assert "has waited for a place for the 0.05 s" in refused.message
    assert_empty(room)

    places.free.clear()
    task = await places.waits("a", model="n", max_wait=0.05)
    (call,) = room._calls.values()
    await places.free_and_tell()
    assert await eventually(lambda: call.late)
    await store.answer(True)
    assert await task == "any"
    assert_empty(room)


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_who_is_cancelled_while_it_asks_gives_back(room, places, store, turns):
    """Before it has asked, and while it does."""
    task = await places.waits("a")
    await places.free_and_tell()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert places.back == ["any"]
    assert_empty(room)


async def test_a_question_that_fails_ends_its_own_call(room, places):
    """And gives its place back."""

    async def breaks():
        raise OSError("broken")

    places.says = breaks
    task = await places.waits("a")
    await places.free_and_tell()
    with pytest.raises(OSError, match="broken"):
        await task

    assert places.back == ["any"]
    assert_empty(room)


async def test_a_denial_at_once_makes_a_call_wait(room, places, monkeypatch):
    """It does not ask again until there is a reason to: no turn of the loop is spent on it."""

    async def no():
        return False

    monkeypatch.setattr(waiting, "PAUSE", 60.0)
    places.says = no
    places.add(1000)
    task = await places.waits("a")
    for _ in range(50):
        await places.tell()

    assert places.had == ["a", "a"], "as it came, and in one round"
    places.says = None
    room._rounds["m"].at = 0.0
    await places.tell()
    assert await task == "any"


async def test_a_deadline_is_told_as_one(room, places):
    """Whether it passes while the call waits, or has passed before."""
    waited = await places.wants("a", max_wait=0.05, due=True)
    late = await places.wants("a", max_wait=0.0, due=True)

    assert waited.reason is late.reason is Reason.DEADLINE
    assert_empty(room)


async def test_an_attempt_may_tell_of_a_place_itself(room, places):
    """It gives up what it held before: there is one more round, without a second one inside."""
    depth = []

    def take():
        depth.append(1)
        room.freed()
        return places.attempt("a", "any")() if len(depth) > 2 else None

    first, second = await places.waits("a", attempt=take), await places.waits("b")
    places.add(2)
    await places.tell()

    assert await asyncio.gather(first, second) == ["any", "any"]
    assert len(depth) == 3


@given(
    st.lists(
        st.tuples(st.sampled_from(("come", "come", "free", "quietly", "cancel", "run")), st.integers(0, 11)),
        max_size=60,
    ),
    st.lists(st.booleans(), max_size=3),
)
def test_nobody_is_lost_or_served_twice(steps, says):
    """Whatever comes, leaves and becomes free in whatever order: every place is had, given back or free."""

    async def happens():
        room = WaitingRoom(20)
        places, tasks, added = Places(room), [], 0
        answers = itertools.cycle(says)

        async def asked():
            await asyncio.sleep(0)
            return next(answers)

        places.says = asked if says else None
        for step, number in steps:
            kind = ("any", "sees")[number % 4 == 3]
            if step == "come":
                model, priority = "mn"[number % 2], ("high", "normal", "low")[number // 4]
                call = places.wants(
                    f"{'abc'[number % 3]}{len(tasks)}", kind=kind, model=model, priority=priority, where=model
                )
                tasks.append(clock.spawn(call, "call"))
            elif step in {"free", "quietly"}:
                places.add(kind=kind)
                added += 1
                if step == "free":
                    room.freed(None if number % 2 else "mn"[number % 3 == 0])
            elif step == "cancel" and tasks:
                tasks[number % len(tasks)].cancel()
            else:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        places.says = None
        for kind in ("any", "sees"):
            await places.free_and_tell(len(tasks), kind)
        added += 2 * len(tasks)
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10.0)

        served = [end for end in ended if isinstance(end, str)]
        assert all(isinstance(end, str | Rejection | asyncio.CancelledError) for end in ended)
        assert len(places.had) - len(places.back) == len(served)
        assert added - sum(places.free.values()) == len(served)
        assert says or max(Counter(places.had).values(), default=1) == 1
        assert_empty(room)

    asyncio.run(happens())
