"""What a plan may say: every kind of meter, for all models together and for single ones, and how calls are routed.

Law: this page and `schema.py` are the reference of what a file may say. The meters are the kinds of
`policies/meters.py` by name, all alike: what a number counts and how far it may go follows from its kind and is written
nowhere else. Money is USD in the file and nano-dollars here. A limit that could not be read is 0, which no file says.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from typing import Annotated, ClassVar, TypeVar, cast, get_args

import yaml
from msgspec import defstruct, field

from gateway.config import values
from gateway.config.lists import NAME, named, section
from gateway.config.mistakes import At
from gateway.config.reading import Key, Read, Reading, Row, keys_of
from gateway.config.routing import WishesRow
from policies.domain import Meter, MeterKind, Overrun, Plan, WhenDown
from policies.meters import MOST, SORTS, Keeping, Measure, largest

M = TypeVar("M", bound="MetersRow")
R = TypeVar("R", bound=Row)

COUNTED = {
    Measure.REQUESTS: "requests",
    Measure.INPUT: "input tokens",
    Measure.OUTPUT: "output tokens",
    Measure.TOKENS: "tokens",
    Measure.MONEY: "USD",
    Measure.SLOTS: "slots",
}
"""What meters count, in words."""

_LIMIT = "add the limit"


class MeterRow(Row, frozen=True, kw_only=True):
    """A meter of a plan, as `5` or as this, in its kind's range. `enforce` false: it counts what it would refuse."""

    NOUN: ClassVar[str] = "a meter"

    limit: Annotated[int, Key(values.whole(1, MOST), _LIMIT)] = 0
    enforce: Annotated[bool, Key(values.truth)] = True


class RateRow(MeterRow, frozen=True, kw_only=True):
    """A meter a second, minute or hour; without a `burst` its bucket holds the whole limit."""

    NOUN: ClassVar[str] = "a rate"

    burst: Annotated[int | None, Key(values.whole(1, MOST))] = None


class MetersRow(Row, frozen=True, kw_only=True):
    """The meters of one model in a plan's `models`; `with_meters` adds a key for every kind."""

    NOUN: ClassVar[str] = "a model of a plan"

    @classmethod
    def instead_of(cls, key: str) -> str | None:
        """Return the meters of what `key` counts, where only its period is none: `requests_per_day`."""
        counted, _, period = key.partition("_per_")
        alike = [kind.value for kind in MeterKind if kind.value.startswith(f"{counted}_per_")]
        periods = [kind.removeprefix(f"{counted}_per_") for kind in alike]
        if not period or not alike or get_close_matches(period, periods, n=1):  # misspelt: the nearest is meant
            return None
        return f"write {alike[-1]}; for {counted.replace('_', ' ')} there are {', '.join(alike)}"

    @property
    def meters(self) -> dict[MeterKind, MeterRow]:
        """The meters that were read without a mistake, in the order of `MeterKind`."""
        found = {kind: row for kind in MeterKind if (row := self._of(kind)) is not None}
        return {kind: row for kind, row in found.items() if row.limit and not row.wrong}

    @property
    def unsure(self) -> bool:
        """Whether a mistake was told of any key: what is missing here may have been meant to be there."""
        unknown = self.lines.keys() - keys_of(type(self)).keys()
        return bool(self.wrong or unknown or len(self.meters) < sum(self._of(kind) is not None for kind in MeterKind))

    def compiled(self, model: str | None) -> tuple[Meter, ...]:
        """Return the meters for calls of `model` (None: of every model)."""
        return tuple(_compiled(kind, row, model) for kind, row in self.meters.items())

    def _of(self, kind: MeterKind) -> MeterRow | None:
        return cast(MeterRow | None, getattr(self, kind))


def with_meters(row: type[M]) -> type[M]:
    """Return `row` with a key for every kind of meter."""
    return _extended(row, [(kind.value, Annotated[MeterRow | None, Key(_meter(kind))], None) for kind in MeterKind])


@cache
def _meter(kind: MeterKind) -> Read[MeterRow]:
    """Read a meter of one kind: `600`, or `{limit: 600, enforce: false}`, where a rate may have a `burst` as well."""
    amount = _amount(kind)
    base = RateRow if SORTS[kind].keeping is Keeping.RATE else MeterRow
    ranges: list[tuple[str, object, object]] = [("limit", Annotated[int, Key(amount, _LIMIT)], 0)]
    if base is RateRow:
        ranges.append(("burst", Annotated[int | None, Key(amount)], None))
    row = _extended(base, ranges)

    def read(reading: Reading, node: yaml.Node, at: At) -> MeterRow:
        if isinstance(node, yaml.MappingNode):
            return reading.row(row, node, at)
        return row(at=at, limit=amount(reading, node, at))

    return read


def _amount(kind: MeterKind) -> Read[int]:
    """Read what a meter of `kind` may count up to."""
    measure, most = SORTS[kind].measure, largest(kind)
    if measure is Measure.MONEY:
        return values.budget(most)
    return values.whole(1, most, f"{COUNTED[measure]}, as far as the ledger counts exactly,")


def _extended(row: type[R], fields: list[tuple[str, object, object]]) -> type[R]:
    """Return a row that also has `fields`: the name, the annotation and the default of each."""
    return cast(type[R], defstruct(row.__name__, fields, bases=(row,), module=__name__, frozen=True, kw_only=True))


def _compiled(kind: MeterKind, row: MeterRow, model: str | None) -> Meter:
    burst = row.burst if isinstance(row, RateRow) and row.burst is not None else row.limit
    return Meter(kind, limit=row.limit, burst=burst, enforce=row.enforce, model=model)


class PlanRow(MetersRow, frozen=True, kw_only=True):
    """One of `plans`: its own meters count every call, those of `models` the calls of one model as well."""

    NOUN: ClassVar[str] = "a plan"

    models: Annotated[
        dict[str, MetersRow],
        Key(named(with_meters(MetersRow), NAME, "add `NAME: {METER: LIMIT}`, or remove the line")),
    ] = field(default_factory=dict)
    overrun: Annotated[Overrun | None, Key(values.one_of(get_args(Overrun)))] = None
    when_down: Annotated[WhenDown | None, Key(values.one_of(get_args(WhenDown)))] = None
    routing: Annotated[WishesRow, Key(section(WishesRow))] = field(default_factory=WishesRow)

    def plan(self, name: str, taken: Mapping[str, str]) -> Plan:
        """Return the plan `name`: its own meters in the order of `MeterKind`, then each model's.

        `taken`: names of models with the models' own; a name that is not among them stays what it is.
        """
        meters = self.compiled(None)
        for model, row in self.models.items():
            meters += row.compiled(taken.get(model, model))
        return Plan(name, meters, self.overrun or "finish", self.when_down, self.routing.wishes())


PLAN = with_meters(PlanRow)
"""A plan, as everything that holds one reads it."""
