"""A fixed piece of Python's work, by which what a machine takes for ours is told from how fast the machine is.

Law: no change of ours makes it faster or slower; it is measured in the same run as what it is a measure for. Against
another program's speed ours cannot be judged on machines of different kinds: between two of them nginx became five
times as fast beside the same interpreter.
"""

import time

YARDSTICK = 39.0
"""Microseconds that `yardstick` takes on the machine on which bars are set."""


def yardstick():
    """Do the work."""
    seen = {}
    for number in range(500):
        seen[number & 63] = number * 1.5 + seen.get(number & 31, 0.0)
    return seen


def microseconds(what, times):
    """Return what one of so many calls of `what` takes."""
    begun = time.perf_counter()
    for _ in range(times):
        what()
    return (time.perf_counter() - begun) / times * 1e6
