import random
from collections import Counter

import pytest
from msgspec.structs import replace

from policies.ordering import EXPLORING, MOST, SHARE, Curiosity, explored, ranked
from policies.terms import RoutingTerms
from tests.policies.builders import candidate, deployment

A, B, C = (replace(candidate(deployment(name)), score=score) for name, score in (("a", 1.0), ("b", 2.0), ("c", 3.0)))


def names(order):
    return [one.deployment.backend for one in order]


def first_of(candidates, terms, draws=2000, session=""):
    dice = random.Random(1)
    return Counter(ranked(candidates, terms, session, dice)[0].deployment.backend for _ in range(draws))


def test_pinned_is_the_order_of_the_file():
    """Whatever the scores say."""
    assert names(ranked([C, A, B], RoutingTerms(policy="pinned"), "", random.Random(1))) == ["c", "a", "b"]


def test_weighted_shares_by_weight():
    """Three of four calls where the weight is three times as much, the rest behind as they were drawn."""
    heavy = replace(A, deployment=replace(A.deployment, weight=3))
    firsts = first_of([heavy, B], RoutingTerms(policy="weighted"))

    assert 1400 < firsts["a"] < 1600


def test_a_sessions_calls_agree_under_weights_too():
    """And sessions share by weight."""
    heavy = replace(A, deployment=replace(A.deployment, weight=3))
    terms = RoutingTerms(policy="weighted")
    firsts = Counter()
    for session in map(str, range(400)):
        chosen = first_of([heavy, B], terms, draws=3, session=session)
        assert len(chosen) == 1
        firsts.update(chosen.keys())
    assert 250 < firsts["a"] < 350


def asked_again(order, quiet, curiosity=None):
    return names(explored(order, quiet, curiosity or Curiosity()))


def test_one_that_nobody_has_heard_of_is_asked_again():
    """With the reason, and the others behind it as they were."""
    first = explored([A, B, C], {"b/m"}, Curiosity())

    assert names(first) == ["b", "a", "c"]
    assert first[0].reason == EXPLORING
    assert asked_again([A, B], set()) == ["a", "b"]
    assert asked_again([], {"a/m"}) == []


def test_nothing_is_lost_by_finding_out_but_time():
    """No money, no cached prompt, no target."""
    for worse in (replace(B, money=1), replace(B, money=None), replace(B, reason="late")):
        assert asked_again([A, worse], {"b/m"}) == ["a", "b"]
    assert asked_again([replace(A, cached=0.5), B], {"b/m"}) == ["a", "b"]
    assert asked_again([replace(A, money=2), replace(B, money=1)], {"b/m"}) == ["b", "a"]
    assert asked_again([replace(A, reason="late"), replace(B, reason="late")], {"b/m"}) == ["b", "a"]


@pytest.mark.parametrize("worse", [1.1, 1.5, 2.0, 4.0, 10.0])
def test_what_finding_out_costs_is_a_share_of_what_calls_cost(worse):
    """However few they are, and however long the quiet: in calls, not in seconds."""
    curiosity, slow, spent, all_calls = Curiosity(), replace(B, score=worse), 0, 2000
    for _ in range(all_calls):
        if asked_again([A, slow], {"b/m"}, curiosity)[0] == "b":
            spent += 1

    assert spent * (worse - 1.0) <= MOST + SHARE * all_calls
    if worse > MOST + 1:
        assert spent == 0
    else:
        assert spent * (worse - 1.0) >= 0.8 * (SHARE * all_calls)


def test_cheapest_tells_equal_prices_apart_by_time_alone():
    """The tie is about seconds, not about money: what waits a minute is no equal of what waits a second."""
    slow, quick, dearer = (
        replace(A, money=10**6, score=10**6 + 60),
        replace(B, money=10**6, score=10**6 + 1),
        replace(C, money=10**6 + 8000, score=10**6 + 8001),
    )
    firsts = first_of([slow, quick, dearer], RoutingTerms(policy="cheapest"), draws=200)

    assert firsts == {"b": 200}
