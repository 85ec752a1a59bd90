import re

import httpx
import pytest
import pytest_asyncio
from litestar import Litestar, Router, WebSocket, asgi, get, post, websocket
from litestar.openapi import OpenAPIConfig
from litestar.types import Receive, Scope, Send

from gateway.api.apps import callers_app
from gateway.api.guards import OPEN_PATHS, OWN_CHECKS, QUESTIONS, READING, Guard, UnguardedRoute, all_guarded
from gateway.api.operations import operations_routes
from gateway.app import Gateway
from gateway.exchange import Exchange
from gateway.metrics import Metrics
from gateway.store.door import Store
from policies.domain import Principal
from policies.rejections import Reason, Rejection
from tests.gateway.api.conftest import app_over, parts_over
from tests.gateway.api.support import ADMIN_KEY, NEW, ROUTES, error
from tests.gateway.harness import settings
from tests.gateway.identity.support import served

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAMPLES = {"key_id": "000000000000"}
"""Values of path parameters where a name would not do."""


def filled_in(path):
    """Return a path with values for its parameters."""
    return re.sub(r"\{(\w+):\w+\}", lambda found: SAMPLES.get(found[1], "some"), path)


def changes(method, path):
    """Say whether a route changes something."""
    return method not in READING and (method, path) not in QUESTIONS


def requests_of(app):
    """Return (method, path) of all that an app has an admin route for."""
    return [
        (method, filled_in(route.path))
        for route in app.routes
        for handler in route.route_handlers
        for method in handler.http_methods
        if route.path.startswith("/admin")
    ]


async def key_of(admin, *scopes):
    answer = await admin.post("/keys", json={**NEW, "scopes": scopes})
    assert answer.status_code == 201
    return answer.json()


@pytest_asyncio.fixture(loop_scope="module")
async def ask(url, admin, identities):
    """Return a way to ask with a new key of some scopes."""
    clients = {}

    async def asked(scopes, method, path, **terms):
        if scopes not in clients:
            key = await key_of(admin, *scopes)
            clients[scopes] = httpx.AsyncClient(headers={"authorization": f"Bearer {key['key']}"}, verify=False)
        return await clients[scopes].request(method, f"{url}{path}", **terms)

    yield asked
    for client in clients.values():
        await client.aclose()


async def test_a_viewer_is_refused_by_every_route_that_changes_something(app, ask):
    """By walking the routes: one that somebody adds later is in it."""
    changing = [(method, path) for method, path in requests_of(app) if changes(method, path)]
    assert len(changing) >= 13
    for method, path in changing:
        told = error(await ask(("admin:read",), method, path), 403)
        assert told["code"] == "permission_denied"
        assert "`admin:write`" in told["message"]
        assert "its scopes: admin:read" in told["message"]


async def test_a_viewer_may_ask_what_changes_nothing(app, ask, store):
    """Every route that is said to be a question is there, and leaves the store as it was, whatever is asked."""
    assert set(requests_of(app)) >= QUESTIONS
    bodies = {(method, f"/admin/v1{path}"): body for method, path, body in ROUTES}
    await ask(("admin:read",), "GET", "/admin/v1/keys")  # which makes the key
    before = await written(store)
    for method, path in QUESTIONS:
        for body in (bodies[method, path], bodies[method, path] | {"key": None}, {}):
            assert (await ask(("admin:read",), method, path, json=body)).status_code in {200, 400}
    assert await written(store) == before


async def written(store):
    """Return the keys of a store with what is in each."""
    (names,) = await store.send(("KEYS", "*"))
    return dict(zip(names, await store.send(*(("DUMP", name) for name in names)), strict=True))


async def test_a_viewer_may_read_everything(app, ask):
    for method, path in requests_of(app):
        if method in READING:
            assert (await ask(("admin:read",), method, path)).status_code in {200, 204, 404}


async def test_a_key_for_inference_is_refused_by_every_route(app, ask):
    for method, path in requests_of(app):
        told = error(await ask(("inference",), method, path), 403)
        assert told["code"] == "permission_denied"


async def test_whoever_may_write_may_read(app, ask):
    for method, path in requests_of(app):
        assert (await ask(("admin:write",), method, path)).status_code not in {401, 403}


async def test_the_admin_key_opens_as_either_credential(url, identities):
    """As every other key does; with a wrong bearer token beside it the token counts."""
    async with httpx.AsyncClient() as client:
        good = await client.get(f"{url}/admin/v1/keys", headers={"x-api-key": ADMIN_KEY})
        both = {"x-api-key": ADMIN_KEY, "authorization": "Bearer wrong"}
        bad = await client.get(f"{url}/admin/v1/keys", headers=both)

    assert (good.status_code, bad.status_code) == (200, 401)


async def test_what_a_key_changes_has_its_name_in_the_audit(admin, ask):
    assert (await ask(("admin:write",), "PUT", "/admin/v1/organizations/umbrella", json={})).status_code == 201
    line = (await admin.get("/audit")).json()["lines"][0]
    assert (line["name"], line["action"]) == ("umbrella", "create")
    assert re.fullmatch(r"key [0-9A-Za-z]{12}", line["who"])
    assert line["address"] == "127.0.0.1"


async def test_a_key_that_is_revoked_opens_nothing_any_more(admin, url, identities):
    key = await key_of(admin, "admin:read")
    headers = {"authorization": f"Bearer {key['key']}"}
    async with httpx.AsyncClient(base_url=f"{url}/admin/v1", headers=headers, verify=False) as client:
        assert (await client.get("/keys")).status_code == 200
        await admin.delete(f"/keys/{key['id']}")
        while (answer := await client.get("/keys")).status_code == 200:
            pass
    assert error(answer, 401)["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "missing_api_key"),
        (b"", "missing_api_key"),
        (b"Bearer", "missing_api_key"),
        (b"Basic " + ADMIN_KEY.encode(), "missing_api_key"),
        (ADMIN_KEY.encode(), "missing_api_key"),
        (b"Bearer wrong", "invalid_api_key"),
        (b"Bearer " + ADMIN_KEY[:-1].encode(), "invalid_api_key"),
        (b"Bearer " + ADMIN_KEY.encode() + b"x", "invalid_api_key"),
        (b"Bearer \xff\xfe", "invalid_api_key"),
        (b"Bearer sw_000000000248_" + b"0" * 43 + b"00aHA9", "invalid_api_key"),
    ],
)
async def test_nobody_passes_without_a_good_credential(app, url, identities, value, code):
    headers = {} if value is None else {b"authorization": value}
    async with httpx.AsyncClient(verify=False) as client:
        for method, path in requests_of(app):
            answer = await client.request(method, f"{url}{path}", headers=headers)
            told = error(answer, 401)
            assert told["code"] == code
            assert "admin key" in told["message"]
            assert answer.headers["www-authenticate"] == "Bearer"


class One:
    """Identities that say the same of everybody."""

    def __init__(self, outcome):
        self.outcome = outcome

    async def identify(self, headers, address):
        return self.outcome


@pytest.mark.parametrize(
    ("reason", "status"), [(Reason.NOT_ALLOWED, 403), (Reason.STORE_DOWN, 503), (Reason.OVERLOADED, 503)]
)
async def test_the_identities_no_is_told_as_it_is(reason, status):
    """A suspended tenant, and a store that cannot say."""
    store = Store("unix:///nowhere")
    app = app_over(parts_over(store, One(Rejection(reason, "because", retry_after_us=1_500_000))))
    async with served(app) as url, httpx.AsyncClient(verify=False) as client:
        answer = await client.get(f"{url}/admin/v1/keys", headers={"authorization": "Bearer x"})
    await store.close()
    told = error(answer, status)
    assert (told["message"], told["code"]) == ("because", reason.value)
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["x-request-id"].startswith("req_")


async def test_a_tokens_subject_is_an_author_by_its_own_name(store):
    principal = Principal("acme", "research", "sso:zoe", "zoe", (), scopes=frozenset({"admin:write"}))
    app = app_over(parts_over(store, One(principal)))
    async with served(app) as url, httpx.AsyncClient(base_url=f"{url}/admin/v1", verify=False) as client:
        headers = {"authorization": "Bearer a.b.c", "x-request-id": "mine"}
        answer = await client.put("/organizations/acme", json={}, headers=headers)
        assert answer.headers["x-request-id"] == "mine"
        line = (await client.get("/audit")).json()["lines"][0]
    assert (line["who"], line["request_id"]) == ("subject sso:zoe", "mine")


async def test_an_empty_admin_key_would_open_the_door_and_is_refused():
    with pytest.raises(ValueError, match="admin key is empty"):
        Guard("", One(None))


async def test_every_route_of_the_real_app_is_guarded_or_listed(tmp_path):
    """What is not listed as open answers 401 to nobody in particular, before anything is asked of the store.

    Inference calls need a connection of our own listener; that they ask first is tested with the exchange.
    """
    store = Store(f"unix://{tmp_path}/nothing")
    gateway = Gateway(settings(tmp_path, {}), store, store, "admin", discover=False)
    asked, paths = 0, set()
    for app in (callers_app(gateway.services), gateway._admins()):
        async with served(app) as url, httpx.AsyncClient(base_url=url, verify=False) as nobody:
            for route in app.routes:
                paths.add(route.path)
                for handler in route.route_handlers:
                    calls = handler.parsed_fn_signature.return_type.annotation is Exchange
                    if route.path in OPEN_PATHS or calls or handler.fn.__module__ == "litestar.routes.http":
                        continue
                    for method in handler.http_methods:
                        path = filled_in(route.path)
                        answer = await nobody.request(method, path, json={} if method == "POST" else None)
                        assert answer.status_code == 401, f"{method} {path}: {answer.text}"
                        asked += 1
    assert asked >= 26 + len(OWN_CHECKS)
    assert paths >= {*OWN_CHECKS, "/admin/v1/schema", "/admin/v1/schema/openapi.json"}
    await gateway.services.telemetry.close()
    await store.close()


async def test_every_route_of_the_operations_app_is_listed():
    async def ready():
        return None

    routes = operations_routes(Metrics(), ready, lambda: "ready")
    all_guarded(Litestar(routes, openapi_config=None, logging_config=None))


async def test_the_pages_that_run_a_strangers_scripts_cannot_be_served():
    with pytest.raises(UnguardedRoute, match="GET /schema/"):
        all_guarded(Litestar([], logging_config=None))


@get("/open")
async def open_get() -> str:
    return ""


@post("/open")
async def open_post() -> str:
    return ""


@websocket("/socket")
async def socket(socket: WebSocket) -> None: ...


@asgi("/mounted", is_mount=True, copy_scope=True)
async def mounted(scope: Scope, receive: Receive, send: Send) -> None: ...


@pytest.mark.parametrize(
    ("routes", "path"),
    [
        ([open_get], "/open"),
        ([open_post], "/open"),
        ([Router("/admin/v1", route_handlers=[open_get])], "/admin/v1/open"),
        ([socket], "/socket"),
        ([mounted], "/mounted"),
    ],
)
async def test_an_unguarded_route_cannot_be_served(routes, path):
    app = Litestar(routes, openapi_config=OpenAPIConfig("x", "0"), logging_config=None)
    with pytest.raises(UnguardedRoute, match=path) as raised:
        all_guarded(app)
    assert raised.value.path == path


async def test_a_guarded_route_can(parts):
    guard = Guard(ADMIN_KEY, parts.callers)
    router = Router("/any", route_handlers=[open_get], guards=[guard])
    all_guarded(Litestar([router], openapi_config=None, logging_config=None))


async def test_every_sample_request_meets_a_route(app):
    """What other tests ask of each route is all that there is."""
    asked = {(method, path.partition("?")[0]) for method, path, _ in ROUTES}
    methods = {(method, path) for method, path in requests_of(app) if method != "OPTIONS"}
    assert len(asked) == len(methods)
