"""What to do after a failed attempt: the next deployment, or give up.

Law: never more attempts than the route holds or the model allows; never past the deadline; a call's first retry is
free, each further one takes from a budget that refills with the calls (10 %, and one a second: Finagle's scheme,
halved), so that retries cannot multiply an outage. An API that a deployment does not have costs nothing to find out and
is not counted.
"""

from collections.abc import Iterable, Sequence

from policies.domain import Candidate, Route
from policies.failures import Failure, FailureKind
from policies.rejections import Reason, Rejection

PER_CALL = 0.1
PER_SECOND = 1.0
MOST = 100.0

CONNECT = 2.0
"""Seconds to reach a backend (TCP and TLS)."""


class RetryBudget:
    """Retries beyond each call's first, of one model."""

    __slots__ = ("_at", "_left")

    def __init__(self, now: float) -> None:
        self._left = 10.0
        self._at = now

    def call(self) -> None:
        """Note a call: it adds a tenth of a retry."""
        self._left = min(MOST, self._left + PER_CALL)

    def take(self, now: float) -> bool:
        """Take one retry, if there is one."""
        self._left = min(MOST, self._left + (now - self._at) * PER_SECOND)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def first_content_deadline(candidate: Candidate) -> float:
    """Return the seconds after which a stream without content has failed: three times the prediction, 10 to 120."""
    return min(120.0, max(10.0, 3 * candidate.ttft))


def whole_answer_deadline(candidate: Candidate) -> float:
    """Return the seconds after which a plain answer has failed: at least 60, and three times as long as it may take.

    Its head comes with its end, so silence says nothing before that.
    """
    return max(60.0, 3 * candidate.longest)


def next_attempts(
    route: Route, tried: Sequence[tuple[Candidate, Failure]], remaining: float, budget: RetryBudget, now: float
) -> list[Candidate]:
    """Return the candidates, one of which to try after the failures in `tried`: the first that can be paid.

    `remaining`: seconds until the call's deadline.
    """
    last, failure = tried[-1]
    counted = [f for _, f in tried if f.kind is not FailureKind.UNSUPPORTED]
    if not failure.meaning.elsewhere or remaining <= 0 or len(counted) >= route.model.routing.max_attempts:
        return []
    if [f.kind for f in counted].count(FailureKind.SERVER_ERROR) > 1:
        return []  # a 500 twice is the request's doing more often than the engines'
    before = {candidate.deployment.id for candidate, _ in tried}
    left = [candidate for candidate in route.order if candidate.deployment.id not in before]
    if failure.kind is FailureKind.CONTEXT_OVERFLOW:
        left = [candidate for candidate in left if _window(candidate) > _window(last)]
    return left if left and (len(counted) <= 1 or budget.take(now)) else []


def passes(tried: Sequence[tuple[Candidate, Failure]]) -> bool:
    """Say whether the last attempt's own answer is the caller's: it is the caller's fault, or nobody has that API."""
    kind = tried[-1][1].kind
    return kind is FailureKind.CALLER or all(failure.kind is FailureKind.UNSUPPORTED for _, failure in tried)


def verdict(
    tried: Sequence[tuple[Candidate, Failure]], remaining: float, unpaid: Iterable[Candidate] = ()
) -> Rejection:
    """Say no to the caller after the failures in `tried`, none of which left an answer that may pass.

    The words name backends and kinds of failure, never an upstream's text. `unpaid`: those that were dropped since what
    they cost more could not be set aside.
    """
    last, failure = tried[-1]
    failures = [f"{candidate.deployment.backend}: {f.kind.value}" for candidate, f in tried]
    story = "; ".join([*failures, *(f"{out.deployment.backend}: not tried ({out.dropped})" for out in unpaid)])
    kinds = {f.kind for _, f in tried}
    if failure.kind is FailureKind.CONTEXT_OVERFLOW:
        window = last.deployment.context_window
        words = f"is {window} tokens" if window is not None else "is smaller than this request"
        return Rejection(
            Reason.CONTEXT_LENGTH, f"This model's maximum context length {words}. Shorten the prompt or the output."
        )
    if remaining <= 0:
        return Rejection(Reason.DEADLINE, f"No deployment answered within the call's deadline ({story}).")
    if kinds <= {FailureKind.RATE_LIMITED, FailureKind.BUSY}:
        wait = min((f.retry_after for _, f in tried if f.retry_after is not None), default=1.0)
        message = f"Every deployment has as many calls as it takes ({story})."
        return Rejection(Reason.OVERLOADED, message, retry_after_us=round(wait * 1_000_000))
    if kinds <= {FailureKind.CREDENTIALS, FailureKind.FORBIDDEN, FailureKind.MODEL_GONE}:
        return Rejection(Reason.UPSTREAM_REFUSED, f"The gateway's own access to this model is refused ({story}).")
    return Rejection(Reason.UPSTREAM_FAILED, f"Every attempt failed ({story}).")


def _window(candidate: Candidate) -> float:
    window = candidate.deployment.context_window
    return float("inf") if window is None else float(window)
