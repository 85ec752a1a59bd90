"""Which of very many deployments a call looks at: as many as decide well, and no more than the call can pay for.

Law: up to `ALL` every one is looked at. Of more, a call looks at `OWN` that its session or the beginning of its prompt
draws, always the same while they last, so that it finds what is cached, and at `CHANCE` that the dice draw: the best of
a few at random is nearly the best of all (Mitzenmacher 1996, the power of d choices), and many gateways with one view
do not all choose the same one. Whoever comes or goes moves only the calls that were drawn to it (a ring of hashes).
"""

import random
import zlib
from bisect import bisect_left
from collections.abc import Sequence

from policies.domain import Deployment

ALL = 32
"""Deployments of which every one is looked at."""
OWN = 16
CHANCE = 12

_POINTS = 4
"""Places of one deployment on the ring, so that neighbours differ from place to place."""


class Shortlist:
    """The ring of a model's deployments."""

    __slots__ = ("_owners", "_points", "deployments")

    def __init__(self, deployments: Sequence[Deployment]) -> None:
        self.deployments = tuple(deployments)
        placed = sorted(
            (zlib.crc32(f"{point}/{one.id}".encode()), index)
            for index, one in enumerate(self.deployments)
            for point in range(_POINTS)
        )
        self._points = [point for point, _ in placed]
        self._owners = [index for _, index in placed]

    def of(self, mark: int | None, dice: random.Random) -> Sequence[Deployment]:
        """Return the deployments that a call looks at; `mark`: what it has in common with others (None: nothing)."""
        count = len(self.deployments)
        if count <= ALL:
            return self.deployments
        chosen: dict[int, None] = {}
        if mark is not None:
            place = bisect_left(self._points, mark)
            while len(chosen) < OWN:
                chosen[self._owners[place % len(self._owners)]] = None
                place += 1
        for _ in range(CHANCE if chosen else OWN + CHANCE):
            chosen[int(dice.random() * count)] = None
        return [self.deployments[index] for index in sorted(chosen)]
