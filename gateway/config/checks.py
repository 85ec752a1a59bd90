"""What the file's settings mean together: names that refer to each other, and settings that contradict each other.

Law: no silent no-op. A reference to nothing, a name taken twice, a fallback that leads nowhere new: each is a mistake.
What could not be read is not judged again. Backends are judged in `backend_checks.py`, plans in `plan_checks.py` and
`budget_checks.py`, routing in `routing_checks.py`, issuers in `issuer_checks.py`.
"""

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from gateway.config import values
from gateway.config.backend_checks import check_backends
from gateway.config.budget_checks import check_budgets
from gateway.config.issuer_checks import check_issuers
from gateway.config.issuers import IssuerRow
from gateway.config.lists import Item
from gateway.config.mistakes import Tell, shown
from gateway.config.plan_checks import check_plan
from gateway.config.reading import nearest
from gateway.config.routing_checks import check_routing
from gateway.config.schema import DeploymentRow, FileRow, ModelRow, TeamRow
from gateway.config.settings import STANDARD
from gateway.tls import CertificateError, server_context


def check(file: FileRow, tell: Tell) -> None:
    """Tell every mistake that takes more than one setting to see."""
    _addresses(file, tell)
    _tls(file, tell)
    _cors(file, tell)
    _store(file, tell)
    _limits(file, tell)
    check_backends(file, tell)
    models = file.models or {}
    for model in models.values():
        _deployments(file, model, tell)
        _deadlines(model, tell)
    taken = model_names(models)
    _names(models, taken, tell)
    _fallbacks(models, taken, tell)
    for plan in file.plans.values():
        check_plan(plan, None if file.models is None else taken, tell)
    check_budgets(file, taken, tell)
    check_routing(file, taken, tell)
    check_issuers(file.issuers, tell)
    _plan_references(file, tell)


def model_names(models: dict[str, ModelRow]) -> dict[str, str]:
    """Return every name and alias with the name of its model; the first to take a name keeps it."""
    taken = {name: name for name in models}
    for name, model in models.items():
        for alias in model.aliases:
            taken.setdefault(alias.name, name)
    return taken


def _addresses(file: FileRow, tell: Tell) -> None:
    """Tell a port that callers and operations would share."""
    unsure = "port" in file.listen.wrong or "port" in file.operations.wrong or {"listen", "operations"} & file.wrong
    if not unsure and file.listen.port == file.operations.port:
        at = file.operations.spot("port") if file.operations.given("port") else file.listen.spot("port")
        tell(at, f"port {file.listen.port} is both the callers' and the operations' port", "choose another port")


def _tls(file: FileRow, tell: Tell) -> None:
    """Tell a certificate that cannot be served: no caller could connect."""
    tls = file.listen.tls
    if tls is None or not (tls.given("cert") and tls.given("key")):
        return
    try:
        server_context(tls.cert, tls.key)
    except CertificateError as error:
        tell(tls.spot(error.setting), error.message, error.remedy)


def _cors(file: FileRow, tell: Tell) -> None:
    """Tell an origin that changes nothing: one that is there already, or stands beside the leave for all."""
    seen: set[str] = set()
    everyone = any(item.name == values.ANY_ORIGIN for item in file.listen.cors)
    for item in file.listen.cors:
        if item.name in seen:
            tell(item.at, f"{shown(item.name)} is given twice", "keep one of them")
        elif everyone and item.name != values.ANY_ORIGIN:
            tell(item.at, "changes nothing beside '*', which lets in every page", "remove it, or remove '*'")
        seen.add(item.name)


def _store(file: FileRow, tell: Tell) -> None:
    """Tell leave to forget for a store that never does."""
    store = file.store
    if store.allow_eviction and store.url == "embedded" and not store.wrong:
        tell(store.spot("allow_eviction"), "does nothing: the embedded store never evicts", "remove the line")


def _limits(file: FileRow, tell: Tell) -> None:
    """Tell a body limit beyond the room for all bodies."""
    limits = file.limits
    if not limits.wrong & {"body", "buffered_total"} and limits.body > limits.buffered_total:
        at = limits.spot("body") if limits.given("body") else limits.spot("buffered_total")
        tell(at, "one body may be larger than all bodies together (buffered_total)", "make buffered_total the larger")


def _deployments(file: FileRow, model: ModelRow, tell: Tell) -> None:
    """Tell deployments on backends that are not there, and those given twice in one model."""
    lines: dict[tuple[str, str], int] = {}
    for row in model.deployments:
        if row.backend and row.backend not in file.backends and "backends" not in file.wrong:
            tell(row.spot("backend"), f"{shown(row.backend)} is not a backend", nearest(row.backend, file.backends))
        place = row.backend, row.model
        if all(place) and place in lines:
            tell(row.at, f"is the same deployment as the one on line {lines[place]}", "remove one of them")
        lines.setdefault(place, row.at.line)
        _price(row, tell)


def _price(row: DeploymentRow, tell: Tell) -> None:
    """Tell a price that makes input dearer for having been cached."""
    price = row.price
    if price is None or price.wrong or price.cached_input is None or not price.given("input"):
        return
    if price.cached_input > price.input:
        why = "is more than the price of other input"
        tell(price.spot("cached_input"), why, "write at most that, or remove the line")


def _deadlines(model: ModelRow, tell: Tell) -> None:
    """Tell keep-alives that would begin when the call is over."""
    row = model.deadlines
    if not row.wrong & {"keep_alive", "total"} and row.keep_alive is not None and row.keep_alive >= row.total:
        why = f"is not below the call's own deadline (total, {row.total:g} s)"
        tell(row.spot("keep_alive"), why, "make it smaller, or remove the line")


def _names(models: dict[str, ModelRow], taken: dict[str, str], tell: Tell) -> None:
    """Tell names that two models would answer to."""
    for name, model in models.items():
        own: set[str] = set()
        for alias in model.aliases:
            owner = taken[alias.name]
            if alias.name in models:
                tell(alias.at, f"{shown(alias.name)} is the name of a model", "remove it, or choose another alias")
            elif owner != name or alias.name in own:
                tell(alias.at, f"{shown(alias.name)} is already an alias of {shown(owner)}", "keep one of them")
            own.add(alias.name)


def _fallbacks(models: dict[str, ModelRow], taken: dict[str, str], tell: Tell) -> None:
    """Tell fallbacks that are no other model, and those that never come to an end."""
    edges: dict[str, dict[str, Item]] = {name: {} for name in models}
    for name, model in models.items():
        for item in model.fallbacks:
            target = taken.get(item.name)
            if target is None:
                tell(item.at, f"{shown(item.name)} is not a model", nearest(item.name, taken))
            elif target == name:
                tell(item.at, "is a fallback of the model to itself", "name another model, or remove it")
            elif target in edges[name]:
                tell(item.at, f"{shown(item.name)} is given twice", "keep one of them")
            else:
                edges[name][target] = item
    for path, item in _cycles(edges):
        tell(item.at, f"fallbacks go round: {' -> '.join(path)}", "remove one of these fallbacks")


def _cycles(edges: dict[str, dict[str, Item]]) -> Iterator[tuple[list[str], Item]]:
    """Yield each cycle with the fallback that closes it, the last in the file; `edges` loses that fallback."""
    order = {name: index for index, name in enumerate(edges)}
    while True:
        try:
            TopologicalSorter(edges).prepare()
        except CycleError as error:
            # graphlib tells a cycle against the direction of its edges, the first name again at the end.
            cycle: list[str] = error.args[1][:0:-1]
            start = cycle.index(max(cycle, key=order.__getitem__))
            path = cycle[start + 1 :] + cycle[: start + 1]
            yield [*path, path[0]], edges[path[-1]].pop(path[0])
        else:
            return


def _plan_references(file: FileRow, tell: Tell) -> None:
    """Tell organizations, teams and issuers whose plan is not there."""
    plans = {STANDARD.name, *file.plans}
    rows: list[TeamRow | IssuerRow] = [*file.issuers.values()]
    for organization in file.organizations.values():
        rows += (organization, *organization.teams.values())
    for row in rows:
        if row.plan is not None and row.plan not in plans and "plans" not in file.wrong:
            tell(row.spot("plan"), f"{shown(row.plan)} is not a plan", nearest(row.plan, sorted(plans)))
