import random

import pytest

from policies.failures import Failure, FailureKind
from policies.scoring import ANSWER
from policies.simulation.calls import BLOCK, Call
from policies.simulation.hardware import H200_X8
from policies.simulation.hosted import Endpoint, Hosted
from policies.simulation.oracle import Oracle, at_replica
from policies.simulation.replica import Replica
from policies.terms import RoutingTerms


def call(number=0, blocks=40, first=0, output=100):
    ids = tuple(range(first, first + blocks))
    return Call(number, 0.0, "t", "s", ids, blocks * BLOCK, output)


def served(replica, one):
    replica.arrive(one, 0.0)
    while replica.next_at < float("inf"):
        replica.advance(replica.next_at)


def oracle(*engines, down=(), full=(), **terms):
    return Oracle(engines, RoutingTerms(**terms), lambda place: place not in down, lambda place: place not in full)


def test_it_sees_what_is_really_cached():
    """That is what a guess of ours is measured against."""
    fresh, warm = Replica(H200_X8), Replica(H200_X8)
    served(warm, call())
    assert at_replica(warm, call(1), 100.0) < at_replica(fresh, call(1), 100.0)
    assert oracle(fresh, warm).begin(call(1), 100.0).place == 1


def test_it_sees_the_queue_and_the_speed():
    """Neither has to be learned."""
    idle, busy, slow = Replica(H200_X8), Replica(H200_X8), Replica(H200_X8)
    busy.arrive(call(7, first=1000), 0.0)
    slow.slow(0.4, 0.0)
    assert oracle(slow, busy, idle).begin(call(), 0.0).place == 2


def test_it_knows_whose_answers_are_so_long_that_a_stall_is_nothing_in_them():
    """Of those who are there: how long the caller's own will be is nothing to them."""
    usual, long = Replica(H200_X8), Replica(H200_X8)
    for number in range(4):
        usual.arrive(call(number, blocks=2, first=1000 * number, output=ANSWER), 0.0)
        long.arrive(call(number, blocks=2, first=1000 * number, output=4 * ANSWER), 0.0)
    for replica in (usual, long):
        replica.advance(1.0)
    assert usual.running == long.running == 4
    assert at_replica(long, call(9, first=9000), 1.0) < at_replica(usual, call(9, first=9000), 1.0)


def test_it_pays_for_time_what_it_is_worth():
    """The same objective as ours: a hosted endpoint is worth its money only where waiting costs more."""
    busy = Replica(H200_X8)
    for number in range(10, 60):
        busy.arrive(call(number, first=1000 * number), 0.0)
    hosted = Hosted(Endpoint(), random.Random(1))
    assert oracle(busy, hosted, value_of_time=1).begin(call(), 0.0).place == 0
    assert oracle(busy, hosted, value_of_time=100_000_000).begin(call(), 0.0).place == 1


def test_it_goes_elsewhere_and_gives_up_like_ours():
    """Attempts are part of what is compared."""
    one = oracle(*(Replica(H200_X8) for _ in range(5)), max_attempts=3)
    failure = Failure(FailureKind.RESET, "gone")
    places = {one.begin(call(), 0.0).place, one.failed(0, failure, 0.0).place, one.failed(0, failure, 0.0).place}
    assert len(places) == 3
    assert one.failed(0, failure, 0.0).place is None


def test_it_knows_who_is_down():
    """Knowing all includes that."""
    one = oracle(Replica(H200_X8), Replica(H200_X8), down={0})
    assert one.begin(call(), 0.0).place == 1
    assert oracle(Replica(H200_X8), down={0}).begin(call(), 0.0).place is None


def test_it_keeps_the_bound_of_a_place_as_ours_do():
    """Knowing all is no licence to overfill one."""
    full = {0, 1}
    one = oracle(Replica(H200_X8), Replica(H200_X8), full=full, max_wait=5.0)
    assert one.begin(call(), 0.0).again is not None
    full.discard(1)
    assert one.again(0, 4.0).place == 1
    assert one.failed(0, Failure(FailureKind.RESET, "gone"), 4.5).again is not None
    assert one.again(0, 9.0).again is not None
    assert one.again(0, 9.5).again is None
    assert not one._trips


def test_an_engine_that_it_cannot_see_through_is_an_error():
    """An oracle that guesses is none."""
    with pytest.raises(TypeError, match="nothing is known"):
        oracle(object()).begin(call(), 0.0)
