"""What routing's settings mean together: whether each of them can have an effect on some call.

Law: no silent no-op. A setting is judged by the policy that stands beside it, and by nothing that a narrower level may
ask for: so a weight only by whether there is a choice at all. What could not be read is not judged again.
"""

from collections.abc import Collection
from typing import cast

from gateway.config.budget_checks import Cost, cost_of, serving
from gateway.config.mistakes import Tell
from gateway.config.routing import WishesRow
from gateway.config.schema import FileRow, ModelRow
from gateway.config.settings import HOSTED
from policies.terms import BY_RULE, OF_ITS_OWN, Policy

_RULES: dict[Policy, str] = {
    "pinned": "goes by the order of the deployments alone",
    "weighted": "goes by the weights alone",
}
"""What says who comes first under the policies that do not go by the score."""

_FREE = "never refuses: nothing that these calls can use has a price"
_UNKNOWN = "would refuse every call: nobody knows what any of these deployments costs"


def check_wishes(row: WishesRow, tell: Tell) -> None:
    """Tell what its policy does not ask for: a value of time, and targets."""
    if row.policy in OF_ITS_OWN:
        unasked, does = ["value_of_time"], "has a value of its own"
    elif row.policy in BY_RULE:
        unasked, does = ["value_of_time", "ttft_target", "tpot_target"], _RULES[row.policy]
    else:
        return
    for key in filter(row.given, unasked):
        tell(row.spot(key), f"does nothing: `policy: {row.policy}` {does}", "keep one of them")


def check_routing(file: FileRow, taken: dict[str, str], tell: Tell) -> None:
    """Tell settings of routing without effect, and prices at most that nothing could keep; `taken` as in `checks`."""
    models = file.models or {}
    for model in models.values():
        check_wishes(model.routing, tell)
        _weights(model, tell)
        _patience(model, tell)
    _waiting(file, tell)
    if {"models", "backends"} & file.wrong:
        return
    for name, model in models.items():
        own = {cost_of(file, one) for one in model.deployments}
        _price(model.routing, own, _costs(file, serving(models, taken, name)), tell)
    every = _listed(file) if file.models is None else _costs(file, models)
    for plan in file.plans.values():
        _price(plan.routing, every, every, tell)


def _weights(model: ModelRow, tell: Tell) -> None:
    """Tell the weight of a deployment that no other shares calls with."""
    if len(model.deployments) == 1 and model.deployments[0].given("weight"):
        why = "does nothing: the model has no other deployment"
        tell(model.deployments[0].spot("weight"), why, "remove the line")


def _patience(model: ModelRow, tell: Tell) -> None:
    """Tell a wait that the call itself does not live to see the end of, where the file says how long it lives."""
    routing, deadlines = model.routing, model.deadlines
    if routing.given("max_wait") and deadlines.given("total") and routing.max_wait > deadlines.total:
        why = f"is never reached: the call ends after {deadlines.total:g} s (deadlines.total)"
        tell(routing.spot("max_wait"), why, "write at most that, or raise deadlines.total")


def _waiting(file: FileRow, tell: Tell) -> None:
    """Tell who should wait, and how, where nobody may."""
    if file.limits.waiting_calls or not file.limits.given("waiting_calls"):
        return
    rows: list[WishesRow] = [model.routing for model in (file.models or {}).values()]
    for row in (*rows, *(plan.routing for plan in file.plans.values())):
        for key in ("max_wait", "priority"):
            if row.given(key):
                why = "does nothing: no call may wait (limits.waiting_calls is 0)"
                tell(row.spot(key), why, "raise limits.waiting_calls, or remove the line")


def _price(row: WishesRow, own: Collection[Cost], reached: Collection[Cost], tell: Tell) -> None:
    """Tell the most a call may cost where that refuses none, or all. `own`: deployments that have to be able to serve.

    `reached`: those and the ones that may serve in their place.
    """
    if not row.given("max_price") or not own:
        return
    if set(own) == {"unknown"}:
        tell(row.spot("max_price"), _UNKNOWN, "give one a `price`, or remove the line")
    elif set(reached) == {"nothing"}:
        tell(row.spot("max_price"), _FREE, "give a deployment a `price`, or remove the line")


def _costs(file: FileRow, models: dict[str, ModelRow]) -> set[Cost]:
    return {cost_of(file, one) for model in models.values() for one in model.deployments}


def _listed(file: FileRow) -> set[Cost]:
    """Return what deployments cost that the file does not name."""
    costs = {"unknown" if row.kind in HOSTED else "nothing" if row.kind else "unread" for row in file.backends.values()}
    return cast(set[Cost], costs)
