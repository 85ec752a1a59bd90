"""Records are changed by those who have seen them: ETags, and the headers that name one.

Law: nobody overwrites what he has not read. A record's ETag is its version; the store itself compares it with the one
that a change names, so of two changes of one version exactly one is made. What changes nothing is not written.
Nothing that is needed is gone: what a record needs must be there as it is written, and what came to need one while it
was removed brings it back.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from litestar import Response
from litestar.datastructures import ResponseHeader
from litestar.exceptions import HTTPException
from litestar.params import HeaderParameter

from gateway.api.admin_answers import wrong
from gateway.identity.key_making import bare, bring
from gateway.identity.records import Author, Record
from gateway.identity.registry import Conflict, Lacking, Named, Registry, Stored
from gateway.store.door import StoreDown

R = TypeVar("R", bound=Record)
A = TypeVar("A")

IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="if-match",
        description="The ETag of the record as it was read, or * to overwrite whatever is there. "
        "Without it nothing that exists is changed.",
    ),
]
IfNoneMatch = Annotated[
    str | None, HeaderParameter(name="if-none-match", description="*: only create, change nothing that exists.")
]

ETAG = [
    ResponseHeader(
        name="etag", description="The record's version; send it as If-Match to change it.", documentation_only=True
    )
]

_TAG = re.compile(r'(?:W/)?("[^"]*")')
"""An entity tag (RFC 9110, 8.8.3). Proxies that compress make them weak; a version is exact all the same."""


class Versions:
    """Changes records of the registry, each as one author asks."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def put(
        self,
        record: R,
        author: Author,
        *,
        if_match: str | None,
        if_none_match: str | None,
        needs: Callable[[R, R | None], Awaitable[Sequence[Named]]],
    ) -> tuple[Stored[R], bool]:
        """Write `record` in place of the one of its name, or anew; return it, and whether it is new.

        `needs` takes it and what it replaces, raises where it cannot be, and returns the records that must be there.
        It is asked once the headers allow the change. Raises what `allowed` and `needs` raise.
        """
        while True:
            there = await self._registry.get(type(record), record.id)
            expected = allowed(there, if_match, if_none_match)
            if there is not None and there.record == record:
                return there, False
            action, before = ("create", None) if there is None else ("update", there.record)
            requires = await needs(record, before)
            try:
                version = await self._registry.put(
                    record, author, action=action, expected=expected, before=before, requires=requires
                )
            except (Conflict, Lacking):
                continue  # the next look says what of it: the headers may allow the new one
            return Stored(record, version), there is None

    async def change(
        self,
        sort: type[R],
        name: str,
        make: Callable[[R], R],
        author: Author,
        *,
        if_match: str | None,
        missing: HTTPException,
        needs: Callable[[R, R | None], Awaitable[Sequence[Named]]],
        action: str = "update",
    ) -> Stored[R]:
        """Write what `make` makes of the record that is there, and return it; raise `missing` where there is none.

        `make` may raise, and is called again where another author was faster; `needs` is as for `put`. Raises what
        they and `allowed` raise.
        """
        while True:
            there = await self._registry.get(sort, name)
            if there is None:
                raise missing
            expected = allowed(there, if_match)
            record = make(there.record)
            if record == there.record:
                return there
            requires = await needs(record, there.record)
            try:
                version = await self._registry.put(
                    record, author, action=action, expected=expected, before=there.record, requires=requires
                )
            except (Conflict, Lacking):
                continue
            return Stored(record, version)

    async def remove(
        self,
        sort: type[R],
        name: str,
        author: Author,
        *,
        if_match: str | None,
        demand_unneeded: Callable[[R], Awaitable[None]],
    ) -> bool:
        """Remove a record; False where there is none.

        `demand_unneeded` raises HTTPException where it must stay. It looks before, and again once the record is gone:
        whoever needs it from then on finds it missing, and for who came between it is put back. Raises what `allowed`
        and `demand_unneeded` raise.
        """
        while True:
            there = await self._registry.get(sort, name)
            if there is None:
                return False
            expected = allowed(there, if_match)
            await demand_unneeded(there.record)
            try:
                await self._registry.remove(there.record, author, expected=expected)
            except Conflict:
                continue
            try:
                await demand_unneeded(there.record)
            except (HTTPException, StoreDown):
                await self._put_back(there.record, author)
                raise
            return True

    async def _put_back(self, record: Record, author: Author) -> None:
        """Write what was removed again, unless somebody has written another; one that a key brought along gives way."""
        while True:
            there = await self._registry.get(type(record), record.id)
            if there is not None and (there.record == record or there.record != bare(record)):
                return
            expected, before = (0, None) if there is None else (there.version, there.record)
            requires = await bring(self._registry, author, record)
            with suppress(Conflict, Lacking):
                await self._registry.put(
                    record, author, action="restore", expected=expected, before=before, requires=requires
                )
                return


async def needs_nothing(_: Record, __: Record | None) -> tuple[Named, ...]:
    """Say that a record may be as it is, and needs no other."""
    return ()


def allowed(there: Stored[Any] | None, if_match: str | None, if_none_match: str | None = None) -> int:
    """Return the version that a change replaces (0: none is there), if its headers allow it.

    Raises ValidationException (400) where a header is none, HTTPException 412 where it names another version, 428 where
    it is missing.
    """
    if if_none_match is not None and if_none_match.strip() != "*":
        raise wrong("if-none-match", "must be *, or be left out")
    tag = None if if_match is None or if_match.strip() == "*" else _tag(if_match)
    if there is None:
        if if_match is not None:
            raise _failed("There is no such record (any more), so nothing was changed. Without If-Match it is created.")
        return 0
    if if_none_match is not None:
        raise _failed(f"There is one already, at version {there.version}; nothing was changed.")
    if if_match is None:
        raise HTTPException(
            f"There is one already, at version {there.version}. Read it, and send its ETag as If-Match: "
            "so you change only what you have seen. If-Match: * overwrites whatever is there.",
            status_code=428,
        )
    if tag is not None and tag != etag(there.version):
        raise _failed(
            f"It was changed meanwhile: it is at version {there.version}, not at {tag}. Nothing was changed; "
            "read it again."
        )
    return there.version


def etag(version: int) -> str:
    """Return the ETag of a version."""
    return f'"{version}"'


def answer(content: A, version: int | None, status: int = 200) -> Response[A]:
    """Answer with a record at that version; None: it has none, since the store does not have it."""
    headers: Mapping[str, str] = {} if version is None else {"etag": etag(version)}
    return Response(content, status_code=status, headers=headers, media_type="application/json")


def _tag(header: str) -> str:
    found = _TAG.fullmatch(header.strip())
    if found is None:
        raise wrong("if-match", 'must be one ETag as an answer had it, such as "7" with its quotes, or *')
    return found[1]


def _failed(message: str) -> HTTPException:
    return HTTPException(message, status_code=412)
