import msgspec
import pytest

from policies.domain import RoutingTerms
from policies.failures import Failure, FailureKind
from policies.rejections import Reason
from policies.retries import (
    RetryBudget,
    first_content_deadline,
    next_attempts,
    passes,
    verdict,
    whole_answer_deadline,
)
from tests.policies.builders import candidate, deployment, route

A, B, C = (candidate(deployment(name, window=window)) for name, window in (("a", 100), ("b", 50), ("c", 200)))
RESET = Failure(FailureKind.RESET, "x")


def after(*tried, plan=None, remaining=10.0, budget=None):
    """Return the candidate to try first, or None."""
    return next(iter(following(*tried, plan=plan, remaining=remaining, budget=budget)), None)


def following(*tried, plan=None, remaining=10.0, budget=None):
    return next_attempts(plan or route(A, B, C), tried, remaining, budget or RetryBudget(0.0), 0.0)


def test_the_route_is_tried_in_order():
    """First, second, third, none."""
    assert following((A, RESET)) == [B, C]
    assert after((A, RESET)) is B
    assert after((A, RESET), (B, RESET)) is C
    assert after((A, RESET), (B, RESET), (C, RESET)) is None


def test_one_attempt_at_most_is_no_failover():
    """The model may say so."""
    assert after((A, RESET), plan=route(A, B, terms=RoutingTerms(max_attempts=1))) is None


def test_a_callers_fault_is_not_tried_elsewhere():
    """It would be one there too."""
    assert after((A, Failure(FailureKind.CALLER, "x", 400))) is None


def test_past_the_deadline_nothing_is_tried():
    """Total time stays inside."""
    assert after((A, RESET), remaining=0.0) is None


def test_a_500_is_tried_elsewhere_once():
    """Twice is the request's doing."""
    broken = Failure(FailureKind.SERVER_ERROR, "x", 500)

    assert after((A, broken)) is B
    assert after((A, broken), (B, broken)) is None


def test_an_overflow_goes_only_to_a_larger_window():
    """Never to a smaller one."""
    assert after((A, Failure(FailureKind.CONTEXT_OVERFLOW, "x", 400))) is C


def test_what_a_deployment_does_not_have_is_not_counted():
    """The third may have it though two attempts are allowed."""
    lacking = Failure(FailureKind.UNSUPPORTED, "x", 501)

    assert after((A, lacking), (B, lacking), plan=route(A, B, C, terms=RoutingTerms(max_attempts=1))) is C


def test_the_first_retry_is_free_and_further_ones_are_budgeted():
    """An outage is not multiplied."""
    budget = RetryBudget(0.0)
    while budget.take(0.0):
        pass

    assert after((A, RESET), budget=budget) is B
    assert after((A, RESET), (B, RESET), budget=budget) is None


def test_the_budget_refills_with_calls_and_time():
    """A tenth of a retry a call, one a second."""
    budget = RetryBudget(0.0)
    while budget.take(0.0):
        pass
    for _ in range(11):
        budget.call()
    assert budget.take(0.0)
    assert not budget.take(0.0)
    assert budget.take(1.0)


@pytest.mark.parametrize(
    ("tried", "remaining", "reason"),
    [
        ([(A, RESET)], 1.0, Reason.UPSTREAM_FAILED),
        ([(A, RESET)], 0.0, Reason.DEADLINE),
        ([(A, Failure(FailureKind.CREDENTIALS, "x", 401))], 1.0, Reason.UPSTREAM_REFUSED),
        ([(A, Failure(FailureKind.CONTEXT_OVERFLOW, "x", 400))], 1.0, Reason.CONTEXT_LENGTH),
        ([(A, Failure(FailureKind.RATE_LIMITED, "x", 429, 3.0))], 1.0, Reason.OVERLOADED),
    ],
)
def test_the_last_word_names_what_went_wrong(tried, remaining, reason):
    """And never an upstream's own text."""
    no = verdict(tried, remaining)

    assert no.reason is reason
    if reason is Reason.OVERLOADED:
        assert no.retry_after_us == 3_000_000
    if reason is Reason.CONTEXT_LENGTH:
        assert "maximum context length is 100 tokens" in no.message


def test_calls_that_found_no_free_connection_may_come_again_in_a_second():
    """Alone or beside an upstream that limits; beside a broken one it is a failure like any other."""
    busy, limited = Failure(FailureKind.BUSY, "x"), Failure(FailureKind.RATE_LIMITED, "x", 429)
    for tried in ([(A, busy)], [(A, limited), (B, busy)]):
        assert verdict(tried, 1.0).reason is Reason.OVERLOADED
        assert verdict(tried, 1.0).retry_after_us == 1_000_000

    assert verdict([(A, busy), (B, RESET)], 1.0).reason is Reason.UPSTREAM_FAILED


def test_what_was_not_tried_for_want_of_money_is_told_too():
    """With the reason, by the name of its backend."""
    no = verdict([(A, RESET)], 1.0, [msgspec.structs.replace(B, dropped="budget")])

    assert "a: reset; b: not tried (budget)" in no.message


def test_patience_follows_the_prediction_within_bounds():
    """Three times, 10 to 120 seconds for a first token, at least 60 for a whole answer."""
    assert first_content_deadline(candidate(ttft=0.1)) == 10.0
    assert first_content_deadline(candidate(ttft=20.0)) == 60.0
    assert first_content_deadline(candidate(ttft=1000.0)) == 120.0
    assert whole_answer_deadline(candidate(seconds=1.0)) == 60.0
    assert whole_answer_deadline(candidate(seconds=50.0)) == 150.0


def test_an_upstreams_own_answer_passes_only_where_it_is_the_callers():
    """A 501 beside an overload is an overload."""
    lacking, busy = Failure(FailureKind.UNSUPPORTED, "x", 501), Failure(FailureKind.UNAVAILABLE, "x", 503)

    assert passes([(A, lacking), (B, lacking)])
    assert not passes([(A, busy), (B, lacking)])
    assert passes([(A, busy), (B, Failure(FailureKind.CALLER, "x", 400))])
