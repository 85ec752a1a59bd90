import random

import pytest

from policies.deadlines import MOST_FIRST
from policies.failures import Failure, FailureKind
from policies.simulation.baselines import (
    ABSOLUTE,
    AWAY,
    BASELINES,
    FAILS,
    REMEMBERED,
    SILENCE,
    Baseline,
    Known,
    least_outstanding,
    lmetric,
    round_robin,
    sglang,
    sglang_first,
)
from policies.simulation.calls import BLOCK, Call
from policies.terms import RoutingTerms

DICE = random.Random(1)
DOWN = Failure(FailureKind.CONNECT, "refused")


def call(number=0, blocks=(), prompt=None):
    return Call(number, 0.0, "t", "s", tuple(blocks), prompt or max(1, len(blocks) * BLOCK), 100)


def knowing(*counts):
    """Return places with so many calls each."""
    places = [Known() for _ in counts]
    for place, count in zip(places, counts, strict=True):
        place.in_flight = count
    return places


def gateway(name="least_outstanding", places=2, full=()):
    terms = RoutingTerms(max_wait=5.0)
    return Baseline(BASELINES[name], places, random.Random(1), lambda place: place not in full, terms)


def test_round_robin_takes_each_in_turn():
    """It is what most balancers do unless told otherwise."""
    one = gateway("round_robin", 3)
    assert [one.begin(call(number), 0.0).place for number in range(6)] == [0, 1, 2, 0, 1, 2]
    assert round_robin(call(), [1, 2], knowing(0, 0, 0), DICE) == 1


def test_least_outstanding_counts_calls_and_not_their_size():
    """That is its weakness, which must not be mended here."""
    assert least_outstanding(call(), [0, 1], knowing(3, 2), DICE) == 1


def test_sglang_follows_a_match_that_is_long_enough():
    """A third of a prompt is worth a busier place."""
    places = knowing(5, 1)
    places[0].note(call(blocks=range(10)))
    assert sglang(call(blocks=range(10)), [0, 1], places, DICE) == 0
    assert sglang(call(blocks=[0, *range(100, 120)]), [0, 1], places, DICE) == 1


def test_sglang_balances_once_counts_are_far_apart():
    """Its own switch: both a difference and a ratio."""
    places = knowing(ABSOLUTE + 1, 0)
    places[0].note(call(blocks=range(10)))
    assert sglang(call(blocks=range(10)), [0, 1], places, DICE) == 1


def test_sglang_first_sends_equal_matches_to_whoever_comes_first():
    """One shared system prompt then fills one replica: the complaint that the other variant answers."""
    places = knowing(5, 1)
    for place in places:
        place.note(call(blocks=range(10)))
    assert sglang_first(call(blocks=range(10)), [0, 1], places, DICE) == 0
    assert sglang(call(blocks=range(10)), [0, 1], places, DICE) == 1


def test_lmetric_multiplies_what_is_to_prefill_by_the_batch():
    """A cached prompt goes to a busier place, an uncached one does not."""
    places = knowing(3, 0)
    places[0].note(call(blocks=range(10)))
    assert lmetric(call(blocks=[*range(10), 11]), [0, 1], places, DICE) == 0
    assert lmetric(call(blocks=range(20, 31)), [0, 1], places, DICE) == 1


def test_a_tree_forgets_what_was_used_longest_ago():
    """A real one is bounded, too; a beginning outlives what was built on it."""
    place = Known()
    place.note(call(blocks=range(REMEMBERED)))
    place.note(call(blocks=[-1, -2]))
    assert place.cached(call(blocks=[-1, -2])) == 2
    assert place.cached(call(blocks=range(REMEMBERED))) == REMEMBERED - 2


def test_load_is_given_back_whatever_ends_a_call():
    """A count that leaks would make a place look busy for ever."""
    one = gateway()
    places = [one.begin(call(number), 0.0).place for number in range(4)]
    one.first(0, 1.0)
    one.done(0, 2.0, 0)
    one.failed(1, DOWN, 2.0)
    one.broke(2, DOWN, 2.0)
    assert sorted(places) == [0, 0, 1, 1]
    assert sum(known.in_flight for known in one._known) == 2
    assert all(known.queued >= 0 for known in one._known)


def test_a_failed_call_goes_elsewhere_until_nothing_is_left():
    """Any proxy can do that much; without it a crash would flatter us."""
    one = gateway(places=2)
    first = one.begin(call(), 0.0).place
    then = one.failed(0, DOWN, 0.0).place
    assert {first, then} == {0, 1}
    assert one.failed(0, DOWN, 0.0).place is None


def test_a_place_that_fails_in_a_row_is_left_alone_for_a_while():
    """Without passive checks a black hole would take every call, which no operator would put up with."""
    one = gateway(places=2)
    for number in range(20):
        if one.begin(call(number), 0.0).place == 0:
            one.failed(number, DOWN, 0.0)
        if one._known[0].away(0.0):
            break
    assert one._known[0].away(AWAY - 1.0)
    assert not one._known[0].away(AWAY + 1.0)
    assert one.begin(call(99), 1.0).place == 1
    assert FAILS > 1


@pytest.mark.parametrize("name", BASELINES)
def test_whoever_is_left_is_chosen(name):
    """A policy that insists on a place that has just failed would try it again."""
    assert BASELINES[name](call(blocks=range(3)), [1], knowing(0, 0), DICE) == 1


@pytest.mark.parametrize("name", BASELINES)
def test_a_call_waits_while_everywhere_it_could_go_is_full(name):
    """A bound that only ours keep would be what is compared."""
    full = {0, 1}
    one = gateway(name, full=full)
    step = one.begin(call(), 0.0)
    assert (step.place, step.again is not None) == (None, True)
    assert one.again(0, 1.0).again is not None
    full.discard(1)
    assert one.again(0, 2.0).place == 1


def test_a_call_waits_no_longer_than_ours_may():
    """And is gone then."""
    one = gateway(full={0, 1})
    one.begin(call(), 0.0)
    step = one.again(0, 5.0)
    assert (step.place, step.again) == (None, None)
    assert not one._waiting


def test_a_failed_call_waits_for_a_place_that_it_has_not_tried():
    """Its wait begins anew, as ours does."""
    full = set()
    one = gateway(full=full)
    first = one.begin(call(), 0.0).place
    full.add(1 - first)
    assert one.failed(0, DOWN, 4.0).again is not None
    assert one.again(0, 8.0).again is not None
    full.clear()
    assert one.again(0, 8.5).place == 1 - first


def test_the_last_place_is_waited_for_as_long_as_ours():
    """Patience that differs would be what a stall compares."""
    one = gateway()
    assert one.begin(call(), 0.0).patience == SILENCE
    assert one.failed(0, DOWN, 0.0).patience == MOST_FIRST
    assert gateway(places=1).begin(call(), 0.0).patience == MOST_FIRST
