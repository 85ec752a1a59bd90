import pytest

from tests.gateway.api.support import NEW, error, record, seen

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEAM = "/organizations/acme/teams/research"
ANY = {"if-match": "*"}


async def names(admin, organization, limit):
    """Return the names of all its teams, followed a page at a time."""
    told, params = [], {"limit": limit}
    while True:
        page = (await admin.get(f"/organizations/{organization}/teams", params=params)).json()
        told += [one["name"] for one in page["teams"]]
        if page["next"] is None:
            return told
        params["cursor"] = page["next"]


async def test_a_team_is_created_read_changed_and_removed_with_its_organization_made(admin):
    made = record(await admin.put(TEAM, json={"plan": "small", "models": ["a*"]}), 201)
    assert len(made.pop("warnings")) == 2
    assert made == {
        "organization": "acme",
        "name": "research",
        "plan": "small",
        "meters": None,
        "models": ["a*"],
        "backends": None,
        "local_only": False,
        "state": "active",
        "metadata": {},
        "version": 2,
        "source": "store",
        "plan_in_force": "small",
    }
    assert record(await admin.get("/organizations/acme"))["version"] == 1
    answer = await admin.get(TEAM)
    assert record(answer) == made
    own = {"meters": {"concurrent_requests": 2}}
    changed = record(await admin.put(TEAM, json=own, headers=seen(answer)))
    assert (changed["meters"], changed["plan"], changed["plan_in_force"]) == (own["meters"], None, None)
    error(await admin.put(TEAM, json={}, headers=seen(answer)), 412)
    error(await admin.put(TEAM, json={}), 428)
    error(await admin.delete(TEAM), 428)
    assert (await admin.delete(TEAM, headers=ANY)).status_code == 204
    assert error(await admin.get(TEAM), 404)["code"] == "not_found"
    error(await admin.delete(TEAM, headers=ANY), 404)


async def test_what_is_probably_a_mistake_is_kept_and_told(admin):
    """An organization that is made on the way may be a slip of the pen; a team that is asked for by name is not."""
    await admin.put("/organizations/acme", json={"backends": ["rack"]})
    made = record(await admin.put(TEAM, json={"models": ["smal"]}), 201)
    other = record(await admin.put(TEAM, json={"models": ["smal"], "plan": "small"}, headers=ANY))
    shut = record(await admin.put(TEAM, json={"backends": ["openai"]}, headers=ANY))
    near = record(await admin.put("/organizations/acme/teams/reserch", json={}), 201)
    slip = record(await admin.put("/organizations/amce/teams/research", json={}), 201)

    assert "did you mean `small`?" in made["warnings"][0]
    assert (other["warnings"], near["warnings"]) == ([], [])
    (nothing,) = shut["warnings"]
    assert nothing.startswith("nothing that this gateway serves can be called with its keys: ")
    assert nothing.endswith(" of the team and its organization leave none")
    assert slip["warnings"] == ["organization: 'amce' was not there and is made with this team; did you mean `acme`?"]


async def test_the_files_teams_are_listed_with_the_stores(admin):
    for name in ("research", "Ads", "legal"):
        await admin.put(f"/organizations/globex/teams/{name}", json={})
    await admin.put("/organizations/globex-2/teams/other", json={})
    for limit in (1, 2, 3, 100):
        assert await names(admin, "globex", limit) == ["Ads", "legal", "research", "sales"]
    sales = record(await admin.get("/organizations/globex/teams/sales"))
    assert (sales["source"], sales["version"], sales["plan_in_force"]) == ("file", None, "standard")
    told = error(await admin.delete("/organizations/globex/teams/sales", headers=ANY), 409)
    assert "gateway.yaml" in told["message"]


async def test_teams_of_nobody_are_a_404_and_of_an_empty_organization_an_empty_list(admin):
    assert error(await admin.get("/organizations/nobody/teams"), 404)["code"] == "not_found"
    assert await names(admin, "initech", 10) == []
    await admin.put("/organizations/acme", json={})
    assert await names(admin, "acme", 10) == []


async def test_a_team_with_keys_is_not_removed_and_another_teams_keys_do_not_count(admin):
    key = (await admin.post("/keys", json=NEW)).json()
    await admin.put("/organizations/acme/teams/empty", json={})
    assert (await admin.delete("/organizations/acme/teams/empty", headers=ANY)).status_code == 204
    told = error(await admin.delete(TEAM, headers=ANY), 409)["message"]
    assert "not revoked: 1" in told
    assert "`sluiceway teams set acme research --state suspended`" in told
    await admin.delete(f"/keys/{key['id']}")
    assert (await admin.delete(TEAM, headers=ANY)).status_code == 204


async def test_a_team_that_is_suspended_is_not_removed(admin):
    """As an organization is not."""
    await admin.put(TEAM, json={"state": "suspended"})
    told = error(await admin.delete(TEAM, headers=ANY), 409)["message"]
    assert "`sluiceway teams set acme research --state active`" in told
    await admin.put(TEAM, json={"state": "active"}, headers=ANY)
    assert (await admin.delete(TEAM, headers=ANY)).status_code == 204


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"if-match": '"7"'}, 412), ({"if-match": "*"}, 412), ({"if-match": "7"}, 400), ({"if-none-match": "x"}, 400)],
)
async def test_a_team_that_may_not_be_written_leaves_no_organization_behind(admin, headers, status):
    """Whoever is refused has changed nothing."""
    error(await admin.put(TEAM, json={}, headers=headers), status)
    error(await admin.get("/organizations/acme"), 404)
    assert (await admin.get("/audit")).json()["lines"] == []


@pytest.mark.parametrize(("field", "value"), [("plan", "gold"), ("models", []), ("time_zone", "UTC"), ("state", "")])
async def test_a_wrong_field_is_refused(admin, field, value):
    """A team has no time zone: its organization has."""
    assert field in error(await admin.put(TEAM, json={field: value}), 400)["message"]
    assert (await admin.get("/audit")).json()["lines"] == []


async def test_a_wrong_name_is_refused(admin):
    answer = await admin.put("/organizations/acme/teams/a%20b", json={})
    assert error(answer, 400)["param"] == "team"
