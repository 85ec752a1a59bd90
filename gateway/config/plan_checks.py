"""What a plan means: whether each thing in it can have an effect on some call.

Law: no silent no-op. A meter that can never refuse, a model that is none, a setting without what it governs: each is a
mistake, with the line that would have to change. A shadow meter is there to count, so it is neither judged nor makes
another useless. What could not be read is not judged again.
"""

from collections.abc import Mapping

from gateway.config.lists import NAME
from gateway.config.mistakes import Tell, shown
from gateway.config.plans import MetersRow, PlanRow
from gateway.config.reading import nearest
from gateway.config.routing_checks import check_wishes
from gateway.config.supplies import useless
from policies.domain import Meter, MeterKind
from policies.meters import SORTS, Measure

OUTGROWN = (Measure.OUTPUT, Measure.TOKENS, Measure.MONEY)
"""What a stream may use more of than it reserved."""


def check_plan(plan: PlanRow, taken: Mapping[str, str] | None, tell: Tell) -> None:
    """Tell every mistake in what a plan means.

    `taken`: each name of a model with the model's own, None where the file does not say which there are.
    """
    if taken is not None:
        _models(plan, taken, tell)
    _empty(plan, tell)
    own = _judged(plan, None, tell)
    _useless(plan, own, own, tell)
    for name, row in plan.models.items():
        mine = _judged(row, name, tell)
        _useless(row, mine, own + mine, tell)
    _overrun(plan, tell)
    check_wishes(plan.routing, tell)


def _models(plan: PlanRow, taken: Mapping[str, str], tell: Tell) -> None:
    """Tell models of a plan that are not there, and those that it names twice."""
    named: dict[str, str] = {}
    for name, row in plan.models.items():
        model = taken.get(name)
        if model is None:
            if NAME.fullmatch(name):
                tell(row.at, f"{shown(name)} is not a model", nearest(name, taken))
        elif model in named:
            tell(row.at, f"is the same model as {shown(named[model])}", "keep one of them")
        else:
            named[model] = name


def _empty(plan: PlanRow, tell: Tell) -> None:
    """Tell a plan that counts nothing and wishes nothing, and a model of it without a meter."""
    meter = f"add one of {', '.join(MeterKind)}"
    if not (plan.meters or plan.models or plan.routing.lines or plan.unsure):
        wish = "write `routing: {WISH: VALUE}`"
        tell(plan.at, "has no meters and no wishes, so it does nothing", f"{wish}, or {meter}")
    for row in plan.models.values():
        if not row.meters and not row.unsure:
            tell(row.at, "has no meters, so it limits nothing", meter)


def _judged(row: MetersRow, model: str | None, tell: Tell) -> tuple[Meter, ...]:
    """Return the meters that must be able to refuse; tell those whose bucket holds more than the limit."""
    meters = row.compiled(model)
    for meter in meters:
        if meter.burst > meter.limit:
            why = f"{meter.burst:,} is more than the limit of {meter.limit:,}"
            tell(row.meters[meter.kind].spot("burst"), why, "write at most the limit, or remove burst")
    return tuple(meter for meter in meters if meter.enforce and meter.burst <= meter.limit)


def _useless(row: MetersRow, meters: tuple[Meter, ...], others: tuple[Meter, ...], tell: Tell) -> None:
    """Tell those of `meters` that never refuse what `others` admit."""
    for meter in meters:
        found = useless(meter, others)
        if found:
            tell(row.spot(meter.kind), found.message, found.remedy)


def _overrun(plan: PlanRow, tell: Tell) -> None:
    """Tell what should become of a stream that no meter will ever stop."""
    rows = (plan, *plan.models.values())
    if not plan.given("overrun") or any(row.unsure for row in rows) or not any(row.meters for row in rows):
        return
    meters = [meter for row in rows for meter in row.compiled(None)]
    if not any(meter.enforce and SORTS[meter.kind].measure in OUTGROWN for meter in meters):
        why = "does nothing: the plan enforces no meter of output, tokens or money, which a stream could outgrow"
        tell(plan.spot("overrun"), why, "add such a meter, or remove the line")
