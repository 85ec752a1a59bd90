"""What organizations, teams and keys have in common: the terms that each is held to, as callers write and read them.

Law: terms are kept only if every gateway can keep them: a plan that nobody knows, or meters that cannot be counted, are
refused with what would be right. Only what changes is judged: that a plan has left the file keeps nobody from
suspending a tenant.
"""

from typing import Any

from litestar.exceptions import ValidationException
from msgspec import UNSET, Struct

from gateway.api.admin_answers import conflict, wrong
from gateway.api.admin_fields import RULES, Backends, Metadata, Models, PlanName, State
from gateway.api.admin_parts import Parts
from gateway.config.mistakes import ConfigError
from gateway.config.reading import nearest
from gateway.identity.records import PlanRecord, Terms
from gateway.identity.registry import Named
from policies.domain import Plan


class TermsBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Terms as they are written. `plan` and `meters` exclude one another; with neither, the file's plan is in force."""

    plan: PlanName | None = None
    meters: dict[str, Any] | None = None
    models: Models | None = None
    backends: Backends | None = None
    local_only: bool = False
    state: State = "active"
    metadata: Metadata = {}


class TermsAnswer(Struct, frozen=True, kw_only=True):
    """Terms as they are read."""

    plan: str | None
    meters: dict[str, Any] | None
    models: tuple[str, ...] | None
    backends: tuple[str, ...] | None
    local_only: bool
    state: State
    metadata: dict[str, str]


def terms_of(one: Struct) -> dict[str, Any]:
    """Return those terms of a body or a record that it tells, by their names."""
    told = {name: getattr(one, name) for name in TermsBody.__struct_fields__}
    return {name: value for name, value in told.items() if value is not UNSET}


async def check_terms(parts: Parts, terms: Terms, before: Terms | None) -> tuple[Named, ...]:
    """Return the records that must be there for the terms of a record to be kept; `before`: what it replaces.

    Raises ValidationException where they cannot be kept, and StoreDown.
    """
    if terms.plan is not None and terms.meters is not None:
        raise wrong("meters", "there is a plan as well; give either, and null for the other")
    if any(not (key.isprintable() and value.isprintable()) for key, value in terms.metadata.items()):
        raise wrong("metadata", RULES["metadata"])
    if terms.meters is not None and (before is None or terms.meters != before.meters):
        compiled(parts, f"own meters of {terms.id}", terms.meters, "meters")
    if terms.plan is None or terms.plan in parts.plans or (before is not None and terms.plan == before.plan):
        return ()
    if await parts.registry.get(PlanRecord, terms.plan) is not None:
        return ((PlanRecord, terms.plan),)
    known = {one.record.name for one in await parts.registry.every(PlanRecord)} | set(parts.plans)
    near = nearest(terms.plan, known, otherwise=f"known: {', '.join(sorted(known))}")
    raise wrong("plan", f"there is no plan {terms.plan!r}; {near}")


def demand_active(tenant: Terms, command: str) -> None:
    """Raise HTTPException where a tenant is suspended; `command` of `sluiceway` sets its terms."""
    if tenant.state == "suspended":
        raise conflict(
            f"The {tenant.kind} is suspended, and its record may be all that keeps its callers out. If they may come "
            f"in again, make it active first (`sluiceway {command} --state active`)."
        )


def compiled(parts: Parts, name: str, document: dict[str, Any], field: str | None = None) -> Plan:
    """Return the plan `name` that a document tells, which is the body or its `field`.

    Raises ValidationException, which names every mistake.
    """
    try:
        return parts.compile_plan(name, document)
    except ConfigError as error:
        raise mistaken(error, "The plan has mistakes.", field) from error


def mistaken(error: ConfigError, message: str, field: str | None) -> ValidationException:
    """Return the error that names every mistake in a document, which is the body or its `field`."""
    told = [
        {"key": _place(one.where, field), "message": f"{one.message}; {one.remedy}", "ours": True}
        for one in error.mistakes
    ]
    return ValidationException(message, extra=told)


def _place(where: str, field: str | None) -> str:
    """Return where in a body a mistake is: one of a whole document says `plan`, or its field's own name."""
    if field is None:
        return where
    return field if where in {"plan", field} else f"{field}.{where}"


def plan_in_force(terms: Terms | None, of_file: Plan | None) -> str | None:
    """Return the name of the plan that a tenant is held to; None: it has meters of its own, or none at all."""
    if terms is not None and terms.meters is not None:
        return None
    if terms is not None and terms.plan is not None:
        return terms.plan
    return None if of_file is None else of_file.name
