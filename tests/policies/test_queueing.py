import itertools
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import queueing
from policies.departures import LONGEST, MEMORY
from policies.domain import Estimate
from policies.needs import needs_any
from policies.queueing import AGE, Queue, Waiter, Waits, work_of
from policies.rejections import Reason, Rejection

PATIENT = 1e6

TEXT, IMAGE = needs_any(["plain", "sees"]), needs_any(["sees"])
"""The needs of calls that may go to both of two deployments, and of those that only one of them can serve."""


def joins(queue, tenant="a", *, model="m", priority="normal", work=100.0, pace=1.0, max_wait=PATIENT, now=0.0, **more):
    terms = {"priority": priority, "work": work, "pace": pace, "max_wait": max_wait, "now": now}
    return queue.join(model, tenant=tenant, **terms, **more)


def serves(queue, places, *, model="m", now=0.0, barren=frozenset()):
    """Give so many places, one by one, which those with `barren` needs cannot use; return who had them."""
    had = []
    for _ in range(places):
        waiter = next(queue.order(model, now, barren), None)
        if waiter is None:
            break
        queue.served(waiter, now, barren)
        had.append(waiter)
    return had


def tenants(waiters):
    return "".join(waiter.tenant for waiter in waiters)


def in_order(queue, *, model="m", now=0.0):
    return tenants(queue.order(model, now))


def test_within_a_tenant_the_older_call_goes_first():
    queue = Queue(100)
    came = [joins(queue, now=float(at)) for at in range(5)]

    assert serves(queue, 5, now=5.0) == came
    assert len(queue) == 0


def test_a_flood_waits_for_itself_alone():
    """The small tenant has every second place, as if the other had sent two calls as well."""
    queue = Queue(1000)
    for _ in range(100):
        joins(queue, "F")
    for _ in range(3):
        joins(queue, "s")

    assert in_order(queue)[:7] == "FsFsFsF"
    assert tenants(serves(queue, 7)) == "FsFsFsF"


def test_places_are_shared_by_work_and_not_by_calls():
    """One with calls four times as large has a quarter as many served."""
    queue = Queue(10_000)
    for _ in range(100):
        joins(queue, "L", work=400.0)
        joins(queue, "s", work=100.0)

    had = Counter(tenants(serves(queue, 100)))

    assert had["s"] / had["L"] == pytest.approx(4.0, rel=0.05)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 500)), min_size=3, max_size=60),
    st.integers(1, 60),
)
def test_tenants_that_keep_waiting_are_served_the_same_work(calls, places):
    """Their works differ by no more than two of the largest calls: VTC's own bound."""
    queue = Queue(1000)
    for tenant, work in calls:
        joins(queue, tenant, work=float(work))
    served, waiting = Counter(), Counter(tenant for tenant, _ in calls)
    backlogged = set(waiting)
    for waiter in serves(queue, places):
        served[waiter.tenant] += waiter.work
        waiting[waiter.tenant] -= 1
        if not waiting[waiter.tenant]:
            backlogged.discard(waiter.tenant)
            continue
        works = [served[tenant] for tenant in backlogged]
        assert max(works) - min(works) <= 2 * max(work for _, work in calls)


def test_one_that_comes_back_has_saved_nothing_up():
    """Nor is held to what others were served while it did not ask."""
    queue = Queue(1000)
    joins(queue, "i")
    serves(queue, 1)
    for _ in range(50):
        joins(queue, "F")
    serves(queue, 30)
    for _ in range(20):
        joins(queue, "i")

    had = Counter(tenants(serves(queue, 10)))

    assert had == {"F": 5, "i": 5}


def test_one_that_leaves_for_a_moment_does_not_shed_what_it_was_served():
    """Else who sends its next call only when the last one has a place would always go first."""
    queue = Queue(1000)
    for _ in range(20):
        joins(queue, "a")
    joins(queue, "b", work=1000.0)
    assert tenants(serves(queue, 2)) == "ab"
    joins(queue, "b", work=1000.0)

    assert tenants(serves(queue, 11)) == 9 * "a" + "ab"


def test_after_an_empty_line_all_begin_alike():
    """Nobody is owed anything from then."""
    queue = Queue(1000)
    joins(queue, "a", work=1000.0)
    serves(queue, 1)
    for tenant in "bba":
        joins(queue, tenant)

    assert in_order(queue) == "bab"


def test_the_better_class_goes_first_whatever_was_served():
    queue = Queue(100)
    for priority, tenant in itertools.product(("low", "normal", "high"), "aab"):
        joins(queue, tenant, priority=priority)

    assert [waiter.priority for waiter in serves(queue, 9)] == ["high"] * 3 + ["normal"] * 3 + ["low"] * 3


def test_what_a_tenant_is_served_in_one_class_counts_in_the_others():
    queue = Queue(100)
    joins(queue, "a", priority="high")
    joins(queue, "a")
    joins(queue, "b")

    assert in_order(queue) == tenants(serves(queue, 3)) == "aba"


def test_a_low_call_is_served_while_high_ones_never_end():
    """Each `AGE` seconds lift it a class: after three it is before the newest high one, whatever its tenant had."""
    queue = Queue(1000)
    low = joins(queue, "l", priority="low", work=1e9)
    at = 0.0
    while len(queue) and at < 10 * AGE:
        joins(queue, "H", priority="high", now=at)
        joins(queue, "H", priority="high", now=at)
        (had,) = serves(queue, 1, now=at)
        if had is low:
            break
        at += 0.5

    assert 2 * AGE <= at <= 3 * AGE


@pytest.mark.parametrize(("waited", "first"), [(0.0, "h"), (1.9 * AGE, "h"), (3.0 * AGE, "l")])
def test_every_age_waited_lifts_a_class(waited, first):
    queue = Queue(100)
    joins(queue, "l", priority="low", work=50.0)
    joins(queue, "h", priority="high", now=waited)

    assert in_order(queue, now=waited)[0] == first


def test_who_sends_many_gains_nothing_by_their_age():
    """A flood's calls are old because it is a flood; one place, and its line has waited for nothing."""
    queue = Queue(1000)
    for _ in range(200):
        joins(queue, "F")
    serves(queue, 20, now=4 * AGE)
    for _ in range(10):
        joins(queue, "s", now=4 * AGE)

    assert Counter(tenants(serves(queue, 10, now=4 * AGE))) == {"F": 5, "s": 5}


def test_who_cannot_use_what_is_free_is_passed_over_and_owes_nothing():
    """The tenant whose images wait in front has every second place for its texts, as if they were not there."""
    queue = Queue(1000)
    for needs in (IMAGE, TEXT):
        for _ in range(50):
            joins(queue, needs=needs)
    for _ in range(50):
        joins(queue, "b", needs=TEXT)

    assert tenants(serves(queue, 10, barren={IMAGE})) == "ababababab"


def test_what_is_found_out_in_a_round_holds_for_its_rest():
    """One that finds no place speaks for its likes, and where all kinds have none nobody else is asked."""
    queue = Queue(1000)
    for number in range(300):
        joins(queue, "abc"[number % 3], needs=IMAGE if number < 200 else TEXT)
    asked, barren = [], set()
    for waiter in queue.order("m", 0.0, barren):
        asked.append(waiter)
        if waiter.needs == IMAGE or len(asked) > 3:
            barren.add(waiter.needs)
        else:
            queue.served(waiter, 0.0, barren)

    assert [(waiter.tenant, waiter.needs) for waiter in asked] == [
        ("a", IMAGE),
        ("c", TEXT),
        ("a", TEXT),
        ("b", TEXT),
    ]


def test_a_call_ages_while_its_tenant_is_served_what_it_cannot_use():
    """Else a low image call would wait for ever behind high ones, because its tenant's texts are served."""
    queue = Queue(1000)
    low = joins(queue, "l", priority="low", needs=IMAGE)
    at, had = 0.0, []
    while low not in had and at < 10 * AGE:
        joins(queue, "l", priority="low", needs=TEXT, now=at)
        joins(queue, "H", priority="high", needs=IMAGE, now=at)
        serves(queue, 1, now=at, barren={IMAGE})
        had = serves(queue, 1, now=at, barren={TEXT})
        at += 0.5

    assert 2 * AGE <= at <= 3 * AGE + 0.5


def test_who_needs_many_things_gains_nothing_by_their_age():
    """All that his calls need is met by the same places: one that goes is one for them all."""
    queue = Queue(1000)
    for number in range(200):
        joins(queue, "F", needs=needs_any(["sees", f"x{number % 20}"]))
    serves(queue, 10, now=4 * AGE)
    for _ in range(10):
        joins(queue, "s", needs=TEXT, now=4 * AGE)

    assert Counter(tenants(serves(queue, 10, now=4 * AGE))) == {"F": 5, "s": 5}


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(("high", "normal", "low"))), max_size=40))
def test_nobody_starves(newcomers):
    """Whatever comes, one place a second reaches the first call of each lane after it has aged past all the others."""
    queue = Queue(1000)
    waiting = {joins(queue, tenant, priority="low", work=1e6) for tenant in "abcd"}
    for at in range(200):
        for tenant, priority in newcomers[at % 7 :: 7][:2]:
            joins(queue, tenant, priority=priority, now=float(at))
        waiting -= set(serves(queue, 1, now=float(at)))
        if not waiting:
            break

    assert not waiting


def test_the_order_is_that_in_which_places_are_given():
    queue = Queue(1000)
    for number in range(60):
        priority = ("high", "normal", "low")[number % 3]
        joins(queue, "abcde"[number * number % 5], priority=priority, work=50.0 + 37 * (number % 11))

    told = list(queue.order("m", 1.0))

    assert told == serves(queue, 60, now=1.0)


def test_models_do_not_wait_for_one_another():
    """Each has its own line and its own counters; the one that was served longest ago comes first."""
    queue = Queue(100)
    for model in ("m", "n"):
        for _ in range(2):
            joins(queue, model=model)
    serves(queue, 1, model="m")

    assert list(queue.lines) == ["n", "m"]
    serves(queue, 5, model="n")
    assert list(queue.lines) == ["m"]
    assert list(queue.order("n", 0.0)) == []


def test_one_tenant_cannot_fill_the_room():
    """It has half of it; the next has as many as there are places left."""
    queue = Queue(100)
    first = [joins(queue, "a") for _ in range(80)]
    second = [joins(queue, "b") for _ in range(80)]

    assert sum(isinstance(one, Waiter) for one in first) == 50
    assert sum(isinstance(one, Waiter) for one in second) == 25
    assert "50 calls of this tenant wait already" in first[-1].message


def test_the_room_is_one_for_all_models():
    queue = Queue(10)
    for number in range(20):
        joins(queue, model=f"m{number}")

    assert len(queue) == 5


def test_a_tenant_without_a_call_is_refused_only_when_the_room_is_full():
    queue = Queue(7)
    came = [joins(queue, f"t{number}") for number in range(8)]

    assert [isinstance(one, Waiter) for one in came] == [True] * 7 + [False]
    assert came[-1].message == (
        "Every deployment that could serve model 'm' is full, and no more than 7 calls may wait (limits.waiting_calls)."
    )


def test_whoever_leaves_makes_room_at_once():
    queue = Queue(2)
    first = joins(queue, "a")
    assert isinstance(joins(queue, "a"), Rejection)
    queue.leave(first, 0.0)

    assert isinstance(joins(queue, "a"), Waiter)


def test_no_room_means_no_waiting():
    assert joins(Queue(0)).reason is Reason.OVERLOADED


def test_a_wait_that_is_too_long_is_not_begun():
    """The refusal says how long it would have been, for the caller's next try."""
    queue = Queue(100)
    for _ in range(10):
        joins(queue, pace=2.0)

    refused = joins(queue, pace=2.0, max_wait=20.0)

    assert (refused.reason, refused.retry_after_us) == (Reason.OVERLOADED, 22_000_000)
    assert refused.message == (
        "Every deployment that could serve model 'm' is full, and this call, as number 11 in line, would have its turn "
        "in about 22 s, but may wait 20 s (routing.max_wait)."
    )
    assert len(queue) == 10


def test_a_call_that_may_not_wait_at_all_does_not():
    assert joins(Queue(10), max_wait=0.0).retry_after_us == 1_000_000


def test_a_wait_is_predicted_by_the_place_in_the_order():
    """Not by the number of those that wait: a small tenant's is short, and so is that of a better class."""
    queue = Queue(1000)
    for _ in range(100):
        joins(queue, "F")

    waits = {
        (tenant, priority): joins(queue, tenant, priority=priority, max_wait=0.0).retry_after_us / 1e6
        for tenant in "Fs"
        for priority in ("high", "normal", "low")
    }

    assert waits == {
        ("F", "high"): 1.0,
        ("F", "normal"): 101.0,
        ("F", "low"): 101.0,
        ("s", "high"): 1.0,
        ("s", "normal"): 2.0,
        ("s", "low"): 101.0,
    }


def test_an_aged_lane_is_ahead_of_a_better_class_by_one_call():
    queue = Queue(1000)
    for _ in range(5):
        joins(queue, "l", priority="low")

    waits = [joins(queue, "h", priority="high", max_wait=0.0, now=at).retry_after_us / 1e6 for at in (AGE, 2 * AGE)]

    assert waits == [1 + AGE, 2 * (1 + 2 * AGE)]


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(("high", "normal", "low")), st.integers(0, 400)),
        max_size=60,
    ),
    st.sampled_from("abcd"),
    st.sampled_from(("high", "normal", "low")),
)
def test_the_predicted_place_is_near_the_true_one(calls, tenant, priority):
    """Exact where a lane's calls are alike; else off by what they differ from their mean."""
    even = Queue(1000)
    for of, place, _ in calls:
        joins(even, of, priority=place)
    predicted = joins(even, tenant, priority=priority, max_wait=0.0).retry_after_us / 1e6
    newcomer = joins(even, tenant, priority=priority)
    assert list(even.order("m", 0.0)).index(newcomer) + 1 == predicted

    uneven = Queue(1000)
    for of, place, work in calls:
        joins(uneven, of, priority=place, work=float(work))
    predicted = joins(uneven, tenant, priority=priority, max_wait=0.0).retry_after_us / 1e6
    assert 1 <= predicted <= len(calls) + 1


def test_the_pace_of_a_line_is_learned():
    """What was expected beforehand is soon forgotten."""
    queue = Queue(1000)
    for _ in range(60):
        joins(queue, pace=30.0)
    for number in range(40):
        serves(queue, 1, now=(number + 1) / 4)

    told = joins(queue, pace=30.0, max_wait=0.0, now=10.0).retry_after_us / 1e6

    assert told == pytest.approx(21 / 4, rel=0.35)


def mixed(queue):
    """Let image calls and texts wait, of which one finds a place every four seconds, or two a second; return when."""
    for needs in (IMAGE, TEXT):
        for number in range(100):
            joins(queue, "abcde"[number % 5], pace=4.0 if needs is IMAGE else 0.5, needs=needs)
    for tick in range(1, 121):
        serves(queue, 1, now=tick / 2, barren={IMAGE})
        if tick % 8 == 0:
            serves(queue, 1, now=tick / 2, barren={TEXT})
        if tick <= 60:
            joins(queue, "abcde"[tick % 5], pace=0.5, needs=TEXT, now=tick / 2)
    return 60.0


def told(queue, needs, now):
    return joins(queue, pace=1.0, needs=needs, max_wait=0.0, now=now).retry_after_us / 1e6


def test_each_kind_is_told_its_own_pace():
    """Of two kinds that wait in one line the slow one is not told to come back soon, nor the quick one late."""
    queue = Queue(1000)
    now = mixed(queue)
    waiting = Counter(waiter.needs for waiter in queue.order("m", now))

    assert waiting == {IMAGE: 85, TEXT: 40}
    assert told(queue, IMAGE, now) == pytest.approx(86 * 4.0, rel=0.3)
    assert told(queue, TEXT, now) == pytest.approx(41 * 0.5, rel=0.3)


def test_who_waits_in_vain_for_his_kind_is_told_that_anew():
    queue = Queue(1000)
    first = joins(queue, pace=20.0, needs=IMAGE)
    for number in range(50):
        joins(queue, "b", pace=0.1, needs=TEXT, now=number / 10)
        serves(queue, 1, now=number / 10, barren={IMAGE})

    assert queue.give_up(first, 5.0).retry_after_us / 1e6 >= 20.0


def test_a_kind_of_which_nothing_was_seen_is_told_the_lines_pace():
    """A replica has come: who could go there too stands behind all the others."""
    queue = Queue(1000)
    for _ in range(60):
        joins(queue, pace=1.0, needs=TEXT)
    serves(queue, 20, now=20.0)

    assert told(queue, needs_any(["plain", "sees", "new"]), 20.0) == pytest.approx(told(queue, TEXT, 20.0), rel=0.05)


def test_a_line_in_which_nobody_is_served_is_learned_too():
    """Whoever gave up leaves that behind."""
    queue = Queue(10)
    queue.leave(joins(queue), 8.0)

    assert joins(queue, max_wait=0.0, now=8.0).retry_after_us > 5_000_000


def test_a_bad_hour_is_forgotten_while_nobody_waits():
    """Else every call would be refused by what nobody could correct."""
    queue = Queue(10)
    for _ in range(3):
        joins(queue, pace=1000.0)
    serves(queue, 3, now=300.0)
    times = [300.0, 300.0 + 2 * MEMORY, 300.0 + 20 * MEMORY]
    waits = [joins(queue, pace=1.0, max_wait=0.0, now=at).retry_after_us / 1e6 for at in times]

    assert waits[0] > waits[1] > waits[2]
    assert waits[2] == pytest.approx(1.0, rel=0.01)


def test_the_end_of_patience_is_told_with_a_new_wait():
    queue = Queue(100)
    first = joins(queue, max_wait=3.0)
    joins(queue)

    refused = queue.give_up(first, 3.0)

    assert (refused.reason, refused.retry_after_us) == (Reason.OVERLOADED, 8_000_000)
    assert refused.message == (
        "Every deployment that could serve model 'm' is full, "
        "and this call has waited for a place for the 3 s that it may (routing.max_wait)."
    )
    assert len(queue) == 1


def test_patience_that_ends_with_the_deadline_is_told_as_that():
    """Nobody is sent to `routing.max_wait` for what he has asked for himself; nor does a late call join."""
    queue = Queue(100)
    first = queue.join("m", tenant="a", priority="normal", work=1.0, pace=1.0, max_wait=3.0, now=0.0, due=True)
    soon = queue.join("m", tenant="a", priority="normal", work=1.0, pace=9.0, max_wait=3.0, now=0.0, due=True)
    late = queue.join("m", tenant="a", priority="normal", work=1.0, pace=1.0, max_wait=0.0, now=0.0, due=True)

    assert (soon.reason, "3 s (its deadline)" in soon.message) == (Reason.OVERLOADED, True)
    assert queue.give_up(first, 3.0).reason is late.reason is Reason.DEADLINE
    assert len(queue) == 0


def test_a_call_has_one_patience_for_all_its_waits():
    """What it has waited before is no longer to be had, by the wait that is predicted and by the one there is."""
    queue, waits = Queue(100), Waits()
    joins(queue, pace=10.0)
    max_wait, due = waits.left(30.0, 60.0)
    assert (max_wait, due) == (30.0, False)
    waits.spent += 20.0
    max_wait, due = waits.left(30.0, 40.0)
    assert (max_wait, due) == (10.0, False)

    refused = joins(queue, pace=10.0, max_wait=max_wait, waited=waits.spent, now=20.0)
    assert refused.message.endswith("but may wait 10 s (what is left of routing.max_wait).")
    given_up = queue.give_up(joins(queue, "b", max_wait=max_wait, waited=waits.spent, now=20.0, free=True), 30.0)
    assert "has waited for a place for the 30 s that it may (routing.max_wait)" in given_up.message


@pytest.mark.parametrize(
    ("spent", "deadline", "left"),
    [(0.0, 5.0, (5.0, True)), (28.0, 5.0, (2.0, False)), (31.0, 5.0, (0.0, False)), (0.0, -1.0, (0.0, True))],
)
def test_the_sooner_of_patience_and_deadline_ends_a_wait(spent, deadline, left):
    assert Waits(spent).left(30.0, deadline) == left


def test_output_weighs_twice():
    assert work_of(Estimate(100, 20, 50, 1000)) == 140.0


def test_no_wait_is_told_beyond_an_hour():
    """Nor does an unknown one break the header."""
    assert joins(Queue(10), pace=math.inf, max_wait=1.0).retry_after_us == LONGEST * 1_000_000


def test_idle_tenants_and_lines_are_forgotten_in_the_end(monkeypatch):
    monkeypatch.setattr(queueing, "IDLE_TENANTS", 10)
    monkeypatch.setattr(queueing, "IDLE_KINDS", 10)
    monkeypatch.setattr(queueing, "IDLE_LINES", 10)
    queue = Queue(100)
    joins(queue, "stays")
    for number in range(50):
        queue.leave(joins(queue, f"t{number}", needs=needs_any([f"x{number}"])), 0.0)
        queue.leave(joins(queue, model=f"m{number}"), 0.0)

    assert len(queue.lines["m"]._idle) == len(queue.lines["m"]._rested) == 10
    assert len(queue.lines["m"].kinds) == 1
    assert len(queue._resting) == 10
    assert dict(queue._waiting) == {"stays": 1}


def test_needs_that_change_cost_nobody_its_turn_or_its_age():
    """Those that are alike now go as they came; of those that were served together none is older than it was."""
    queue = Queue(100)
    for needs in (IMAGE, TEXT, IMAGE, IMAGE):
        joins(queue, needs=needs)
    serves(queue, 1, now=AGE)
    waiting = list(queue.order("m", AGE))
    queue.change({waiter: TEXT if waiter.number < 4 else IMAGE for waiter in waiting}, AGE)
    (lanes,) = (tenant.lanes for tenant in queue.lines["m"].tenants.values())

    assert [waiter.number for waiter in queue.order("m", AGE)] == [2, 3, 4]
    assert {needs: [*lane.waiters] for (_, needs), lane in lanes.items()} == {TEXT: [2, 3], IMAGE: [4]}
    assert [lane.lifts(2 * AGE) for lane in lanes.values()] == [1, 1]
    assert {needs: kind.waiting for needs, kind in queue.lines["m"].kinds.items()} == {TEXT: 2, IMAGE: 1}
    queue.change(dict.fromkeys(waiting, IMAGE), AGE)
    assert [waiter.number for waiter in serves(queue, 9, now=AGE)] == [2, 3, 4]
    assert len(queue) == 0
    assert queue.lines == {}


@given(st.lists(st.tuples(st.sampled_from(("join", "serve", "leave", "change")), st.integers(0, 9)), max_size=80))
def test_nobody_is_lost(steps):
    """Whoever waits is in the order exactly once, and whoever does not is nowhere."""
    queue, waiting = Queue(12), set()
    for at, (step, number) in enumerate(steps):
        model, barren = "mn"[number % 2], {(TEXT, IMAGE)[number % 3 == 1]} if number % 3 else set()
        if step == "join":
            priority, needs = ("high", "normal", "low")[number // 4], (TEXT, IMAGE)[at % 2]
            came = joins(queue, "abc"[number % 3], model=model, priority=priority, now=at, needs=needs)
            waiting |= {came} if isinstance(came, Waiter) else set()
        elif step == "serve":
            waiting -= set(serves(queue, 1, model=model, now=at, barren=barren))
        elif step == "change":
            queue.change({waiter: (TEXT, IMAGE)[(waiter.number + at) % 2] for waiter in waiting}, at)
        elif waiting:
            gone = min(waiting, key=lambda waiter: (waiter.number * 7) % 11)
            queue.leave(gone, at)
            waiting.discard(gone)
        told = [waiter for line in queue.lines for waiter in queue.order(line, at)]
        assert len(told) == len(queue) == len(waiting)
        assert set(told) == waiting
        assert {waiter for line in queue.lines for waiter in queue.order(line, at, barren)} == {
            waiter for waiter in waiting if waiter.needs not in barren
        }
        assert sum(queue._waiting.values()) == len(waiting)
        assert sum(kind.waiting for line in queue.lines.values() for kind in line.kinds.values()) == len(waiting)
