"""Is one policy better than another: paired differences over seeds.

Law: both policies meet the very same calls (common random numbers), so that what differs is the policy; each seed is
one pair. The interval is Student's t over the pairs: of ten seeds a bootstrap has seen no tail, and is too narrow.
"""

import math
from collections.abc import Sequence

from msgspec import Struct

# Two-sided 95 % quantiles of Student's t by degrees of freedom (any table of them); beyond, the next lower row is used.
_T = {
    1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228, 11: 2.201,
    12: 2.179, 13: 2.160, 14: 2.145, 15: 2.131, 16: 2.120, 17: 2.110, 18: 2.101, 19: 2.093, 20: 2.086, 25: 2.060,
    30: 2.042, 40: 2.021, 60: 2.000, 120: 1.980,
}  # fmt: skip


class Difference(Struct, frozen=True):
    """A mean difference over pairs, and between what its true value lies with 95 % confidence."""

    mean: float
    low: float
    high: float
    pairs: int


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Return by how much `ours` exceed `theirs`, pair by pair.

    One pair tells no interval: its bounds are infinite. Raises ValueError where there are no pairs.
    """
    apart = [our - their for our, their in zip(ours, theirs, strict=True)]
    if not apart:
        raise ValueError("no pairs to compare")
    mean = math.fsum(apart) / len(apart)
    if len(apart) == 1:
        return Difference(mean, -math.inf, math.inf, 1)
    variance = math.fsum((one - mean) ** 2 for one in apart) / (len(apart) - 1)
    reach = _quantile(len(apart) - 1) * math.sqrt(variance / len(apart))
    return Difference(mean, mean - reach, mean + reach, len(apart))


def _quantile(freedom: int) -> float:
    return _T[max(known for known in _T if known <= freedom)]
