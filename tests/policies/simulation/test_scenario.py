import pytest
from msgspec.structs import replace

from policies.simulation.calls import BLOCK, Call
from policies.simulation.hardware import H100_X4, H200_X8
from policies.simulation.hosted import Endpoint
from policies.simulation.scenario import (
    Machine,
    Scenario,
    alone,
    calls_of,
    capacity,
    deployments_of,
    engines_of,
    spared,
    stretched,
)

FLEET = (Machine(H200_X8), Machine(H200_X8))


def call(number, at, blocks):
    return Call(number, at, "t", "s", tuple(blocks), len(blocks) * BLOCK, 10)


def test_twice_the_machines_take_twice_the_calls():
    """Load is told as a share of capacity, so that figures of two fleets can be compared."""
    assert capacity(FLEET * 2, "code") == pytest.approx(2 * capacity(FLEET, "code"), rel=0.01)


def test_a_slow_machine_counts_for_what_it_does():
    """A fleet with a slow machine at load 1.0 must not be overloaded by its mere number."""
    slow = (Machine(H200_X8), Machine(H200_X8, 0.5))
    assert capacity(slow, "code") == pytest.approx(0.75 * capacity(FLEET, "code"), rel=0.01)
    assert capacity((Machine(H100_X4),), "code") < capacity((Machine(H200_X8),), "code")


def test_long_answers_share_the_weights_as_far_as_they_fit():
    """Answers of thousands of tokens need large batches: a fleet that holds them is not full at a small one."""
    calls = [Call(number, 0.0, "t", "s", (), 1000, 2000) for number in range(10)]
    roomy = alone(H200_X8, calls, [0] * 10)
    assert roomy > 2 * alone(replace(H200_X8, sequences=16), calls, [0] * 10)
    assert roomy > 2 * alone(replace(H200_X8, room=32_000), calls, [0] * 10)


def test_load_sets_the_pace_of_the_calls():
    """The same calls at twice the load come twice as fast."""
    scenario = Scenario(FLEET, "code", 0.5, calls=400)
    slow, fast = calls_of(scenario), calls_of(replace(scenario, load=1.0))
    assert slow[-1].at == pytest.approx(2 * fast[-1].at, rel=0.01)


def test_every_policy_meets_the_same_calls():
    """Otherwise a difference between two of them would be luck."""
    scenario = Scenario(FLEET, "conversation", calls=200)
    assert calls_of(scenario) == calls_of(replace(scenario, policy="random"))
    assert calls_of(scenario) != calls_of(replace(scenario, seed=1))


def test_calls_of_a_trace_keep_their_proportions():
    """A trace at another load is the same hour, told faster."""
    found = stretched([call(0, 5.0, [1]), call(1, 6.0, [2]), call(2, 9.0, [3])], rate=0.5)
    assert [one.at for one in found] == [0.0, 1.0, 4.0]


def test_a_cache_spares_what_it_has_seen_and_not_forgotten():
    """Capacity without any cache would call a fleet full that idles, and with a boundless one the reverse."""
    calls = [call(0, 0.0, [1, 2]), call(1, 1.0, [1, 2, 3]), call(2, 2.0, [7, 8, 9]), call(3, 3.0, [1, 2])]
    assert spared(calls, room=100) == [0, 2 * BLOCK, 0, 2 * BLOCK - 1]
    assert spared(calls, room=3) == [0, 2 * BLOCK, 0, 0]


def test_the_hosted_endpoint_is_the_last_place():
    """Machines are told by their number, whether there is an endpoint or not."""
    with_one = Scenario(FLEET, hosted=Endpoint())
    assert [one.hosted for one in deployments_of(with_one)] == [False, False, True]
    assert len(engines_of(with_one)) == len(engines_of(Scenario(FLEET))) + 1


def test_many_gateways_exchange_less_often():
    """As the product: a hundred of them would otherwise talk of nothing but load."""
    assert Scenario(FLEET).stale == 0.1
    assert Scenario(FLEET, gateways=50).stale == 0.5
