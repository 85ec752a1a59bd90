"""What is learned from noisy samples: a straight line `fixed + slope x work`, both positive, and a plain factor.

Law: what is learned is logarithms, by (extended) Kalman filters on the logarithm of what is seen: a share and not a
difference is what counts. A factor is quick: one outlier moves it little, and the second in a row that says the same is
believed, with all that was sure before forgotten. A line is slow, since many share it: no sample moves it far, and it
follows what lasts. Both keep what is usual, to come back to. Everything is bounded.
"""

import math

NOISE = 0.09
"""Variance of a sample's logarithm around the line: a third up or down, what batching and networks do to a TTFT."""
DOUBT = 2.25
"""Variance of each logarithm before the first sample: a factor of 4.5; it is never doubted more."""
BELIEVED = 0.36
"""Variance of each logarithm that others have learned well: a factor of 1.8, so that one sample outweighs them all."""
DRIFT = 0.002
"""Variance that each sample adds, which keeps the gain of a steady line at about a seventh."""
CLIP = 1.5
"""The most that one sample may seem to be off, as a logarithm: a factor of 4.5."""
ODD = 0.3
"""Share that is believed of a sample off by more than `CLIP`, unless its like was seen lately."""
LIKE, FADES = 1.5, 0.7
"""So many odd samples the same way, each fading by a third with every one that is not odd, are no outliers: two in a
row, or in four; one of twenty hardly ever is."""
LEAK = 0.02
"""Share by which each sample has a part go back to its prior, times how doubtful it is: of tiny prompts little is
learned about prefill, and what is not learned does not wander off."""
RANGE = 10.0
"""How far a parameter goes from its prior, as a logarithm: a factor of 22,000."""
CONVERGED = 25
"""Samples after which a line is within two fifths of the truth from a prior that is wrong by a factor of 5."""
STALE = 0.75
"""What is kept of what was learned when the next sample is believed as it is, as far as one may move anything."""
LEAST = 1e-9
"""The least sample that has a logarithm to speak of."""
ANCHOR, RARE = 0.02, 0.1
"""The least weight of a sample in what is usual; the power of what was kept since the last one by which that weighs
more, and is believed more."""


class Oddity:
    """Tells outliers from changes, by whether their like was seen lately."""

    __slots__ = ("_lately",)

    def __init__(self) -> None:
        self._lately = 0.0

    def judge(self, off: float) -> tuple[float, bool]:
        """Return what to believe of a sample that is `off` by so much, and whether it is odd and yet no outlier."""
        if -CLIP <= off <= CLIP:
            self._lately *= FADES
            return off, False
        kept = math.copysign(CLIP, off)
        sign = math.copysign(1.0, off)
        self._lately = sign + (self._lately if self._lately * sign > 0.0 else 0.0)
        return (kept, True) if abs(self._lately) >= LIKE else (kept * ODD, False)


class Factor:
    """A factor around 1: `log` as learned now, `usual` over the long run, both logarithms; of so many `samples`."""

    __slots__ = ("_gap", "_oddity", "_stale", "_variance", "log", "samples", "usual")

    def __init__(self) -> None:
        self.log = self.usual = 0.0
        self._variance = DOUBT
        self.samples = 0
        self._gap = 0.0
        self._stale = False
        self._oddity = Oddity()

    def take(self, seen: float) -> None:
        """Take in the logarithm of one sample."""
        off, changed = self._oddity.judge(seen - self.log)
        if self._stale:  # of what was not heard of for long the first word is no outlier
            off, changed, self._stale = min(CLIP, max(-CLIP, seen - self.log)), True, False
        variance = min(DOUBT, self._variance + DRIFT)
        gain = 1.0 if changed else variance / (variance + NOISE)
        self._variance = variance * (1.0 - gain) if gain < 1.0 else DOUBT
        self.log = min(RANGE, max(-RANGE, self.log + gain * off))
        self.samples += 1
        self.usual += max(ANCHOR, 1.0 / self.samples, self._gap) * (self.log - self.usual)
        self._gap = 0.0

    def relax(self, kept: float, kept_usual: float = 1.0, middle: float = 0.0) -> None:
        """Go back to what is usual, but for a share of what was learned since that is `kept`.

        What is usual itself goes to the `middle` of others, but for the share `kept_usual`.
        """
        self.usual = middle + kept_usual * (self.usual - middle)
        self.log = self.usual + kept * (self.log - self.usual)
        rare = 1.0 - kept**RARE
        self._variance += rare * (DOUBT - self._variance)
        self._gap = max(self._gap, rare)
        self._stale = self._stale or kept < STALE

    def doubt(self) -> None:
        """Believe what is usual, and the next samples more than that."""
        self.log = self.usual
        self._variance = DOUBT

    def begin(self, log: float, usual: float, samples: int, variance: float) -> None:
        """Begin with what others have learned, as if so many samples had told it; `variance`: how doubtful it is."""
        self.log, self.usual = (min(RANGE, max(-RANGE, one)) for one in (log, usual))
        self.samples = samples
        self._variance = variance


class Line:
    """`fixed`, `slope`: as learned now, of so many `samples`."""

    __slots__ = ("_a", "_anchors", "_b", "_cov", "_oddity", "_priors", "fixed", "samples", "slope")

    def __init__(self, fixed: float, slope: float) -> None:
        """Begin with the prior; both are above 0."""
        self._priors = (math.log(fixed), math.log(slope))
        self._a, self._b = self._priors
        self._anchors = self._priors
        self._cov = (DOUBT, 0.0, DOUBT)
        self.samples = 0
        self._oddity = Oddity()
        self.fixed = fixed
        self.slope = slope

    def at(self, work: float) -> float:
        """Return what is expected of so much work."""
        return self.fixed + self.slope * work

    def take(self, work: float, seen: float) -> None:
        """Take in one sample."""
        predicted = self.at(work)
        off, _ = self._oddity.judge(math.log(max(seen, LEAST) / predicted))
        # The shares of both parts in the prediction are the derivatives of its logarithm.
        h, k = self.fixed / predicted, self.slope * work / predicted
        p, q, r = self._cov
        p, r = min(DOUBT, p + DRIFT), min(DOUBT, r + DRIFT)
        to_a, to_b = p * h + q * k, q * h + r * k
        variance = h * to_a + k * to_b + NOISE
        self._cov = p, q, r = (
            p - to_a * to_a / variance,
            q - to_a * to_b / variance,
            r - to_b * to_b / variance,
        )
        first, second = self._priors
        self._set(
            self._a + to_a / variance * off + LEAK * p / DOUBT * (first - self._a),
            self._b + to_b / variance * off + LEAK * r / DOUBT * (second - self._b),
        )
        self.samples += 1
        weight = max(ANCHOR, 1.0 / self.samples)
        a, b = self._anchors
        self._anchors = (a + weight * (self._a - a), b + weight * (self._b - b))

    def relax(self, kept: float) -> None:
        """Go back to what is usual, but for a share of what was learned since that is `kept`."""
        a, b = self._anchors
        self._set(a + kept * (self._a - a), b + kept * (self._b - b))

    @property
    def logs(self) -> tuple[float, float, float, float]:
        """What was learned of `fixed` and `slope`, and what is usual of them: logarithms over the prior."""
        first, second = self._priors
        a, b = self._anchors
        return self._a - first, self._b - second, a - first, b - second

    def begin(self, logs: tuple[float, ...], samples: int, variance: float) -> None:
        """Begin with what others have learned, four numbers as in `logs`, as if so many samples had told it.

        `variance`: how doubtful each is.
        """
        a, b, usual_a, usual_b = logs
        first, second = self._priors
        self._set(first + a, second + b)
        self._anchors = first + usual_a, second + usual_b
        self._cov = (variance, 0.0, variance)
        self.samples = samples

    def _set(self, a: float, b: float) -> None:
        first, second = self._priors
        if not (-RANGE < a - first < RANGE and -RANGE < b - second < RANGE):
            a = min(first + RANGE, max(first - RANGE, a))
            b = min(second + RANGE, max(second - RANGE, b))
        self._a, self._b = a, b
        self.fixed, self.slope = math.exp(a), math.exp(b)
