import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from policies import needs as needing
from policies.affinity import NONE, Beginning
from policies.candidates import ANYWHERE, Asked, at_best
from policies.domain import Estimate, Price, Reach
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


def needs(asked=None, *, tokens=10, of=FLEET, **more):
    return needs_of(asked or request(), [of], Estimate(tokens, 10, 10, 10), **more)


def test_calls_that_may_go_to_the_same_places_are_alike():
    """Whatever else they are."""
    longer = request(messages=[{"role": "user", "content": "hi " * 100}], temperature=0.3)

    assert needs() == needs(longer, tokens=500) == ("chat", {"plain/m", "eyes/m", "small/m", "cloud/m"}, set(), ())


@pytest.mark.parametrize(
    ("asked", "more", "suits", "ill"),
    [
        (request(messages=IMAGE), {}, "eyes cloud", ""),
        (None, {"tokens": 2000}, "plain eyes cloud", "small"),
        (None, {"reach": Reach(backends=(("plain", "eyes"),))}, "plain eyes", ""),
        (None, {"broke": True}, "plain eyes small", ""),
        (None, {"wishes": RoutingWishes(max_price=89_999)}, "plain eyes small", ""),
        (None, {"wishes": RoutingWishes(max_price=90_000)}, "plain eyes small cloud", ""),
    ],
    ids=["image", "long", "reach", "broke", "too dear", "not too dear"],
)
def test_what_a_call_is_and_who_calls_say_where_it_may_go(asked, more, suits, ill):
    """A window is a belief, and gives way where nothing fits."""
    api, *where, own = needs(asked, **more)

    assert api == "chat"
    assert where == [{f"{name}/m" for name in names.split()} for names in (suits, ill)]
    assert own == ()


CACHES = deployment("caches", price=Price(1_000_000, 1_000_000, cached_input=100_000))
ONE, OTHER = Beginning((1, 2), 10_000), Beginning((3,), 10_000)


@pytest.mark.parametrize(
    ("most", "begins", "may", "doubtful"),
    [
        (209_999, ONE, False, False),  # dearer though all were cached
        (210_000, ONE, True, True),
        (2_009_999, ONE, True, True),
        (2_010_000, ONE, True, False),  # not dearer though nothing were
        (2_009_999, NONE, False, False),
    ],
)
def test_where_what_is_cached_decides_what_a_call_may_pay_its_beginning_is_its_own_need(most, begins, may, doubtful):
    """It changes while the call waits, and of another prompt in another way."""

    def wants(begins):
        return needs(of=model(PLAIN, CACHES), tokens=2_000, wishes=RoutingWishes(max_price=most), begins=begins)

    _, suits, _, own = wants(begins)

    assert suits == ({"plain/m", "caches/m"} if may else {"plain/m"})
    assert bool(own) is doubtful
    assert wants(begins) == wants(begins)
    assert (wants(ONE) == wants(OTHER)) is not doubtful or begins is NONE


def test_another_api_is_another_need():
    """A deployment may turn out not to have it."""
    assert needs()[1:] == needs(request("completions", prompt="hi"))[1:]
    assert needs() != needs(request("completions", prompt="hi"))


def test_a_call_that_has_failed_is_like_none_that_has_not():
    """It goes where its route still leads, which may be barred for it alone."""
    assert needs_any(["plain/m"]) == needs_any(iter(["plain/m"])) != needs(of=model(PLAIN))
    assert needs_any([]) == ALIKE


def test_what_is_alike_is_looked_at_once(monkeypatch):
    """However many places there are: calls come, and a catalog finds many waiting, while streams are under way."""
    looks = []
    monkeypatch.setattr(needing, "at_best", lambda *args: looks.append(args) or at_best(*args))
    fleet = [replace(of, backend=f"{of.backend}{n}") for of in (PLAIN, EYES, SMALL) for n in range(100)]
    of = model(*fleet)
    for tokens in range(1, 51):
        _, suits, ill, _ = needs(of=of, tokens=40 * tokens)
        assert suits | ill == {one.id for one in fleet}

    assert len(looks) == 3 * 50
    assert needs(of=of)[1] is needs(of=of)[1], "such needs are compared at once"
    assert needs(of=model(*fleet)) == needs(of=of)


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
    st.sampled_from((RoutingWishes(), *(RoutingWishes(max_price=most) for most in (300_000, 2_000_000, 20_000_000)))),
    st.sampled_from((NONE, ONE, OTHER)),
)
BOUNDED = model(*(replace(of, max_in_flight=4, hosted=of is CLOUD) for of in (*FLEET.deployments, CACHES)))


@given(
    CALLS,
    CALLS,
    st.lists(STATES, min_size=5, max_size=5),
    st.lists(st.dictionaries(st.sampled_from((ONE, OTHER)), st.floats(0.0, 1.0)), min_size=5, max_size=5),
)
def test_of_calls_with_the_same_needs_one_finds_a_place_wherever_the_other_does(one, other, states, cached):
    """Whatever state the fleet is in, its caches too: what makes it sound that one speaks for the other."""

    def ends(call):
        """Return a call's needs, and where it could go at once (None: nowhere at all)."""
        asked, tokens, reach, broke, wishes, begins = call
        there = [
            snapshot(of, cached=known.get(begins, 0.0), tells_cache=True, **state)
            for of, state, known in zip(BOUNDED.deployments, states, cached, strict=True)
        ]
        estimate, more = Estimate(tokens, 10, 10, 10), {"broke": broke, "reach": reach, "wishes": wishes}
        found = route(asked, [BOUNDED], {"m": there}, estimate, random.Random(1), **more)
        free = None if isinstance(found, Rejection) else {of.deployment.id for of in found.order if not of.full}
        return needs_of(asked, [BOUNDED], estimate, **more, begins=begins), free

    mine, yours = ends(one), ends(other)

    assert mine[0] != yours[0] or mine[1] == yours[1]


@given(
    CALLS,
    st.lists(
        st.tuples(
            st.sampled_from(("vllm", "nvidia", "openai")),
            st.sampled_from((None, 1000, 2000)),
            st.sampled_from((("text",), SEES)),
            st.sampled_from((None, Price(0, 0), HOSTED, CACHES.price)),
            st.booleans(),
        ),
        max_size=12,
    ),
)
def test_what_is_alike_is_taken_together_rightly(call, fleet):
    """As if each place were looked at by itself, at what it costs at the very least."""
    asked, tokens, reach, broke, wishes, begins = call
    of = model(
        *(
            replace(
                deployment(
                    ("plain", "other")[n % 2] + f"@{n}", window=window, modalities=takes, price=price, kind=kind
                ),
                hosted=hosted,
            )
            for n, (kind, window, takes, price, hosted) in enumerate(fleet)
        )
    )
    estimate = Estimate(tokens, 10, 10, 10)
    _, suits, ill, _ = needs_of(asked, [of], estimate, broke=broke, reach=reach, wishes=wishes, begins=begins)
    found = Counter()
    for each in of.deployments:
        least = score(
            snapshot(each, cached=float(begins is not NONE), tells_cache=True), estimate, RoutingTerms()
        ).money
        out = at_best(each, Asked(asked, tokens + 10, reach, broke, wishes.max_price), least)
        found[each.id, "suits" if out is None else out.kind] += 1

    assert suits == {name for name, kind in found if kind == "suits"}
    assert ill == {name for name, kind in found if kind == "fit"}
