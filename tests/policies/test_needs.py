import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from policies.candidates import ANYWHERE
from policies.domain import Estimate, Reach
from policies.needs import ALIKE, needs_any, needs_of
from policies.rejections import Rejection
from policies.routing import route
from policies.scoring import score
from policies.terms import RoutingTerms, RoutingWishes
from tests.policies.builders import HOSTED, deployment, model, request, snapshot

SEES = ("text", "image")
PLAIN, EYES, SMALL = deployment("plain"), deployment("eyes", modalities=SEES), deployment("small", window=1000)
CLOUD = deployment("cloud", price=HOSTED, modalities=SEES)
FLEET = model(PLAIN, EYES, SMALL, CLOUD)
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]


def needs(asked=None, *, tokens=10, costs=None, of=FLEET, **more):
    costs = {"cloud/m": 5_000} if costs is None else costs
    return needs_of(asked or request(), [of], costs, Estimate(tokens, 10, 10, 10), **more)


def test_calls_that_may_go_to_the_same_places_are_alike():
    """Whatever else they are."""
    longer = request(messages=[{"role": "user", "content": "hi " * 100}], temperature=0.3)

    assert needs() == needs(longer, tokens=500) == ("chat", {"plain/m", "eyes/m", "small/m", "cloud/m"}, set())


@pytest.mark.parametrize(
    ("asked", "more", "suits", "ill"),
    [
        (request(messages=IMAGE), {}, "eyes cloud", ""),
        (None, {"tokens": 2000}, "plain eyes cloud", "small"),
        (None, {"reach": Reach(backends=(("plain", "eyes"),))}, "plain eyes", ""),
        (None, {"broke": True}, "plain eyes small", ""),
        (None, {"wishes": RoutingWishes(max_price=4_000), "costs": {"cloud/m": 5_000}}, "plain eyes small", ""),
    ],
    ids=["image", "long", "reach", "broke", "price"],
)
def test_what_a_call_is_and_who_calls_say_where_it_may_go(asked, more, suits, ill):
    """A window is a belief, and gives way where nothing fits."""
    costs = {"plain/m": 0, "eyes/m": 0, "small/m": 0} | more.pop("costs", {})
    api, *where = needs(asked, costs=costs, **more)

    assert api == "chat"
    assert where == [{f"{name}/m" for name in names.split()} for names in (suits, ill)]


@pytest.mark.parametrize(("most", "may"), [(1, False), (10**9, True)])
def test_what_nobody_has_told_the_cost_of_costs_what_its_price_says(most, may):
    """It may have come since the call was ranked."""
    _, suits, _ = needs(wishes=RoutingWishes(max_price=most), costs={})

    assert ("cloud/m" in suits) is may
    assert "plain/m" in suits


def test_another_api_is_another_need():
    """A deployment may turn out not to have it."""
    assert needs()[1:] == needs(request("completions", prompt="hi"))[1:]
    assert needs() != needs(request("completions", prompt="hi"))


def test_a_call_that_has_failed_is_like_none_that_has_not():
    """It goes where its route still leads, which may be barred for it alone."""
    assert needs_any(["plain/m"]) == needs_any(iter(["plain/m"])) != needs(of=model(PLAIN))
    assert needs_any([]) == ALIKE


STATES = st.fixed_dictionaries(
    {},
    optional={
        "in_flight": st.sampled_from((0, 4)),
        "ejected": st.booleans(),
        "off": st.just("its credential is refused"),
        "lacks": st.just(("chat",)),
        "drained": st.booleans(),
        "frozen_for": st.sampled_from((0.0, 3.0)),
        "allowance_wait": st.sampled_from((0.0, 3.0)),
    },
)
CALLS = st.tuples(
    st.sampled_from((request(), request(messages=IMAGE), request("completions", prompt="hi"))),
    st.integers(1, 3000),
    st.sampled_from((ANYWHERE, Reach(backends=(("plain", "small"),)), Reach(local_only=True))),
    st.booleans(),
    st.sampled_from((RoutingWishes(), RoutingWishes(max_price=20_000_000))),
)


@given(CALLS, CALLS, st.lists(STATES, min_size=4, max_size=4))
def test_of_calls_with_the_same_needs_one_finds_a_place_wherever_the_other_does(one, other, states):
    """Whatever state the fleet is in: what makes it sound that one speaks for the other."""
    bounded = model(*(replace(of, max_in_flight=4, hosted=of is CLOUD) for of in FLEET.deployments))
    there = [snapshot(of, **state) for of, state in zip(bounded.deployments, states, strict=True)]

    def ends(asked, tokens, reach, broke, wishes):
        """Return a call's needs, and where it could go at once (None: nowhere at all)."""
        estimate, more = Estimate(tokens, 10, 10, 10), {"broke": broke, "reach": reach, "wishes": wishes}
        costs = {of.deployment.id: score(of, estimate, RoutingTerms()).money for of in there}
        found = route(asked, [bounded], {"m": there}, estimate, random.Random(1), **more)
        free = None if isinstance(found, Rejection) else {of.deployment.id for of in found.order if not of.full}
        return needs_of(asked, [bounded], costs, estimate, **more), free

    mine, yours = ends(*one), ends(*other)

    assert mine[0] != yours[0] or mine[1] == yours[1]
