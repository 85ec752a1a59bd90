"""The arithmetic of meters, in whole numbers: the twin of `gateway/ledger/script/meters.lua`.

Law: a rate is kept as what is *used*, in units of amount x ticks of its period, so that a tick's refill is exactly
`limit` and no answer is ever rounded; what is used beyond the bucket is debt that later refill pays. A calendar meter
is kept as what is used in its period; what was used beyond the limit is owed by the next. All numbers stay below 2^53,
where a double is exact.
"""

from msgspec import Struct
from msgspec.structs import replace

from policies.domain import LevelKind, Meter, Standing
from policies.meters import MOST, SECOND_US, SORTS, Keeping
from policies.periods import Period

SLOT_WAIT_US = SECOND_US
"""What a caller is told to wait where every slot is taken and every prediction has passed."""

MOST_ENDS = 64
"""Predicted ends that are kept of the slots of one meter."""

NEVER = MOST + 1
"""A wait without an end, in microseconds."""


class Stock(Struct, frozen=True):
    """A calendar meter's state: tokens or nano-dollars.

    `used` in the period `ordinal`, `owed` of it from periods before; `before` in the period `before_ordinal`. What was
    admitted from `begun` to `last` (microseconds) is counted in `used`.
    """

    used: int
    ordinal: int
    begun: int
    last: int
    owed: int = 0
    before: int = 0
    before_ordinal: int = 0


def ceil_div(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)


def decayed(used: int, at: int, now: int, limit: int) -> int:
    """Return what is still used at `now` of what was used `at` (ticks); a clock that steps back refills nothing."""
    return max(0, used - max(0, now - at) * limit)


def rate_wait_us(used: int, amount: int, meter: Meter, now_us: int) -> int:
    """Return the microseconds until `amount` more fits into a rate, 0 if it fits now, `NEVER` if its bucket is smaller.

    `used`: as decayed to `now_us`.
    """
    if amount > meter.burst:
        return NEVER
    sort = SORTS[meter.kind]
    excess = used + (amount - meter.burst) * sort.ticks
    if excess <= 0:
        return 0
    return (now_us // sort.tick_us + ceil_div(excess, meter.limit)) * sort.tick_us - now_us


def charged(used: int, amount: int, meter: Meter) -> int:
    """Return what of a rate is used after `amount` more; a negative amount gives back, never below nothing used."""
    return min(MOST, max(0, used + amount * SORTS[meter.kind].ticks))


def slot_wait_us(in_use: int, ends: list[int], meter: Meter, now_us: int) -> int:
    """Return the microseconds until the first slot will probably be free, 0 if one is.

    `ends`: when calls will end, as was predicted when they began (microseconds).
    """
    if in_use < meter.limit:
        return 0
    first = min(ends, default=0)
    return first - now_us if first > now_us else SLOT_WAIT_US


def rolled(stock: Stock, period: Period, meter: Meter) -> Stock:
    """Return a calendar meter's state in `period`: what was used beyond the limits of those that are over is owed."""
    steps = period.ordinal - stock.ordinal
    if steps <= 0:
        return stock
    owed = max(0, stock.used - steps * meter.limit)
    return Stock(owed, period.ordinal, period.start_us, period.start_us, owed, stock.used, stock.ordinal)


def is_current(stock: Stock, period: Period, admitted_us: int) -> bool:
    """Say whether what was admitted then, in `period`, belongs to the period that is kept, or to one before it."""
    return period.ordinal >= stock.ordinal or admitted_us >= stock.begun


def stock_wait_us(used: int, amount: int, meter: Meter, period: Period, now_us: int) -> int:
    """Return the microseconds until `amount` more fits beside what is `used` of a calendar meter in `period`.

    0 if it fits now, `NEVER` if it is more than the limit, never 0 in a period that is over and has no room. Beyond the
    next period, periods are as long as this one.
    """
    if amount > meter.limit:
        return NEVER
    excess = used + amount - meter.limit
    if excess <= 0:
        return 0
    later = ceil_div(excess, meter.limit) - 1
    return min(MOST, max(1, period.end_us - now_us + later * (period.end_us - period.start_us)))


def stocked(stock: Stock, amount: int, meter: Meter, period: Period, admitted_us: int) -> Stock:
    """Return a calendar meter's state after `amount` more (or less) of what was admitted then, in `period`.

    What the period before has used changes what this one owes; what is older is in the records alone.
    """
    if is_current(stock, period, admitted_us):
        return replace(stock, used=min(MOST, max(0, stock.used + amount)))
    if period.ordinal != stock.before_ordinal:
        return stock
    before = min(MOST, max(0, stock.before + amount))
    owed = max(0, before - (stock.ordinal - period.ordinal) * meter.limit)
    return replace(stock, used=max(0, stock.used + owed - stock.owed), owed=owed, before=before)


def standing(level: LevelKind, meter: Meter, used: int, now_us: int, period: Period | None) -> Standing:
    """Return what remains of a meter of which this is used, and when it is full again.

    `used`: of a rate in its units, decayed to `now_us`; else tokens, nano-dollars or slots. `period`: a calendar
    meter's. In debt 0 remains.
    """
    sort = SORTS[meter.kind]
    if sort.keeping is Keeping.RATE:
        left = meter.burst - ceil_div(used, sort.ticks)
        return Standing(level, meter, meter.limit, max(0, left), ceil_div(used, meter.limit) * sort.tick_us)
    reset = None if period is None else max(0, period.end_us - now_us)
    return Standing(level, meter, meter.limit, max(0, meter.limit - used), reset)
