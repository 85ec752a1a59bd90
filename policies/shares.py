"""The local stance: what one gateway lets in by itself while the store is away.

Law: as last known, and as if every live gateway did as this one does. Whatever a call takes, it takes `live` times over
from a meter as the store told it last; so all gateways together never admit more than was left, and no share is rounded
but by what a whole call needs. Slots are the exception: a gateway's own, `limit // live` and at least one. A meter that
was never touched admits nothing, since nothing is known of it. All of a claim's meters admit it, or it changes nothing.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, tzinfo
from enum import IntEnum

from msgspec import Struct

from policies.buckets import (
    NEVER,
    SLOT_WAIT_US,
    Stock,
    charged,
    decayed,
    is_current,
    rate_wait_us,
    rolled,
    stock_wait_us,
    stocked,
)
from policies.domain import Claim, Level, LevelKind, Meter, MeterKind, WhenDown
from policies.meters import MOST, SECOND_US, SORTS, Calendar, Keeping, Measure, amount, field
from policies.periods import Period, current_and_next

AGAIN_US = 5 * SECOND_US
"""What a caller is told to wait where only the store's return helps: nobody knows when that is."""


class Known(Struct, frozen=True):
    """What the store told last of a meter, at `at_us` of its clock.

    `used`: of a rate in amount x ticks, decayed to then; else tokens or nano-dollars, of the period that `at_us` lies
    in. `held`: of slots, how many this gateway's own calls hold now; what the store knows of others' is of no use.
    """

    used: int
    at_us: int
    held: int = 0


class Verdict(IntEnum):
    """What a meter says, by rank: the highest of all a claim's meters is the answer."""

    GRANTED = 0
    WAIT = 1
    SPENT = 2
    TOO_LARGE = 3
    UNKNOWN = 4


class Outcome(Struct, frozen=True):
    """The answer to a claim, and the level and meter that refuse it.

    `wait_us`: microseconds until it will probably be admitted, 0 where it never will (spent, or too large). `shadows`:
    the shadow meters that would have refused.
    """

    verdict: Verdict
    level: Level | None = None
    meter: Meter | None = None
    wait_us: int = 0
    shadows: tuple[tuple[LevelKind, MeterKind], ...] = ()

    @property
    def granted(self) -> bool:
        """Whether the claim was admitted."""
        return self.verdict is Verdict.GRANTED


Needs = Callable[[Measure], int]
Says = tuple[Verdict, int]
PeriodOf = Callable[[Calendar, int], Period]

_GRANTED: Says = (Verdict.GRANTED, 0)


class _Moment(Struct, frozen=True):
    """When it is, when the call in question was admitted, and by how much its amounts count."""

    now_us: int
    admitted_us: int
    live: int
    period_of: PeriodOf


class _Rate:
    def __init__(self, known: Known, meter: Meter) -> None:
        self._used, self._tick = known.used, known.at_us // SORTS[meter.kind].tick_us

    def say(self, meter: Meter, needed: int, when: _Moment) -> Says:
        self._decay(meter, when.now_us)
        wait_us = rate_wait_us(self._used, needed * when.live, meter, when.now_us)
        if wait_us == 0:
            return _GRANTED
        return Verdict.WAIT, AGAIN_US if wait_us == NEVER else wait_us

    def charge(self, meter: Meter, needed: int, when: _Moment) -> None:
        self._decay(meter, when.now_us)
        self._used = charged(self._used, needed * when.live, meter)

    def _decay(self, meter: Meter, now_us: int) -> None:
        tick = max(self._tick, now_us // SORTS[meter.kind].tick_us)
        self._used, self._tick = decayed(self._used, self._tick, tick, meter.limit), tick


class _Stock:
    """A calendar meter: a period that ends while the store is away begins anew, with the share of a whole limit."""

    def __init__(self, known: Known, meter: Meter, period_of: PeriodOf) -> None:
        self._calendar: Calendar = SORTS[meter.kind].calendar or "day"
        period = period_of(self._calendar, known.at_us)
        self._known = self._stock = Stock(known.used, period.ordinal, period.start_us, known.at_us)

    def say(self, meter: Meter, needed: int, when: _Moment) -> Says:
        """Where the whole meter is not known to be short, only the store's return is waited for."""
        current = self._roll(meter, when)
        admitted = when.period_of(self._calendar, when.admitted_us)
        used = self._stock.used if is_current(self._stock, admitted, when.admitted_us) else self._stock.before
        if used + needed * when.live <= meter.limit:
            return _GRANTED
        whole = rolled(self._known, current, meter).used
        return Verdict.WAIT, max(AGAIN_US, stock_wait_us(whole, needed, meter, current, when.now_us))

    def charge(self, meter: Meter, needed: int, when: _Moment) -> None:
        self._roll(meter, when)
        admitted = when.period_of(self._calendar, when.admitted_us)
        self._stock = stocked(self._stock, needed * when.live, meter, admitted, when.admitted_us)

    def _roll(self, meter: Meter, when: _Moment) -> Period:
        current = when.period_of(self._calendar, when.now_us)
        self._stock = rolled(self._stock, current, meter)
        return current


class _Total:
    def __init__(self, known: Known) -> None:
        self._known = self._used = known.used

    def say(self, meter: Meter, needed: int, when: _Moment) -> Says:
        if self._used + needed * when.live <= meter.limit:
            return _GRANTED
        return (Verdict.SPENT, 0) if self._known + needed > meter.limit else (Verdict.WAIT, AGAIN_US)

    def charge(self, _: Meter, needed: int, when: _Moment) -> None:
        self._used = min(MOST, max(0, self._used + needed * when.live))


class _Slots:
    def __init__(self, known: Known) -> None:
        self._held = known.held

    def say(self, meter: Meter, _: int, when: _Moment) -> Says:
        return _GRANTED if self._held < max(1, meter.limit // when.live) else (Verdict.WAIT, SLOT_WAIT_US)

    def charge(self, _: Meter, needed: int, __: _Moment) -> None:
        self._held = max(0, self._held + needed)


class Shares:
    """One organization's meters while its store is away; `now_us` is the store's clock, as it would go on.

    `known`: by level id and `meters.field`; `live`: gateways that lived when it went; `zone`: where periods begin.
    """

    def __init__(self, known: Mapping[tuple[str, str], Known], live: int, zone: tzinfo = UTC) -> None:
        self._known = known
        self._live = max(1, live)
        self._zone = zone
        self._now_us = 0
        self._kept: dict[tuple[str, str], _Rate | _Stock | _Total | _Slots] = {}
        self._periods: dict[Calendar, Period] = {}

    def admit(self, claim: Claim, now_us: int) -> Outcome:
        """Take what `claim` needs from every meter of its model, or say which refuses; shadows refuse nothing."""
        return self._take(claim, lambda measure: amount(claim, measure), self._when(now_us))

    def grow(self, claim: Claim, output_tokens: int, money: int, *, admitted_us: int, now_us: int) -> Outcome:
        """Take more for a claim that was admitted then, or say which meter refuses."""
        more = {Measure.OUTPUT: output_tokens, Measure.TOKENS: output_tokens, Measure.MONEY: money}
        return self._take(claim, lambda measure: more.get(measure, 0), self._when(now_us, admitted_us))

    def settle(
        self, claim: Claim, input_tokens: int, output_tokens: int, money: int, *, admitted_us: int, now_us: int
    ) -> None:
        """Book by how much what was used differs from what was set aside for a claim, and free its slots.

        It may have been admitted by the store, before it went. The caller sees to it that each is settled once.
        """
        more = {
            Measure.INPUT: input_tokens,
            Measure.OUTPUT: output_tokens,
            Measure.TOKENS: input_tokens + output_tokens,
            Measure.MONEY: money,
            Measure.SLOTS: -1,
        }
        self._charge(claim, lambda measure: more.get(measure, 0), self._when(now_us, admitted_us))

    def _take(self, claim: Claim, needs: Needs, when: _Moment) -> Outcome:
        refused, shadows = Outcome(Verdict.GRANTED), []
        for level, meter in _asked(claim):
            needed = needs(SORTS[meter.kind].measure)
            verdict, wait_us = self._say(level, meter, needed, when) if needed > 0 else _GRANTED
            if verdict and not meter.enforce:
                shadows.append((level.kind, meter.kind))
            elif (verdict, wait_us) > (refused.verdict, refused.wait_us):
                refused = Outcome(verdict, level, meter, wait_us)
        if not refused.granted:
            return refused
        self._charge(claim, needs, when)
        return Outcome(Verdict.GRANTED, shadows=tuple(shadows))

    def _say(self, level: Level, meter: Meter, needed: int, when: _Moment) -> Says:
        kept = self._state(level, meter)
        if kept is None:
            return Verdict.UNKNOWN, AGAIN_US
        return (Verdict.TOO_LARGE, 0) if needed > meter.burst else kept.say(meter, needed, when)

    def _charge(self, claim: Claim, needs: Needs, when: _Moment) -> None:
        for level, meter in _asked(claim):
            needed = needs(SORTS[meter.kind].measure)
            kept = self._state(level, meter)
            if kept is not None and needed:
                kept.charge(meter, needed, when)

    def _state(self, level: Level, meter: Meter) -> _Rate | _Stock | _Total | _Slots | None:
        """Return what is kept of a meter; None if nothing is known of it."""
        key = (level.id, field(meter))
        kept = self._kept.get(key)
        known = self._known.get(key)
        if kept is not None or known is None:
            return kept
        match SORTS[meter.kind].keeping:
            case Keeping.RATE:
                kept = _Rate(known, meter)
            case Keeping.CALENDAR:
                kept = _Stock(known, meter, self._period_of)
            case Keeping.TOTAL:
                kept = _Total(known)
            case Keeping.SLOTS:
                kept = _Slots(known)
        self._kept[key] = kept
        return kept

    def _when(self, now_us: int, admitted_us: int | None = None) -> _Moment:
        """Return the moment; the clock never steps back. No `admitted_us`: the call is being admitted."""
        self._now_us = max(self._now_us, now_us)
        return _Moment(self._now_us, self._now_us if admitted_us is None else admitted_us, self._live, self._period_of)

    def _period_of(self, calendar: Calendar, at_us: int) -> Period:
        period = self._periods.get(calendar)
        if period is None or not period.start_us <= at_us < period.end_us:
            period, _ = current_and_next(calendar, self._zone, at_us)
            self._periods[calendar] = period
        return period


def stance(levels: tuple[Level, ...]) -> WhenDown:
    """Return what becomes of calls with these levels while the store is away: `deny` if one that has a meter says so.

    A level without a meter has no part in it, save where none has one.
    """
    metered = [level for level in levels if level.meters] or levels
    return "local" if all(level.when_down == "local" for level in metered) else "deny"


def _asked(claim: Claim) -> list[tuple[Level, Meter]]:
    """Return the meters that count calls of the claim's model."""
    return [(level, meter) for level in claim.levels for meter in level.meters if meter.model in (None, claim.model)]
