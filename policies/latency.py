"""How fast a deployment answers, learned from the calls it served.

Law: believe the prior until told otherwise, follow what is seen, and drift back to the prior when nothing has been seen
for a while, so that a deployment once slow is tried again. TTFT = fixed + (prompt tokens queued ahead + ours) / prefill
rate; a whole answer adds output tokens x time an output token. The prefill rate stays the prior of the kind. Beside
what is expected stands by how much it is missed: a running quantile, as in `policies/estimates.py`.
"""

import math

from policies.dialects import Priors

WEIGHT = 0.2
"""Share of a new sample in the learned figure: a changed replica is seen within about ten calls."""
HALF_LIFE = 60.0
"""Seconds without a sample after which half of what was learned is forgotten."""
LATEST = 0.95
"""The share of first tokens that come before the predicted one and its spread."""
LEAST_SPREAD, MOST_SPREAD = 0.01, 120.0
"""Seconds between which a spread is kept: past the longest patience it says nothing more."""

_STEP = 0.5


class Latency:
    """The learned figures of one deployment, in seconds."""

    __slots__ = ("_fixed", "_priors", "_seen_at", "_spread", "_token_time")

    def __init__(self, priors: Priors) -> None:
        self._priors = priors
        self._fixed = priors.ttft_fixed
        self._spread = priors.ttft_fixed
        self._token_time = priors.token_time
        self._seen_at: float | None = None

    def observe_first(self, now: float, ttft: float, tokens_ahead: int) -> None:
        """Take in a first token after `ttft` seconds, with `tokens_ahead` prompt tokens before and in this call.

        One that was not waited for any longer is taken in too, with the wait: it would have come no sooner.
        """
        self._settle(now)
        fixed = max(0.0, ttft - tokens_ahead / self._priors.prefill_rate)
        # Robbins-Monro on the logarithm, so that a long tail is found within some samples.
        later = fixed - self._fixed > self._spread
        spread = self._spread * math.exp(_STEP * (LATEST if later else LATEST - 1.0))
        self._spread = min(MOST_SPREAD, max(LEAST_SPREAD, spread))
        self._fixed += WEIGHT * (fixed - self._fixed)

    def observe_pace(self, now: float, token_time: float) -> None:
        """Take in the seconds an output token took over one answer."""
        self._settle(now)
        self._token_time += WEIGHT * (token_time - self._token_time)

    def predict(self, now: float) -> tuple[float, float, float]:
        """Return (fixed TTFT, prefill rate, time an output token) as believed at `now`."""
        kept = self._kept(now)
        return (
            self._priors.ttft_fixed + kept * (self._fixed - self._priors.ttft_fixed),
            self._priors.prefill_rate,
            self._priors.token_time + kept * (self._token_time - self._priors.token_time),
        )

    def spread(self, now: float) -> float:
        """Return the seconds by which 19 of 20 first tokens come later than predicted, at most, as believed at `now`.

        Nothing seen: as much as the delay that the prior has.
        """
        prior = self._priors.ttft_fixed
        return prior + self._kept(now) * (self._spread - prior)

    def forget(self) -> None:
        """Believe the prior again: whoever was away comes back as another."""
        self._seen_at = -math.inf

    def unseen_tokens(self, now: float, decoding: float, choices: int, most: int) -> int:
        """Return the output tokens that a plain call has probably made in so many seconds of `decoding`, unseen.

        Each of `choices` goes at the learned pace; all together make no more than `most`.
        """
        _, _, token_time = self.predict(now)
        return min(most, int(max(0.0, decoding) / token_time) * choices)

    def _settle(self, now: float) -> None:
        self._spread = self.spread(now)
        self._fixed, _, self._token_time = self.predict(now)
        self._seen_at = now

    def _kept(self, now: float) -> float:
        return 1.0 if self._seen_at is None else float(0.5 ** (max(0.0, now - self._seen_at) / HALF_LIFE))
