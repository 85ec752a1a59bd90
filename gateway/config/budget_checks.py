"""What budgets are charged with: whether every call they count has a known price, and any of them one above nothing.

Law: no silent no-op. Money that nobody can count is no budget; one that nothing is charged to never refuses. Shadow
budgets are told as well: they would count nothing, or too little. What could not be read is not judged again.
"""

from collections.abc import Iterator
from typing import Literal

from gateway.config.mistakes import At, Tell, shown
from gateway.config.plans import MetersRow
from gateway.config.schema import DeploymentRow, FileRow, ModelRow
from gateway.config.settings import HOSTED
from policies.meters import SORTS, Measure

Cost = Literal["nothing", "something", "unknown", "unread"]
"""What a deployment's tokens cost; `unread`: a mistake was told of what would say it."""

_FREE = "never refuses: nothing that these calls can use has a price"
_UNPRICED = "is missing: a plan has a budget, and nobody knows what this deployment costs"
_PRICE = "add `{input: USD, output: USD}` for a million tokens, or remove the budget"


def check_budgets(file: FileRow, taken: dict[str, str], tell: Tell) -> None:
    """Tell budgets without effect, and prices that they lack; `taken`: each name of a model with the model's own."""
    if {"models", "backends"} & file.wrong:
        return
    unpriced: dict[At, None] = {}
    for plan in file.plans.values():
        unpriced |= dict.fromkeys(_missing(file, plan, file.models, tell))
        for name, row in plan.models.items():
            served = None if file.models is None else serving(file.models, taken, taken.get(name))
            unpriced |= dict.fromkeys(_missing(file, row, served, tell))
    for at in unpriced:
        tell(at, _UNPRICED, _PRICE)


def _missing(file: FileRow, row: MetersRow, served: dict[str, ModelRow] | None, tell: Tell) -> Iterator[At]:
    """Tell the budgets of `row` that are without effect; yield the places of the prices that they lack.

    `served`: the models whose deployments may serve what it counts, None where the file names none.
    """
    budgets = [row.spot(kind) for kind in row.meters if SORTS[kind].measure is Measure.MONEY]
    if not budgets:
        return
    if served is None:
        _discovered(file, budgets, tell)
        return
    costs = [(one.spot("price"), cost_of(file, one)) for model in served.values() for one in model.deployments]
    yield from (at for at, cost in costs if cost == "unknown")
    if costs and all(cost == "nothing" for _, cost in costs):
        for at in budgets:
            tell(at, _FREE, "give a deployment a `price`, or remove the line")


def _discovered(file: FileRow, budgets: list[At], tell: Tell) -> None:
    """Tell budgets over models that the file does not name, and so gives no price."""
    kinds = {name: backend.kind for name, backend in file.backends.items()}
    hosted = next((name for name, kind in kinds.items() if kind in HOSTED), None)
    for at in budgets:
        if hosted is not None:
            why = f"cannot be counted: nobody knows what the models of the backend {shown(hosted)} cost"
            tell(at, why, "list the models under `models:` with their prices, or remove the line")
        elif all(kinds.values()):
            tell(at, _FREE, "list the models under `models:` and give them a price, or remove the line")


def cost_of(file: FileRow, row: DeploymentRow) -> Cost:
    """Return what a deployment's tokens cost."""
    price = row.price
    if price is not None:
        some = any((price.input, price.output, price.cached_input, price.reasoning))
        return "something" if some else "unread" if price.wrong else "nothing"
    kind = file.backends[row.backend].kind if row.backend in file.backends else ""
    if row.wrong or not kind:
        return "unread"
    return "unknown" if kind in HOSTED else "nothing"


def serving(models: dict[str, ModelRow], taken: dict[str, str], name: str | None) -> dict[str, ModelRow]:
    """Return the model `name` and every one that may serve its calls in its place; none where it is no model."""
    found: dict[str, ModelRow] = {}
    ahead = [name] if name is not None else []
    while ahead:
        one = ahead.pop()
        if one not in found:
            found[one] = models[one]
            ahead += [taken[item.name] for item in models[one].fallbacks if item.name in taken]
    return found
