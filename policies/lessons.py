"""What was learned of a deployment, or of all alike together, as plain numbers that one gateway tells another.

Law: a lesson is where learning begins and nothing more: it is believed less than a few calls of one's own, and the less
the fewer calls it is of and the older it is. Whatever cannot have been learned is refused whole. Of two gateways'
lessons each weighs by its calls, an old one less; no gateway's weighs so much that another's is not heard.
"""

import math
from typing import Annotated

from msgspec import Meta, Struct

from policies.line import CONVERGED, RANGE

HALF = 60.0
"""Seconds after which a lesson weighs half as much beside a new one."""

DIGITS = 4
"""Decimals of a logarithm that are told: a hundredth of a percent."""

Log = Annotated[float, Meta(ge=-RANGE, le=RANGE)]
Samples = Annotated[int, Meta(ge=0, le=CONVERGED)]


class Lesson(Struct, frozen=True, array_like=True):
    """What so many `samples` taught of one line or factor: logarithms of what is, over what the kind's prior says."""

    samples: Samples
    logs: tuple[Log, ...]

    def fits(self, count: int) -> bool:
        """Say whether it was learned at all, of something with so many numbers, and each can be."""
        return self.samples > 0 and len(self.logs) == count and all(-RANGE <= log <= RANGE for log in self.logs)


class Lessons(Struct, frozen=True, array_like=True):
    """Of first tokens, and of the pace of those that follow."""

    first: Lesson
    tokens: Lesson


def taught(samples: int, *logs: float) -> Lesson:
    """Return what so many samples have taught, within bounds."""
    return Lesson(min(samples, CONVERGED), tuple(round(min(RANGE, max(-RANGE, log)), DIGITS) for log in logs))


def merged(there: Lessons, ours: Lessons, news: tuple[int, int], age: float) -> Lessons:
    """Return what another gateway's lessons, told `age` seconds ago, and ours make together.

    `news`: the samples that ours are of since we last told any, of first tokens and of pace.
    """
    kept = math.exp2(-age / HALF)
    return Lessons(_merged(there.first, ours.first, news[0], kept), _merged(there.tokens, ours.tokens, news[1], kept))


def _merged(there: Lesson, ours: Lesson, news: int, kept: float) -> Lesson:
    before = there.samples * kept
    if not there.fits(len(ours.logs)):
        return ours
    share = news / (before + news) if news else 0.0
    logs = (theirs + share * (own - theirs) for theirs, own in zip(there.logs, ours.logs, strict=True))
    return taught(max(1, round(before + news)), *logs)
