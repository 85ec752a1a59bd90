"""The admin API's routes for organizations.

Law: one list for the store's and the file's, in the order of their names; what is only in the file is shown and not
changed. An organization with keys or teams is not removed from under them.
"""

from functools import cache, partial
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from litestar import Response, delete, get, put
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter
from msgspec import Meta, Struct

from gateway.api.admin_answers import BODY, CHANGING, AnyRequest, conflict, noes, wrong
from gateway.api.admin_authors import author_of
from gateway.api.admin_doubts import Warnings, doubts
from gateway.api.admin_fields import NAME, RULES
from gateway.api.admin_paging import DEFAULT_PAGE, Limit, NameCursor, merged
from gateway.api.admin_parts import Parts
from gateway.api.admin_terms import TermsAnswer, TermsBody, check_terms, demand_active, plan_in_force, terms_of
from gateway.api.admin_versions import ETAG, IfMatch, IfNoneMatch, Versions, answer
from gateway.identity.records import KeyRecord, OrganizationRecord, TeamRecord
from gateway.identity.registry import Named, Registry, Stored

OrganizationName = Annotated[str, PathParameter(pattern=NAME, description="The organization's name.")]


class OrganizationBody(TermsBody, frozen=True, kw_only=True):
    """An organization as it is written. Without a `time_zone` it has the file's, else UTC."""

    time_zone: Annotated[str, Meta(max_length=64, description="An IANA name.")] | None = None


class OrganizationAnswer(TermsAnswer, frozen=True, kw_only=True):
    """An organization as it is read.

    `version`: null for one that only the file has. `plan_in_force`: the plan it is held to, the file's where its
    record names none; null where it has meters of its own, or none. `time_zone_in_force`: likewise.
    """

    name: str
    time_zone: str | None
    time_zone_in_force: str
    version: int | None
    source: Literal["store", "file"]
    plan_in_force: str | None


class PutOrganizationAnswer(OrganizationAnswer, frozen=True, kw_only=True):
    """An organization that was written."""

    warnings: Warnings


class OrganizationPage(Struct, frozen=True):
    """Organizations in the order of their names; `next` is the cursor of the page after, null on the last."""

    organizations: list[OrganizationAnswer]
    next: str | None


def organization_routes(parts: Parts) -> list[HTTPRouteHandler]:
    """Build the routes that list, show, change and remove organizations."""
    return [_list(parts), _show(parts), _put(parts), _remove(parts)]


def _list(parts: Parts) -> HTTPRouteHandler:
    @get(
        "/organizations",
        summary="List organizations",
        description="Lists the organizations of the store and of the file, a page at a time.",
        responses=noes("A parameter is wrong."),
    )
    async def list_organizations(cursor: NameCursor = None, limit: Limit = DEFAULT_PAGE) -> OrganizationPage:
        page = await parts.registry.page(OrganizationRecord, after=cursor, limit=limit)
        found = {one.record.name: one for one in page.records}
        names, following = merged(found, parts.organizations, after=cursor, until=page.cursor, limit=limit)
        return OrganizationPage([_told(parts, name, found.get(name)) for name in names], following)

    return list_organizations


def _show(parts: Parts) -> HTTPRouteHandler:
    @get(
        "/organizations/{organization:str}",
        summary="Show an organization",
        description="Shows one organization, of the store or of the file.",
        response_headers=ETAG,
        responses=noes("The name is wrong.", not_found="There is no such organization."),
    )
    async def show_organization(organization: OrganizationName) -> Response[OrganizationAnswer]:
        there = await parts.registry.get(OrganizationRecord, organization)
        if there is None and organization not in parts.organizations:
            raise missing(organization)
        return answer(_told(parts, organization, there), None if there is None else there.version)

    return show_organization


def _put(parts: Parts) -> HTTPRouteHandler:
    @put(
        "/organizations/{organization:str}",
        summary="Create or change an organization",
        description="Takes the whole of it: what the body leaves out is as it is by default.",
        response_headers=ETAG,
        responses={
            **noes("A field is wrong.", **BODY, **CHANGING),
            201: ResponseSpec(PutOrganizationAnswer, description="It is new.", generate_examples=False),
        },
    )
    async def put_organization(
        request: AnyRequest,
        organization: OrganizationName,
        data: JSONBody[OrganizationBody],
        if_match: IfMatch = None,
        if_none_match: IfNoneMatch = None,
    ) -> Response[PutOrganizationAnswer]:
        record = OrganizationRecord(name=organization, time_zone=data.time_zone, **terms_of(data))
        if record.time_zone is not None and record.time_zone not in _zones():
            raise wrong("time_zone", RULES["time_zone"])
        warnings: tuple[str, ...] = ()

        async def needs(record: OrganizationRecord, before: OrganizationRecord | None) -> tuple[Named, ...]:
            nonlocal warnings
            plan = await check_terms(parts, record, before)
            warnings = await doubts(parts, record, before)
            return plan

        stored, new = await Versions(parts.registry).put(
            record,
            author_of(request),
            if_match=if_match,
            if_none_match=if_none_match,
            needs=needs,
        )
        told = PutOrganizationAnswer(warnings=warnings, **_fields(parts, organization, stored))
        return answer(told, stored.version, 201 if new else 200)

    return put_organization


def _remove(parts: Parts) -> HTTPRouteHandler:
    @delete(
        "/organizations/{organization:str}",
        summary="Remove an organization",
        description="Removes its record, once it has neither teams nor keys that are not revoked, and while it is "
        "active.",
        responses=noes(
            "The name is wrong.",
            not_found="There is no such organization.",
            conflict="It has keys or teams, is suspended, or is only in the file.",
            **CHANGING,
        ),
    )
    async def remove_organization(
        request: AnyRequest, organization: OrganizationName, if_match: IfMatch = None
    ) -> None:
        gone = await Versions(parts.registry).remove(
            OrganizationRecord,
            organization,
            author_of(request),
            if_match=if_match,
            demand_unneeded=partial(_demand_unneeded, parts.registry),
        )
        if not gone:
            if organization in parts.organizations:
                raise conflict("This organization is only in gateway.yaml; take it out there.")
            raise missing(organization)

    return remove_organization


async def _demand_unneeded(registry: Registry, organization: OrganizationRecord) -> None:
    """Raise HTTPException where the record of an organization must stay, and StoreDown."""
    name = organization.name
    teams = len(await registry.every(TeamRecord, organization=name))
    live = sum(not one.record.revoked for one in await registry.every(KeyRecord, organization=name))
    if teams or live:
        raise conflict(
            f"The organization still has teams: {teams}, and keys that are not revoked: {live}. Revoke the keys and "
            "remove the teams first, or suspend the organization: PUT it as suspended "
            f"(`sluiceway orgs set {name} --state suspended`)."
        )
    demand_active(organization, f"orgs set {name}")


def missing(organization: str) -> NotFoundException:
    """Return the error of an organization that is neither in the store nor in the file."""
    return NotFoundException(f"There is no organization {organization}. `sluiceway orgs ls` shows which there are.")


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _told(parts: Parts, name: str, there: Stored[OrganizationRecord] | None) -> OrganizationAnswer:
    return OrganizationAnswer(**_fields(parts, name, there))


def _fields(parts: Parts, name: str, there: Stored[OrganizationRecord] | None) -> dict[str, Any]:
    of_file = parts.organizations.get(name)
    record = OrganizationRecord(name=name) if there is None else there.record
    return {
        "name": name,
        "time_zone": record.time_zone,
        "time_zone_in_force": record.time_zone or ("UTC" if of_file is None else of_file.time_zone),
        "version": None if there is None else there.version,
        "source": "file" if there is None else "store",
        "plan_in_force": plan_in_force(record, None if of_file is None else of_file.plan),
        **terms_of(record),
    }
