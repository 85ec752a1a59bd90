import pytest

from policies.domain import Meter, MeterKind, Plan
from policies.terms import RoutingWishes
from tests.gateway.api import support
from tests.gateway.api.support import NEW, error, record, seen

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOLD = "/plans/gold"
ANY = {"if-match": "*"}
DOCUMENT = {
    "requests_per_minute": {"limit": 5, "burst": 2, "enforce": False},
    "budget_per_day": 12.5,
    "models": {"mistral": {"tokens_per_day": 10}},
    "overrun": "cut",
    "when_down": "local",
    "routing": {"tpot_target": 0.05, "policy": "cheapest"},
}


async def test_a_plan_is_created_read_changed_and_removed(admin):
    made = record(await admin.put(GOLD, json=DOCUMENT), 201)
    assert made == {"name": "gold", "source": "store", "overrides": False, "plan": DOCUMENT, "version": 1}
    answer = await admin.get(GOLD)
    assert record(answer) == made
    changed = record(await admin.put(GOLD, json={"tokens_in_all": 7}, headers=seen(answer)))
    assert changed["plan"] == {"tokens_in_all": 7}
    error(await admin.put(GOLD, json=DOCUMENT, headers=seen(answer)), 412)
    error(await admin.put(GOLD, json=DOCUMENT), 428)
    error(await admin.delete(GOLD), 428)
    assert (await admin.delete(GOLD, headers=ANY)).status_code == 204
    error(await admin.get(GOLD), 404)
    error(await admin.delete(GOLD, headers=ANY), 404)


async def test_all_plans_are_listed_and_each_says_where_it_is_from(admin):
    await admin.put(GOLD, json=DOCUMENT)
    await admin.put("/plans/small", json={"requests_per_minute": 50})
    told = {plan["name"]: plan for plan in (await admin.get("/plans")).json()["plans"]}
    assert list(told) == ["gold", "small", "standard"]
    assert [(one["source"], one["overrides"]) for one in told.values()] == [
        ("store", False),
        ("store", True),
        ("built-in", False),
    ]
    assert told["small"]["plan"] == {"requests_per_minute": 50}
    assert told["standard"]["plan"]["concurrent_requests"] == 32
    await admin.delete("/plans/small", headers=ANY)
    of_file = record(await admin.get("/plans/small"))
    assert (of_file["source"], of_file["plan"], of_file["version"]) == ("file", {"requests_per_minute": 5}, None)


async def test_what_is_told_of_a_files_plan_can_be_stored_as_it_is(admin, monkeypatch):
    meters = (
        Meter(MeterKind.BUDGET_PER_DAY, limit=1_500_000_000, burst=1_500_000_000),
        Meter(MeterKind.REQUESTS_PER_MINUTE, limit=5, burst=2, enforce=False, model="mistral"),
    )
    wishes = RoutingWishes(value_of_time=1, max_price=1_500_000_000)
    monkeypatch.setitem(support.PLANS, "odd", Plan("odd", meters, "cut", "local", wishes))
    told = record(await admin.get("/plans/odd"))["plan"]
    assert told["budget_per_day"] == 1.5
    assert told["routing"] == {"value_of_time": 1e-9, "max_price": 1.5}
    assert record(await admin.put("/plans/odd", json=told), 201)["plan"] == told


async def test_a_plan_that_somebody_has_is_not_removed_but_where_the_file_has_it_too(admin):
    await admin.put(GOLD, json=DOCUMENT)
    await admin.put("/plans/small", json=DOCUMENT)
    key = (await admin.post("/keys", json={**NEW, "plan": "gold"})).json()
    await admin.put("/organizations/acme", json={"plan": "gold"}, headers=ANY)
    await admin.put("/organizations/acme/teams/research", json={"plan": "small"}, headers=ANY)
    told = error(await admin.delete(GOLD, headers=ANY), 409)["message"]
    assert f"organization acme, key {key['id']} are held to this plan" in told
    await admin.delete(f"/keys/{key['id']}")
    assert "organization acme is held" in error(await admin.delete(GOLD, headers=ANY), 409)["message"]
    await admin.put("/organizations/acme", json={}, headers=ANY)
    assert (await admin.delete(GOLD, headers=ANY)).status_code == 204
    assert (await admin.delete("/plans/small", headers=ANY)).status_code == 204
    assert "gateway.yaml" in error(await admin.delete("/plans/small", headers=ANY), 409)["message"]


async def test_of_many_who_have_a_plan_a_few_are_named(admin):
    await admin.put(GOLD, json=DOCUMENT)
    for number in range(8):
        await admin.put(f"/organizations/o{number}", json={"plan": "gold"})
    assert "organization o4 and 3 more are held" in error(await admin.delete(GOLD, headers=ANY), 409)["message"]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({}, "no meters"),
        ({"requests_per_minute": 0}, "requests_per_minute: "),
        ({"requests_per_minute": "many"}, "requests_per_minute: "),
        ({"requests_per_minute": True}, "requests_per_minute: "),
        ({"requests_per_fortnight": 1}, "requests_per_fortnight"),
        ({"budget_per_day": -1}, "budget_per_day: "),
        ({"budget_per_day": 1e300}, "budget_per_day: "),
        ({"tokens_per_day": 5, "models": []}, "models"),
        ({"tokens_per_day": 5, "models": {"a b": {"tokens_per_day": 1}}}, "models"),
        ({"tokens_per_day": {"limit": {"limit": {}}}}, "tokens_per_day"),
        ({"tokens_per_day": None}, "tokens_per_day"),
        ({"routing": {}}, "no meters and no wishes, so it does nothing; write `routing: {WISH: VALUE}`"),
        ({"routing": {"policy": "best"}}, "routing.policy: "),
        ({"routing": {"policy": "cheapest", "value_of_time": 1}}, "routing.value_of_time: does nothing"),
        ({"routing": {"policy": "pinned", "ttft_target": 1}}, "routing.ttft_target: does nothing"),
        ({"tokens_per_day": "${HOME}"}, "tokens_per_day"),
        ({"tokens_per_day": 10**400}, "tokens_per_day"),
    ],
)
async def test_a_plan_with_mistakes_is_refused_as_the_file_would_refuse_it(admin, document, told):
    for answer in (
        await admin.put(GOLD, json=document),
        await admin.post("/keys", json={**NEW, "meters": document}),
        await admin.put("/organizations/acme", json={"meters": document}),
    ):
        assert told in error(answer, 400)["message"]
    assert (await admin.get("/audit")).json()["lines"] == []


async def test_every_mistake_is_told_with_its_place(admin):
    document = {"requests_per_minute": 0, "models": {"m": {"tokens_per_day": "x"}}}
    told = error(await admin.put(GOLD, json=document), 400)
    assert "requests_per_minute: " in told["message"]
    assert "models.m.tokens_per_day: " in told["message"]
    own = error(await admin.post("/keys", json={**NEW, "meters": document}), 400)
    assert own["param"].startswith("meters.")


@pytest.mark.parametrize("document", [5, None, [], "standard"])
async def test_a_plan_that_is_no_object_is_refused(admin, document):
    assert "must be a JSON object" in error(await admin.put(GOLD, json=document), 400)["message"]


async def test_a_plan_that_is_nested_without_end_is_a_400(admin):
    body = b'{"a":' * 500 + b"1" + b"}" * 500
    error(await admin.put(GOLD, content=body), 400)
    error(await admin.put(GOLD, content=b'{"a":' * 10_000), 400)


@pytest.mark.parametrize("name", ["a%20b", "%0a", "x" * 129, "a%2Fb%0a"])
async def test_a_wrong_name_is_refused(admin, name):
    answer = await admin.put(f"/plans/{name}", json=DOCUMENT)
    assert answer.status_code in {400, 404}
    assert (await admin.get("/audit")).json()["lines"] == []
