import asyncio
import json

import httpx
import pytest
import pytest_asyncio
from litestar import Litestar, get

from gateway.api.admin import ERROR_ANSWERS, MAX_BODY, admin_router
from gateway.config.settings import STANDARD
from gateway.identity.directory import Directory
from gateway.identity.identify import Identities
from gateway.ledger import UsageTotal
from gateway.store.door import Store, StoreDown
from policies.domain import Plan, Principal
from policies.rejections import Reason
from tests.gateway.identity.support import served, valkey

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADMIN_KEY = "admin-key-of-the-tests"
PLANS = {"standard": STANDARD, "small": Plan("small", ())}
NEW = {"organization": "acme", "team": "research", "name": "ci"}


class Books:
    """A ledger that says what it was told to say."""

    def __init__(self, *, down=False):
        self.totals, self.down = {}, down

    async def usage(self, organization):
        if self.down:
            raise StoreDown("the store did not answer within 250 ms")
        return self.totals.get(organization, [])


@pytest.fixture(scope="module")
def valkey_url():
    with valkey() as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole_store(valkey_url):
    store = Store(valkey_url, deadline=5.0)
    yield store
    await store.close()


@pytest_asyncio.fixture(loop_scope="module")
async def store(whole_store):
    await whole_store.send(("FLUSHALL",))
    return whole_store


@pytest.fixture
def directory(store):
    return Directory(store)


@pytest.fixture(scope="module")
def books():
    return Books()


@get("/broken")
async def broken() -> None:
    """Fail as a bug would."""
    raise RuntimeError("a secret detail")


@pytest.fixture(scope="module")
def app(whole_store, books):
    routes = [admin_router(Directory(whole_store), books, PLANS, ADMIN_KEY), broken]
    return Litestar(routes, exception_handlers=ERROR_ANSWERS, logging_config=None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(app):
    async with served(app) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module")
async def admin(url, store):
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with httpx.AsyncClient(base_url=f"{url}/admin/v1", headers=headers, verify=False) as client:
        yield client


def error(response, status):
    """Return the error of an answer, having checked its shape and status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return answer["error"]


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
        *(
            (f"/{of}?organization={value}", "organization")
            for of in ("keys", "usage")
            for value in ("", "%0a", "a%2Fb")
        ),
        ("/usage", None),
    ],
)
async def test_a_wrong_parameter_is_named(admin, path, param):
    told = error(await admin.get(path), 400)
    assert told["param"] == param
    assert (param or "organization") in told["message"]


@pytest.mark.parametrize("key_id", ["000000000000", "x", "%00", "%ff", "..%2f", "é"])
async def test_an_unknown_key_cannot_be_revoked(admin, key_id):
    assert error(await admin.delete(f"/keys/{key_id}"), 404)["code"] == "not_found"


async def test_usage_is_the_ledgers(admin, books):
    books.totals["acme"] = [
        UsageTotal(key="k", model="m", requests=1, prompt_tokens=2, completion_tokens=3, estimated_tokens=4)
    ]
    assert (await admin.get("/usage", params={"organization": "acme"})).json() == {
        "organization": "acme",
        "totals": [
            {
                "key": "k",
                "model": "m",
                "requests": 1,
                "prompt_tokens": 2,
                "completion_tokens": 3,
                "estimated_tokens": 4,
            }
        ],
    }
    assert (await admin.get("/usage", params={"organization": "nobody"})).json()["totals"] == []


ROUTES = [("POST", "/keys"), ("GET", "/keys"), ("DELETE", "/keys/000000000000"), ("GET", "/usage?organization=acme")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer wrong",
        b"Bearer " + ADMIN_KEY[:-1].encode(),
        b"Bearer " + ADMIN_KEY.encode() + b"x",
        b"Basic " + ADMIN_KEY.encode(),
        ADMIN_KEY.encode(),
        b"Bearer \xff\xfe",
        b"Bearer sw_000000000248_" + b"0" * 43 + b"00aHA9",
    ],
)
async def test_nobody_passes_without_the_admin_key(url, method, path, value):
    headers = {} if value is None else {b"authorization": value}
    async with httpx.AsyncClient(verify=False) as client:
        answer = await client.request(method, f"{url}/admin/v1{path}", headers=headers)
    assert error(answer, 401)["code"] == "invalid_admin_key"
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_an_empty_admin_key_would_open_the_door_and_is_refused(directory, books):
    with pytest.raises(ValueError, match="admin key is empty"):
        admin_router(directory, books, PLANS, "")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/keys/000000000000/more", 404, "not_found"),
        ("PUT", "/keys", 405, "method_not_allowed"),
        ("DELETE", "/keys", 405, "method_not_allowed"),
        ("GET", "/keys/000000000000", 405, "method_not_allowed"),
        ("POST", "/usage", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there_is_told_by_method_and_path(admin, method, path, status, code):
    told = error(await admin.request(method, path), status)
    assert told["code"] == code
    assert f"{method} /admin/v1{path}" in told["message"]


async def test_a_store_that_is_down_is_a_503(tmp_path):
    store = Store(f"unix://{tmp_path}/nothing")
    app = Litestar([admin_router(Directory(store), Books(down=True), PLANS, ADMIN_KEY)], logging_config=None)
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with (
        served(app) as url,
        httpx.AsyncClient(base_url=f"{url}/admin/v1", headers=headers, verify=False) as client,
    ):
        for method, path in ROUTES:
            answer = await client.request(method, path, json=NEW if method == "POST" else None)
            assert error(answer, 503)["code"] == "store_unavailable"
    await store.close()


async def test_a_fault_of_ours_tells_the_caller_nothing(url):
    async with httpx.AsyncClient(verify=False) as client:
        answer = await client.get(f"{url}/broken")
    assert error(answer, 500)["code"] == "internal_error"
    assert "secret" not in answer.text


async def test_every_route_is_described(app):
    paths = app.openapi_schema.to_schema()["paths"]
    described = {
        (method.upper(), path): operation
        for path, item in paths.items()
        for method, operation in item.items()
        if path.startswith("/admin")
    }
    assert set(described) == {
        ("POST", "/admin/v1/keys"),
        ("GET", "/admin/v1/keys"),
        ("DELETE", "/admin/v1/keys/{key_id}"),
        ("GET", "/admin/v1/usage"),
    }
    for operation in described.values():
        assert operation["summary"]
        assert operation["description"]
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorAnswer"}
