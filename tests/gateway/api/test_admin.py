import httpx
import pytest

from gateway.store.door import Store
from tests.gateway.api.conftest import app_over, parts_over
from tests.gateway.api.support import ADMIN_KEY, ROUTES, error
from tests.gateway.identity.support import served

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/keys/000000000000/more", 404, "not_found"),
        ("PUT", "/keys", 405, "method_not_allowed"),
        ("DELETE", "/keys", 405, "method_not_allowed"),
        ("PUT", "/keys/000000000000", 405, "method_not_allowed"),
        ("POST", "/organizations", 405, "method_not_allowed"),
        ("DELETE", "/audit", 405, "method_not_allowed"),
        ("GET", "/tokens/revoke", 405, "method_not_allowed"),
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
    """To the holder of the admin key, who needs no store to be known."""
    store = Store(f"unix://{tmp_path}/nothing")
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with (
        served(app_over(parts_over(store, None))) as url,
        httpx.AsyncClient(base_url=f"{url}/admin/v1", headers=headers, verify=False) as client,
    ):
        for method, path, body in ROUTES:
            answer = await client.request(method, path, json=body)
            if (method, path) == ("GET", "/backends"):  # what a gateway knows by itself, with a note
                assert (answer.status_code, "The store is down" in answer.json()["note"]) == (200, True)
            else:
                assert error(answer, 503)["code"] == "store_unavailable"
    await store.close()


async def test_a_fault_of_ours_tells_the_caller_nothing(url):
    async with httpx.AsyncClient(verify=False) as client:
        answer = await client.get(f"{url}/broken")
    assert error(answer, 500)["code"] == "internal_error"
    assert "secret" not in answer.text


async def test_every_answer_has_the_id_that_the_audit_has(admin):
    """The caller's own, where it is one that may stand in a log."""
    ours = await admin.put("/organizations/acme", json={})
    theirs = await admin.put("/organizations/other", json={}, headers={"x-request-id": "run-7"})
    strange = await admin.get("/organizations", headers={"x-request-id": "a b"})
    refused = await admin.get("/organizations/nobody", headers={"x-request-id": "run-8"})
    told = [answer.headers.get_list("x-request-id") for answer in (ours, theirs, strange, refused)]
    assert [len(ids) for ids in told] == [1, 1, 1, 1]
    assert told[1:2] + told[3:] == [["run-7"], ["run-8"]]
    assert told[0][0].startswith("req_")
    assert told[2][0].startswith("req_")
    lines = (await admin.get("/audit")).json()["lines"]
    assert [line["request_id"] for line in lines] == ["run-7", told[0][0]]


async def test_every_route_is_described(app):
    paths = app.openapi_schema.to_schema()["paths"]
    described = {
        (method.upper(), path): operation
        for path, item in paths.items()
        for method, operation in item.items()
        if path.startswith("/admin")
    }
    assert {(method, path.removeprefix("/admin/v1")) for method, path in described} == {
        ("GET", "/organizations"),
        ("GET", "/organizations/{organization}"),
        ("PUT", "/organizations/{organization}"),
        ("DELETE", "/organizations/{organization}"),
        ("GET", "/organizations/{organization}/teams"),
        ("GET", "/organizations/{organization}/teams/{team}"),
        ("PUT", "/organizations/{organization}/teams/{team}"),
        ("DELETE", "/organizations/{organization}/teams/{team}"),
        ("POST", "/keys"),
        ("GET", "/keys"),
        ("GET", "/keys/{key_id}"),
        ("PATCH", "/keys/{key_id}"),
        ("POST", "/keys/{key_id}/rotate"),
        ("DELETE", "/keys/{key_id}"),
        ("GET", "/plans"),
        ("GET", "/plans/{plan}"),
        ("PUT", "/plans/{plan}"),
        ("DELETE", "/plans/{plan}"),
        ("GET", "/backends"),
        ("POST", "/backends/{backend}/drain"),
        ("POST", "/backends/{backend}/resume"),
        ("GET", "/gateways"),
        ("POST", "/tokens/revoke"),
        ("GET", "/audit"),
        ("GET", "/usage"),
        ("GET", "/ledger/check"),
        ("POST", "/explain"),
    }
    for operation in described.values():
        assert operation["summary"]
        assert operation["description"]
        assert operation["security"] == [{"credential": []}]
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorAnswer"}
