"""How fast a deployment answers, learned from the calls it served.

Law: believe the prior of the kind until told otherwise, follow what is seen, and drift back to what is usual there when
nothing has been seen for a while, so that a deployment once slow is tried again and a slow machine is not thought fast.
TTFT = fixed + (prefill work queued ahead + ours) x prefill time, a token of a short prompt being the unit of work
(`prefill.py`); an output token = time alone + calls beside x crowding. Both lines (`line.py`) are learned of all
deployments alike together, since one alone, whose batch hardly changes, cannot tell their parts apart; what is its own
is one factor for each, and a small one is noise. Beside what is expected stands by how much it is missed: a running
quantile, as in `policies/estimates.py`.
"""

import math

from policies.dialects import Priors
from policies.domain import Pace
from policies.lessons import Lesson, Lessons, taught
from policies.line import BELIEVED, DOUBT, LEAST, RARE, Factor, Line

HALF_LIFE = 60.0
"""Seconds without a sample after which half of what is unusual is forgotten."""
USUAL_HALF_LIFE = 3600.0
"""Seconds without a sample after which half of what sets it apart from others like it is forgotten, however usual: one
that was mended is found by a call an hour, and one that is slow by nature costs no more than that."""
ENOUGH = 8
"""Calls by which a deployment may be judged: the first of an engine that has just started are slow."""
LATEST = 0.95
"""The share of first tokens that come before the predicted one and its spread."""
LEAST_SPREAD, MOST_SPREAD = 0.01, 120.0
"""Seconds between which a spread is kept: past the longest patience it says nothing more."""
CROWDING = 0.02
"""Share by which one more call in a batch is thought to slow every call's output tokens, before any is seen: vLLM's
step on large GPUs grows by 0.3 % a sequence, llama.cpp's on a CPU by far more."""

BAND = 0.3
"""Logarithm by which a deployment may differ from its pool and be like it: a third as much again. Equals that are
thought to differ draw each other's calls to and fro and lose what is cached; only what goes beyond is its own."""

CENTER = 0.05
"""Weight of one deployment's factor in the middle of its pool's."""

WHILE = 0.1
"""Seconds without a sample that are not yet a while: in less nothing is forgotten, and nothing is reckoned for it."""

LINE, FIRST, PACE = 4, 3, 2
"""Numbers of a lesson: of a line; of what is one deployment's own of first tokens, and of pace."""

_STEP = 0.5


class Fading:
    """Since when nothing was heard of something, and how much of what was learned of it that leaves."""

    __slots__ = ("_relaxed", "heard_at")

    def __init__(self) -> None:
        self.heard_at: float | None = None
        self._relaxed = -math.inf

    def kept(self, now: float) -> float:
        """Return the share that is left since it was last asked."""
        heard_at, relaxed = self.heard_at, self._relaxed
        if heard_at is None:
            return 1.0
        since = now - (max(relaxed, heard_at))
        if since < WHILE:
            return 1.0
        self._relaxed = now
        return math.exp2(-since / HALF_LIFE)


class Common:
    """One line of a pool, and the middle of its deployments' factors, a logarithm."""

    __slots__ = ("_fading", "center", "line")

    def __init__(self, line: Line) -> None:
        self.line = line
        self.center = 0.0
        self._fading = Fading()

    def take(self, own: Factor, work: float, seen: float, now: float) -> None:
        """Take in one sample of a deployment, whose own factor learns from it first."""
        self.relax(now)
        self._fading.heard_at = now
        own.take(math.log(max(seen, LEAST) / self.line.at(work)))
        self.center += CENTER * (own.log - self.center)
        self.line.take(work, seen * math.exp(self.center - own.log))

    def relax(self, now: float) -> None:
        """Go back to what is usual of all of them where none was heard of for a while."""
        kept = self._fading.kept(now)
        if kept < 1.0:
            self.line.relax(kept)
            self.center *= kept ** (HALF_LIFE / USUAL_HALF_LIFE)

    def lesson(self) -> Lesson:
        """Return what was learned of the line, of a deployment in the middle of its pool."""
        return taught(self.line.samples, *(log + self.center for log in self.line.logs))

    def begin(self, lesson: Lesson, age: float, now: float) -> None:
        """Begin with what others had learned of the line `age` seconds ago."""
        self._fading.heard_at = now - age
        self.line.begin(lesson.logs, *_counted(lesson, age))

    def factor(self, own: Factor) -> float:
        """Return by how much a deployment is slower than its pool (soft thresholding, Donoho 1995)."""
        off = own.log - self.center
        return math.exp(self.center + math.copysign(max(0.0, abs(off) - BAND), off))


class Pool:
    """What deployments of one kind that serve one model have in common."""

    __slots__ = ("first", "tokens")

    def __init__(self, priors: Priors) -> None:
        self.first = Common(Line(priors.ttft_fixed, 1.0 / priors.prefill_rate))
        self.tokens = Common(Line(priors.token_time, CROWDING * priors.token_time))

    @property
    def samples(self) -> tuple[int, int]:
        """First tokens and paces that it has learned from."""
        return self.first.line.samples, self.tokens.line.samples

    def lessons(self) -> Lessons:
        """Return what was learned, for other gateways to begin with."""
        return Lessons(self.first.lesson(), self.tokens.lesson())

    def begin(self, lessons: Lessons, age: float, now: float) -> None:
        """Begin with what others had learned `age` seconds ago; nothing changes of what calls have told already."""
        for common, told in ((self.first, lessons.first), (self.tokens, lessons.tokens)):
            if not common.line.samples and told.fits(LINE):
                common.begin(told, age, now)


class Latency:
    """The learned figures of one deployment, in seconds; `pool`: what it has in common with others."""

    __slots__ = (
        "_begun_at",
        "_believed_at",
        "_fading",
        "_first",
        "_pace",
        "_pool",
        "_spread",
        "_tokens",
        "_usual_spread",
    )

    def __init__(self, priors: Priors, pool: Pool | None = None) -> None:
        self._pool = pool or Pool(priors)
        self._first = Factor()
        self._tokens = Factor()
        self._spread = self._usual_spread = priors.ttft_fixed
        self._fading = Fading()
        self._begun_at = self._believed_at = -math.inf
        self._pace = self._believed()

    def observe_first(self, now: float, ttft: float, ahead: int) -> None:
        """Take in a first token after `ttft` seconds, with `ahead` of prefill work before and in this call.

        One that was not waited for any longer is taken in too, with the wait: it would have come no sooner.
        """
        self._heard(now)
        pace = self._believed()
        # Robbins-Monro on the logarithm, so that a long tail is found within some samples.
        later = ttft - pace.fixed - pace.prefill * ahead > self._spread
        spread = self._spread * math.exp(_STEP * (LATEST if later else LATEST - 1.0))
        self._spread = min(MOST_SPREAD, max(LEAST_SPREAD, spread))
        self._pool.first.take(self._first, float(ahead), ttft, now)
        self._pace = self._believed()

    def observe_pace(self, now: float, token_time: float, beside: float) -> None:
        """Take in the seconds an output token took over one answer, with so many calls `beside` it on average."""
        self._heard(now)
        self._pool.tokens.take(self._tokens, beside, token_time, now)
        self._pace = self._believed()

    def observe_whole(self, now: float, seconds: float, ahead: int, tokens: int, beside: float) -> None:
        """Take in a plain answer of `tokens` more than one, which does not tell when it began.

        It took so many times what was predicted, and its parts are taken to have done so alike.
        """
        pace = self.pace(now)
        first, token = pace.fixed + pace.prefill * ahead, pace.token + pace.crowding * beside
        share = seconds / (first + tokens * token)
        self.observe_first(now, first * share, ahead)
        self.observe_pace(now, token * share, beside)

    def pace(self, now: float) -> Pace:
        """Return how fast it is believed to be at `now`, or was within a second of it."""
        if now - self._believed_at > 1.0:
            self._believed_at = now
            self._fade(now)
            self._pool.first.relax(now)
            self._pool.tokens.relax(now)
            self._pace = self._believed()
        return self._pace

    def usual_first(self, ahead: int) -> float:
        """Return the seconds that a first token takes over the long run, with `ahead` of prefill work before it."""
        return self._pool.first.line.at(ahead) * math.exp(self._first.usual)

    def unheard(self, now: float) -> float:
        """Return the seconds since a call told of it, or since it began; infinite where too few have to be judged by.

        Whoever begins would else find out at once about all that others have not heard of lately: about the slow ones.
        """
        heard_at = self._fading.heard_at
        if heard_at is None or self._first.samples < ENOUGH:
            return math.inf
        return now - max(heard_at, self._begun_at)

    def forget(self) -> None:
        """Believe what is usual, and the next calls more than that: whoever was away may come back as another."""
        self._first.doubt()
        self._tokens.doubt()
        self._spread = self._usual_spread
        self._fading = Fading()
        self._pace = self._believed()

    @property
    def samples(self) -> tuple[int, int]:
        """First tokens and paces that it has learned from."""
        return self._first.samples, self._tokens.samples

    def lessons(self) -> Lessons:
        """Return what was learned of what sets it apart in its pool, for other gateways to begin with."""
        first, tokens, pool = self._first, self._tokens, self._pool
        off, paces = pool.first.center, pool.tokens.center
        spread = math.log(self._spread / self._usual_spread)
        return Lessons(
            taught(first.samples, first.log - off, first.usual - off, spread),
            taught(tokens.samples, tokens.log - paces, tokens.usual - paces),
        )

    def begin(self, lessons: Lessons, age: float, now: float) -> None:
        """Begin with what others had learned `age` seconds ago, as if it had been heard then and not since.

        Nothing changes once calls have told of it. Its pool begins first.
        """
        if any(self.samples):
            return
        self._begun_at = now
        if lessons.first.fits(FIRST):
            log, usual, spread = lessons.first.logs
            off = self._pool.first.center
            self._first.begin(log + off, usual + off, *_counted(lessons.first))
            self._spread = min(MOST_SPREAD, max(LEAST_SPREAD, self._usual_spread * math.exp(spread)))
            self._fading.heard_at = now - age
        if lessons.tokens.fits(PACE):
            log, usual = lessons.tokens.logs
            off = self._pool.tokens.center
            self._tokens.begin(log + off, usual + off, *_counted(lessons.tokens))
            self._fading.heard_at = now - age
        self._believed_at = -math.inf

    def unseen_tokens(self, now: float, decoding: float, choices: int, most: int) -> int:
        """Return the output tokens that a plain call has probably made in so many seconds of `decoding`, unseen.

        Each of `choices` goes at the learned pace; all together make no more than `most`.
        """
        return min(most, int(max(0.0, decoding) / self.pace(now).token) * choices)

    def _heard(self, now: float) -> None:
        self._fade(now)
        self._fading.heard_at = now

    def _fade(self, now: float) -> None:
        """Forget what has become unlikely since the last time."""
        kept = self._fading.kept(now)
        if kept < 1.0:
            usual = kept ** (HALF_LIFE / USUAL_HALF_LIFE)
            self._first.relax(kept, usual, self._pool.first.center)
            self._tokens.relax(kept, usual, self._pool.tokens.center)
            self._spread = self._usual_spread + kept * (self._spread - self._usual_spread)

    def _believed(self) -> Pace:
        first, tokens = self._pool.first, self._pool.tokens
        ours, paces = first.factor(self._first), tokens.factor(self._tokens)
        return Pace(
            first.line.fixed * ours,
            first.line.slope * ours,
            tokens.line.fixed * paces,
            tokens.line.slope * paces,
            self._spread,
        )


def _counted(lesson: Lesson, age: float = 0.0) -> tuple[int, float]:
    """Return for how many samples a lesson that is so old counts, and how doubtful each of its logarithms is."""
    samples = min(lesson.samples, ENOUGH)
    sure = samples / ENOUGH * math.exp2(-age * RARE / HALF_LIFE)
    return samples, DOUBT - sure * (DOUBT - BELIEVED)
