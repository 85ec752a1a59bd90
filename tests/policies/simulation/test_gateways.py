import random

import pytest

from policies.affinity import NONE
from policies.breaker import THRESHOLD
from policies.failures import Failure, FailureKind
from policies.live import Elsewhere
from policies.simulation import gateways as module
from policies.simulation.calls import BLOCK, Call
from policies.simulation.gateways import Account, Sluiceway, asked, beginning_of
from policies.simulation.hardware import H200_X8
from policies.simulation.hosted import Endpoint
from policies.simulation.scenario import ASK_AGAIN, Machine, Scenario, deployments_of
from policies.terms import RoutingTerms

DOWN = Failure(FailureKind.CONNECT, "refused")


def call(number=0, blocks=range(20), output=100, images=0):
    blocks = tuple(blocks)
    return Call(number, 0.0, "t", "s", blocks, len(blocks) * BLOCK, output, images)


def gateway(places=2, *, hosted=None, account=None, most=None, **terms):
    scenario = Scenario((Machine(H200_X8, max_in_flight=most),) * places, hosted=hosted)
    return Sluiceway(deployments_of(scenario), RoutingTerms(**terms), account or Account(), random.Random(1))


def load(one):
    return [(live.in_flight, live.queued_tokens) for live in one._lives.values()]


def test_a_session_goes_where_its_beginning_is():
    """The simulated gateway runs the product's own affinity, on blocks in place of bytes."""
    one = gateway(4)
    first = one.begin(call(0), 0.0).place
    one.first(0, 0.5)
    one.done(0, 2.0, 0)
    assert one.begin(call(1, range(22)), 3.0).place == first


def test_calls_at_one_moment_spread():
    """Load counts from the moment of routing, as in the product: twenty calls must not all see an idle place."""
    one = gateway(4)
    places = [one.begin(call(number, range(number * 100, number * 100 + 20)), 0.0).place for number in range(20)]
    assert {places.count(place) for place in range(4)} <= {4, 5, 6}


def test_load_is_given_back_whatever_ends_a_call():
    """A ticket that leaks would make a place look busy for ever."""
    one = gateway(2)
    for number in range(3):
        one.begin(call(number), 0.0)
    one.first(0, 1.0)
    one.done(0, 2.0, 0)
    one.first(1, 1.0)
    one.broke(1, DOWN, 2.0)
    assert one.failed(2, DOWN, 2.0).place is not None
    assert one.failed(2, DOWN, 2.0).place is None
    assert load(one) == [(0, 0), (0, 0)]
    assert not one._trips


def test_a_failed_call_goes_elsewhere():
    """By the product's own retries."""
    one = gateway(2)
    first = one.begin(call(), 0.0).place
    assert one.failed(0, DOWN, 0.0).place == 1 - first


def test_a_place_that_said_when_to_come_back_is_waited_for():
    """By the product's own freezes: the call is asked about again at that time."""
    one = gateway(1)
    one.begin(call(), 0.0)
    step = one.failed(0, Failure(FailureKind.RATE_LIMITED, "full", 429, 2.0), 0.0)
    assert (step.place, step.again) == (None, 2.0)
    assert one.again(0, 2.0).place == 0


def test_a_call_that_failed_waits_for_room_elsewhere():
    """As the product's does: what a crash sends on must not overfill the places that are left."""
    one = gateway(2, most=1, max_wait=5.0)
    gone, there = one.begin(call(0), 0.0).place, one.begin(call(1), 0.0).place
    assert {gone, there} == {0, 1}
    assert one.failed(0, DOWN, 1.0).again is not None
    assert one.again(0, 2.0).again is not None
    one.first(1, 3.0)
    one.done(1, 3.0, 0)
    assert one.again(0, 3.1).place == there


def test_a_call_that_failed_waits_no_longer_than_it_may():
    """And holds nothing then."""
    one = gateway(2, most=1, max_wait=5.0)
    one.begin(call(0), 0.0)
    one.begin(call(1), 0.0)
    one.failed(0, DOWN, 1.0)
    step = one.again(0, 6.0)
    assert (step.place, step.again) == (None, None)
    assert sum(calls for calls, _ in load(one)) == 1


def test_a_call_has_one_patience_for_all_its_waits():
    """Three seconds before it was sent leave two of five after its failure."""
    one = gateway(2, most=1, max_wait=5.0)
    for number in range(2):
        one.begin(call(number), 0.0)
    assert one.begin(call(2), 0.0).again is not None
    one.first(1, 1.0)
    one.done(1, 3.0, 0)
    assert one.again(2, 3.0).place is not None
    assert one.failed(2, DOWN, 4.0).again is not None
    assert one.again(2, 5.9).again is not None
    step = one.again(2, 6.1)
    assert (step.place, step.again) == (None, None)


def test_output_is_learned_by_tenant():
    """Long answers of one tenant must be expected to be long."""
    one = gateway(1)
    before = one._estimates.of("t", asked(call())).output_tokens
    for number in range(30):
        one.begin(call(number, output=2000), 0.0)
        one.first(number, 0.1)
        one.done(number, 30.0, 0)
    assert one._estimates.of("t", asked(call())).output_tokens > 2 * before


def test_gateways_tell_one_another_their_load_and_beginnings():
    """What one has sent, the other must see; what it has told already, it does not tell again."""
    one, other = gateway(2), gateway(2)
    place = one.begin(call(), 0.0).place
    one.first(0, 0.5)
    told = one.told()
    other.hear(told.loads, told.fresh, 0.6)
    name = f"gpu-{place}/m"
    assert other._lives[name].others == Elsewhere(1, 0)
    assert other.begin(call(1, range(40)), 0.7).place == place
    assert not one.told().fresh
    other.hear({}, (), 1.0)
    assert other._lives[name].others == Elsewhere()


def test_a_short_prompt_has_no_beginning_and_a_long_one_a_mark_for_each_whole_block():
    """As in the product, which does not bother below two blocks of its own."""
    short, long = call(blocks=range(2)), call(blocks=range(9))
    assert beginning_of(short, asked(short)) == NONE
    assert beginning_of(long, asked(long)).marks == (1, 3, 5, 7)


def test_a_limit_that_refused_is_one_accounts():
    """As in the product: whoever was refused keeps to what all have learned of it, and asks nobody before."""
    account = Account()
    one, other = (gateway(0, hosted=Endpoint(), account=account) for _ in range(2))
    for number, each in enumerate((one, other)):
        assert each.begin(call(number), 0.0).place == 0
        each.failed(number, Failure(FailureKind.RATE_LIMITED, "full", 429), 0.0)
        assert each.begin(call(2), 0.0).again == ASK_AGAIN
    assert account.shared.limit > 0


def test_what_a_place_of_a_limit_is_worth_is_told_by_each_call_once():
    """As in the product: one that asks again ten times a second for half a minute is no three hundred calls."""
    one = gateway(0, hosted=Endpoint(), account=Account(2), max_wait=30.0)
    assert one.begin(call(0), 0.0).place == 0
    assert one.begin(call(1), 0.0).again == ASK_AGAIN
    worth = one._lives["hosted/m"].allowance.shadow(0.0)
    for tenth in range(1, 5):
        assert one.again(1, tenth / 10).again == ASK_AGAIN
    assert 0 < one._lives["hosted/m"].allowance.shadow(0.4) <= worth


def test_a_call_for_which_others_left_no_room_tells_the_limit_so():
    """At first, and after a failure."""
    for places in (0, 1):
        account = Account(2)
        one, other = (gateway(places, hosted=Endpoint(), account=account, max_wait=30.0) for _ in range(2))
        for each in (one, other):
            step = each.begin(call(0), 0.0)
            if places:
                step = each.failed(0, DOWN, 0.0)
        assert step.again == ASK_AGAIN
        told = [each._lives["hosted/m"].allowance.shadow(0.0) for each in (one, other)]
        assert told[0] == 0 < told[1]


def test_only_at_first_does_a_call_find_out_about_a_place(monkeypatch):
    """As in the product: one that waits goes where it is best off."""
    ranked, curious = module.route, []

    def noting(*facts, curiosity):
        curious.append(curiosity is not None)
        return ranked(*facts, curiosity=curiosity)

    monkeypatch.setattr(module, "route", noting)
    one = gateway(1, most=1, max_wait=30.0)
    one.begin(call(0), 0.0)
    assert one.begin(call(1), 0.0).again == ASK_AGAIN
    one.again(1, 0.1)

    assert curious == [True, True, False]


def test_a_place_that_warms_up_takes_fewer_calls_after_a_failure_too():
    """As in the product: a bound is that of `route`, whoever asks."""
    one = gateway(2, most=4)
    (gone,) = {one.begin(call(0), 0.0).place}
    warming = one._lives[f"gpu-{1 - gone}/m"]
    for _ in range(THRESHOLD):
        warming.breaker.failed(0.0, probe=False)
    warming.breaker.succeeded(0.0)
    warming.in_flight = 1
    assert warming.breaker.share(0.0) == 0.25
    assert one.failed(0, DOWN, 0.0).again == ASK_AGAIN


def test_images_are_read_as_the_product_reads_them():
    """They are no text, and not every place sees."""
    assert asked(call(images=2)).media == 2
    assert asked(call(images=2)).modalities == {"text", "image"}
    assert asked(call(images=2)).text_bytes < asked(call()).text_bytes


def test_an_answer_that_nobody_asked_for_is_an_error():
    """A world that loses track of its calls must not go on."""
    with pytest.raises(KeyError):
        gateway().first(7, 0.0)
