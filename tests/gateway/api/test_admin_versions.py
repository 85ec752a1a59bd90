import asyncio
from types import SimpleNamespace

import pytest
from litestar.exceptions import HTTPException

from gateway.api.admin_versions import Versions, allowed, answer, etag, needs_nothing
from gateway.identity.records import Author, OrganizationRecord
from gateway.identity.registry import Conflict, Registry
from tests.gateway.api.support import error, record, seen

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACME = "/organizations/acme"


def there(version):
    """Return a record, as far as a look at its version goes; None for version 0."""
    return SimpleNamespace(version=version) if version else None


@pytest.mark.parametrize(
    ("version", "if_match", "if_none_match", "outcome"),
    [
        (0, None, None, 0),
        (0, None, "*", 0),
        (0, '"7"', None, 412),
        (0, "*", None, 412),
        (7, None, None, 428),
        (7, '"7"', None, 7),
        (7, 'W/"7"', None, 7),
        (7, ' "7" ', None, 7),
        (7, "*", None, 7),
        (7, '"6"', None, 412),
        (7, '"07"', None, 412),
        (7, '"anything"', None, 412),
        (7, None, "*", 412),
        (7, '"7"', "*", 412),
        (7, "7", None, 400),
        (7, '"7", "8"', None, 400),
        (7, "", None, 400),
        (0, "nonsense", None, 400),
        (7, '"7"', '"6"', 400),
        (0, None, "", 400),
    ],
)
async def test_a_change_is_allowed_to_the_version_that_was_seen(version, if_match, if_none_match, outcome):
    if outcome < 100:
        assert allowed(there(version), if_match, if_none_match) == outcome
        return
    with pytest.raises(HTTPException) as raised:
        allowed(there(version), if_match, if_none_match)
    assert raised.value.status_code == outcome


async def test_an_answer_has_the_etag_of_its_version_if_it_has_one():
    assert answer("x", 12).headers == {"etag": '"12"'} == {"etag": etag(12)}
    assert answer("x", None, 201).headers == {}
    assert answer("x", None, 201).status_code == 201


async def test_two_admins_cannot_overwrite_each_other(admin):
    """The second is told the version in force, reads it, and changes that."""
    await admin.put(ACME, json={"models": ["a"]})
    mine, theirs = await admin.get(ACME), await admin.get(ACME)
    after_theirs = record(await admin.put(ACME, json={"models": ["a"], "local_only": True}, headers=seen(theirs)))
    told = error(await admin.put(ACME, json={"models": ["a", "b"]}, headers=seen(mine)), 412)
    assert told["code"] == "precondition_failed"
    assert f"version {after_theirs['version']}" in told["message"]
    assert {**record(await admin.get(ACME)), "warnings": after_theirs["warnings"]} == after_theirs
    again = await admin.get(ACME)
    assert record(await admin.put(ACME, json={"models": ["a", "b"], "local_only": True}, headers=seen(again)))


async def test_of_twenty_changes_of_one_version_exactly_one_is_made(admin):
    await admin.put(ACME, json={})
    headers = seen(await admin.get(ACME))
    bodies = [{"metadata": {"number": str(number)}} for number in range(20)]
    answers = await asyncio.gather(*(admin.put(ACME, json=body, headers=headers) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 19
    (made,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert {**record(await admin.get(ACME)), "warnings": []} == made
    assert len((await admin.get("/audit")).json()["lines"]) == 2


async def test_of_twenty_creations_exactly_one_is_made(admin):
    bodies = [{"metadata": {"number": str(number)}} for number in range(20)]
    answers = await asyncio.gather(
        *(admin.put(ACME, json=body, headers={"if-none-match": "*"}) for body in bodies[:10]),
        *(admin.put(ACME, json=body) for body in bodies[10:]),
    )
    codes = [answer.status_code for answer in answers]
    assert codes.count(201) == 1
    assert set(codes) == {201, 412, 428}


async def test_twenty_who_overwrite_whatever_is_there_are_all_obeyed(admin):
    """One after the other, and the audit tells of each what it replaced."""
    await admin.put(ACME, json={})
    bodies = [{"metadata": {"number": str(number)}} for number in range(20)]
    answers = await asyncio.gather(*(admin.put(ACME, json=body, headers={"if-match": "*"}) for body in bodies))
    assert {answer.status_code for answer in answers} == {200}
    lines = (await admin.get("/audit")).json()["lines"]
    assert [line["before"]["metadata"] for line in lines[:20]] == [line["after"]["metadata"] for line in lines[1:21]]


async def test_what_changes_nothing_is_not_written(admin):
    first = record(await admin.put(ACME, json={"models": ["a"]}), 201)
    again = record(await admin.put(ACME, json={"models": ["a"]}, headers={"if-match": "*"}))
    assert again["version"] == first["version"]
    assert len((await admin.get("/audit")).json()["lines"]) == 1


class Hasty(Registry):
    """A registry in which somebody else is always faster, once."""

    def __init__(self, store):
        super().__init__(store)
        self.conflicts = 0

    async def put(self, *args, **terms):
        if not self.conflicts:
            self.conflicts = 1
            raise Conflict(7)
        return await super().put(*args, **terms)

    async def remove(self, *args, **terms):
        if self.conflicts < 2:
            self.conflicts = 2
            raise Conflict(7)
        return await super().remove(*args, **terms)


async def unneeded(record):
    """Demand nothing: nobody needs it."""


async def test_whoever_lost_a_race_that_the_headers_allow_looks_again(store):
    registry = Hasty(store)
    versions, author = Versions(registry), Author("admin key")
    wanted = OrganizationRecord(name="acme")
    stored, new = await versions.put(wanted, author, if_match=None, if_none_match=None, needs=needs_nothing)
    assert (stored.record, new, registry.conflicts) == (wanted, True, 1)
    terms = {"if_match": "*", "demand_unneeded": unneeded}
    assert await versions.remove(OrganizationRecord, "acme", author, **terms)
    assert registry.conflicts == 2
    assert not await versions.remove(OrganizationRecord, "acme", author, **terms)


async def test_a_change_is_made_of_what_is_there_however_often_that_changes(store):
    registry, author = Hasty(store), Author("admin key")
    await Registry(store).put(OrganizationRecord(name="acme"), author, action="create", expected=0)
    looks = []

    def suspended(before):
        looks.append(before)
        return OrganizationRecord(name="acme", state="suspended")

    terms = {"if_match": "*", "missing": HTTPException(status_code=404), "needs": needs_nothing}
    stored = await Versions(registry).change(OrganizationRecord, "acme", suspended, author, **terms)
    assert (stored.record.state, len(looks)) == ("suspended", 2)
    with pytest.raises(HTTPException) as raised:
        await Versions(registry).change(OrganizationRecord, "nobody", suspended, author, **terms)
    assert raised.value.status_code == 404
