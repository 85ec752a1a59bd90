"""The admin API's routes for the teams of an organization.

Law: as for organizations: one list for the store's and the file's, and no team is removed from under its keys.
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
from gateway.api.admin_doubts import Warnings, doubts
from gateway.api.admin_fields import NAME
from gateway.api.admin_organizations import OrganizationName, missing
from gateway.api.admin_paging import DEFAULT_PAGE, Limit, NameCursor, merged
from gateway.api.admin_parts import Parts
from gateway.api.admin_terms import TermsAnswer, TermsBody, check_terms, demand_active, plan_in_force, terms_of
from gateway.api.admin_versions import ETAG, IfMatch, IfNoneMatch, Versions, answer
from gateway.identity.key_making import bring
from gateway.identity.records import KeyRecord, OrganizationRecord, TeamRecord
from gateway.identity.registry import Named, Registry, Stored
from policies.domain import Plan

TeamName = Annotated[str, PathParameter(pattern=NAME, description="The team's name.")]


class TeamBody(TermsBody, frozen=True, kw_only=True):
    """A team as it is written."""


class TeamAnswer(TermsAnswer, frozen=True, kw_only=True):
    """A team as it is read; `version`, `source` and `plan_in_force` are as an organization's."""

    organization: str
    name: str
    version: int | None
    source: Literal["store", "file"]
    plan_in_force: str | None


class PutTeamAnswer(TeamAnswer, frozen=True, kw_only=True):
    """A team that was written."""

    warnings: Warnings


class TeamPage(Struct, frozen=True):
    """Teams in the order of their names; `next` is the cursor of the page after, null on the last."""

    teams: list[TeamAnswer]
    next: str | None


def team_routes(parts: Parts) -> list[HTTPRouteHandler]:
    """Build the routes that list, show, change and remove teams."""
    return [_list(parts), _show(parts), _put(parts), _remove(parts)]


def _list(parts: Parts) -> HTTPRouteHandler:
    @get(
        "/organizations/{organization:str}/teams",
        summary="List teams",
        description="Lists an organization's teams of the store and of the file, a page at a time.",
        responses=noes("A parameter is wrong.", not_found="There is no such organization."),
    )
    async def list_teams(
        organization: OrganizationName, cursor: NameCursor = None, limit: Limit = DEFAULT_PAGE
    ) -> TeamPage:
        after = None if cursor is None else _id(organization, cursor)
        page = await parts.registry.page(TeamRecord, after=after, limit=limit, organization=organization)
        found = {one.record.name: one for one in page.records}
        until = None if page.cursor is None else page.cursor.partition("/")[2]
        names, following = merged(found, _of_file(parts, organization), after=cursor, until=until, limit=limit)
        if not names and not await _known(parts, organization):
            raise missing(organization)
        return TeamPage([_told(parts, organization, name, found.get(name)) for name in names], following)

    return list_teams


def _show(parts: Parts) -> HTTPRouteHandler:
    @get(
        "/organizations/{organization:str}/teams/{team:str}",
        summary="Show a team",
        description="Shows one team, of the store or of the file.",
        response_headers=ETAG,
        responses=noes("A name is wrong.", not_found="There is no such team."),
    )
    async def show_team(organization: OrganizationName, team: TeamName) -> Response[TeamAnswer]:
        there = await parts.registry.get(TeamRecord, _id(organization, team))
        if there is None and team not in _of_file(parts, organization):
            raise _missing(organization, team)
        return answer(_told(parts, organization, team, there), None if there is None else there.version)

    return show_team


def _put(parts: Parts) -> HTTPRouteHandler:
    @put(
        "/organizations/{organization:str}/teams/{team:str}",
        summary="Create or change a team",
        description="Takes the whole of it: what the body leaves out is as it is by default. "
        "Its organization is made if there is none of that name.",
        response_headers=ETAG,
        responses={
            **noes("A field is wrong.", **BODY, **CHANGING),
            201: ResponseSpec(PutTeamAnswer, description="It is new.", generate_examples=False),
        },
    )
    async def put_team(
        *,
        request: AnyRequest,
        organization: OrganizationName,
        team: TeamName,
        data: JSONBody[TeamBody],
        if_match: IfMatch = None,
        if_none_match: IfNoneMatch = None,
    ) -> Response[PutTeamAnswer]:
        warnings: tuple[str, ...] = ()

        async def needs(record: TeamRecord, before: TeamRecord | None) -> tuple[Named, ...]:
            nonlocal warnings
            plan = await check_terms(parts, record, before)
            warnings = await doubts(parts, record, before)
            return (*await bring(parts.registry, author_of(request), record), *plan)

        stored, new = await Versions(parts.registry).put(
            TeamRecord(organization=organization, name=team, **terms_of(data)),
            author_of(request),
            if_match=if_match,
            if_none_match=if_none_match,
            needs=needs,
        )
        told = PutTeamAnswer(warnings=warnings, **_fields(parts, organization, team, stored))
        return answer(told, stored.version, 201 if new else 200)

    return put_team


def _remove(parts: Parts) -> HTTPRouteHandler:
    @delete(
        "/organizations/{organization:str}/teams/{team:str}",
        summary="Remove a team",
        description="Removes its record, once it has no keys that are not revoked, and while it is active.",
        responses=noes(
            "A name is wrong.",
            not_found="There is no such team.",
            conflict="It has keys, is suspended, or is only in the file.",
            **CHANGING,
        ),
    )
    async def remove_team(
        request: AnyRequest, organization: OrganizationName, team: TeamName, if_match: IfMatch = None
    ) -> None:
        gone = await Versions(parts.registry).remove(
            TeamRecord,
            _id(organization, team),
            author_of(request),
            if_match=if_match,
            demand_unneeded=partial(_demand_unneeded, parts.registry),
        )
        if not gone:
            if team in _of_file(parts, organization):
                raise conflict("This team is only in gateway.yaml; take it out there.")
            raise _missing(organization, team)

    return remove_team


async def _demand_unneeded(registry: Registry, team: TeamRecord) -> None:
    """Raise HTTPException where the record of a team must stay, and StoreDown."""
    command = f"teams set {team.organization} {team.name}"
    keys = [one.record for one in await registry.every(KeyRecord, organization=team.organization)]
    live = sum(key.team == team.name and not key.revoked for key in keys)
    if live:
        raise conflict(
            f"The team still has keys that are not revoked: {live}. Revoke them first, or suspend the team: PUT it as "
            f"suspended (`sluiceway {command} --state suspended`)."
        )
    demand_active(team, command)


def _id(organization: str, team: str) -> str:
    return f"{organization}/{team}"


def _missing(organization: str, team: str) -> NotFoundException:
    return NotFoundException(
        f"{organization} has no team {team}. `sluiceway teams ls {organization}` shows which there are."
    )


def _of_file(parts: Parts, organization: str) -> dict[str, Plan | None]:
    found = parts.organizations.get(organization)
    return {} if found is None else found.teams


async def _known(parts: Parts, organization: str) -> bool:
    if organization in parts.organizations:
        return True
    return await parts.registry.get(OrganizationRecord, organization) is not None


def _told(parts: Parts, organization: str, name: str, there: Stored[TeamRecord] | None) -> TeamAnswer:
    return TeamAnswer(**_fields(parts, organization, name, there))


def _fields(parts: Parts, organization: str, name: str, there: Stored[TeamRecord] | None) -> dict[str, Any]:
    record = TeamRecord(organization=organization, name=name) if there is None else there.record
    return {
        "organization": organization,
        "name": name,
        "version": None if there is None else there.version,
        "source": "file" if there is None else "store",
        "plan_in_force": plan_in_force(record, _of_file(parts, organization).get(name)),
        **terms_of(record),
    }
