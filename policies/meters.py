"""What each kind of meter means: what it counts of a call, and how that is kept.

Law: this table is the only place that knows; a kind's name is for people and for the file.
"""

from enum import StrEnum
from typing import Literal

from msgspec import Struct

from policies.domain import Claim, Meter, MeterKind

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US

MOST = 2**53 - 1
"""The largest number that is kept: beyond it a double, which is what the store's script counts with, is not exact."""

Calendar = Literal["day", "week", "month"]


class Measure(StrEnum):
    """What of a call a meter counts; the value is its name in the script's arguments."""

    REQUESTS = "r"
    INPUT = "i"
    OUTPUT = "o"
    TOKENS = "t"
    MONEY = "m"
    SLOTS = "s"


class Keeping(StrEnum):
    """How a meter is kept; the value is its name in the script's arguments.

    A rate is a bucket that refills, a calendar meter starts anew with every period, a total never does, and slots come
    back when calls end.
    """

    RATE = "r"
    CALENDAR = "c"
    TOTAL = "a"
    SLOTS = "s"


class Sort(Struct, frozen=True):
    """What a kind of meter counts and how it is kept.

    `period_us`: of a rate; `tick_us`: the microseconds at which it refills by `limit / (period_us / tick_us)`, coarser
    for an hour so that large limits stay exact; `calendar`: the period of a calendar meter.
    """

    measure: Measure
    keeping: Keeping
    period_us: int = 0
    tick_us: int = 1
    calendar: Calendar | None = None

    @property
    def ticks(self) -> int:
        """Ticks in a rate's period: what one request or token costs in the units that a rate is kept in."""
        return self.period_us // self.tick_us


def _rate(measure: Measure, period_us: int, tick_us: int = 1) -> Sort:
    return Sort(measure, Keeping.RATE, period_us, tick_us)


def _calendar(measure: Measure, calendar: Calendar) -> Sort:
    return Sort(measure, Keeping.CALENDAR, calendar=calendar)


SORTS: dict[MeterKind, Sort] = {
    MeterKind.REQUESTS_PER_SECOND: _rate(Measure.REQUESTS, SECOND_US),
    MeterKind.REQUESTS_PER_MINUTE: _rate(Measure.REQUESTS, MINUTE_US),
    MeterKind.REQUESTS_PER_HOUR: _rate(Measure.REQUESTS, HOUR_US, 1000),
    MeterKind.INPUT_TOKENS_PER_MINUTE: _rate(Measure.INPUT, MINUTE_US),
    MeterKind.INPUT_TOKENS_PER_HOUR: _rate(Measure.INPUT, HOUR_US, 1000),
    MeterKind.OUTPUT_TOKENS_PER_MINUTE: _rate(Measure.OUTPUT, MINUTE_US),
    MeterKind.OUTPUT_TOKENS_PER_HOUR: _rate(Measure.OUTPUT, HOUR_US, 1000),
    MeterKind.TOKENS_PER_MINUTE: _rate(Measure.TOKENS, MINUTE_US),
    MeterKind.TOKENS_PER_HOUR: _rate(Measure.TOKENS, HOUR_US, 1000),
    MeterKind.CONCURRENT_REQUESTS: Sort(Measure.SLOTS, Keeping.SLOTS),
    MeterKind.TOKENS_PER_DAY: _calendar(Measure.TOKENS, "day"),
    MeterKind.TOKENS_PER_WEEK: _calendar(Measure.TOKENS, "week"),
    MeterKind.TOKENS_PER_MONTH: _calendar(Measure.TOKENS, "month"),
    MeterKind.TOKENS_IN_ALL: Sort(Measure.TOKENS, Keeping.TOTAL),
    MeterKind.BUDGET_PER_DAY: _calendar(Measure.MONEY, "day"),
    MeterKind.BUDGET_PER_WEEK: _calendar(Measure.MONEY, "week"),
    MeterKind.BUDGET_PER_MONTH: _calendar(Measure.MONEY, "month"),
    MeterKind.BUDGET_IN_ALL: Sort(Measure.MONEY, Keeping.TOTAL),
}
"""Every kind."""


def largest(kind: MeterKind) -> int:
    """Return the largest limit or burst that is kept exactly: a rate's is multiplied by its period's ticks."""
    return MOST // max(1, SORTS[kind].ticks)


def field(meter: Meter) -> str:
    """Return a meter's name within its level: one for all models and those for single ones stand side by side."""
    return meter.kind.value if meter.model is None else f"{meter.kind.value}|{meter.model}"


def amount(claim: Claim, measure: Measure) -> int:
    """Return what `claim` asks of a meter that counts `measure`."""
    match measure:
        case Measure.INPUT:
            return claim.input_tokens
        case Measure.OUTPUT:
            return claim.output_tokens
        case Measure.TOKENS:
            return claim.tokens
        case Measure.MONEY:
            return claim.money
        case _:
            return 1
