"""What to do after a failed attempt: the next deployment, wait for one that said when it will be back, or give up.

Law: never more attempts than the route holds or the model allows; never past the deadline; a call's first retry is
free, each further one takes from a budget that refills with the calls (10 %, and one a second: Finagle's scheme,
halved), so that retries cannot multiply an outage. An API that a deployment does not have costs nothing to find out and
is not counted, up to `MOST_FREE`. A deployment is asked again only where it said itself when to come back and nothing
else is left.
"""

from collections.abc import Container, Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from policies.domain import API, Candidate, Route
from policies.failures import Failure, FailureKind
from policies.rejections import Reason, Rejection

PER_CALL = 0.1
PER_SECOND = 1.0
MOST = 100.0

MOST_FREE = 8
"""Attempts of a call that are not counted: kinds of engines are few, however many replicas there are of one."""

LONGEST_WAIT = 60.0
"""Seconds of a Retry-After that are waited for: the window of most rate limits is a minute, and whoever is away for
longer will not be back for this call; its caller is told instead, and can go elsewhere."""

Tried = Sequence[tuple[Candidate, Failure]]
"""The attempts of a call so far, each with how it failed."""


class Step(Struct, frozen=True):
    """What to do next: after `wait` seconds try the first of `candidates` that can be paid; none: give up.

    `taken`: a retry was taken from the budget for it, to be given back where none of them is tried.
    """

    candidates: tuple[Candidate, ...] = ()
    wait: float = 0.0
    taken: bool = False


GIVE_UP = Step()


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

    def give_back(self) -> None:
        """Take in that a retry which was taken is not made."""
        self._left += 1.0


def next_step(
    route: Route,
    tried: Tried,
    frozen: Mapping[str, float],
    remaining: float,
    budget: RetryBudget,
    *,
    now: float,
    skipped: Container[str] = (),
) -> Step:
    """Return what to do after the failures in `tried`.

    `frozen`: seconds for which those that were tried have asked to be left alone from now on, by id; 0 for none.
    `remaining`: seconds until the call's deadline. `skipped`: ids of those that may not be asked after all, again or at
    all.
    """
    counted = [failure for _, failure in tried if failure.kind is not FailureKind.UNSUPPORTED]
    attempts = max(len(counted), len(tried) - MOST_FREE)
    if not tried[-1][1].meaning.elsewhere or remaining <= 0 or attempts >= route.terms.max_attempts:
        return GIVE_UP
    if [failure.kind for failure in counted].count(FailureKind.SERVER_ERROR) > 1:
        return GIVE_UP  # a 500 twice is the request's doing more often than the engines'
    before = {candidate.deployment.id for candidate, _ in tried}
    large = [candidate for candidate in route.order if _larger(candidate, _outgrown(tried))]
    large = [candidate for candidate in large if candidate.deployment.id not in skipped]
    left = tuple(c for c in large if c.deployment.id not in before)
    step = Step(left) if left else _wait(large, tried, frozen, remaining)
    if not step.candidates or len(counted) <= 1:
        return step
    return replace(step, taken=True) if budget.take(now) else GIVE_UP


def _wait(large: Sequence[Candidate], tried: Tried, frozen: Mapping[str, float], remaining: float) -> Step:
    """Return the wait for that one of the tried deployments which is back first, if it is worth it.

    One whose last failure says nothing of a limit is not waited for, nor one that has not said when.
    """
    said = {
        candidate.deployment.id
        for candidate, failure in _last(tried)
        if failure.meaning.freezes and (failure.retry_after is not None or frozen[candidate.deployment.id])
    }
    waits = [(frozen[c.deployment.id], c) for c in large if c.deployment.id in said]
    if not waits:
        return GIVE_UP
    wait, candidate = min(waits, key=lambda pair: pair[0])
    return Step((candidate,), wait) if wait <= LONGEST_WAIT and wait + candidate.seconds < remaining else GIVE_UP


def passes(tried: Tried) -> bool:
    """Say whether the last attempt's own answer is the caller's: its own fault, or a refusal of what it sent."""
    return tried[-1][1].kind in {FailureKind.CALLER, FailureKind.REFUSED}


def verdict(
    tried: Tried, api: API, *, tokens: int, remaining: float, back: float, skipped: Iterable[Candidate] = ()
) -> Rejection:
    """Say no to the caller of `api` after the failures in `tried`, none of which left an answer that may pass.

    The words name backends and kinds of failure, never an upstream's text. `tokens`: of prompt and output, about.
    `back`: seconds until the first of those that were tried takes calls again. `skipped`: those that were
    passed over, each with the reason for which it was dropped.
    """
    failures = [f"{candidate.deployment.backend}: {f.kind.value}" for candidate, f in tried]
    story = "; ".join([*failures, *(f"{out.deployment.backend}: not tried ({out.dropped})" for out in skipped)])
    # Where a larger window was only away, the call may well be served later: its caller must not cut it down for good.
    larger = [f for c, f in tried if f.kind is not FailureKind.CONTEXT_OVERFLOW and _window(c) > _outgrown(tried)]
    judged = larger or [f for _, f in tried]
    kinds = {f.kind for f in judged}
    if FailureKind.CONTEXT_OVERFLOW in kinds:
        return Rejection(Reason.CONTEXT_LENGTH, _overflow(tried, tokens))
    if remaining <= 0:
        return Rejection(Reason.DEADLINE, f"No deployment answered within the call's deadline ({story}).")
    if kinds == {FailureKind.UNSUPPORTED}:
        return Rejection(Reason.API_NOT_SUPPORTED, f"No deployment of this model has the API {api} ({story}).")
    if all(f.kind in {FailureKind.RATE_LIMITED, FailureKind.BUSY} or f.retry_after is not None for f in judged):
        message = f"Every deployment has as many calls as it takes ({story})."
        return Rejection(Reason.OVERLOADED, message, retry_after_us=round(max(1.0, back) * 1_000_000))
    if kinds <= {FailureKind.CREDENTIALS, FailureKind.FORBIDDEN, FailureKind.MODEL_GONE}:
        return Rejection(Reason.UPSTREAM_REFUSED, f"The gateway's own access to this model is refused ({story}).")
    return Rejection(Reason.UPSTREAM_FAILED, f"Every attempt failed ({story}).")


def _overflow(tried: Tried, tokens: int) -> str:
    """Say that a request does not fit, in the words by which OpenAI's own clients, and Vibe, know it."""
    told = next((f.tokens for _, f in reversed(tried) if f.tokens is not None), None)
    window, remedy = _outgrown(tried), "Shorten the prompt or the output."
    size = f"about {tokens}" if told is None else f"{told}"
    if not 0 < window < float("inf"):
        return f"Your request of {size} tokens is longer than this model's maximum context length. {remedy}"
    if (told or tokens) <= window:  # an estimate, or a count without the output
        size = f"more than {window:.0f}"
    limit = f"This model's maximum context length is {window:.0f} tokens."
    return f"{limit} However, your request has {size} tokens. {remedy}"


def _outgrown(tried: Tried) -> float:
    """Return the largest context window that was too small, as told or known; 0 if none was, infinite if unknown."""
    overflows = [(c, f) for c, f in tried if f.kind is FailureKind.CONTEXT_OVERFLOW]
    return max((_window(c) if f.window is None else float(f.window) for c, f in overflows), default=0.0)


def _larger(candidate: Candidate, outgrown: float) -> bool:
    """Say whether a candidate's window is larger than what was `outgrown`, or known at all where that is not."""
    if outgrown == float("inf"):
        return candidate.deployment.context_window is not None
    return _window(candidate) > outgrown


def _window(candidate: Candidate) -> float:
    window = candidate.deployment.context_window
    return float("inf") if window is None else float(window)


def _last(tried: Tried) -> Iterable[tuple[Candidate, Failure]]:
    """Return each deployment's last failure."""
    return {candidate.deployment.id: (candidate, failure) for candidate, failure in tried}.values()
