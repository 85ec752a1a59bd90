"""Whatever is removed while somebody comes to need it: the look, the removal, and the look after it."""

import asyncio
from functools import partial

import httpx
import pytest
import pytest_asyncio
from litestar.exceptions import HTTPException
from msgspec.structs import replace

from gateway.api.admin_versions import Versions
from gateway.identity.key_making import blank, create_key
from gateway.identity.records import Author, KeyRecord, OrganizationRecord, PlanRecord, TeamRecord
from gateway.identity.registry import Registry
from gateway.store.door import StoreDown
from tests.gateway.api.conftest import app_over, parts_over
from tests.gateway.api.support import ADMIN_KEY, error
from tests.gateway.identity.support import served

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANY = {"if-match": "*"}
ANN = Author("admin key")
ACME = "/organizations/acme"
TEAM = f"{ACME}/teams/research"
PAIRS = 40


class Meanwhile(Registry):
    """A registry in which somebody does `before` or `after` right at a removal, once."""

    before = after = None

    async def remove(self, record, author, **terms):
        doing, self.before = self.before, None
        if doing:
            await doing()
        version = await super().remove(record, author, **terms)
        doing, self.after = self.after, None
        if doing:
            await doing()
        return version


@pytest.fixture(scope="module")
def meanwhile(whole_store):
    return Meanwhile(whole_store)


@pytest.fixture(scope="module")
def app(whole_store, current, meanwhile):
    return app_over(replace(parts_over(whole_store, current), registry=meanwhile))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(app):
    async with served(app) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module")
async def many(url, store):
    """Return a client whose requests all go out at once."""
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=f"{url}/admin/v1", headers=headers, verify=False, limits=limits) as client:
        yield client


@pytest.fixture
def key_comes(registry):
    """Return what makes a key of the team."""
    return partial(create_key, registry, ANN, blank("acme", "research", "ci"))


async def actions(registry):
    return [(line.kind, line.action) for line in await registry.audit()]


async def at_once(pairs):
    """Run pairs of requests, each next to its other, and return the pairs of answers."""
    answers = await asyncio.gather(*(one for pair in pairs for one in pair))
    return list(zip(answers[::2], answers[1::2], strict=True))


async def test_of_keys_made_while_their_tenants_are_removed_none_is_left_without_them(many, registry):
    """And a removal that is refused has left the terms as they were."""
    names = [f"o{number}" for number in range(PAIRS)]
    for name in names:
        await many.put(f"/organizations/{name}/teams/t", json={"plan": "small"})

    async def remove(name):
        team = await many.delete(f"/organizations/{name}/teams/t", headers=ANY)
        return team, await many.delete(f"/organizations/{name}", headers=ANY)

    def make(name):
        return many.post("/keys", json={"organization": name, "team": "t", "name": "ci"})

    answers = await at_once([(make(name), remove(name)) for name in names])

    for name, (made, (team, organization)) in zip(names, answers, strict=True):
        assert made.status_code == 201
        assert len(await registry.every(KeyRecord, organization=name)) == 1
        assert await registry.get(OrganizationRecord, name) is not None
        kept = await registry.get(TeamRecord, f"{name}/t")
        assert kept is not None
        assert team.status_code in {204, 409}
        assert organization.status_code in {204, 409}
        assert team.status_code == 204 or kept.record.plan == "small"


async def test_no_tenant_is_left_with_a_plan_that_is_gone(many, registry):
    """Neither an organization, nor a team, nor a key."""
    names = [f"p{number}" for number in range(PAIRS)]
    for name in names:
        await many.put(f"/plans/{name}", json={"requests_per_minute": 5})

    def give(number, name):
        match number % 3:
            case 0:
                return many.put(f"/organizations/{name}", json={"plan": name})
            case 1:
                return many.put(f"/organizations/{name}/teams/t", json={"plan": name})
            case _:
                return many.post("/keys", json={"organization": name, "team": "t", "name": "ci", "plan": name})

    answers = await at_once(
        [(give(number, name), many.delete(f"/plans/{name}", headers=ANY)) for number, name in enumerate(names)]
    )

    there = {one.record.name for one in await registry.every(PlanRecord)}
    for sort in (OrganizationRecord, TeamRecord, KeyRecord):
        assert {one.record.plan for one in await registry.every(sort)} - {None} <= there
    for name, (given, removed) in zip(names, answers, strict=True):
        assert given.status_code in {201, 400, 409}
        assert removed.status_code == (409 if name in there else 204)


async def test_a_team_that_gets_a_key_as_it_is_removed_is_put_back_as_it_was(admin, meanwhile, registry, key_comes):
    await admin.put(TEAM, json={"plan": "small", "models": ["a*"]})
    meanwhile.before = key_comes
    assert "not revoked: 1" in error(await admin.delete(TEAM, headers=ANY), 409)["message"]
    team = (await registry.get(TeamRecord, "acme/research")).record
    assert (team.plan, team.models) == ("small", ("a*",))
    assert (await actions(registry))[:3] == [("team", "restore"), ("team", "delete"), ("key", "create")]


async def test_what_a_key_brings_along_in_between_gives_way(admin, meanwhile, registry, key_comes):
    """Or the team's terms would be lost to a record that says nothing."""
    await admin.put(TEAM, json={"plan": "small"})
    meanwhile.after = key_comes
    error(await admin.delete(TEAM, headers=ANY), 409)
    assert (await registry.get(TeamRecord, "acme/research")).record.plan == "small"


async def test_what_somebody_wrote_in_between_stays(admin, meanwhile, registry, key_comes):
    """Nobody overwrites what he has not read."""
    await admin.put(TEAM, json={"plan": "small"})

    async def another():
        wanted = TeamRecord(organization="acme", name="research", plan="standard")
        await registry.put(wanted, ANN, action="create", expected=0)
        await key_comes()

    meanwhile.after = another
    error(await admin.delete(TEAM, headers=ANY), 409)
    assert (await registry.get(TeamRecord, "acme/research")).record.plan == "standard"


async def test_a_team_is_put_back_with_its_organization(admin, meanwhile, registry, key_comes):
    await admin.put(TEAM, json={"plan": "small"})
    meanwhile.before = key_comes

    async def organization_goes():
        await registry.remove(OrganizationRecord(name="acme"), ANN, expected=None)

    meanwhile.after = organization_goes
    error(await admin.delete(TEAM, headers=ANY), 409)
    assert await registry.get(OrganizationRecord, "acme") is not None
    assert (await registry.get(TeamRecord, "acme/research")).record.plan == "small"


async def test_an_organization_that_gets_a_team_as_it_is_removed_is_put_back(admin, meanwhile, registry):
    await admin.put(ACME, json={"local_only": True})

    async def team_comes():
        await registry.put(TeamRecord(organization="acme", name="t"), ANN, action="create", expected=0)

    meanwhile.before = team_comes
    assert "teams: 1" in error(await admin.delete(ACME, headers=ANY), 409)["message"]
    assert (await registry.get(OrganizationRecord, "acme")).record.local_only is True


async def test_a_plan_that_is_given_to_somebody_as_it_is_removed_is_put_back(admin, meanwhile, registry):
    await admin.put("/plans/gold", json={"requests_per_minute": 5})

    async def given():
        await registry.put(OrganizationRecord(name="acme", plan="gold"), ANN, action="create", expected=0)

    meanwhile.before = given
    assert "organization acme is held" in error(await admin.delete("/plans/gold", headers=ANY), 409)["message"]
    assert (await registry.get(PlanRecord, "gold")).record.plan == {"requests_per_minute": 5}


@pytest.mark.parametrize("fault", [StoreDown("it sleeps"), HTTPException(status_code=409)])
async def test_a_record_is_put_back_too_where_nobody_can_say_who_needs_it(registry, fault):
    record = OrganizationRecord(name="acme", plan="small")
    await registry.put(record, ANN, action="create", expected=0)
    looks = iter([None, fault])

    async def look(_):
        if found := next(looks):
            raise found

    with pytest.raises(type(fault)):
        await Versions(registry).remove(OrganizationRecord, "acme", ANN, if_match="*", demand_unneeded=look)
    assert (await registry.get(OrganizationRecord, "acme")).record == record


async def test_a_plan_that_goes_as_a_key_is_made_of_it_is_told(admin, meanwhile, registry, monkeypatch):
    """A look that finds it, and a writing that does not."""
    await admin.put("/plans/gold", json={"requests_per_minute": 5})
    put = Registry.put

    async def late(self, record, author, **terms):
        if isinstance(record, KeyRecord) and await registry.get(PlanRecord, "gold"):
            await registry.remove(PlanRecord(name="gold", plan={}), author, expected=None)
        return await put(self, record, author, **terms)

    monkeypatch.setattr(Meanwhile, "put", late)
    told = error(await admin.post("/keys", json={"organization": "a", "team": "t", "name": "n", "plan": "gold"}), 409)
    assert told["message"] == "No key was made: the plan gold is not there, since somebody removed it just now."
    assert await registry.every(KeyRecord) == []
