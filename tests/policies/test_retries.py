import msgspec
import pytest

from policies.failures import Failure, FailureKind
from policies.rejections import Reason
from policies.retries import GIVE_UP, LONGEST_WAIT, MOST_FREE, RetryBudget, Step, next_step, passes
from policies.retries import verdict as verdict_of
from policies.terms import RoutingTerms
from tests.policies.builders import candidate, deployment, route

A, B, C = (candidate(deployment(name, window=window)) for name, window in (("a", 100), ("b", 50), ("c", 200)))
RESET = Failure(FailureKind.RESET, "x")


LIMITED = Failure(FailureKind.RATE_LIMITED, "x", 429)


def after(*tried, **facts):
    """Return the candidate to try first, or None."""
    return next(iter(following(*tried, **facts)), None)


def following(*tried, **facts):
    step = step_after(*tried, **facts)
    assert not step.wait
    return list(step.candidates)


def step_after(*tried, plan=None, frozen=(), remaining=10.0, budget=None, skipped=()):
    """Return the next step; `frozen`: pairs of a candidate and the seconds for which it asked to be left alone."""
    asked = {candidate.deployment.id: 0.0 for candidate, _ in tried}
    asked |= {candidate.deployment.id: seconds for candidate, seconds in frozen}
    plan, budget = plan or route(A, B, C), budget or RetryBudget(0.0)
    return next_step(plan, tried, asked, remaining, budget, now=0.0, skipped=[c.deployment.id for c in skipped])


def verdict(tried, remaining, skipped=(), *, tokens=60, back=3.0):
    return verdict_of(tried, "chat", tokens=tokens, remaining=remaining, back=back, skipped=skipped)


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


def test_an_overflow_goes_by_the_window_that_was_told():
    """What is configured may be wrong, or unknown; the engine knows."""
    told = Failure(FailureKind.CONTEXT_OVERFLOW, "x", 400, window=150)
    unknown = candidate(deployment("d"))

    assert following((A, told)) == [C]
    assert following((unknown, told), plan=route(unknown, A, C)) == [C]
    assert following((A, told), plan=route(A, unknown)) == [unknown]


def test_one_that_was_outgrown_earlier_is_not_gone_back_to_for_a_smaller_one():
    """The largest window that was too small counts."""
    overflow = Failure(FailureKind.CONTEXT_OVERFLOW, "x", 400)

    assert after((C, overflow), (candidate(deployment("d")), RESET)) is None


def test_what_cannot_be_paid_is_not_offered():
    """And is none that is left to try."""
    assert following((A, RESET), skipped=[B]) == [C]
    assert step_after((A, LIMITED), frozen=[(A, 2.0)], skipped=[B, C]) == Step((A,), 2.0)


def test_one_that_was_waited_for_and_then_passed_over_is_not_waited_for_again():
    """Or a call would go round and round until its deadline."""
    frozen = [(A, 2.0), (B, 3.0)]

    assert step_after((A, LIMITED), frozen=[(A, 0.0)], plan=route(A), skipped=[A]) == GIVE_UP
    again = Step((B,), 3.0, taken=True)
    assert step_after((A, LIMITED), (B, LIMITED), plan=route(A, B), frozen=frozen, skipped=[A]) == again
    assert step_after((A, LIMITED), (B, LIMITED), plan=route(A, B), frozen=frozen, skipped=[A, B]) == GIVE_UP


def test_whoever_told_when_it_is_back_is_waited_for_when_nothing_else_is_left():
    """Others are tried first, at once."""
    assert following((A, LIMITED), frozen=[(A, 2.0)]) == [B, C]
    assert step_after((A, LIMITED), plan=route(A), frozen=[(A, 2.0)]) == Step((A,), 2.0)
    gone = Failure(FailureKind.UNAVAILABLE, "x", 503, 2.0)
    assert step_after((A, gone), (B, RESET), plan=route(A, B), frozen=[(A, 2.0)]) == Step((A,), 2.0, taken=True)


def test_one_that_said_it_would_be_back_by_now_is_asked_again_at_once():
    """A Retry-After of 0, or one that others' attempts outlasted; what it said before an untold limit is over."""
    told = Failure(FailureKind.RATE_LIMITED, "x", 429, 0.0)

    assert step_after((A, told), plan=route(A)) == Step((A,))
    assert step_after((A, LIMITED), plan=route(A), frozen=[(A, 0.0)]) == GIVE_UP


def test_of_several_that_are_limited_the_first_to_be_back_is_waited_for():
    """Each is left alone until then."""
    frozen = [(A, 5.0), (B, 3.0)]

    assert step_after((A, LIMITED), (B, LIMITED), plan=route(A, B), frozen=frozen) == Step((B,), 3.0, taken=True)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"frozen": []}, "nobody said when"),
        ({"frozen": [(A, 9.5)]}, "with the answer it is past the deadline"),
        ({"frozen": [(A, LONGEST_WAIT + 1)], "remaining": 900.0}, "too long"),
        ({"frozen": [(A, 2.0)], "plan": route(A, terms=RoutingTerms(max_attempts=1))}, "no attempt is left"),
    ],
)
def test_a_wait_that_is_not_worth_it_is_not_made(facts, why):
    """The caller is told at once instead."""
    assert step_after((A, LIMITED), **({"plan": route(A)} | facts)) == GIVE_UP, why


def test_a_wait_is_a_retry_like_any_other():
    """It counts against the attempts and the budget."""
    plan, frozen, budget = route(A), [(A, 1.0)], RetryBudget(0.0)
    while budget.take(0.0):
        pass

    assert step_after((A, LIMITED), plan=plan, frozen=frozen, budget=budget) == Step((A,), 1.0)
    assert step_after(*[(A, LIMITED)] * 2, plan=plan, frozen=frozen, budget=budget) == GIVE_UP
    assert step_after(*[(A, LIMITED)] * 2, plan=plan, frozen=frozen) == Step((A,), 1.0, taken=True)
    assert step_after(*[(A, LIMITED)] * 3, plan=plan, frozen=frozen) == GIVE_UP


def test_one_that_broke_after_it_was_waited_for_is_not_waited_for_again():
    """Its last failure counts."""
    assert step_after((A, LIMITED), (A, RESET), plan=route(A), frozen=[(A, 0.0)]) == GIVE_UP


def test_what_a_deployment_does_not_have_is_not_counted():
    """The third may have it though two attempts are allowed."""
    lacking = Failure(FailureKind.UNSUPPORTED, "x", 501)

    assert after((A, lacking), (B, lacking), plan=route(A, B, C, terms=RoutingTerms(max_attempts=1))) is C


def test_a_call_that_nobody_serves_does_not_visit_everybody():
    """A hundred replicas that have no such API are not all asked by each call that wants it."""
    lacking = Failure(FailureKind.UNSUPPORTED, "x", 501)
    many = [candidate(deployment(f"r{number}")) for number in range(100)]
    tried = [(one, lacking) for one in many[: MOST_FREE + 1]]
    plan = route(*many, terms=RoutingTerms(max_attempts=2))

    assert after(*tried, plan=plan) is many[MOST_FREE + 1]
    assert after(*tried, (many[MOST_FREE + 1], lacking), plan=plan) is None


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
        ([(A, Failure(FailureKind.UNAVAILABLE, "x", 503, 3.0))], 1.0, Reason.OVERLOADED),
        ([(A, Failure(FailureKind.UNAVAILABLE, "x", 503))], 1.0, Reason.UPSTREAM_FAILED),
        ([(A, Failure(FailureKind.UNSUPPORTED, "x", 501))], 1.0, Reason.API_NOT_SUPPORTED),
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
        assert verdict(tried, 1.0, back=0.0).retry_after_us == 1_000_000

    assert verdict([(A, busy), (B, RESET)], 1.0).reason is Reason.UPSTREAM_FAILED


def test_what_was_not_tried_for_want_of_money_is_told_too():
    """With the reason, by the name of its backend."""
    no = verdict([(A, RESET)], 1.0, [msgspec.structs.replace(B, dropped="budget")])

    assert "a: reset; b: not tried (budget)" in no.message


@pytest.mark.parametrize(
    ("of", "told", "tokens", "words"),
    [
        (A, {"window": 4096, "tokens": 5000}, 60, "is 4096 tokens. However, your request has 5000 tokens. "),
        (A, {"window": 4096}, 9000, "is 4096 tokens. However, your request has about 9000 tokens. "),
        (A, {}, 60, "is 100 tokens. However, your request has more than 100 tokens. "),
        (candidate(deployment("d")), {}, 60, "request of about 60 tokens is longer than this model's maximum context"),
    ],
)
def test_an_overflow_is_told_in_words_that_clients_know(of, told, tokens, words):
    """OpenAI's own, by which SDKs and Vibe shorten a conversation: with the engine's numbers, else with ours."""
    no = verdict([(of, Failure(FailureKind.CONTEXT_OVERFLOW, "x", 400, **told))], 1.0, tokens=tokens)

    assert words in no.message
    assert "maximum context length" in no.message
    assert (no.shape.status, no.reason.value) == (400, "context_length_exceeded")


def test_the_largest_window_that_was_tried_is_the_models():
    """Whichever came last."""
    overflow = Failure(FailureKind.CONTEXT_OVERFLOW, "x", 400)

    assert "is 200 tokens" in verdict([(A, overflow), (C, overflow)], 1.0, tokens=900).message


def test_an_api_that_nobody_has_is_named():
    """A 501 beside an overload is an overload."""
    lacking, busy = Failure(FailureKind.UNSUPPORTED, "x", 501), Failure(FailureKind.UNAVAILABLE, "x", 503)

    assert "has the API chat" in verdict([(A, lacking), (B, lacking)], 1.0).message
    assert verdict([(A, busy), (B, lacking)], 1.0).reason is Reason.UPSTREAM_FAILED


def test_an_upstreams_own_answer_passes_only_where_it_is_the_callers():
    """Its own fault, or its content that was refused."""
    lacking, busy = Failure(FailureKind.UNSUPPORTED, "x", 501), Failure(FailureKind.UNAVAILABLE, "x", 503)

    assert not passes([(A, lacking)])
    assert not passes([(A, busy)])
    assert passes([(A, busy), (B, Failure(FailureKind.CALLER, "x", 400))])
    assert passes([(A, Failure(FailureKind.REFUSED, "x", 403))])
