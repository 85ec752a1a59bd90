import pytest
from msgspec.structs import replace

from policies.deadlines import MOST_FIRST
from policies.simulation.calls import Call
from policies.simulation.faults import black_hole, cold, crash, dead_gateway, slow, stall, storm
from policies.simulation.hardware import H200_X8
from policies.simulation.hosted import Endpoint
from policies.simulation.scenario import Machine, Scenario, capacity
from policies.simulation.world import POLICIES, World, run
from policies.terms import RoutingTerms

FLEET = (Machine(H200_X8),) * 3
QUIET = Scenario(FLEET, "conversation", 0.4, calls=200)


def most_at_once(world):
    """Run a world; return the most calls that one of its places has had at once."""
    most, step = 0, world._step

    def watched():
        nonlocal most
        step()
        most = max(most, *(place.calls for place in world._places))

    world._step = watched
    world.run()
    return most


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_serves_every_call(policy):
    """A world that loses calls would flatter whoever loses most."""
    found = run(replace(QUIET, policy=policy))
    assert (found.failed, found.policy) == (0.0, policy)
    assert 1.0 <= found.attempts < 1.05
    assert found.goodput > 0.3


def test_a_run_is_the_same_each_time():
    """A figure that cannot be had again is an anecdote."""
    assert run(QUIET) == run(QUIET)
    assert run(QUIET) != run(replace(QUIET, seed=1))


def test_affinity_and_load_together_beat_either():
    """The ordering that all else rests on, at the knee of the conversation shape."""
    scenario = Scenario(FLEET, "conversation", 0.8, calls=600)
    goodput = {policy: run(replace(scenario, policy=policy)).goodput for policy in POLICIES}
    assert goodput["sluiceway"] > goodput["least_outstanding"] > goodput["random"]
    assert goodput["oracle"] > goodput["least_outstanding"]


def test_progress_is_told_for_every_call():
    """A run of minutes without a word looks hung."""
    told = []
    run(QUIET, lambda done, of: told.append((done, of)))
    assert told == [(number, 200) for number in range(1, 201)]


def test_an_unknown_policy_is_an_error():
    """A slip of the pen must not run something else."""
    with pytest.raises(ValueError, match="is no policy"):
        run(replace(QUIET, policy="best"))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "fault",
    [
        crash(10, 40), black_hole(10, 40), stall(10, 8), stall(10, 60), slow(10, 60, 5), storm(10, 40), cold(10),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.until - fault.at:.0f}",
)  # fmt: skip
def test_a_fault_at_one_of_three_places_is_survived(fault, policy):
    """Every call ends, most of them well, and no place is left with a call that nobody waits for."""
    world = World(replace(QUIET, policy=policy, faults=(fault,)))
    found = world.run()
    assert found.failed < 0.25
    assert not world._trips


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("faults", [(), (crash(10, 40),), (stall(10, 60),)], ids=["well", "crash", "stall"])
def test_every_policy_keeps_the_bound_of_a_place(policy, faults):
    """Also where calls that a crash has cut go elsewhere: who overfilled a place would be compared with who may not."""
    bounded = (Machine(H200_X8, max_in_flight=4),) * 3
    world = World(replace(QUIET, replicas=bounded, policy=policy, faults=faults))
    assert most_at_once(world) == 4
    assert not world._trips
    assert all(place.calls == 0 for place in world._places)


@pytest.mark.parametrize("policy", ["sluiceway", "round_robin"])
def test_a_call_that_waits_is_not_given_up_for_the_silence_of_its_last_place(policy):
    """It is nowhere: what the place it was at did not say is over."""
    long = Call(0, 0.0, "t", "s", (1, 2), 1000, 20_000)
    large = Call(1, 0.1, "t", "s", tuple(range(10, 210)), 100_000, 10)
    bounded = (Machine(H200_X8, max_in_flight=1),) * 2
    load = 10.0 / capacity(bounded, "conversation", (long, large))
    terms = RoutingTerms(max_wait=900.0)
    scenario = Scenario(bounded, load=load, given=(long, large), policy=policy, terms=terms)
    world = World(scenario)
    world.run()
    cut = World(replace(scenario, faults=(crash(1.0, 2.0, world._served[1].place),)))
    cut.run()
    assert [one.attempts for one in cut._served] == [1, 2]
    assert cut._served[1].ended > cut._served[0].ended > MOST_FIRST


def test_a_black_hole_takes_a_handful_of_our_calls():
    """It looks idle, which draws calls; the breaker and the next place save them."""
    found = run(replace(QUIET, calls=600, faults=(black_hole(10, 100),)))
    assert found.failed == 0.0
    assert found.attempts < 1.05


def test_what_hangs_is_given_up_and_served_elsewhere():
    """A stall of a minute is longer than anyone's patience: who has seen nothing is served by another."""
    long = run(replace(QUIET, faults=(stall(10, 60),)))
    assert long.attempts > 1.0
    assert long.failed < 0.1


def test_a_dead_gateway_loses_no_call_and_no_load():
    """Its callers call again, and the others drop what it had told them."""
    scenario = replace(QUIET, gateways=3, faults=(dead_gateway(30, 60),))
    world = World(scenario)
    found = world.run()
    assert found.failed == 0.0
    assert found.attempts > 1.0
    for gateway in world._gateways:
        assert all(live.in_flight == 0 and live.queued_tokens == 0 for live in gateway._lives.values())


def test_a_dead_gateways_calls_are_counted_with_as_long_as_in_the_product():
    """Two seconds of silence at least: its calls may be there still."""
    world = World(replace(QUIET, gateways=2))
    place = world._gateways[0].begin(Call(0, 0.0, "t", "s", (1,), 500, 10), 0.0).place
    there = world._gateways[1]._lives[f"gpu-{place}/m"]
    world._exchange(1.0)
    world._dead.add(0)
    counted = []
    for now in (2.9, 3.1):
        world._exchange(now)
        counted.append(there.others.in_flight)
    assert counted == [1, 0]


def test_with_every_gateway_dead_calls_fail():
    """Nobody is there to call."""
    assert run(replace(QUIET, faults=(dead_gateway(0, 1000),))).failed == 1.0


def test_gateways_that_exchange_do_as_well_as_one():
    """Stale by a tenth of a second: herding would show as half of the goodput gone."""
    scenario = Scenario(FLEET, "conversation", 0.7, calls=600)
    alone, four = run(scenario).goodput, run(replace(scenario, gateways=4)).goodput
    assert four > 0.9 * alone


def test_a_limit_that_was_told_is_not_learned_by_refusals():
    """As in the product, where the file says it."""
    endpoint = Endpoint(per_minute=20, errors=0.0)
    hasty = RoutingTerms(policy="fastest")
    learning = World(Scenario(FLEET, "conversation", 2.0, calls=300, hosted=endpoint, terms=hasty))
    knowing = World(replace(learning._scenario, told=20))
    for world in (learning, knowing):
        world.run()
    assert learning._places[-1].engine.refused > 0
    assert knowing._places[-1].engine.refused == 0


def test_hosted_calls_cost_money_and_ours_do_not():
    """What overflows is paid for, and time is what it buys."""
    scenario = Scenario(FLEET, "conversation", 1.2, calls=400, hosted=Endpoint())
    alone = run(replace(scenario, hosted=None))
    found = run(replace(scenario, terms=RoutingTerms(value_of_time=5_000_000)))
    cheap = run(replace(scenario, terms=RoutingTerms(policy="cheapest")))
    assert alone.money == cheap.money == 0
    assert found.money > 0
    assert found.hosted > 0
    assert found.goodput > alone.goodput
