"""Whose turn it is to take the next caller, of several workers that listen on one socket.

Law: the kernel wakes them all and one that is awake already is always the fastest, so that of itself one gets them all;
who holds more than the others lets them go first, for a moment. Nobody waits for anybody: a worker that hangs, or whose
count is old, costs the next caller that moment and no more.
"""

import mmap
from collections.abc import Callable
from functools import partial

SLACK = 4
"""Connections that a worker may hold beyond what the one with the fewest holds, before others go first ..."""

SHARE = 8
"""... and for each so many of those one more: how even it is shall cost less where there are many."""

ABSENT = 0xFFFFFFFF
"""The count of a worker that takes nobody."""

_WIDTH = 4


class Turns:
    """The connections that each of `workers` holds, in the memory behind `descriptor`, which all of them have open."""

    def __init__(self, descriptor: int, workers: int) -> None:
        self._memory = mmap.mmap(descriptor, workers * _WIDTH)
        self._counts = memoryview(self._memory).cast("I")

    def begin(self) -> None:
        """Note that nobody is there yet."""
        for place in range(len(self._counts)):
            self._counts[place] = ABSENT

    def absent(self, number: int) -> None:
        """Note that the worker with this number, from 1, takes nobody."""
        self._counts[number - 1] = ABSENT

    def of(self, number: int) -> Callable[[int], bool]:
        """Return what a worker asks, with how many connections it holds, before it takes another: True, it waits."""
        return partial(self._yields, number - 1)

    def _yields(self, place: int, held: int) -> bool:
        self._counts[place] = held
        fewest = min(self._counts)
        return held > fewest + SLACK + fewest // SHARE

    def close(self) -> None:
        """Let go of the memory."""
        self._counts.release()
        self._memory.close()


def room(workers: int) -> int:
    """Return the bytes of memory that so many workers need."""
    return workers * _WIDTH
