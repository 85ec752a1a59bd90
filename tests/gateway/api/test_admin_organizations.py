import pytest

from tests.gateway.api.support import NEW, error, record, seen

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACME = "/organizations/acme"
WHOLE = {
    "plan": "small",
    "meters": None,
    "models": ["mistral-*", "org/model:7b"],
    "backends": ["rack", "pool@[::1]:8000", "p*"],
    "local_only": True,
    "state": "suspended",
    "metadata": {"owner": "Zoë"},
    "time_zone": "Europe/Berlin",
}
DEFAULTS = {
    "plan": None,
    "meters": None,
    "models": None,
    "backends": None,
    "local_only": False,
    "state": "active",
    "metadata": {},
    "time_zone": None,
}


async def names(admin, limit):
    """Return the names of all organizations, a page at a time, and the sizes of the pages."""
    told, sizes, params = [], [], {"limit": limit}
    while True:
        page = (await admin.get("/organizations", params=params)).json()
        told += [one["name"] for one in page["organizations"]]
        sizes.append(len(page["organizations"]))
        if page["next"] is None:
            return told, sizes
        params["cursor"] = page["next"]


async def test_an_organization_is_created_read_changed_and_removed(admin):
    made = record(await admin.put(ACME, json=WHOLE), 201)
    own = {"name": "acme", "version": 1, "source": "store", "plan_in_force": "small"}
    own["time_zone_in_force"] = WHOLE["time_zone"]
    assert len(made.pop("warnings")) == 2
    assert made == {**WHOLE, **own}
    answer = await admin.get(ACME)
    assert record(answer) == made
    changed = record(await admin.put(ACME, json={}, headers=seen(answer)))
    assert changed.pop("warnings") == []
    assert changed == {**DEFAULTS, **own, "version": 2, "plan_in_force": None, "time_zone_in_force": "UTC"}
    assert error(await admin.delete(ACME), 428)["code"] == "precondition_required"
    assert error(await admin.delete(ACME, headers=seen(answer)), 412)["code"] == "precondition_failed"
    gone = await admin.delete(ACME, headers=seen(await admin.get(ACME)))
    assert (gone.status_code, gone.content) == (204, b"")
    assert error(await admin.get(ACME), 404)["code"] == "not_found"
    assert error(await admin.delete(ACME, headers={"if-match": "*"}), 404)["code"] == "not_found"


async def test_what_is_probably_a_mistake_is_kept_and_told(admin):
    """As of keys. A change tells only of what allows something else than before."""
    any_version = {"if-match": "*"}
    wrong = {"models": ["mistral-smal"], "backends": ["rack"]}
    made = record(await admin.put(ACME, json=wrong), 201)
    other = record(await admin.put(ACME, json={**wrong, "plan": "small"}, headers=any_version))
    again = record(await admin.put(ACME, json={**wrong, "plan": "small"}, headers=any_version))
    worse = record(await admin.put(ACME, json={**wrong, "backends": ["rak"]}, headers=any_version))
    right = record(await admin.put(ACME, json={"models": ["small"]}, headers=any_version))

    assert made["models"] == ["mistral-smal"]
    assert "did you mean `mistral-small`?" in made["warnings"][0]
    assert made["warnings"][1].startswith("nothing that this gateway serves can be called with its keys: ")
    assert "did you mean `rack`?" in worse["warnings"][1]
    assert [one["warnings"] for one in (other, again, right)] == [[], [], []]


async def test_an_organization_of_the_file_is_shown_and_can_be_overridden(admin):
    path = "/organizations/globex"
    of_file = record(await admin.get(path))
    assert (of_file["source"], of_file["version"], of_file["plan_in_force"]) == ("file", None, "small")
    assert "gateway.yaml" in error(await admin.delete(path, headers={"if-match": "*"}), 409)["message"]
    kept = record(await admin.put(path, json={"local_only": True}), 201)
    assert (kept["source"], kept["plan"], kept["plan_in_force"]) == ("store", None, "small")
    other = record(await admin.put(path, json={"plan": "standard"}, headers={"if-match": "*"}))
    assert other["plan_in_force"] == "standard"
    own = record(await admin.put(path, json={"meters": {"requests_per_minute": 1}}, headers={"if-match": "*"}))
    assert own["plan_in_force"] is None
    assert (await admin.delete(path, headers={"if-match": "*"})).status_code == 204
    assert record(await admin.get(path)) == of_file


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 100])
async def test_the_list_has_the_stores_and_the_files_once_each_in_the_order_of_names(admin, limit):
    for name in ("acme", "globex", "hooli", "zorg", "Zorg"):
        await admin.put(f"/organizations/{name}", json={})
    told, sizes = await names(admin, limit)
    assert told == ["Zorg", "acme", "globex", "hooli", "initech", "zorg"]
    assert all(size == limit for size in sizes[:-1])


async def test_an_organization_with_keys_or_teams_is_not_removed(admin):
    key = (await admin.post("/keys", json=NEW)).json()
    any_version = {"if-match": "*"}
    told = error(await admin.delete(ACME, headers=any_version), 409)["message"]
    assert "teams: 1" in told
    assert "`sluiceway orgs set acme --state suspended`" in told
    await admin.delete(f"/keys/{key['id']}")
    team = "/organizations/acme/teams/research"
    assert (await admin.delete(team, headers=any_version)).status_code == 204
    assert (await admin.delete(ACME, headers=any_version)).status_code == 204


async def test_an_organization_that_is_suspended_is_not_removed(admin):
    """Its record may be all that keeps the bearers of its tokens out."""
    await admin.put(ACME, json={"state": "suspended"})
    error(await admin.delete(ACME), 428)
    told = error(await admin.delete(ACME, headers={"if-match": "*"}), 409)["message"]
    assert "make it active first (`sluiceway orgs set acme --state active`)" in told
    assert record(await admin.get(ACME))["state"] == "suspended"
    await admin.put(ACME, json={"state": "active"}, headers={"if-match": "*"})
    assert (await admin.delete(ACME, headers={"if-match": "*"})).status_code == 204


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("plan", value) for value in (5, "", "a b", "gold", {})),
        *(("meters", value) for value in (5, "small", [])),
        *(("models", value) for value in (5, "a", [], [""], ["a b"], ["*"], ["a*b"], ["x" * 129], ["a\n"], [5], ["@"])),
        *(("models", ["x"] * 257),),
        *(("backends", value) for value in ([], ["a b"], ["*"], ["x" * 130], [None])),
        *(("local_only", value) for value in ("true", 1, None)),
        *(("state", value) for value in ("gone", None, 1)),
        *(("metadata", value) for value in (None, [], {"": "x"}, {"x" * 65: "x"}, {"x": 5}, {"x": "y" * 513})),
        *(("metadata", value) for value in ({"x": "a\nb"}, {"a\x00": "b"}, {str(n): "" for n in range(33)})),
        *(("time_zone", value) for value in ("", "Mars", "Europe/Berlin\n", "../etc/passwd", 5)),
    ],
)
async def test_a_wrong_field_is_named_with_its_rule(admin, field, value):
    told = error(await admin.put(ACME, json={field: value}), 400)
    assert told["param"] == field
    assert told["message"].startswith(f"{field}: ")
    assert "regex" not in told["message"]
    assert (await admin.get("/audit")).json()["lines"] == []


@pytest.mark.parametrize("name", ["a%20b", "%0a", "x" * 65, "%ff", "a%0a"])
async def test_a_wrong_name_is_refused_wherever_it_stands(admin, name):
    for method in ("GET", "PUT", "DELETE"):
        answer = await admin.request(method, f"/organizations/{name}", json={} if method == "PUT" else None)
        assert error(answer, 400)["param"] == "organization"


async def test_the_audit_tells_what_of_an_organization_changed(admin):
    await admin.put(ACME, json={"models": ["a"], "local_only": True})
    await admin.put(ACME, json={"models": ["b"], "local_only": True}, headers={"if-match": "*"})
    await admin.delete(ACME, headers={"if-match": "*"})
    lines = (await admin.get("/audit")).json()["lines"]
    assert [(line["kind"], line["name"], line["action"], line["who"]) for line in lines] == [
        ("organization", "acme", action, "admin key") for action in ("delete", "update", "create")
    ]
    assert (lines[1]["before"], lines[1]["after"]) == ({"models": ["a"]}, {"models": ["b"]})
    assert lines[0]["after"] == {}
