"""Where a principal's calls may go: its models, its backends, and whether its prompts may leave the house.

Law: a list that says nothing allows everything; where several have a word, each has to allow. A deployment out of reach
is a fact, never a belief: no outage and no empty route lets a call past it.
"""

from collections.abc import Iterable, Sequence

from policies.domain import Deployment, Model, Reach

LEAVES = "hosted, and this caller's prompts stay local"
NOT_THEIRS = "not among this caller's backends"
"""The reasons that a deployment is out of reach."""

MOST_NAMED = 10
"""Models that a refusal names."""


def family(backend: str) -> str:
    """Return the name of the backend that `backend` is a replica of (`NAME@ADDRESS:PORT`), else its own."""
    return backend.partition("@")[0]


def booked(deployment: Deployment) -> tuple[str, str]:
    """Return a deployment as the file names it, `BACKEND/MODEL`, and which replica of that backend it is, else ""."""
    name, _, replica = deployment.backend.partition("@")
    return f"{name}/{deployment.model}", replica


def may_use(reach: Reach, model: Model) -> bool:
    """Say whether a principal may ask for `model`, which goes by its own name or by one of its aliases."""
    return all(any(_named(name, names) for name in (model.name, *model.aliases)) for names in reach.models)


def out_of_reach(reach: Reach, deployment: Deployment) -> str | None:
    """Return why a principal's calls may not go to `deployment`, None where they may."""
    if reach.local_only and deployment.hosted:
        return LEAVES
    name = family(deployment.backend)
    if not all(_named(deployment.backend, names) or _named(name, names) for names in reach.backends):
        return NOT_THEIRS
    return None


def reachable(reach: Reach, model: Model) -> bool:
    """Say whether a principal may ask for `model`, and its calls may go to any deployment of it."""
    return may_use(reach, model) and any(out_of_reach(reach, one) is None for one in model.deployments)


def named(models: Sequence[str]) -> str:
    """Return names of models in words: the first ones, and how many more there are."""
    more = f" and {len(models) - MOST_NAMED} more" if len(models) > MOST_NAMED else ""
    return f"{', '.join(models[:MOST_NAMED])}{more}"


def _named(name: str, names: Iterable[str]) -> bool:
    return any(name.startswith(one[:-1]) if one.endswith("*") else name == one for one in names)
