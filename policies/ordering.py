"""Who comes first of the candidates that can serve a call.

Law: by the policy. Of `pinned` the order of the file counts, of `weighted` a draw; of all others: in time before late,
known prices before unknown ones, then the smaller score (of `cheapest` the money, then the time). Scores within `TIE`
are equal: the dice decide between them, or the session's own luck. Now and then a call finds out about a deployment
that nobody has heard of for a while: all that together costs a hundredth of what the calls cost.
"""

import math
import random
import zlib
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from msgspec.structs import replace

from policies.domain import Candidate
from policies.terms import Policy, RoutingTerms

TIE = 0.01
"""Scores closer than this share are equal."""

QUIET = 30.0
"""Seconds without news after which a deployment may be asked again though another one seems better."""

SHARE, MOST = 0.01, 5.0
"""What finding out may cost: this share of what calls cost anyway; at most so many of such calls at once, which is what
there is at the beginning."""

EXPLORING = "nobody has heard of it for a while"

_UNIT = 1 / 2**32


def ranked(candidates: list[Candidate], terms: RoutingTerms, session: str, dice: random.Random) -> list[Candidate]:
    """Return a model's candidates, given in the file's order, those to try first."""
    if len(candidates) < 2 or terms.policy == "pinned":
        return candidates
    if session:
        salt = zlib.crc32(session.encode())
        luck = [_luck(one.deployment.id, salt) for one in candidates]
    else:
        luck = [dice.random() for _ in candidates]
    key = _KEYS.get(terms.policy, _scored)
    keys = list(map(key, candidates, luck))
    return [candidates[index] for index in sorted(range(len(keys)), key=keys.__getitem__)]


class Curiosity:
    """What finding out about one model's deployments may still cost, in the unit of scores."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = math.inf

    def earn(self, score: float) -> None:
        """Note that a call is sent whose score is this."""
        self._left = min(MOST * score, self._left + SHARE * score)

    def pays(self, extra: float) -> bool:
        """Say whether a call may cost so much more than it need, and take that."""
        if extra > self._left:
            return False
        self._left -= max(0.0, extra)
        return True


def explored(order: list[Candidate], quiet: AbstractSet[str], curiosity: Curiosity) -> list[Candidate]:
    """Return `order`, with one before the first that the call may find out about, if there is one.

    `quiet`: ids of those of which nobody has heard for a while. It must cost no more money, find as much of the prompt
    cached, and be in time if the first is.
    """
    if not order:
        return order
    first = order[0]
    curiosity.earn(first.score)
    for index, one in enumerate(order[1:] if quiet else (), 1):
        if one.deployment.id not in quiet or one.money is None or one.money > (first.money or 0):
            continue
        if one.cached < first.cached or (one.reason == "late") > (first.reason == "late"):
            continue
        if curiosity.pays(one.score - first.score):
            return [replace(one, reason=EXPLORING), *order[:index], *order[index + 1 :]]
    return order


def paid(one: Candidate) -> int:
    """Return the nano-dollars by which `cheapest` orders: of the call itself, and what its place is worth to others."""
    return (one.money or 0) + one.shadow


def _scored(one: Candidate, luck: float) -> tuple[float, ...]:
    return one.reason == "late", one.money is None, one.score * (1 + TIE * luck)


def _cheapest(one: Candidate, luck: float) -> tuple[float, ...]:
    money = paid(one)
    return one.reason == "late", one.money is None, money, (one.score - money) * (1 + TIE * luck)


def _weighted(one: Candidate, luck: float) -> tuple[float, ...]:
    # The least of such draws falls on each in proportion to its weight (Efraimidis, Spirakis 2006).
    return (-math.log(1.0 - luck) / one.deployment.weight,)


_KEYS: dict[Policy, Callable[[Candidate, float], tuple[float, ...]]] = {"cheapest": _cheapest, "weighted": _weighted}
"""By what each policy orders, given each candidate's luck from 0 up to 1; all others go by the score."""


def _luck(deployment: str, salt: int) -> float:
    """Return a number from 0 up to 1 that is a session's own, so that its calls agree on one.

    Rendezvous hashing (Thaler, Ravishankar 1998): where a deployment is gone only its own sessions go elsewhere.
    """
    mixed = zlib.crc32(deployment.encode(), salt) * 0x9E3779B1 & 0xFFFFFFFF  # a CRC alone is linear in its salt
    return (mixed ^ mixed >> 15) * _UNIT
