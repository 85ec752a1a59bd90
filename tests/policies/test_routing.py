import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from policies.domain import Estimate, Reach, RoutingTerms
from policies.rejections import Reason, Rejection
from policies.routing import route
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
)


@given(st.lists(views, max_size=6), st.integers())
def test_every_deployment_is_either_in_the_order_or_dropped_with_a_reason(seen, seed):
    """Nothing is lost, and what is off is never tried."""
    planned = route(request(), [model(*(s.deployment for s in seen))], {"m": seen}, CALL, random.Random(seed))
    if isinstance(planned, Rejection):
        assert all(s.retired for s in seen)
        return
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
