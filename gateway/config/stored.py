"""Plans and keys' wishes as the store and the admin API have them: JSON documents that say what the file would.

Law: one reading and one set of checks for a plan, wherever it stands, so that nobody can store what the file would
refuse. What was stored once is only read: a model that is gone, or a check that is new, takes nobody's plan away. Nor
does a wish that a newer gateway stored: it is left out here, and logged; a meter that cannot be counted refuses. Two
things are not as in a file: there are no variables, and what budgets are charged with is not judged, since prices are
each gateway's own and a stored plan is everybody's.
"""

from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import structlog
import yaml
from msgspec import UNSET, structs

from gateway.config.lists import section
from gateway.config.mistakes import At, ConfigError
from gateway.config.plan_checks import check_plan
from gateway.config.plans import PLAN, PlanRow
from gateway.config.reading import Reading, Row
from gateway.config.routing import WishesRow
from gateway.config.routing_checks import check_wishes
from policies.domain import Meter, Plan
from policies.meters import SORTS, Measure
from policies.terms import NO_WISHES, RoutingWishes

log = structlog.get_logger("sluiceway.config")

R = TypeVar("R", bound=Row)

_MARK = yaml.Mark("", 0, 0, 0, None, 0)
_TAG = "tag:yaml.org,2002:"
_SOME_WISH = "write `{WISH: VALUE}`, such as `{policy: cheapest}`"
_USD = 10**9
"""Nano-dollars of a dollar."""
_TOLD = 4096
"""Documents of which it is remembered that the log has what was left out."""


def stored_plan(name: str, document: Mapping[str, Any], models: Mapping[str, str] | None) -> Plan:
    """Return the plan `name` that somebody wants to store as `document`; `models` as in `Settings.model_names`.

    Raises ConfigError; `where` of each mistake is a path inside the document, `plan` for all of it.
    """
    reading = Reading(name, Path(), None, "plan")
    row = _read_plan(reading, document)
    check_plan(row, models, reading.tell)
    _raise(reading)
    return row.plan(name, models or {})


def kept_plan(name: str, document: Mapping[str, Any], models: Mapping[str, str] | None) -> Plan:
    """Return the plan `name` that is stored as `document`; `models` as in `Settings.model_names`.

    A meter of a model that is not there counts nothing; wishes are read as by `kept_wishes`. Raises ConfigError where
    the document is no plan at all.
    """
    reading = Reading(name, Path(), None, "plan")
    row = _read_plan(reading, {key: value for key, value in document.items() if key != "routing"})
    _raise(reading)
    plan = row.plan(name, models or {})
    if "routing" not in document:
        return plan
    return structs.replace(plan, wishes=kept_wishes(f"plan {name!r}", document["routing"]))


def stored_wishes(document: Mapping[str, Any]) -> RoutingWishes:
    """Return the wishes that somebody wants to store as `document`. Raises ConfigError as `stored_plan` does."""
    reading = Reading("routing", Path(), None, "routing")
    row = _read(reading, WishesRow, document, _SOME_WISH)
    if not row.lines:
        reading.tell(At(1, ""), "wishes nothing", _SOME_WISH)
    check_wishes(row, reading.tell)
    _raise(reading)
    return row.wishes()


def kept_wishes(what: str, document: Any) -> RoutingWishes:  # noqa: ANN401 - whatever JSON can say
    """Return those of the wishes stored as `document` that can be read; `what` has them, for the log.

    What cannot be read is left out, so that a wider level's wish counts: the log has it once.
    """
    reading = Reading("routing", Path(), None, "routing")
    try:
        wishes = _read(reading, WishesRow, document, _SOME_WISH).wishes()
    except ConfigError:
        wishes = NO_WISHES
    if reading.mistakes:
        _left_out(what, "; ".join(f"{mistake.where}: {mistake.message}" for mistake in reading.mistakes))
    return wishes


def document_of(plan: Plan) -> dict[str, Any]:
    """Return the document of a plan: what a file, or whoever stores it, would write."""
    document: dict[str, Any] = _meters(plan, None)
    models = dict.fromkeys(meter.model for meter in plan.meters if meter.model is not None)
    if models:
        document["models"] = {model: _meters(plan, model) for model in models}
    if plan.overrun != "finish":
        document["overrun"] = plan.overrun
    if plan.when_down is not None:
        document["when_down"] = plan.when_down
    if plan.wishes != NO_WISHES:
        document["routing"] = _wishes(plan.wishes)
    return document


def _read_plan(reading: Reading, document: Mapping[str, Any]) -> PlanRow:
    return _read(reading, PLAN, document, "write `{METER: LIMIT}`")


def _read(reading: Reading, sort: type[R], document: Mapping[str, Any], flat: str) -> R:
    """Return the row of a document; `flat`: how it should be written. Raises ConfigError where nothing can be read."""
    at = At(1, "")
    try:
        row = reading.attempt(section(sort), _node(document), at)
    except RecursionError:
        reading.tell(at, "is nested too deeply", flat)
        row = UNSET
    if row is UNSET:
        raise ConfigError(tuple(reading.mistakes))
    return row


@lru_cache(_TOLD)
def _left_out(what: str, why: str) -> None:
    """Log what is left out of stored wishes, the first time."""
    log.warning("wishes that this gateway cannot read are left out", of=what, why=why)


def _raise(reading: Reading) -> None:
    if reading.mistakes:
        raise ConfigError(tuple(reading.mistakes))


def _node(value: Any) -> yaml.Node:  # noqa: ANN401 - whatever JSON can say
    """Return a JSON value as the file's reader wants it."""
    match value:
        case Mapping():
            return yaml.MappingNode(f"{_TAG}map", [(_node(key), _node(one)) for key, one in value.items()], _MARK)
        case list() | tuple():
            return yaml.SequenceNode(f"{_TAG}seq", [_node(one) for one in value], _MARK)
        case None:
            return yaml.ScalarNode(f"{_TAG}null", "", _MARK)
        case bool():
            return yaml.ScalarNode(f"{_TAG}bool", "true" if value else "false", _MARK)
        case float():
            return yaml.ScalarNode(f"{_TAG}float", f"{Decimal(repr(value)):f}", _MARK)
        case _:
            return yaml.ScalarNode(f"{_TAG}str", str(value), _MARK)


def _meters(plan: Plan, model: str | None) -> dict[str, Any]:
    """Return the meters of one model (None: of all calls), by the names of their kinds."""
    return {meter.kind.value: _meter(meter) for meter in plan.meters if meter.model == model}


def _meter(meter: Meter) -> float | str | dict[str, Any]:
    money = SORTS[meter.kind].measure is Measure.MONEY
    limit = _dollars(meter.limit) if money else meter.limit
    document: dict[str, Any] = {"limit": limit}
    if meter.burst != meter.limit:
        document["burst"] = meter.burst
    if not meter.enforce:
        document["enforce"] = False
    return limit if len(document) == 1 else document


def _wishes(wishes: RoutingWishes) -> dict[str, Any]:
    """Return what is wished, by the names that the file has for it."""
    said = {name: value for name, value in structs.asdict(wishes).items() if value is not None}
    return said | {name: _dollars(said[name]) for name in ("value_of_time", "max_price") if name in said}


def _dollars(nano: int) -> float | str:
    """Return nano-dollars in USD: as a number where a JSON number is exact, else as text."""
    if nano % _USD == 0:
        return nano // _USD
    dollars = nano / _USD
    return dollars if Decimal(repr(dollars)) * _USD == nano else f"{nano // _USD}.{nano % _USD:09}"
