"""What a tenants file names that nobody has: plans, backends and models.

Law: pure. A plan that is nowhere is a mistake, which a gateway would refuse; a backend or a model may come later.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Literal

from gateway.cli.diffing import Document, Target
from policies.reach import family


def unknown_plans(wanted: Mapping[Target, Document], listed: Iterable[str]) -> str | None:
    """Return in words which plans tenants name that neither the file nor the gateway has, None where there are none.

    `listed`: the plans of the gateway.
    """
    known = {*listed, *(target.name for target in wanted if target.kind == "plan")}
    unknown = _unknown(wanted, known, lambda body: [] if body.get("plan") is None else [body["plan"]])
    if not unknown:
        return None
    told = "; ".join(f"{name!r} ({', '.join(map(str, by))})" for name, by in unknown.items())
    return f"plans that neither the file nor the gateway has: {told}. Known: {', '.join(sorted(known))}"


def unknown_backends(wanted: Mapping[Target, Document], listed: Iterable[str]) -> list[str]:
    """Return a line for each backend that tenants name and the gateway does not have; `NAME*` is none.

    `listed`: the backends of the gateway, replicas by their own names.
    """
    replicas = set(listed)
    return _warnings(wanted, replicas | set(map(family, replicas)), "backend")


def unknown_models(wanted: Mapping[Target, Document], served: Iterable[str]) -> list[str]:
    """Return a line for each model that tenants name and the gateway does not serve; `NAME*` is none."""
    return _warnings(wanted, set(served), "model")


def names_places(body: Document) -> bool:
    """Say whether a tenant names backends or models in full."""
    return bool(_in_full(body, "backend") or _in_full(body, "model"))


def _warnings(
    wanted: Mapping[Target, Document], known: Collection[str], what: Literal["backend", "model"]
) -> list[str]:
    """Return a line for each backend or model that is not known."""
    unknown = _unknown(wanted, known, lambda body: _in_full(body, what))
    has = ", ".join(sorted(known)) or "none"
    return [
        f"{', '.join(map(str, by))}: the gateway has no {what} {name!r} now (it has: {has})"
        for name, by in unknown.items()
    ]


def _in_full(body: Document, what: Literal["backend", "model"]) -> list[str]:
    return [name for name in body.get(f"{what}s") or () if not name.endswith("*")]


def _unknown(
    wanted: Mapping[Target, Document], known: Collection[str], names: Callable[[Document], list[str]]
) -> dict[str, list[Target]]:
    """Return the names that are not known, each with the tenants that name it."""
    found: dict[str, list[Target]] = {}
    for target, body in wanted.items():
        if target.kind != "plan":
            for name in names(body):
                if name not in known:
                    found.setdefault(name, []).append(target)
    return found
