import asyncio
import json
import time

import pytest
from msgspec.structs import replace

from gateway import clock
from gateway.api.admin import MAX_BODY
from gateway.identity.last_used import LastUsed
from gateway.identity.records import Author, KeyRecord
from policies.domain import Principal
from policies.terms import RoutingWishes
from tests.gateway.api.support import NEW, SMALL, error, record, seen

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIELDS = {
    "id",
    "organization",
    "team",
    "name",
    "plan",
    "meters",
    "models",
    "backends",
    "local_only",
    "state",
    "scopes",
    "networks",
    "metadata",
    "created",
    "expires",
    "routing",
    "revoked",
    "last_used",
    "former_until",
    "version",
}


def sent(key):
    return [(b"authorization", b"Bearer " + key.encode())]


async def until(identities, key, wanted):
    """Wait until a key is judged as is wanted, by whether it gets in; return the judgement."""
    async with asyncio.timeout(10):
        while isinstance(outcome := await identities.identify(sent(key), "127.0.0.1"), Principal) != wanted:  # noqa: ASYNC110 - it is told to no one
            await asyncio.sleep(0.01)
    return outcome


async def create(admin, **fields):
    answer = await admin.post("/keys", json={**NEW, **fields})
    made = record(answer, 201)
    assert set(made) == FIELDS | {"key", "warnings"}
    del made["warnings"]
    return made


async def test_a_key_is_created_used_revoked_and_then_refused(admin, identities):
    made = await create(admin, plan="small")
    assert made["key"].startswith(f"sw_{made['id']}_")
    assert {name: made[name] for name in NEW} == NEW
    principal = await until(identities, made["key"], wanted=True)
    assert principal.levels[2].meters == SMALL.meters

    for _ in range(2):
        revoked = await admin.delete(f"/keys/{made['id']}")
        assert (revoked.status_code, revoked.content) == (204, b"")
    await until(identities, made["key"], wanted=False)
    shown = record(await admin.get(f"/keys/{made['id']}"))
    assert shown["revoked"]
    assert [line["action"] for line in (await admin.get("/audit")).json()["lines"][:2]] == ["revoke", "create"]


async def test_a_key_brings_its_organization_and_team_along(admin):
    await create(admin)
    await create(admin)
    assert record(await admin.get("/organizations/acme"))["source"] == "store"
    assert record(await admin.get("/organizations/acme/teams/research"))["source"] == "store"
    assert len((await admin.get("/audit")).json()["lines"]) == 4


async def test_everything_that_was_told_of_a_key_is_kept(admin):
    told = {
        "name": "CI for Zoë, 日本 (nightly) 🚀",
        "meters": {"requests_per_minute": {"limit": 5, "burst": 2}, "budget_per_day": "0.5"},
        "models": ["a*"],
        "backends": ["rack"],
        "local_only": True,
        "state": "suspended",
        "scopes": ["inference", "admin:read"],
        "networks": ["10.0.0.0/8", "fd00::/8"],
        "metadata": {"owner": "zoe"},
        "expires": int(time.time()) + 1000,
        "routing": {"value_of_time": 0.01, "max_price": "0.5", "policy": "balanced"},
    }
    made = await create(admin, **told)
    secret = made.pop("key")
    assert {name: made[name] for name in told} == told
    answer = await admin.get(f"/keys/{made['id']}")
    assert record(answer) == made
    assert (await admin.get("/keys")).json() == {"keys": [made], "next": None}
    assert secret.rpartition("_")[2] not in (await admin.get("/audit")).text


async def test_only_what_is_told_changes(admin):
    made = await create(admin, plan="small", models=["a"], metadata={"a": "b"}, expires="30d")
    made.pop("key")
    path, version = f"/keys/{made['id']}", made.pop("version")
    for change, also in [
        ({"name": "other"}, {}),
        ({"models": None, "networks": ["10.0.0.1"]}, {"networks": ["10.0.0.1/32"]}),
        ({"meters": {"requests_per_minute": 1}}, {"plan": None}),
        ({"plan": "standard"}, {"meters": None}),
        ({"plan": None}, {}),
        ({"expires": None, "scopes": ["admin:write"], "state": "suspended", "local_only": True}, {}),
        ({"metadata": {}, "backends": ["rack"]}, {}),
        ({"routing": {"ttft_target": 1, "priority": "high"}}, {}),
        ({"routing": {"policy": "fastest"}}, {}),
        ({"routing": None}, {}),
    ]:
        changed = record(await admin.patch(path, json=change, headers={"if-match": f'"{version}"'}))
        assert isinstance(changed.pop("warnings"), list)
        made |= change | also
        assert changed.pop("version") > version
        assert changed == made
        version = record(await admin.get(path))["version"]
    assert record(await admin.patch(path, json={}, headers={"if-match": "*"}))["version"] == version


async def test_what_is_probably_a_mistake_is_kept_and_told(admin):
    """A model may come with a later file. A change tells only of what it says anew."""
    wanted = {"plan": "standard", "models": ["mistral-smal"], "backends": ["rack"]}
    answer = await admin.post("/keys", json={**NEW, **wanted})
    made, any_version = record(answer, 201), {"if-match": "*"}
    path = f"/keys/{made['id']}"
    wrong = await admin.patch(path, json={"backends": ["rak"]}, headers=any_version)
    other = await admin.patch(path, json={"name": "x"}, headers=any_version)
    right = await admin.patch(path, json={"models": ["small"], "backends": None}, headers=any_version)

    assert made["models"] == ["mistral-smal"]
    assert "did you mean `mistral-small`?" in made["warnings"][0]
    assert "did you mean `rack`?" in record(wrong)["warnings"][1]
    assert (record(other)["warnings"], record(right)["warnings"]) == ([], [])


async def test_every_mistake_of_a_keys_routing_is_told_with_its_place(admin):
    wrong = {"policy": "cheap", "ttft_target": 0, "max_wait": 5}
    told = error(await admin.post("/keys", json={**NEW, "routing": wrong}), 400)
    assert told["param"] == "routing.policy"
    for place in ("routing.policy: ", "routing.ttft_target: ", "routing.max_wait: "):
        assert place in told["message"]
    both = {"policy": "cheapest", "value_of_time": 1}
    made = await create(admin, routing={"policy": "cheapest"})
    answer = await admin.patch(f"/keys/{made['id']}", json={"routing": both}, headers={"if-match": "*"})
    assert "routing.value_of_time: does nothing" in error(answer, 400)["message"]


async def test_a_callers_wishes_are_its_keys_before_its_plans(admin, identities):
    """Of every level that has some, in force like any other change."""
    await admin.put("/plans/quick", json={"routing": {"policy": "fastest", "ttft_target": 2, "max_price": 1}})
    await admin.put("/organizations/acme", json={"plan": "quick"})
    made = await create(admin, routing={"policy": "weighted", "max_price": 3})
    principal = await until(identities, made["key"], wanted=True)
    assert principal.wishes == RoutingWishes(ttft_target=2.0, max_price=10**9, policy="weighted")

    await admin.patch(f"/keys/{made['id']}", json={"routing": None}, headers={"if-match": "*"})
    async with asyncio.timeout(10):
        while (await until(identities, made["key"], wanted=True)).wishes.policy != "fastest":  # noqa: ASYNC110 - it is told to no one
            await asyncio.sleep(0.01)


async def test_two_admins_cannot_change_one_key_past_each_other(admin):
    made = await create(admin)
    path = f"/keys/{made['id']}"
    answer = await admin.get(path)
    error(await admin.patch(path, json={"name": "mine"}), 428)
    record(await admin.patch(path, json={"name": "theirs"}, headers=seen(answer)))
    told = error(await admin.patch(path, json={"name": "mine"}, headers=seen(answer)), 412)
    assert told["code"] == "precondition_failed"
    assert record(await admin.get(path))["name"] == "theirs"


async def test_a_key_that_is_revoked_is_never_changed_again(admin):
    made = await create(admin)
    path = f"/keys/{made['id']}"
    await admin.delete(path)
    for answer in (
        await admin.patch(path, json={"name": "x"}, headers={"if-match": "*"}),
        await admin.post(f"{path}/rotate"),
    ):
        assert "revoked" in error(answer, 409)["message"]


@pytest.mark.parametrize("body", [{"overlap": 60}, {}, None])
async def test_a_rotated_key_has_a_new_secret_and_the_former_is_taken_for_a_while(admin, identities, body):
    made = await create(admin)
    rotated = record(await admin.post(f"/keys/{made['id']}/rotate", json=body))
    assert set(rotated) == FIELDS | {"key"}
    assert (rotated["id"], rotated["created"]) == (made["id"], made["created"])
    assert rotated["key"] != made["key"]
    seconds = 60 if body else 3600
    assert 0 <= time.time() + seconds - rotated["former_until"] < 30
    for key in (rotated["key"], made["key"]):
        await until(identities, key, wanted=True)
    again = record(await admin.post(f"/keys/{made['id']}/rotate", json={"overlap": 0}))
    assert again["former_until"] is None
    await until(identities, again["key"], wanted=True)
    for key in (rotated["key"], made["key"]):
        await until(identities, key, wanted=False)


async def test_a_key_that_has_expired_is_not_rotated_until_it_lives_again(admin, monkeypatch):
    """Nobody is handed a secret that opens nothing."""
    made = await create(admin, expires="1d")
    path, now = f"/keys/{made['id']}", time.time()
    monkeypatch.setattr(clock, "wall", lambda: now + 86_400)
    assert "expired" in error(await admin.post(f"{path}/rotate"), 409)["message"]
    record(await admin.patch(path, json={"expires": "1d"}, headers={"if-match": "*"}))
    record(await admin.post(f"{path}/rotate"))


async def test_of_rotations_at_one_time_one_is_made(admin, identities):
    """Whoever was promised time for the secret before keeps it."""
    made = await create(admin)
    answers = await asyncio.gather(*(admin.post(f"/keys/{made['id']}/rotate") for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    (new,) = (answer.json()["key"] for answer in answers if answer.status_code == 200)
    for key in (new, made["key"]):
        await until(identities, key, wanted=True)


async def test_a_rotation_that_would_end_anothers_overlap_is_refused(admin, identities):
    """But for one that says so."""
    made = await create(admin)
    first = (await admin.post(f"/keys/{made['id']}/rotate")).json()
    assert "is taken until" in error(await admin.post(f"/keys/{made['id']}/rotate"), 409)["message"]

    second = (await admin.post(f"/keys/{made['id']}/rotate", json={"overlap": 0})).json()

    await until(identities, second["key"], wanted=True)
    for key in (first["key"], made["key"]):
        await until(identities, key, wanted=False)


@pytest.mark.parametrize("overlap", [-1, 2_592_001, "60", 1.5, None])
async def test_a_wrong_overlap_is_refused(admin, overlap):
    answer = await admin.post("/keys/000000000000/rotate", json={"overlap": overlap})
    assert error(answer, 400)["param"] == "overlap"


async def test_the_last_use_is_told(admin, store):
    used, never = await create(admin), await create(admin)
    last = LastUsed(store, wall=lambda: 1_700_000_000.5)
    last.touch(used["id"])
    await last.flush()
    told = {key["id"]: key["last_used"] for key in (await admin.get("/keys")).json()["keys"]}
    assert told == {used["id"]: 1_700_000_000, never["id"]: None}
    assert record(await admin.get(f"/keys/{used['id']}"))["last_used"] == 1_700_000_000


async def test_an_unknown_plan_is_refused_with_the_known_ones(admin):
    await admin.put("/plans/gold", json={"requests_per_minute": 5})
    assert (await create(admin, plan="gold"))["plan"] == "gold"
    told = error(await admin.post("/keys", json={**NEW, "plan": "silver"}), 400)
    assert told["param"] == "plan"
    assert told["code"] == "invalid_value"
    assert told["message"] == "plan: there is no plan 'silver'; known: gold, small, standard"
    near = error(await admin.post("/keys", json={**NEW, "plan": "standrd"}), 400)
    assert near["message"] == "plan: there is no plan 'standrd'; did you mean `standard`?"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            (field, value)
            for field in ("organization", "team")
            for value in ("", "a b", "a/b", "a\n", "é", "x" * 65, 5)
        ),
        *(("name", value) for value in ("", " ", "a\nb", "\x00", "\u2028", "x" * 129, 5, None, ["x"])),
        *(("plan", value) for value in (5, {}, "")),
        *(("scopes", value) for value in ([], ["admin"], "inference", None, ["inference", "inference"], [5])),
        *(("networks", value) for value in ([], ["10.0.0.1/8"], ["all"], ["10.0.0.0/33"], "10.0.0.0/8", [5], [""])),
        *(("expires", value) for value in (0, 1, "0d", "yesterday", "", "2020-01-01", 10**12, -1, 1.5, [], "9" * 41)),
        *(("routing", value) for value in (5, [], "cheapest", {})),
    ],
)
async def test_a_wrong_field_is_named_with_its_rule(admin, field, value):
    told = error(await admin.post("/keys", json={**NEW, field: value}), 400)
    assert told["param"] == field
    assert told["message"].startswith(f"{field}: ")
    assert "regex" not in told["message"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"{}", "`organization`"),
        (b'{"organization": "acme", "name": "ci"}', "`team`"),
        (json.dumps({**NEW, "colour": "red"}).encode(), "`colour`"),
        (json.dumps({**NEW, "revoked": False}).encode(), "`revoked`"),
        (b"{", "truncated"),
        (b"nonsense", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b'{"organization": "\xff"}', "utf-8"),
        (b'{"organization": "\\ud800", "team": "a", "name": "b"}', "surrogate"),
        (json.dumps(NEW).encode()[:-1] + b', "meters": ' + b'{"a":' * 10_000, "nested too deeply"),
        (json.dumps(NEW).encode()[:-1] + b', "expires": 1e999999}', "expires"),
    ],
)
async def test_a_body_that_is_no_new_key_is_a_400(admin, body, told):
    answer = await admin.post("/keys", content=body, headers={"content-type": "application/json"})
    assert told.lower() in error(answer, 400)["message"].lower()  # msgspec has written words in two ways


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=z", "application/x-msgpack", "garbage"])
async def test_the_body_is_read_as_json_whatever_it_is_called(admin, kind):
    headers = {"content-type": kind}
    assert (await admin.post("/keys", content=json.dumps(NEW), headers=headers)).status_code == 201
    error(await admin.post("/keys", content=b"a=b", headers=headers), 400)


async def test_a_body_too_large_is_a_413(admin):
    told = error(await admin.post("/keys", content=b" " * (MAX_BODY + 1)), 413)
    assert (told["code"], told["message"]) == ("request_too_large", "The body is larger than 64 KiB.")


async def test_a_key_whose_plan_is_gone_can_still_be_suspended(admin, registry):
    """Its plan has left the file; that keeps nobody from closing the door."""
    key = await create(admin)
    stored = await registry.get(KeyRecord, key["id"])
    await registry.put(replace(stored.record, plan="gone"), Author("x"), action="update", expected=None)
    told = record(await admin.patch(f"/keys/{key['id']}", json={"state": "suspended"}, headers={"if-match": "*"}))
    assert (told["state"], told["plan"]) == ("suspended", "gone")
    error(await admin.patch(f"/keys/{key['id']}", json={"plan": "gold"}, headers={"if-match": "*"}), 400)


async def test_a_list_shows_every_key_without_its_secret(admin):
    made = [await create(admin, name=f"{number}") for number in range(3)]
    await admin.delete(f"/keys/{made[0]['id']}")
    answer = await admin.get("/keys")
    page = answer.json()
    assert page["next"] is None
    assert {key["id"]: key["revoked"] for key in page["keys"]} == {key["id"]: key is made[0] for key in made}
    assert all(set(key) == FIELDS for key in page["keys"])
    assert not any(key["key"].rpartition("_")[2] in answer.text for key in made)


async def test_pages_are_followed_by_their_cursor_within_one_organization(admin):
    mine = {(await create(admin, name=f"{number}"))["id"] for number in range(5)}
    await create(admin, organization="globex")
    seen_ids, sizes, params = [], [], {"organization": "acme", "limit": 2}
    for _ in range(10):
        page = (await admin.get("/keys", params=params)).json()
        seen_ids += [key["id"] for key in page["keys"]]
        sizes.append(len(page["keys"]))
        if page["next"] is None:
            break
        params["cursor"] = page["next"]
    assert seen_ids == sorted(mine)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize(
    ("path", "param"),
    [
        *((f"/keys?limit={value}", "limit") for value in ("0", "-1", "501", "abc", "1.5", "", "9" * 30)),
        *((f"/keys?cursor={value}", "cursor") for value in ("", "short", "%00", "%ff", "0" * 13, "0" * 12 + "%0a")),
        *((f"/keys?organization={value}", "organization") for value in ("", "%0a", "a%2Fb")),
    ],
)
async def test_a_wrong_parameter_is_named(admin, path, param):
    told = error(await admin.get(path), 400)
    assert told["param"] == param
    assert param in told["message"]


@pytest.mark.parametrize("key_id", ["000000000000", "x", "%00", "%ff", "..%2f", "é"])
async def test_an_unknown_key_is_a_404(admin, key_id):
    for method, body in (("DELETE", None), ("PATCH", {"name": "x"}), ("GET", None)):
        headers = {"if-match": '"1"'} if method == "PATCH" else {}
        answer = await admin.request(method, f"/keys/{key_id}", json=body, headers=headers)
        assert error(answer, 404)["code"] == "not_found"
