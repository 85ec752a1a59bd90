import re

from gateway.app import VERSION
from policies.apis import PATHS
from tests.gateway.harness import running

ADMIN = {"authorization": "Bearer admin"}


def references(told):
    """Return the names of the schemas that a page refers to."""
    return set(re.findall(r"#/components/schemas/([A-Za-z0-9_.]+)", told))


async def test_the_callers_page_is_open_and_tells_nothing_of_this_gateway(gateway):
    """Whoever comes by learns what every gateway does, and not which one this is."""
    answer = await gateway.client.get("/schema", headers={"authorization": ""})
    page = answer.json()

    assert answer.headers["content-type"] == "application/json"
    assert page["paths"].keys() == {*PATHS, "/v1/models", "/v1/models/{model_id}"}
    assert page["info"]["version"] == "1"
    assert "admin" not in answer.text
    assert references(answer.text) <= page["components"].get("schemas", {}).keys()
    assert (await gateway.client.get("/schema/openapi.json")).content == answer.content


async def test_the_admins_page_is_for_whoever_may_read_there(gateway):
    keys = {"nobody": 401} | {
        await gateway.key(scopes=(scope,)): status
        for scope, status in {"inference": 403, "admin:read": 200, "admin:write": 200}.items()
    }
    for key, status in keys.items():
        answer = await gateway.client.get("/admin/v1/schema", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == status
        assert ("/admin/v1/keys" in answer.text) is (status == 200)
        assert answer.headers["x-request-id"]


async def test_the_admins_page_is_about_the_admin_api_of_this_version(gateway):
    answer = await gateway.client.get("/admin/v1/schema/openapi.json", headers=ADMIN)
    page = answer.json()

    assert {path[: len("/admin/v1/")] for path in page["paths"]} == {"/admin/v1/"}
    assert len(page["paths"]) >= 15
    assert page["info"]["version"] == VERSION
    assert page["components"]["securitySchemes"]
    assert references(answer.text) == page["components"]["schemas"].keys()


async def test_no_page_runs_a_strangers_script(gateway):
    """There is none for people."""
    for page, hint in (("/schema", " GET /schema lists what there is."), ("/admin/v1/schema", "")):
        for renderer in ("swagger", "redoc", "elements", "rapidoc", "scalar", "openapi.yaml", "x"):
            answer = await gateway.client.get(f"{page}/{renderer}", headers=ADMIN)
            assert answer.status_code == 404
            assert answer.json()["error"]["message"] == f"GET {page}/{renderer} is nothing this gateway does.{hint}"
            assert answer.headers["x-request-id"]
            assert "script" not in answer.text
            assert "http" not in answer.text


async def test_the_operations_address_has_the_admins_page_where_it_has_them(tmp_path, first):
    """And no page where it does not: it has three paths, which the README tells."""
    async with running(tmp_path, {"a": first}, admin_on="operations") as gateway:
        url = gateway.running.operations_url
        page = await gateway.client.get(f"{url}/admin/v1/schema", headers=ADMIN)
        stranger = await gateway.client.get(f"{url}/admin/v1/schema")
        at_callers = await gateway.client.get("/admin/v1/schema", headers=ADMIN)
    async with running(tmp_path, {"a": first}) as gateway:
        without = await gateway.client.get(f"{gateway.running.operations_url}/admin/v1/schema", headers=ADMIN)
        opened = await gateway.client.get(f"{gateway.running.operations_url}/schema")

    assert {"/admin/v1/keys", "/livez"} < page.json()["paths"].keys()
    assert [answer.status_code for answer in (stranger, at_callers, without, opened)] == [403, 404, 404, 404]
