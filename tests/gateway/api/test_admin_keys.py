import asyncio
import json

import pytest

from gateway.api.admin import MAX_BODY
from gateway.config.settings import STANDARD
from gateway.identity.identify import Identities
from policies.domain import Principal
from policies.rejections import Reason
from tests.gateway.api.support import NEW, PLANS, error

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_key_is_created_used_revoked_and_then_refused(admin, directory):
    identities = Identities(directory, PLANS, {})
    created = await admin.post("/keys", json={**NEW, "plan": "standard"})
    assert created.status_code == 201
    key = created.json()
    assert list(key) == ["id", "key", "organization", "team", "name", "plan"]
    assert key["key"].startswith(f"sw_{key['id']}_")
    assert {name: key[name] for name in NEW} == NEW
    assert key["plan"] == "standard"

    headers = [(b"authorization", b"Bearer " + key["key"].encode())]
    principal = await identities.identify(headers)
    assert isinstance(principal, Principal)
    assert principal.levels[2].meters == STANDARD.meters

    revoked = await admin.delete(f"/keys/{key['id']}")
    assert (revoked.status_code, revoked.content) == (204, b"")
    for _ in range(500):
        outcome = await identities.identify(headers)
        if not isinstance(outcome, Principal):
            break
        await asyncio.sleep(0.01)
    assert outcome.reason is Reason.BAD_KEY


async def test_a_plan_may_be_left_out_or_null(admin):
    assert (await admin.post("/keys", json=NEW)).json()["plan"] is None
    assert (await admin.post("/keys", json={**NEW, "plan": None})).json()["plan"] is None


@pytest.mark.parametrize("name", ["x", "x" * 128, "CI for Zoë, 日本 (nightly) 🚀"])
async def test_any_printable_name_is_kept_as_it_is(admin, name):
    assert (await admin.post("/keys", json={**NEW, "name": name})).json()["name"] == name
    assert (await admin.get("/keys")).json()["keys"][0]["name"] == name


async def test_an_unknown_plan_is_refused_with_the_known_ones(admin):
    told = error(await admin.post("/keys", json={**NEW, "plan": "gold"}), 400)
    assert told["param"] == "plan"
    assert told["code"] == "invalid_value"
    assert told["message"] == "plan: there is no plan 'gold'; known: small, standard"


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
        (b"{", "truncated"),
        (b"nonsense", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b'{"organization": "\xff"}', "UTF-8"),
        (b'{"organization": "\\ud800", "team": "a", "name": "b"}', "surrogate"),
        (b"[" * 50_000, "nested too deeply"),
        (b'{"a":' * 10_000, "nested too deeply"),
        (b'{"organization": 1e999999}', "out of range"),
    ],
)
async def test_a_body_that_is_no_new_key_is_a_400(admin, body, told):
    answer = await admin.post("/keys", content=body, headers={"content-type": "application/json"})
    assert told in error(answer, 400)["message"]


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=z", "application/x-msgpack", "garbage"])
async def test_the_body_is_read_as_json_whatever_it_is_called(admin, kind):
    headers = {"content-type": kind}
    assert (await admin.post("/keys", content=json.dumps(NEW), headers=headers)).status_code == 201
    error(await admin.post("/keys", content=b"a=b", headers=headers), 400)


async def test_a_body_too_large_is_a_413(admin):
    assert error(await admin.post("/keys", content=b" " * (MAX_BODY + 1)), 413)["code"] == "request_too_large"


async def test_a_list_shows_every_key_without_its_secret(admin):
    made = [(await admin.post("/keys", json={**NEW, "name": f"{number}"})).json() for number in range(3)]
    await admin.delete(f"/keys/{made[0]['id']}")
    answer = await admin.get("/keys")
    assert answer.status_code == 200
    page = answer.json()
    assert page["next"] is None
    assert {key["id"]: key["revoked"] for key in page["keys"]} == {key["id"]: key is made[0] for key in made}
    for key in page["keys"]:
        assert set(key) == {"id", "organization", "team", "name", "plan", "created", "revoked"}
    assert not any(key["key"].rpartition("_")[2] in answer.text for key in made)


async def test_pages_are_followed_by_their_cursor_within_one_organization(admin):
    mine = {(await admin.post("/keys", json={**NEW, "name": f"{number}"})).json()["id"] for number in range(5)}
    await admin.post("/keys", json={**NEW, "organization": "globex"})
    seen, sizes, params = [], [], {"organization": "acme", "limit": 2}
    for _ in range(10):
        page = (await admin.get("/keys", params=params)).json()
        seen += [key["id"] for key in page["keys"]]
        sizes.append(len(page["keys"]))
        if page["next"] is None:
            break
        params["cursor"] = page["next"]
    assert seen == sorted(mine)
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
async def test_an_unknown_key_cannot_be_revoked(admin, key_id):
    assert error(await admin.delete(f"/keys/{key_id}"), 404)["code"] == "not_found"
