import pytest
from msgspec.structs import replace

from policies.candidates import ANYWHERE, Asked, exclusion
from policies.domain import Price, Reach
from tests.policies.builders import HOSTED, deployment, request, snapshot

IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]


def out_of(seen, facts, tokens=10, *, reach=ANYWHERE, broke=False, max_price=None, cost=0):
    return exclusion(seen, Asked(facts, tokens, reach, broke, max_price), cost)


def test_a_healthy_deployment_that_fits_is_in():
    """Even with an unknown window."""
    assert out_of(snapshot(), request(), 10_000_000) is None


@pytest.mark.parametrize(
    ("seen", "facts", "words", "soft"),
    [
        (snapshot(), request(messages=IMAGE), "takes no image", False),
        (snapshot(off="the upstream answered 401"), request(), "off: the upstream answered 401", True),
        (snapshot(off="410", retired=True), request(), "retired", False),
        (snapshot(deployment(window=100)), request(), "window of 100 tokens", True),
        (snapshot(ejected=True), request(), "ejected", True),
        (replace(snapshot(), down="its probe was answered 503"), request(), "down: its probe was answered 503", True),
        (replace(snapshot(), absent="no address yet"), request(), "no address yet", False),
        (replace(snapshot(), frozen_for=1.2), request(), "asked to be left alone for 2 s", True),
        (snapshot(deployment(kind="lmstudio")), request(n=2, logprobs=True), "would ignore n, logprobs", True),
        (snapshot(lacks={"chat"}), request(), "has no chat", True),
        (replace(snapshot(), drained=True), request(), "drained by an operator", False),
    ],
)
def test_every_exclusion_says_why(seen, facts, words, soft):
    """Beliefs are soft, facts are not."""
    out = out_of(seen, facts, 101)

    assert words in out.reason
    assert (out.kind != "fact") is soft


@pytest.mark.parametrize(("price", "out"), [(HOSTED, True), (None, True), (Price(0, 0), False)])
def test_without_money_only_what_costs_nothing_is_left(price, out):
    """A fact, however few are left; what has no known price may cost something."""
    found = out_of(snapshot(deployment(price=price)), request(), 10, broke=True)

    assert (found is not None) == out
    assert found is None or (found.reason, found.kind) == ("budget", "fact")


@pytest.mark.parametrize(("kind", "out"), [("nvidia", True), ("vllm", False)])
def test_a_body_goes_only_where_it_is_taken(kind, out):
    """The hosted endpoint answers 400 beyond 26,214,400 bytes, whatever else would serve."""
    seen, most = snapshot(deployment(kind=kind)), 26_214_400

    found = out_of(seen, replace(request(), size=most + 1), 10)

    assert (found is not None) == out
    assert found is None or (found.reason, found.kind) == ("takes at most 26214400 bytes", "fact")
    assert out_of(seen, replace(request(), size=most), 10) is None


@pytest.mark.parametrize(
    "members",
    [
        {"n": 1},
        {"n": None},
        {"tool_choice": "auto"},
        {"logprobs": False},
        {"parallel_tool_calls": True},
        {"response_format": {"type": "text"}},
    ],
)
def test_a_default_that_is_said_is_no_wish(members):
    """SDKs say them all the time."""
    assert out_of(snapshot(deployment(kind="transformers")), request(**members), 10) is None


@pytest.mark.parametrize("api", ["messages", "count_tokens", "tokenize", "embeddings"])
def test_an_api_that_its_kind_of_engine_does_not_serve_is_a_fact(api):
    """Nothing is translated; what an engine has once refused is only believed."""
    facts = request(api, messages=[], input="a")

    out = out_of(snapshot(deployment(kind="transformers"), lacks={api}), facts, 10)

    assert (out.reason, out.kind) == (f"has no {api} API", "fact")
    assert out_of(snapshot(deployment(kind="vllm")), facts, 10) is None


def test_what_is_out_of_reach_is_a_fact():
    """No empty route lets a prompt leave the house."""
    seen = snapshot(replace(deployment(), hosted=True))

    out = out_of(seen, request(), 10, reach=Reach(local_only=True))

    assert (out.reason, out.kind) == ("hosted, and this caller's prompts stay local", "fact")
    assert out_of(seen, request(), 10, reach=Reach()) is None


@pytest.mark.parametrize(("cost", "out"), [(1_000_001, True), (None, True), (1_000_000, False), (0, False)])
def test_what_a_call_may_cost_at_most_is_a_fact(cost, out):
    """What has no known price may cost more."""
    found = out_of(snapshot(), request(), max_price=1_000_000, cost=cost)

    assert (found is not None) == out
    assert found is None or (found.kind == "fact" and "0.001" in found.reason)


def test_small_money_is_told_in_full():
    """An exponent is no price that people read, and rounded both would be nothing."""
    found = out_of(snapshot(), request(), max_price=100, cost=1_250)

    assert found.reason == "would cost about 0.00000125 USD, more than the call may cost (0.0000001 USD)"


@pytest.mark.parametrize(
    ("there", "share", "out"), [(7, 1.0, False), (8, 1.0, True), (2, 0.25, True), (1, 0.25, False)]
)
def test_who_has_as_many_calls_as_it_takes_is_full(there, share, out):
    """And while it warms up after a failure it takes a share of them, one at least."""
    bounded = replace(deployment(), max_in_flight=8)
    found = out_of(replace(snapshot(bounded, in_flight=there), share=share), request())

    assert (found is not None) == out
    assert found is None or (found.full and found.kind == "full" and f"full: it has {there} of" in found.reason)
    tiny = replace(deployment(), max_in_flight=1)
    assert out_of(replace(snapshot(tiny), share=0.25), request()) is None


def test_who_has_used_up_its_own_limit_is_full_for_so_long():
    """The call spills over before the upstream refuses it."""
    found = out_of(snapshot(allowance_wait=2.5), request())

    assert found.full
    assert found.reason == "its own limit has room in 2.5 s"


def test_what_is_doubtful_and_full_says_both():
    """It gives way to doubt, and is waited for all the same."""
    found = out_of(snapshot(replace(deployment(), max_in_flight=1), in_flight=5, ejected=True), request())

    assert (found.kind, found.full) == ("state", True)
    assert found.reason == "ejected: its last calls failed; full: it has 5 of 1 calls at most"
    gone = out_of(snapshot(replace(deployment(), max_in_flight=1), in_flight=5, retired=True), request())
    assert (gone.kind, gone.full) == ("fact", False)


def test_whoever_calls_past_us_fills_nothing_alone():
    """An engine's own count may be wrong; with one call of ours it counts."""
    bounded = replace(deployment(), max_in_flight=8)

    assert out_of(snapshot(bounded, in_flight=255, foreign=255), request()) is None
    assert out_of(snapshot(bounded, in_flight=256, foreign=255), request()).full
