import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from policies.dialects import DIALECTS
from policies.domain import Estimate, Reach
from policies.latency import Pool
from policies.live import Live, Ticket
from policies.ordering import Curiosity
from policies.rejections import Reason, Rejection
from policies.routing import route
from policies.terms import RoutingTerms, RoutingWishes
from tests.policies.builders import HOSTED, deployment, model, request, snapshot

CALL = Estimate(1000, 100, 200, 1000)
LOCAL, OTHER, PAID = deployment("gpu-a"), deployment("gpu-b"), deployment("hosted", price=HOSTED, kind="nvidia")


def ranked(*snapshots, terms=None, seed=1, facts=None):
    of = model(*(s.deployment for s in snapshots), terms=terms)
    planned = route(facts or request(), [of], {"m": snapshots}, CALL, random.Random(seed))
    return planned if isinstance(planned, Rejection) else [c.deployment.backend for c in planned.order]


def test_the_free_one_comes_first_while_it_is_in_time():
    """The cheapest that will answer in time."""
    assert ranked(snapshot(PAID, ttft=0.1), snapshot(LOCAL)) == ["gpu-a", "hosted"]


def test_the_paid_one_comes_first_when_the_free_one_is_late():
    """Spill-over by the target."""
    terms = RoutingTerms(ttft_target=1.0)

    assert ranked(snapshot(PAID, ttft=0.5), snapshot(LOCAL, queued=100_000), terms=terms) == ["hosted", "gpu-a"]


def test_an_unknown_price_ranks_after_a_known_one():
    """Nobody is surprised by a bill."""
    unknown = deployment("mystery", price=None)

    assert ranked(snapshot(unknown, ttft=0.0), snapshot(PAID, ttft=1.0)) == ["hosted", "mystery"]


def test_equals_share_the_calls():
    """The dice decide within one percent."""
    firsts = Counter(ranked(snapshot(LOCAL), snapshot(OTHER), seed=seed)[0] for seed in range(400))

    assert 140 < firsts["gpu-a"] < 260


def test_a_sessions_calls_agree_on_one_of_equals_and_sessions_share_them():
    """A cached prompt is where the last call went; load still decides where it tells them apart."""
    replicas = [snapshot(LOCAL), snapshot(OTHER), snapshot(deployment("gpu-c"))]
    firsts = {
        session: {ranked(*replicas, seed=seed, facts=replace(request(), session=session))[0] for seed in range(5)}
        for session in map(str, range(60))
    }
    left = {session: ranked(*replicas[:2], facts=replace(request(), session=session))[0] for session in firsts}

    assert all(len(chosen) == 1 for chosen in firsts.values())
    assert {place for chosen in firsts.values() for place in chosen} == {"gpu-a", "gpu-b", "gpu-c"}
    assert all(chosen in ({left[session]}, {"gpu-c"}) for session, chosen in firsts.items())
    busy = [snapshot(LOCAL, in_flight=8), snapshot(OTHER)]
    assert {ranked(*busy, facts=replace(request(), session=session))[0] for session in firsts} == {"gpu-b"}


def test_load_moves_calls_away():
    """From the one that already has some."""
    assert ranked(snapshot(LOCAL, in_flight=8), snapshot(OTHER)) == ["gpu-b", "gpu-a"]


def test_the_ejected_one_is_left_out_while_another_is_there():
    """With its reason."""
    assert ranked(snapshot(LOCAL, ejected=True), snapshot(OTHER)) == ["gpu-b"]


def test_ejection_never_takes_the_last_one():
    """Nor does an operator's fault; only a model that is gone for good does."""
    assert ranked(snapshot(LOCAL, ejected=True), snapshot(OTHER, retired=True)) == ["gpu-a"]
    assert ranked(snapshot(LOCAL, off="401")) == ["gpu-a"]
    assert ranked(snapshot(LOCAL, retired=True)).reason is Reason.NO_DEPLOYMENT


def test_fallbacks_come_after_the_models_own():
    """However cheap they are."""
    own, spare = model(PAID, name="m", fallbacks=["n"]), model(LOCAL, name="n")
    seen = {"m": [snapshot(PAID)], "n": [snapshot(LOCAL)]}

    planned = route(request(), [own, spare], seen, CALL, random.Random(1))

    assert [c.deployment.backend for c in planned.order] == ["hosted", "gpu-a"]
    assert planned.model is own


def by_fallback(*own, spare=None):
    """Return the backends tried for a model with these deployments, whose fallback has one more."""
    models = [model(*(s.deployment for s in own), name="m", fallbacks=["n"]), model(OTHER, name="n")]
    planned = route(request(), models, {"m": own, "n": [spare or snapshot(OTHER)]}, CALL, random.Random(1))
    return [c.deployment.backend for c in planned.order]


def test_a_fallback_comes_before_what_is_in_a_doubtful_state():
    """Else each call would knock first where the last ones failed; without it what is left is tried, own ones first."""
    assert by_fallback(snapshot(LOCAL, ejected=True)) == ["gpu-b"]
    assert by_fallback(replace(snapshot(LOCAL), frozen_for=9.0)) == ["gpu-b"]
    assert by_fallback(snapshot(LOCAL, off="401"), spare=snapshot(OTHER, ejected=True)) == ["gpu-a", "gpu-b"]


def test_what_only_seems_not_to_fit_is_tried_before_another_model():
    """An estimate of the prompt may be wrong; but not before one that fits, nor after one that is ejected."""
    small = snapshot(deployment("small", window=10))

    assert by_fallback(small) == ["small", "gpu-b"]
    assert by_fallback(small, snapshot(LOCAL, ejected=True)) == ["small", "gpu-b"]
    assert by_fallback(small, snapshot(LOCAL)) == ["gpu-a", "gpu-b"]


def test_without_money_the_dearer_ones_are_dropped_for_it():
    """Those that cost nothing stay, an ejected one too if it is the last; if there is none, nothing is left."""
    seen = [snapshot(PAID), snapshot(LOCAL, ejected=True), snapshot(deployment("mystery", price=None))]
    of = model(*(s.deployment for s in seen))

    planned = route(request(), [of], {"m": seen}, CALL, random.Random(1), broke=True)
    nothing = route(request(), [of], {"m": seen[:1]}, CALL, random.Random(1), broke=True)

    assert [c.deployment.backend for c in planned.order] == ["gpu-a"]
    assert {c.deployment.backend: c.dropped for c in planned.dropped} == {"hosted": "budget", "mystery": "budget"}
    assert nothing.reason is Reason.NO_DEPLOYMENT


views = st.builds(
    snapshot,
    st.builds(deployment, st.sampled_from("abcdef"), window=st.sampled_from([None, 10, 10_000])),
    in_flight=st.integers(0, 50),
    queued=st.integers(0, 10**6),
    ejected=st.booleans(),
    off=st.sampled_from([None, "401"]),
    retired=st.booleans(),
    lacks=st.sampled_from([(), ("chat",)]),
    unheard=st.sampled_from([0.0, 1e6, float("inf")]),
    share=st.sampled_from([0.25, 1.0]),
    fails=st.floats(0, 1),
    allowance_wait=st.sampled_from([0.0, 3.0]),
    shadow=st.integers(0, 10**9),
    drained=st.booleans(),
)
policies = st.sampled_from(["balanced", "cheapest", "fastest", "pinned", "weighted"])


@given(st.lists(views, max_size=6), st.integers(), policies)
def test_every_deployment_is_either_in_the_order_or_dropped_with_a_reason(seen, seed, policy):
    """Nothing is lost, and what can never serve is never tried, whatever the policy."""
    of = model(*(s.deployment for s in seen), terms=RoutingTerms(policy=policy))
    planned = route(request(), [of], {"m": seen}, CALL, random.Random(seed))
    if isinstance(planned, Rejection):
        assert all(s.retired or s.drained for s in seen)
        return
    able = {id(s.deployment) for s in seen if not s.retired and not s.drained}
    assert all(id(c.deployment) in able for c in planned.order)
    good = [s for s in seen if id(s.deployment) in able and not (s.ejected or s.off or s.lacks or s.allowance_wait)]
    fits = [s for s in good if s.deployment.context_window != 10]
    if fits:
        assert id(planned.order[0].deployment) in {id(s.deployment) for s in fits}
        assert not planned.waits
    assert len(planned.order) + len(planned.dropped) == len(seen)
    assert all(c.dropped is None and c.reason for c in planned.order)
    assert all(c.dropped for c in planned.dropped)


def test_an_api_that_no_backend_has_is_not_supported():
    """The words say which backends there are and which kinds have it."""
    plain = deployment("dev", kind="transformers")
    asked = request("messages", messages=[], max_tokens=5)

    refusal = ranked(snapshot(plain), snapshot(PAID), facts=asked)

    assert (refusal.reason, refusal.shape.status) == (Reason.API_NOT_SUPPORTED, 501)
    assert "'m' has the messages API: dev (transformers), hosted (nvidia)" in refusal.message
    assert "vllm" in refusal.message.partition("Kinds that have it: ")[2]
    assert ranked(snapshot(plain), snapshot(LOCAL), facts=asked) == ["gpu-a"]


def test_an_api_that_only_a_gone_backend_has_may_come_back():
    """That is no matter of the API."""
    asked = request("messages", messages=[], max_tokens=5)
    seen = snapshot(deployment("dev", kind="transformers")), snapshot(LOCAL, retired=True)

    assert ranked(*seen, facts=asked).reason is Reason.NO_DEPLOYMENT


def test_a_model_that_is_served_only_out_of_reach_is_not_allowed():
    """Waiting would not help, so it is no 503; with another reason among them it may."""
    away = [snapshot(replace(deployment(name), hosted=True)) for name in ("a", "b")]

    def asked(*snapshots):
        chain = [model(*(one.deployment for one in snapshots))]
        return route(request(), chain, {"m": snapshots}, CALL, random.Random(1), reach=Reach(local_only=True))

    assert asked(*away).reason is Reason.NOT_ALLOWED
    assert asked(*away, replace(snapshot(), absent="no replicas")).reason is Reason.NO_DEPLOYMENT
    assert [one.deployment.backend for one in asked(*away, snapshot(LOCAL)).order] == ["gpu-a"]


def test_where_all_are_full_the_call_waits():
    """It is routed again when there is room; a fallback with room comes first, and an ejected one is no room."""
    bounded = replace(LOCAL, max_in_flight=2)
    full, limited = snapshot(bounded, in_flight=2), snapshot(PAID, allowance_wait=1.0)
    of = model(bounded, PAID, OTHER)

    planned = route(request(), [of], {"m": [full, limited, snapshot(OTHER, ejected=True)]}, CALL, random.Random(1))
    assert planned.waits
    assert [c.deployment.backend for c in planned.order] == ["gpu-a", "hosted"]
    assert "full: it has 2 of 2 calls at most" in planned.order[0].reason
    room = route(request(), [of], {"m": [full, limited, snapshot(OTHER)]}, CALL, random.Random(1))
    assert not room.waits
    assert [c.deployment.backend for c in room.order] == ["gpu-b", "gpu-a", "hosted"]

    own, spare = model(bounded, name="m", fallbacks=["n"]), model(OTHER, name="n")
    elsewhere = route(request(), [own, spare], {"m": [full], "n": [snapshot(OTHER)]}, CALL, random.Random(1))
    assert not elsewhere.waits
    assert [c.deployment.backend for c in elsewhere.order] == ["gpu-b", "gpu-a"]


def test_a_callers_wishes_are_heard_before_the_models_terms():
    """One who pays for speed gets the dear deployment that another is not sent to."""
    seen = [snapshot(PAID, ttft=0.1), snapshot(LOCAL, ttft=0.4)]
    of = model(PAID, LOCAL)

    def first(**wishes):
        chosen = route(request(), [of], {"m": seen}, CALL, random.Random(1), wishes=RoutingWishes(**wishes))
        return chosen.order[0].deployment.backend

    assert first() == "gpu-a"
    assert first(value_of_time=1_000_000_000) == first(policy="fastest") == first(ttft_target=0.3) == "hosted"
    assert first(policy="fastest", max_price=1) == "gpu-a"


def test_a_call_that_may_not_cost_what_all_of_them_cost_is_told_so():
    """Waiting would not help."""
    of = model(PAID)
    no = route(request(), [of], {"m": [snapshot(PAID)]}, CALL, random.Random(1), wishes=RoutingWishes(max_price=1))

    assert no.reason is Reason.NOT_ALLOWED
    assert "for what it may cost" in no.message


def test_two_gateways_with_one_view_do_not_herd():
    """The dice differ: of four equals none gets half of what two gateways send at one moment."""
    replicas = [snapshot(deployment(name)) for name in ("a", "b", "c", "d")]
    firsts = Counter(ranked(*replicas, seed=seed)[0] for seed in range(400))

    assert len(firsts) == 4
    assert max(firsts.values()) < 160


@given(st.integers(0, 400), st.integers(1, 400), st.floats(0.0, 20.0), st.floats(0.01, 20.0))
def test_dearer_or_slower_never_comes_earlier(price, more, ttft, later):
    """Monotone in price and in latency: what is worse in one and no better in the other is not first."""
    better = snapshot(deployment("better", price=replace(HOSTED, output=price * 1000)), ttft=0.1 + ttft)
    dearer = snapshot(deployment("worse", price=replace(HOSTED, output=(price + more) * 10**6)), ttft=0.1 + ttft)
    slower = snapshot(deployment("worse", price=better.deployment.price), ttft=(0.1 + ttft) * 1.05 + later)

    assert ranked(better, dearer)[0] == ranked(better, slower)[0] == "better"


def test_rules_are_not_overridden_by_curiosity():
    """Pinned is pinned, and weights are weights."""
    seen = [snapshot(LOCAL, unheard=0.0), snapshot(OTHER, ttft=0.3, unheard=1e9)]
    for policy in ("pinned", "weighted"):
        first, second = (replace(one.deployment, weight=weight) for one, weight in zip(seen, (1000, 1), strict=True))
        of = model(first, second, terms=RoutingTerms(policy=policy))
        views = [replace(seen[0], deployment=first), replace(seen[1], deployment=second)]
        chosen = [
            route(request(), [of], {"m": views}, CALL, random.Random(seed), curiosity=Curiosity()).order[0]
            for seed in range(20)
        ]
        assert sum(one.deployment.backend == "gpu-a" for one in chosen) >= 19
    of = model(LOCAL, OTHER)
    found = route(request(), [of], {"m": seen}, CALL, random.Random(1), curiosity=Curiosity())
    assert found.order[0].deployment.backend == "gpu-b"


@pytest.mark.parametrize(
    "doubt",
    [{"ejected": True}, {"frozen_for": 9.0}, {"off": "401"}, {"down": "refused"}, {"lacks": frozenset({"chat"})}],
)
def test_a_bound_is_kept_though_nothing_else_is_left(doubt):
    """What is doubtful gives way, being full does not: the call waits."""
    bounded = replace(LOCAL, max_in_flight=2)
    full = replace(snapshot(bounded, in_flight=2), **doubt)
    used_up = replace(snapshot(PAID, allowance_wait=2.0), **doubt)
    of = model(bounded, PAID)

    planned = route(request(), [of], {"m": [full, used_up]}, CALL, random.Random(1))
    assert planned.waits
    assert all(one.full for one in planned.order)
    room = route(request(), [of], {"m": [full, replace(used_up, allowance_wait=0.0)]}, CALL, random.Random(1))
    assert not room.waits
    assert [one.deployment.backend for one in room.order] == ["hosted", "gpu-a"]


def test_a_prompt_that_seems_too_long_keeps_to_the_bound_too():
    """An engine that is full is full for all."""
    small = replace(deployment("small", window=10), max_in_flight=2)

    planned = route(request(), [model(small)], {"m": [snapshot(small, in_flight=50)]}, CALL, random.Random(1))
    assert planned.waits


def test_only_what_costs_too_much_is_refused_for_good():
    """What is drained besides may come back."""
    thrifty = model(PAID, name="m", fallbacks=["n"], terms=RoutingTerms(max_price=1))
    other = model(OTHER, name="n")
    seen = {"m": [snapshot(PAID)], "n": [replace(snapshot(OTHER), drained=True)]}

    assert route(request(), [thrifty, other], seen, CALL, random.Random(1)).reason is Reason.NO_DEPLOYMENT
    assert route(request(), [thrifty], seen, CALL, random.Random(1)).reason is Reason.NOT_ALLOWED


def served(lives, of, times, calls, *, every, tokens, curiosity, dice, at=0.0):
    """Make calls one after the other over real state; return which deployments served them, and the last moment."""
    estimate, places = Estimate(tokens, 100, 200, 1000), Counter()
    for _ in range(calls):
        at += every
        views = {"m": [lives[one.backend].snapshot(one, at) for one in of.deployments]}
        first = route(request(), [of], views, estimate, dice, curiosity=curiosity).order[0]
        name = first.deployment.backend
        ticket = Ticket(lives[name], first.load, at)
        lives[name].first_token(
            at, times[name] * (0.1 + first.load / 10_000) * dice.lognormvariate(0, 0.1), ticket.ahead
        )
        ticket.prefilled(at)
        ticket.close()
        lives[name].answered("chat", at)
        places[name] += 1
    return places, at


@pytest.mark.parametrize(("tokens", "every"), [(500, 1.0), (8_000, 10.0), (8_000, 120.0)])
def test_a_recovered_replica_is_found_whatever_the_calls(tokens, every):
    """It was six times slower for a long time; large prompts and thin traffic find out as well, if later."""
    pool, dice, curiosity = Pool(DIALECTS["vllm"].priors), random.Random(1), Curiosity()
    lives = {name: Live(f"{name}/m", DIALECTS["vllm"], pool=pool) for name in ("gpu-a", "gpu-b")}
    of, how = model(LOCAL, OTHER), {"every": every, "tokens": tokens, "curiosity": curiosity, "dice": dice}
    slow, at = served(lives, of, {"gpu-a": 1.0, "gpu-b": 6.0}, 500, **how)
    recovered, at = served(lives, of, {"gpu-a": 1.0, "gpu-b": 1.0}, 4000, at=at, **how)
    later, _ = served(lives, of, {"gpu-a": 1.0, "gpu-b": 1.0}, 400, at=at, **how)

    assert slow["gpu-b"] < 80
    assert recovered["gpu-b"] > 400
    assert later["gpu-b"] > 100
