"""Plans as the store and the admin API have them: JSON documents that say what the file would.

Law: one reading and one set of checks for a plan, wherever it stands, so that nobody can store what the file would
refuse. What was stored once is only read: a model that is gone, or a check that is new, takes nobody's plan away. Two
things are not as in a file: there are no variables, and what budgets are charged with is not judged, since prices are
each gateway's own and a stored plan is everybody's.
"""

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from msgspec import UNSET

from gateway.config.lists import section
from gateway.config.mistakes import At, ConfigError
from gateway.config.plan_checks import check_plan
from gateway.config.plans import PLAN, PlanRow
from gateway.config.reading import Reading
from policies.domain import Meter, Plan
from policies.meters import SORTS, Measure

_MARK = yaml.Mark("", 0, 0, 0, None, 0)
_TAG = "tag:yaml.org,2002:"
_USD = 10**9
"""Nano-dollars of a dollar."""


def stored_plan(name: str, document: Mapping[str, Any], models: Mapping[str, str] | None) -> Plan:
    """Return the plan `name` that somebody wants to store as `document`; `models` as in `Settings.model_names`.

    Raises ConfigError; `where` of each mistake is a path inside the document, `plan` for all of it.
    """
    reading = Reading(name, Path(), None, "plan")
    row = _read(reading, document)
    check_plan(row, models, reading.tell)
    _raise(reading)
    return row.plan(name, models or {})


def kept_plan(name: str, document: Mapping[str, Any], models: Mapping[str, str] | None) -> Plan:
    """Return the plan `name` that is stored as `document`; `models` as in `Settings.model_names`.

    A meter of a model that is not there counts nothing. Raises ConfigError where the document is no plan at all.
    """
    reading = Reading(name, Path(), None, "plan")
    row = _read(reading, document)
    _raise(reading)
    return row.plan(name, models or {})


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
    return document


def _read(reading: Reading, document: Mapping[str, Any]) -> PlanRow:
    """Return the row of a document. Raises ConfigError where nothing at all can be read."""
    at = At(1, "")
    try:
        row = reading.attempt(section(PLAN), _node(document), at)
    except RecursionError:
        reading.tell(at, "is nested too deeply", "write `{METER: LIMIT}`")
        row = UNSET
    if row is UNSET:
        raise ConfigError(tuple(reading.mistakes))
    return row


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


def _dollars(nano: int) -> float | str:
    """Return nano-dollars in USD: as a number where a JSON number is exact, else as text."""
    if nano % _USD == 0:
        return nano // _USD
    dollars = nano / _USD
    return dollars if Decimal(repr(dollars)) * _USD == nano else f"{nano // _USD}.{nano % _USD:09}"
