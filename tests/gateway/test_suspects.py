from gateway.suspects import Suspects
from policies.breaker import State
from policies.dialects import DIALECTS
from policies.failures import Failure, FailureKind
from policies.live import Live, Ticket

FAULT = Failure(FailureKind.SERVER_ERROR, "x", 500)


def suspects(count):
    """Return deployments on which one call has failed three times each, and whoever holds that against them."""
    held = Suspects()
    lives = [Live(f"gpu-{number}/m", DIALECTS["vllm"]) for number in range(count)]
    for live in lives * 3:
        held.add(Ticket(live, 1, 0.0), FAULT)
    return held, lives


def test_whose_call_another_one_serves_has_failed():
    """Once, however often it is asked."""
    held, lives = suspects(2)
    held.convict()
    held.acquit()
    held.convict()

    assert [live.breaker.state for live in lives] == [State.OPEN, State.OPEN]


def test_a_call_that_nobody_serves_is_nobodys_fault():
    """It may be what breaks engines."""
    held, lives = suspects(2)
    held.acquit()
    held.convict()

    assert [live.breaker.state for live in lives] == [State.CLOSED, State.CLOSED]
