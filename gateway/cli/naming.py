"""What a tenants file names that its gateway does not have: backends and models.

Law: pure. None of it is a mistake, for it may come later; a plan that is nowhere is one (`gateway/config/tenants.py`).
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from gateway.cli.diffing import Document, Target
from policies.reach import family


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
    """Return a line for each backend or model that is not known, with the tenants that name it."""
    unknown: dict[str, list[Target]] = {}
    for target, body in wanted.items():
        if target.kind != "plan":
            for name in _in_full(body, what):
                if name not in known:
                    unknown.setdefault(name, []).append(target)
    has = ", ".join(sorted(known)) or "none"
    return [
        f"{', '.join(map(str, by))}: the gateway has no {what} {name!r} now (it has: {has})"
        for name, by in unknown.items()
    ]


def _in_full(body: Document, what: Literal["backend", "model"]) -> list[str]:
    return [name for name in body.get(f"{what}s") or () if not name.endswith("*")]
