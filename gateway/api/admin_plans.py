"""The admin API's routes for plans.

Law: a plan that cannot be counted is not kept, and none is removed that somebody is held to. A stored plan takes the
place of the file's of that name; without it the file's is in force again.
"""

from functools import partial
from typing import Annotated, Any, Literal

from litestar import Response, delete, get, put
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter
from msgspec import Struct

from gateway.api.admin_answers import BODY, CHANGING, AnyRequest, conflict, noes
from gateway.api.admin_authors import author_of
from gateway.api.admin_fields import PLAN
from gateway.api.admin_parts import Parts
from gateway.api.admin_terms import compiled
from gateway.api.admin_versions import ETAG, IfMatch, IfNoneMatch, Versions, answer, needs_nothing
from gateway.config.settings import STANDARD
from gateway.config.stored import document_of
from gateway.identity.records import KeyRecord, OrganizationRecord, PlanRecord, TeamRecord, Terms
from gateway.identity.registry import Registry, Stored

PlanID = Annotated[str, PathParameter(pattern=PLAN, description="The plan's name.")]


class PlanAnswer(Struct, frozen=True):
    """A plan, as gateway.yaml would write it.

    `overrides`: it is in the store and takes the place of the file's. `version`: null where it is not in the store.
    """

    name: str
    source: Literal["store", "file", "built-in"]
    overrides: bool
    plan: dict[str, Any]
    version: int | None


class PlanList(Struct, frozen=True):
    """All plans in the order of their names."""

    plans: list[PlanAnswer]


def plan_routes(parts: Parts) -> list[HTTPRouteHandler]:
    """Build the routes that list, show, change and remove plans."""
    return [_list(parts), _show(parts), _put(parts), _remove(parts)]


def _list(parts: Parts) -> HTTPRouteHandler:
    @get(
        "/plans",
        summary="List plans",
        description="Lists the plans of the store, of the file, and the one that is always there.",
        responses=noes("The request is wrong."),
    )
    async def list_plans() -> PlanList:
        stored = {one.record.name: one for one in await parts.registry.every(PlanRecord)}
        return PlanList([_told(parts, name, stored.get(name)) for name in sorted({*stored, *parts.plans})])

    return list_plans


def _show(parts: Parts) -> HTTPRouteHandler:
    @get(
        "/plans/{plan:str}",
        summary="Show a plan",
        description="Shows the plan of that name that is in force.",
        response_headers=ETAG,
        responses=noes("The name is wrong.", not_found="There is no such plan."),
    )
    async def show_plan(plan: PlanID) -> Response[PlanAnswer]:
        there = await parts.registry.get(PlanRecord, plan)
        if there is None and plan not in parts.plans:
            raise _missing(plan)
        return answer(_told(parts, plan, there), None if there is None else there.version)

    return show_plan


def _put(parts: Parts) -> HTTPRouteHandler:
    @put(
        "/plans/{plan:str}",
        summary="Create or change a plan",
        description="Takes a plan as `plans` in gateway.yaml has it. In force on every gateway within a second, for "
        "all who have it.",
        response_headers=ETAG,
        responses={
            **noes("The plan has mistakes; each is told.", **BODY, **CHANGING),
            201: ResponseSpec(PlanAnswer, description="It is new.", generate_examples=False),
        },
    )
    async def put_plan(
        request: AnyRequest,
        plan: PlanID,
        data: JSONBody[dict[str, Any]],
        if_match: IfMatch = None,
        if_none_match: IfNoneMatch = None,
    ) -> Response[PlanAnswer]:
        compiled(parts, plan, data)

        record = PlanRecord(name=plan, plan=data)
        stored, new = await Versions(parts.registry).put(
            record, author_of(request), if_match=if_match, if_none_match=if_none_match, needs=needs_nothing
        )
        return answer(_told(parts, plan, stored), stored.version, 201 if new else 200)

    return put_plan


def _remove(parts: Parts) -> HTTPRouteHandler:
    @delete(
        "/plans/{plan:str}",
        summary="Remove a plan",
        description="Removes it from the store, unless somebody is held to it and the file has none of its name.",
        responses=noes(
            "The name is wrong.",
            not_found="There is no such plan.",
            conflict="Somebody is held to it, or it is not in the store.",
            **CHANGING,
        ),
    )
    async def remove_plan(request: AnyRequest, plan: PlanID, if_match: IfMatch = None) -> None:
        gone = await Versions(parts.registry).remove(
            PlanRecord,
            plan,
            author_of(request),
            if_match=if_match,
            demand_unneeded=partial(_demand_unneeded, parts),
        )
        if not gone:
            if plan in parts.plans:
                raise conflict("This plan is not in the store: it comes from gateway.yaml, or is the built-in one.")
            raise _missing(plan)

    return remove_plan


async def _demand_unneeded(parts: Parts, plan: PlanRecord) -> None:
    """Raise HTTPException where the record of a plan must stay, and StoreDown."""
    if plan.name not in parts.plans and (held := await _held(parts.registry, plan.name)):
        raise conflict(f"{_listed(held)} held to this plan. Give them another first.")


async def _held(registry: Registry, plan: str) -> list[str]:
    """Return whoever a plan is given to, in words."""
    sorts: tuple[type[Terms], ...] = (OrganizationRecord, TeamRecord, KeyRecord)
    return [
        f"{sort.kind} {one.record.id}"
        for sort in sorts
        for one in await registry.every(sort)
        if one.record.plan == plan and not (isinstance(one.record, KeyRecord) and one.record.revoked)
    ]


def _listed(names: list[str]) -> str:
    """Return the first few of `names`, the number of the others, and a verb."""
    shown, more = names[:5], len(names) - 5
    told = ", ".join(shown) + (f" and {more} more" if more > 0 else "")
    return f"{told} {'is' if len(names) == 1 else 'are'}"


def _missing(plan: str) -> NotFoundException:
    return NotFoundException(f"There is no plan {plan}. `sluiceway plans ls` shows which there are.")


def _told(parts: Parts, name: str, there: Stored[PlanRecord] | None) -> PlanAnswer:
    if there is not None:
        return PlanAnswer(name, "store", name in parts.plans, there.record.plan, there.version)
    plan = parts.plans[name]
    return PlanAnswer(name, "built-in" if plan is STANDARD else "file", False, document_of(plan), None)  # noqa: FBT003
