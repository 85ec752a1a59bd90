"""What counters should be: the audit's arithmetic, over what the store holds.

Law: pure. A counter of tokens or money is what it owed when it began, what is in the records of what was admitted while
it counted, and what open reservations hold; a counter of slots is the open reservations that hold one. A rate has no
books: it forgets, that is what it is for.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import tzinfo
from functools import lru_cache
from typing import Literal, NamedTuple

from msgspec import Struct, msgpack

from gateway.ledger.records import HOUR_US, Account, Record, What, cell, end_of
from policies.domain import MeterKind
from policies.meters import SORTS, Calendar, Keeping, Measure, Sort
from policies.periods import Period, current_and_next

When = Literal["now", "before"]
"""Which count of a meter: the one that runs, or that of the period before."""

FARTHEST = 400
"""Periods to look back for the one that was before: nothing older has roll-ups."""

_LETTERS = {
    Measure.REQUESTS: b"n",
    Measure.INPUT: b"i",
    Measure.OUTPUT: b"o",
    Measure.TOKENS: b"io",
    Measure.MONEY: b"m",
}
"""The letters of a roll-up's fields that each measure is the sum of."""

_SORTS: dict[str, Sort] = {kind.value: sort for kind, sort in SORTS.items()}

_decode = msgpack.Decoder().decode


class Name(NamedTuple):
    """One count: of a level, of the field of a meter there, and when."""

    level: str
    field: str
    when: When = "now"

    @property
    def kind(self) -> MeterKind:
        """The meter's kind."""
        return MeterKind(self.field.partition("|")[0])

    @property
    def model(self) -> str | None:
        """The only model that the meter counts, None where it counts all."""
        return self.field.partition("|")[2] or None


class Counter(Struct):
    """A count of tokens or money that has books: what was admitted from `begun_us` to `last_us`.

    `owed` is None where nobody knows what was owed when it began, or when it began.
    """

    name: Name
    measure: Measure
    counted: int
    owed: int | None
    begun_us: int
    last_us: int

    @property
    def hours(self) -> tuple[int, int]:
        """The first and the last hour that it counted in."""
        return self.begun_us // HOUR_US, self.last_us // HOUR_US

    def covers(self, admitted_us: int) -> bool:
        """Whether it counted what was admitted then."""
        return self.begun_us <= admitted_us <= self.last_us


class Tally(Struct):
    """What roll-ups tell of a counter: whole hours from its first to its last one, and later ones."""

    counter: Counter
    recorded: int = 0
    after: int = 0

    def add(self, hour: int, amount: int) -> None:
        """Count `amount` of that hour."""
        first, last = self.counter.hours
        if hour > last:
            self.after += amount
        elif hour >= first:
            self.recorded += amount


class Held(NamedTuple):
    """What one open reservation holds of a meter."""

    admitted_us: int
    amount: int


class Open(Struct, frozen=True):
    """What open reservations hold, by meter; `hours` are those of their admissions."""

    held: Mapping[Name, list[Held]]
    hours: frozenset[int]

    def of(self, counter: Counter) -> int:
        """Return what they hold of a counter."""
        held = self.held.get(counter.name._replace(when="now"), ())
        return sum(one.amount for one in held if counter.covers(one.admitted_us))


def counters(level: str, fields: Mapping[bytes, bytes], zone: tzinfo) -> list[Counter]:
    """Read the counters of a level that have books, as the store keeps them; those before are of periods in `zone`."""
    found = []
    for field, packed in fields.items():
        name = Name(level, field.decode())
        sort = _SORTS.get(name.field.partition("|")[0])
        if sort is None:
            continue
        if sort.keeping is Keeping.TOTAL:
            used, begun, last = _decode(packed)
            found.append(Counter(name, sort.measure, used, 0, begun, last))
        elif sort.calendar is not None:
            used, _ordinal, begun, last, owed, before, before_ordinal = _decode(packed)
            found.append(Counter(name, sort.measure, used, owed, begun, last))
            period = _earlier(sort.calendar, zone, begun, before_ordinal) if before_ordinal else None
            if period is not None:
                name = name._replace(when="before")
                found.append(Counter(name, sort.measure, before, None, period.start_us, period.end_us - 1))
    return found


def slots(level: str, fields: Mapping[bytes, bytes]) -> dict[Name, int]:
    """Return the slots in use of a level, by their meter."""
    found = {}
    for field, packed in fields.items():
        name = Name(level, field.decode())
        sort = _SORTS.get(name.field.partition("|")[0])
        if sort is not None and sort.keeping is Keeping.SLOTS:
            found[name] = _decode(packed)[0]
    return found


def held(reservations: Iterable[bytes]) -> Open:
    """Read open reservations, as the store keeps them."""
    by_meter: dict[Name, list[Held]] = defaultdict(list)
    hours = set()
    plans: dict[bytes, list[tuple[Name, Measure]]] = {}
    for packed in reservations:
        end = end_of(packed, 0)
        tokens_in, tokens_out, money, _step, admitted_us, _ends = _decode(packed[:end])
        amounts = {
            Measure.REQUESTS: 1,
            Measure.SLOTS: 1,
            Measure.INPUT: tokens_in,
            Measure.OUTPUT: tokens_out,
            Measure.TOKENS: tokens_in + tokens_out,
            Measure.MONEY: money,
        }
        plan = plans.get(packed[end:])
        if plan is None:
            plan = plans[packed[end:]] = _plan(packed[end:])
        for name, measure in plan:
            by_meter[name].append(Held(admitted_us, amounts[measure]))
        hours.add(admitted_us // HOUR_US)
    return Open(by_meter, frozenset(hours))


def _plan(packed: bytes) -> list[tuple[Name, Measure]]:
    """Return the meters of a plan that have books or slots."""
    _account, levels = _decode(packed)
    return [
        (Name(level, field), Measure(measure))
        for level, meters in levels
        for measure, keeping, field, *_ in meters
        if keeping != Keeping.RATE
    ]


class Index:
    """Hands what books tell to the tallies that it concerns."""

    def __init__(self, tallies: Iterable[Tally]) -> None:
        self._by_level: dict[str, list[Tally]] = defaultdict(list)
        for tally in tallies:
            self._by_level[tally.counter.name.level].append(tally)
        self._concerned: dict[bytes, list[Tally]] = {}

    def add(self, hour: int, fields: Mapping[bytes, bytes]) -> None:
        """Count a piece of an hour's roll-up."""
        concerned = self._concerned
        for field, amount in fields.items():
            tallies = concerned.get(field)
            if tallies is None:
                tallies = concerned[field] = self._of_field(field)
            for tally in tallies:
                tally.add(hour, int(amount))

    def of(self, account: Account) -> list[Tally]:
        """Return the tallies of the levels that an account is charged to."""
        if account.is_platform:
            return []
        levels = ("org", f"team:{account.team}", f"key:{account.key}")
        return [
            tally
            for level in levels
            for tally in self._by_level.get(level, ())
            if tally.counter.name.model in (None, account.model)
        ]

    def _of_field(self, field: bytes) -> list[Tally]:
        letter = field[-1]
        return [tally for tally in self.of(cell(field).account) if letter in _LETTERS[tally.counter.measure]]


def amount(record: Record, measure: Measure) -> int:
    """Return what a record adds to a counter of `measure`."""
    head = record.head
    match measure:
        case Measure.INPUT:
            return head.input
        case Measure.OUTPUT:
            return head.output
        case Measure.TOKENS:
            return head.input + head.output
        case Measure.MONEY:
            return head.money
        case _:
            return int(head.what in (What.SETTLED, What.EXPIRED))


@lru_cache(maxsize=1024)
def _earlier(calendar: Calendar, zone: tzinfo, at_us: int, ordinal: int) -> Period | None:
    """Return the period of that ordinal, which is before `at_us`; None where it is too long ago."""
    period, _ = current_and_next(calendar, zone, at_us)
    for _ in range(FARTHEST):
        if period.ordinal <= ordinal:
            return period if period.ordinal == ordinal else None
        period, _ = current_and_next(calendar, zone, period.start_us - 1)
    return None
