"""Which meters can never refuse: what the others let through is never too much for them.

Law: proof or silence. A meter is useless only where arithmetic shows that it admits whatever other meters admit, for
every order and size of calls, as far as calls use what they reserve. For that a meter is a supply: in any time `t` it
lets through at most `burst + rate * t` of what it counts. Of a bucket that is so by definition, of a total with the
rate 0; of a calendar meter the burst is two limits, since one period's and the next one's may come around the turn.
"""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import product
from math import ceil, floor

from msgspec import Struct

from gateway.config import amounts
from gateway.config.plans import COUNTED
from policies.domain import Meter, MeterKind
from policies.meters import HOUR_US, SORTS, Calendar, Keeping, Measure

_DAY = 24 * HOUR_US
_SHIFT = 2 * HOUR_US
"""The most that a zone sets its clocks forward or back."""

_LONGEST: dict[Calendar, int] = {"day": _DAY + _SHIFT, "week": 7 * _DAY + _SHIFT, "month": 31 * _DAY + _SHIFT}
_SHORTEST: dict[Calendar, int] = {"day": _DAY - _SHIFT, "week": 7 * _DAY - _SHIFT, "month": 28 * _DAY - _SHIFT}
_TOUCHED: dict[tuple[Calendar, Calendar], int] = {
    ("week", "day"): 7,
    ("month", "day"): 31,
    ("month", "week"): 6,
    ("week", "month"): 2,
}
"""How many periods of the second calendar one of the first can touch, where that is more than one."""

_ORDER = tuple(MeterKind)


class Useless(Struct, frozen=True):
    """Why a meter never refuses, and what would be right: both as parts of a mistake."""

    message: str
    remedy: str


class _Supply(Struct, frozen=True):
    """What `meters` together let through of `measure`: `burst` at once and `rate` more a microsecond."""

    meters: tuple[Meter, ...]
    measure: Measure
    burst: int
    rate: Fraction


def useless(meter: Meter, others: Iterable[Meter]) -> Useless | None:
    """Return why `meter` admits whatever all of `others` admit, None where it may refuse.

    All are enforced and of one plan. `others` count every call that `meter` counts; `meter` may be among them. Of two
    that are equal the later kind is useless.
    """
    rivals = [other for other in others if other != meter]
    for supply in _supplies(rivals):
        if _covers(supply.measure, SORTS[meter.kind].measure):
            found = _against(meter, supply)
            if found:
                return found
    return None


def _supplies(meters: Sequence[Meter]) -> Iterator[_Supply]:
    """Yield what each meter lets through, and what rates of input and of output together do of tokens."""
    singles = [_supply(meter) for meter in meters]
    yield from singles
    inputs = [supply for supply in singles if supply.measure is Measure.INPUT]
    outputs = [supply for supply in singles if supply.measure is Measure.OUTPUT]
    for one, two in product(inputs, outputs):
        both = (*one.meters, *two.meters)
        yield _Supply(both, Measure.TOKENS, one.burst + two.burst, one.rate + two.rate)


def _supply(meter: Meter) -> _Supply:
    sort = SORTS[meter.kind]
    burst, rate = meter.burst, Fraction(0)
    if sort.keeping is Keeping.RATE:
        rate = Fraction(meter.limit, sort.period_us)
    elif sort.calendar is not None:
        burst, rate = 2 * meter.limit, Fraction(meter.limit, _SHORTEST[sort.calendar])
    return _Supply((meter,), sort.measure, burst, rate)


def _covers(wide: Measure, narrow: Measure) -> bool:
    """Say whether what counts as `narrow` counts as `wide` too."""
    return wide is narrow or (wide is Measure.TOKENS and narrow in {Measure.INPUT, Measure.OUTPUT})


def _against(meter: Meter, supply: _Supply) -> Useless | None:
    """Return why `meter` never refuses what `supply` lets through."""
    who = _names(meter, supply)
    sort = SORTS[meter.kind]
    if sort.keeping is Keeping.RATE:
        own = _supply(meter)
        if supply.burst > own.burst or supply.rate > own.rate or _is_its_equal(meter, supply, own):
            return None
        return Useless(
            f"never refuses: {who} through no more, neither at once nor in the long run",
            _lower(limit=ceil(supply.rate * sort.period_us), burst=supply.burst),
        )
    most = _most(supply, sort.calendar)
    if most is None or most > meter.limit:
        return None
    return Useless(
        f"never refuses: {who} through at most {_shown(meter.kind, most)} {_when(meter)}",
        "write less than that, or remove it",
    )


def _is_its_equal(meter: Meter, supply: _Supply, own: _Supply) -> bool:
    """Say whether both are the same under two names, and `meter` is the one to keep."""
    other = supply.meters[0]
    same = (supply.measure, supply.burst, supply.rate) == (own.measure, own.burst, own.rate)
    return same and other.model == meter.model and _ORDER.index(meter.kind) < _ORDER.index(other.kind)


def _most(supply: _Supply, calendar: Calendar | None) -> int | None:
    """Return what `supply` lets through in one period of `calendar` (None: ever); None where nothing bounds that."""
    other = SORTS[supply.meters[0].kind].calendar
    if calendar is not None and other is not None:
        return supply.meters[0].limit * _TOUCHED.get((calendar, other), 1)
    if not supply.rate:
        return supply.burst
    return None if calendar is None else floor(supply.burst + supply.rate * _LONGEST[calendar])


def _names(meter: Meter, supply: _Supply) -> str:
    """Return who lets through."""
    names = [f"the plan's own {one.kind}" if one.model != meter.model else str(one.kind) for one in supply.meters]
    return f"{' and '.join(names)} {'lets' if len(names) == 1 else 'let'}"


def _when(meter: Meter) -> str:
    """Return the time over which a meter that is no rate counts."""
    sort = SORTS[meter.kind]
    if sort.keeping is Keeping.SLOTS:
        return "at once"
    return "in all" if sort.calendar is None else f"in a {sort.calendar}"


def _shown(kind: MeterKind, amount: int) -> str:
    measure = SORTS[kind].measure
    number = amounts.usd(amount) if measure is Measure.MONEY else f"{amount:,}"
    return f"{number} {COUNTED[measure]}"


def _lower(limit: int, burst: int) -> str:
    """Return how a rate becomes able to refuse: by a limit or a burst below these, as far as there are such."""
    ways = [f"its {name} below {bound:,}" for name, bound in (("limit", limit), ("burst", burst)) if bound > 1]
    return f"lower {' or '.join(ways)}, or remove it" if ways else "remove it"
