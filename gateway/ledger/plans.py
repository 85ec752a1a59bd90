"""A caller's meters for one model, as the script reads them.

Law: packed once for each of a principal's models and as long as its calendar periods last; a place in a plan, counted
from 1, is what an answer calls a meter by.
"""

from functools import cache
from zoneinfo import ZoneInfo

from msgspec import Struct

from gateway import clock
from gateway.ledger import wire
from policies.buckets import standing
from policies.domain import Claim, Level, Meter, Standing
from policies.meters import SECOND_US, SORTS, Calendar, field
from policies.periods import Period, current_and_next

MOST_PACKED = 10_000
"""Plans that are kept; beyond, all are packed anew."""

_ZONE = cache(ZoneInfo)

Periods = dict[Calendar, tuple[Period, Period]]


class Packed(Struct, frozen=True):
    """One plan: its `meters` by their places, and the calendar `periods` that it tells.

    `since_us`, `until_us`: the moments between which those are the right ones (microseconds).
    """

    blob: bytes
    meters: tuple[tuple[Level, Meter], ...]
    periods: Periods
    since_us: int
    until_us: int

    def standing(self, place: int, used: int, now_us: int) -> Standing | None:
        """Return the standing of the meter at `place` of which this is used; None of place 0."""
        if not place:
            return None
        level, meter = self.meters[place - 1]
        return standing(level.kind, meter, used, now_us, self.period(meter, now_us))

    def period(self, meter: Meter, at_us: int) -> Period | None:
        """Return the period of a calendar meter at that moment, of the two that are told; None of another meter."""
        calendar = SORTS[meter.kind].calendar
        if calendar is None:
            return None
        current, following = self.periods[calendar]
        return current if at_us < current.end_us else following


class Plans:
    """Packs levels for the script. A principal's levels are the same object in every call, so it is done once each."""

    def __init__(self) -> None:
        self._packed: dict[tuple[int, str, str], tuple[tuple[Level, ...], Packed]] = {}

    def pack(self, claim: Claim, at_us: int | None = None) -> Packed:
        """Return the meters of `claim`; `at_us`: the store's clock, where it says that ours is of another period."""
        name = (id(claim.levels), claim.key, claim.model)
        known = self._packed.get(name)
        now_us = round(clock.wall() * SECOND_US) if at_us is None else at_us
        if known is not None and known[0] is claim.levels and known[1].since_us <= now_us < known[1].until_us:
            return known[1]
        if len(self._packed) >= MOST_PACKED:
            self._packed.clear()
        packed = pack(claim, now_us)
        self._packed[name] = (claim.levels, packed)  # holding the levels keeps their id theirs
        return packed


def pack(claim: Claim, at_us: int) -> Packed:
    """Pack the meters that count calls of the claim's model, with the periods of that moment."""
    periods: Periods = {}
    meters: list[tuple[Level, Meter]] = []
    levels = []
    for level in claim.levels:
        counted = [meter for meter in level.meters if meter.model is None or meter.model == claim.model]
        meters += [(level, meter) for meter in counted]
        levels.append((level.id, [_meter(meter, claim.time_zone, at_us, periods) for meter in counted]))
    current = [first for first, _ in periods.values()]
    return Packed(
        blob=wire.pack(((claim.team, claim.key, claim.model), levels)),
        meters=tuple(meters),
        periods=periods,
        since_us=max((period.start_us for period in current), default=0),
        until_us=min((period.end_us for period in current), default=1 << 62),
    )


def _meter(meter: Meter, zone: str, at_us: int, periods: Periods) -> wire.Body:
    """Return a meter as the script reads it, and note the periods that it tells."""
    sort = SORTS[meter.kind]
    told: wire.Body | int = 0
    if sort.calendar is not None:
        if sort.calendar not in periods:
            periods[sort.calendar] = current_and_next(sort.calendar, _ZONE(zone), at_us)
        first, second = periods[sort.calendar]
        told = (first.ordinal, first.start_us, first.end_us, second.ordinal, second.end_us)
    name = field(meter)
    kept = sort.measure, sort.keeping
    return (*kept, name, meter.limit, meter.burst, sort.ticks, sort.tick_us, meter.enforce, told)
