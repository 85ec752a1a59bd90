"""From a configuration file to a simulated fleet: the machines, the hosted endpoint, and how calls are routed.

Law: what the file says is simulated as far as the simulation knows it, and whatever it does not know is told: a
simulation that left something out in silence would be believed too far.
"""

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from gateway.cli.simulate_unknown import unknown
from gateway.config import Settings
from gateway.config.settings import Backend, default_price
from policies.domain import Deadlines, Deployment, Model
from policies.simulation.hardware import Hardware
from policies.simulation.hosted import Endpoint
from policies.simulation.scenario import Machine
from policies.terms import BY_RULE, Policy, RoutingTerms, RoutingWishes, joined

HOSTED_LIMIT = 40
"""Requests a minute that NVIDIA's hosted endpoint takes of an account and model, where the file says nothing."""

MOST_REPLICAS = 64
"""Replicas that are simulated at most: a run takes seconds of a core with four."""


_DECIDES: dict[Policy, str] = {"pinned": "the order of the file", "weighted": "a draw by weight"}
"""What decides under the policies that ask for no value of time."""


class FleetError(Exception):
    """The file cannot be simulated; the text says why and what would help."""


class Fleet(Struct, frozen=True):
    """What is simulated of a file.

    `model`: whose calls. `machines`: our own replicas. `hosted`: the endpoint, `backend` its name in the file; `told`:
    calls a minute that the file says it takes (0: nothing). `terms`: how calls are routed. `left_out`: what the file
    says and the simulation does not know, a sentence each.
    """

    model: str
    machines: tuple[Machine, ...]
    hosted: Endpoint | None
    backend: str
    terms: RoutingTerms
    left_out: tuple[str, ...] = ()
    told: int = 0


def fleet_of(
    settings: Settings,
    config: Path,
    *,
    model: str | None,
    hardware: Hardware,
    replicas: int | None,
    without: Sequence[str] = (),
) -> Fleet:
    """Return the fleet that serves a model of the file, the backends in `without` left out.

    `replicas`: how many of our own there are, where the file cannot say (None: as many as it has backends). Raises
    FleetError.
    """
    backends = {backend.name: backend for backend in settings.backends}
    asked = _asked(settings, model, config)
    _known(without, asked, backends, config)
    kept = [one for one in asked.deployments if one.backend not in without]
    own = [one for one in kept if not backends[one.backend].hosted]
    hosted = [one for one in kept if backends[one.backend].hosted]
    _spared([name for name in without if not backends[name].hosted], own, replicas, asked)
    discovered = [one.backend for one in own if backends[one.backend].discovered]
    left_out = unknown(settings, asked, own, hosted)
    if discovered and replicas is None:
        left_out.append(f"how many replicas {', '.join(discovered)} stands for: one is taken, --replicas N says it")
    count = _count(len(own) if replicas is None else replicas, asked, config)
    caps = [one.max_in_flight for one in own] or [None]
    return Fleet(
        asked.name,
        tuple(Machine(hardware, max_in_flight=caps[number % len(caps)]) for number in range(count)),
        _endpoint(hosted[0], backends[hosted[0].backend], config) if hosted else None,
        hosted[0].backend if hosted else "",
        asked.routing,
        tuple(left_out),
        (backends[hosted[0].backend].requests_per_minute or 0) if hosted else 0,
    )


def grown(fleet: Fleet, more: int) -> Fleet:
    """Return the fleet with so many replicas more (or fewer, below 0). Raises FleetError where none would be left."""
    count = len(fleet.machines) + more
    if not 0 < count <= MOST_REPLICAS:
        raise FleetError(
            f"--replicas {more:+d} would make {count} of {len(fleet.machines)}; 1 to {MOST_REPLICAS} are simulated"
        )
    kept = fleet.machines[:count]
    return replace(fleet, machines=(*kept, *(fleet.machines[-1],) * (count - len(kept))))


def hurried(fleet: Fleet, value_of_time: int) -> Fleet:
    """Return the fleet with another value of time, in nano-dollars a second. Raises FleetError where none is asked."""
    policy = fleet.terms.policy
    if policy in BY_RULE:
        raise FleetError(
            f"--value-of-time: {fleet.model} has `policy: {policy}`, by which {_DECIDES[policy]} says who comes first, "
            "whatever a second is worth; take it out of the model's `routing` to ask this"
        )
    return replace(fleet, terms=joined(fleet.terms, RoutingWishes(value_of_time=value_of_time)))


def _known(names: Sequence[str], model: Model, backends: dict[str, Backend], config: Path) -> None:
    served = dict.fromkeys(one.backend for one in model.deployments)
    for name in names:
        if name not in backends:
            raise FleetError(f"--without {name}: {config} has no such backend; it has {', '.join(backends)}")
        if name not in served:
            raise FleetError(
                f"--without {name}: it does not serve {model.name} anyway; those that do: {', '.join(served)}"
            )


def _spared(gone: Sequence[str], own: Sequence[Deployment], replicas: int | None, model: Model) -> None:
    """Raise FleetError where nobody can say what is left without these backends of one's own, or nothing is."""
    if gone and replicas is not None:
        raise FleetError(
            f"--without {gone[0]} --replicas {replicas}: nobody can say how many of the {replicas} are {gone[0]}'s; "
            f"say how many fewer there would be, such as one: --replicas {replicas} --replicas -1"
        )
    if gone and not own:
        raise FleetError(f"--without {', '.join(gone)}: no replica of your own would be left of {model.name}")


def _count(count: int, model: Model, config: Path) -> int:
    """Return how many replicas there are. Raises FleetError where there is none, or too many."""
    if not count:
        raise FleetError(
            f"{config}: {model.name} has no replica of your own, so there is no capacity for --load to be a share of; "
            "say how many there would be with --replicas 1"
        )
    if count > MOST_REPLICAS:
        raise FleetError(
            f"{config}: {model.name} would have {count} replicas of your own; 1 to {MOST_REPLICAS} are simulated: "
            f"say --replicas {MOST_REPLICAS}, which takes --load as a share of what those can do"
        )
    return count


def _asked(settings: Settings, name: str | None, config: Path) -> Model:
    """Return the model in question; without `models`, one that every backend serves."""
    if settings.models is None:
        if name is not None:
            raise FleetError(f"--model {name}: {config} has no `models`, so that every backend serves it: leave it out")
        places = tuple(_anything(backend) for backend in settings.backends)
        return Model("any model", (), places, (), RoutingTerms(), Deadlines())
    if name is None:
        return settings.models[0]
    names = settings.model_names or {}
    for one in settings.models:
        if one.name == names.get(name):
            return one
    known = ", ".join(one.name for one in settings.models)
    raise FleetError(f"--model {name}: {config} has no such model; it has {known}")


def _anything(backend: Backend) -> Deployment:
    return Deployment(
        backend.name,
        backend.kind,
        "",
        None,
        frozenset({"text"}),
        default_price(backend.kind),
        hosted=backend.hosted,
        max_in_flight=backend.max_in_flight,
    )


def _endpoint(deployment: Deployment, backend: Backend, config: Path) -> Endpoint:
    if deployment.price is None:
        raise FleetError(
            f"{config}: the price of {deployment.backend} is not known, and money is what this is about; "
            "give its deployment a price: {input: 1.5, output: 7.5}, in USD per million tokens, "
            f"or leave it out with --without {deployment.backend}"
        )
    return Endpoint(price=deployment.price, per_minute=backend.requests_per_minute or HOSTED_LIMIT)
