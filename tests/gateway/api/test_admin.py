import httpx
import pytest
from litestar import Litestar

from gateway.api.admin import admin_router
from gateway.identity.directory import Directory
from gateway.store.door import Store
from tests.gateway.api.support import ADMIN_KEY, NEW, PLANS, ROUTES, ZONES, error
from tests.gateway.identity.support import served

pytestmark = pytest.mark.asyncio(loop_scope="module")


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


async def test_an_empty_admin_key_would_open_the_door_and_is_refused(directory, store):
    with pytest.raises(ValueError, match="admin key is empty"):
        admin_router(directory, store, PLANS, ZONES, "")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/keys/000000000000/more", 404, "not_found"),
        ("PUT", "/keys", 405, "method_not_allowed"),
        ("DELETE", "/keys", 405, "method_not_allowed"),
        ("GET", "/keys/000000000000", 405, "method_not_allowed"),
        ("POST", "/usage", 405, "method_not_allowed"),
        ("POST", "/ledger/check", 405, "method_not_allowed"),
        ("GET", "/ledger", 404, "not_found"),
    ],
)
async def test_what_is_not_there_is_told_by_method_and_path(admin, method, path, status, code):
    told = error(await admin.request(method, path), status)
    assert told["code"] == code
    assert f"{method} /admin/v1{path}" in told["message"]


async def test_a_store_that_is_down_is_a_503(tmp_path):
    store = Store(f"unix://{tmp_path}/nothing")
    app = Litestar([admin_router(Directory(store), store, PLANS, ZONES, ADMIN_KEY)], logging_config=None)
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
        ("GET", "/admin/v1/ledger/check"),
    }
    for operation in described.values():
        assert operation["summary"]
        assert operation["description"]
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorAnswer"}
