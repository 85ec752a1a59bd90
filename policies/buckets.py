"""Token bucket arithmetic, in whole numbers: the twin of `gateway/ledger/ledger.lua`.

Law: a rate is kept as what is *used*, in units of tokens x period_us, so that a microsecond's refill is exactly `limit`
and no answer is ever rounded. A bucket holds `burst * period_us`; an amount costs `amount * period_us`; what is used
beyond the bucket is debt that later refill pays. All numbers stay below 2^53, where a double is exact.
"""

from collections.abc import Iterable
from enum import StrEnum

from policies.domain import Meter, MeterKind, Standing

MOST = 2**53 - 1
"""The largest debt that is kept, in tokens x period_us."""

SLOT_WAIT_US = 1_000_000
"""What a caller is told to wait when every slot is taken: nobody knows when one ends."""


class Measure(StrEnum):
    """What of a claim a meter counts; the value is its name in the script's arguments."""

    REQUESTS = "r"
    TOKENS = "t"
    SLOTS = "s"


MEASURES: dict[MeterKind, Measure] = {
    MeterKind.REQUESTS_PER_MINUTE: Measure.REQUESTS,
    MeterKind.TOKENS_PER_MINUTE: Measure.TOKENS,
    MeterKind.CONCURRENT_REQUESTS: Measure.SLOTS,
}


def decayed(used: int, at_us: int, now_us: int, limit: int) -> int:
    """Return what is still used at `now_us` of what was used at `at_us`; a clock that steps back refills nothing."""
    return max(0, used - max(0, now_us - at_us) * limit)


def wait_us(used: int, amount: int, meter: Meter) -> int | None:
    """Return the microseconds until `amount` more fits into a rate meter, 0 if it fits now.

    None if it never will: it is larger than the bucket.
    """
    if amount > meter.burst:
        return None
    excess = used + (amount - meter.burst) * meter.period_us
    return max(0, -(-excess // meter.limit))


def slot_wait_us(in_use: int, meter: Meter) -> int:
    """Return the microseconds to wait for a slot, 0 if one is free."""
    return SLOT_WAIT_US if in_use >= meter.limit else 0


def charged(used: int, amount: int, meter: Meter) -> int:
    """Return what is used after `amount` more; a negative amount gives back, never below nothing used."""
    return min(MOST, max(0, used + amount * meter.period_us))


def standing(used: int, meter: Meter) -> Standing:
    """Return a rate meter's limit, what remains (0 in debt) and the microseconds until it is full again."""
    remaining = max(0, meter.burst - -(-used // meter.period_us))
    return Standing(limit=meter.limit, remaining=remaining, reset_us=-(-used // meter.limit))


def tightest(standings: Iterable[Standing]) -> Standing | None:
    """Return the first standing with the least remaining, None of none."""
    return min(standings, key=lambda each: each.remaining, default=None)
