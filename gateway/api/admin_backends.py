"""The admin API's routes for backends: what this gateway sees of them, and drains, which hold at every gateway.

Law: a drain is a record like any other, with an author and a line in the audit; draining twice is no error. What a
gateway knows of its backends by itself is told without the store too.
"""

from contextlib import suppress
from typing import Annotated

from litestar import get, post
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody, PathParameter
from msgspec import Struct
from msgspec.structs import asdict, replace

from gateway.api.admin_answers import BODY, AnyRequest, noes, wrong
from gateway.api.admin_authors import author_of
from gateway.api.admin_fields import RULES, Reason
from gateway.api.admin_parts import BackendView, ModelOut, Parts
from gateway.api.admin_schemas import OptionalBody
from gateway.identity.records import Author, DrainRecord
from gateway.identity.registry import Conflict, Registry
from gateway.store.door import StoreDown
from policies.reach import family

UNCONFIRMED = "The store is down: which backends are drained is what this gateway knew last, without reasons."
"""What is told with a list that the store could not confirm."""

BackendName = Annotated[
    str, PathParameter(description="A backend's name; that of several replicas stands for all of them.")
]


class BackendAnswer(Struct, frozen=True, kw_only=True):
    """A backend as this gateway sees it. `up`: null where it is not probed; `why`: what is wrong with it.

    `in_flight`: this gateway's calls that are there now. `drained`: it takes no new calls, at any gateway; `reason`: an
    operator's words for that. `models`: by the names that the backend knows them; `out`: those of them that calls are
    kept away from, though it may be up; `unlisted`: those that it has not in its own list of models.
    """

    name: str
    kind: str
    hosted: bool
    up: bool | None
    why: str | None
    in_flight: int
    drained: bool
    reason: str | None
    models: tuple[str, ...]
    out: tuple[ModelOut, ...]
    unlisted: tuple[str, ...]


class BackendList(Struct, frozen=True):
    """All backends. `note`: the store is down, so that drains are those this gateway knew last; else null.

    `served`: the names by which callers may ask for models now, aliases too.
    """

    backends: list[BackendAnswer]
    note: str | None
    served: list[str]


class Drain(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a backend is drained, for people."""

    reason: Reason = ""


def backend_routes(parts: Parts) -> list[HTTPRouteHandler]:
    """Build the routes that list, drain and resume backends."""
    return [_list(parts), _drain(parts), _resume(parts)]


def _list(parts: Parts) -> HTTPRouteHandler:
    @get(
        "/backends",
        summary="List backends",
        description="Lists the backends of this gateway, and what it knows of each.",
        responses=noes("The request is wrong."),
    )
    async def list_backends() -> BackendList:
        served = [name for model in parts.catalog().models for name in (model.name, *model.aliases)]
        try:
            drains = {one.record.backend: one.record.reason for one in await parts.registry.every(DrainRecord)}
        except StoreDown:
            return BackendList([_remembered(view) for view in parts.backends()], UNCONFIRMED, served)
        return BackendList([_told(view, drains) for view in parts.backends()], None, served)

    return list_backends


def _drain(parts: Parts) -> HTTPRouteHandler:
    @post(
        "/backends/{backend:str}/drain",
        summary="Drain a backend",
        description="Sends it no new calls, from any gateway, within a second; those that are there end as they would.",
        operation_class=OptionalBody,
        status_code=204,
        responses=noes("A field is wrong.", not_found="There is no such backend.", **BODY),
    )
    async def drain(request: AnyRequest, backend: BackendName, data: JSONBody[Drain | None] = None) -> None:
        reason = "" if data is None else data.reason
        if not reason.isprintable():
            raise wrong("reason", RULES["reason"])
        _demand_known(parts, backend)
        await _write(parts.registry, DrainRecord(backend=backend, reason=reason), author_of(request))

    return drain


def _resume(parts: Parts) -> HTTPRouteHandler:
    @post(
        "/backends/{backend:str}/resume",
        summary="Resume a backend",
        description="Ends a drain: calls go there again, from every gateway, within a second.",
        status_code=204,
        responses=noes("The name is wrong.", not_found="There is no such backend."),
    )
    async def resume(request: AnyRequest, backend: BackendName) -> None:
        if not await _end(parts.registry, backend, author_of(request)):
            _demand_known(parts, backend)

    return resume


async def _write(registry: Registry, record: DrainRecord, author: Author) -> None:
    """Drain a backend as `record` has it, which may be as it is already. Raises StoreDown."""
    while True:
        there = await registry.get(DrainRecord, record.backend)
        expected, before = (0, None) if there is None else (there.version, there.record)
        if before == record:
            return
        with suppress(Conflict):  # the audit tells what was replaced, so that is looked at again
            await registry.put(record, author, action="drain", expected=expected, before=before)
            return


async def _end(registry: Registry, backend: str, author: Author) -> bool:
    """End a drain; False where there is none. Raises StoreDown."""
    while True:
        there = await registry.get(DrainRecord, backend)
        if there is None:
            return False
        with suppress(Conflict):
            await registry.remove(there.record, author, expected=there.version, action="resume")
            return True


def _demand_known(parts: Parts, backend: str) -> None:
    """Raise NotFoundException where this gateway has neither such a backend nor replicas of one."""
    if not any(backend in {view.name, family(view.name)} for view in parts.backends()):
        raise NotFoundException(f"There is no backend {backend}. `sluiceway backends ls` shows which there are.")


def _told(view: BackendView, drains: dict[str, str]) -> BackendAnswer:
    reason = drains.get(view.name, drains.get(family(view.name)))
    return BackendAnswer(**asdict(replace(view, drained=reason is not None)), reason=reason or None)


def _remembered(view: BackendView) -> BackendAnswer:
    return BackendAnswer(**asdict(view), reason=None)
