import pytest

from policies.candidates import exclusion
from policies.domain import Price
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
        (snapshot(lacks={"chat"}), request(), "has no chat", True),
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
