import pytest
from msgspec.structs import replace

from policies.candidates import exclusion
from policies.domain import Price, Reach
from tests.policies.builders import HOSTED, deployment, request, snapshot

IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]


def test_a_healthy_deployment_that_fits_is_in():
    """Even with an unknown window."""
    assert exclusion(snapshot(), request(), 10_000_000) is None


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
    out = exclusion(seen, facts, prompt_tokens=101)

    assert words in out.reason
    assert out.soft is soft


@pytest.mark.parametrize(("price", "out"), [(HOSTED, True), (None, True), (Price(0, 0), False)])
def test_without_money_only_what_costs_nothing_is_left(price, out):
    """A fact, however few are left; what has no known price may cost something."""
    found = exclusion(snapshot(deployment(price=price)), request(), 10, broke=True)

    assert (found is not None) == out
    assert found is None or (found.reason, found.soft) == ("budget", False)


@pytest.mark.parametrize(("kind", "out"), [("nvidia", True), ("vllm", False)])
def test_a_body_goes_only_where_it_is_taken(kind, out):
    """The hosted endpoint answers 400 beyond 26,214,400 bytes, whatever else would serve."""
    seen, most = snapshot(deployment(kind=kind)), 26_214_400

    found = exclusion(seen, replace(request(), size=most + 1), 10)

    assert (found is not None) == out
    assert found is None or (found.reason, found.soft) == ("takes at most 26214400 bytes", False)
    assert exclusion(seen, replace(request(), size=most), 10) is None


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
    assert exclusion(snapshot(deployment(kind="transformers")), request(**members), 10) is None


@pytest.mark.parametrize("api", ["messages", "count_tokens", "tokenize", "embeddings"])
def test_an_api_that_its_kind_of_engine_does_not_serve_is_a_fact(api):
    """Nothing is translated; what an engine has once refused is only believed."""
    facts = request(api, messages=[], input="a")

    out = exclusion(snapshot(deployment(kind="transformers"), lacks={api}), facts, 10)

    assert (out.reason, out.soft) == (f"has no {api} API", False)
    assert exclusion(snapshot(deployment(kind="vllm")), facts, 10) is None


def test_what_is_out_of_reach_is_a_fact():
    """No empty route lets a prompt leave the house."""
    seen = snapshot(replace(deployment(), hosted=True))

    out = exclusion(seen, request(), 10, reach=Reach(local_only=True))

    assert (out.reason, out.soft) == ("hosted, and this caller's prompts stay local", False)
    assert exclusion(seen, request(), 10, reach=Reach()) is None
