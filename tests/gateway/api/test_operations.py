import httpx
from litestar import Litestar
from litestar.testing import AsyncTestClient

from gateway.api.operations import operations_routes
from gateway.metrics import Metrics


async def test_liveness_readiness_and_metrics_have_an_address_of_their_own(gateway):
    """Callers do not see it, and it needs no key."""
    async with httpx.AsyncClient(base_url=gateway.running.operations_url) as operator:
        live, ready, metrics = [await operator.get(path) for path in ("/livez", "/readyz", "/metrics")]

    assert (live.text, ready.text) == ("ok", "ok")
    assert "sluiceway_open_calls 0.0" in metrics.text
    assert metrics.headers.get_list("content-type") == ["text/plain; version=0.0.4; charset=utf-8"]
    assert (await gateway.client.get("/metrics")).status_code == 404


async def test_whoever_asks_at_the_wrong_one_of_the_two_addresses_is_told_of_the_other(gateway):
    """The next port is a slip of a finger; both have a 404 for it."""
    operations = gateway.running.operations_url
    theirs = "The operations address (`operations.port`) has /livez, /readyz and /metrics."
    calls = "Calls go to the callers' address (`listen.port`)."
    lists = "GET /schema lists what there is."
    hints = {
        "/readyz": theirs,
        "/metrics/": theirs,
        "/health": theirs,
        "/x": lists,
        "/v1/nope": lists,
        f"{operations}/v1/models": calls,
        f"{operations}/v1/nope": calls,
        f"{operations}/tokenize": calls,
        f"{operations}/chat/completions": calls,
        f"{operations}/health": theirs,
        f"{operations}/schema": theirs,
    }
    answers = {url: await gateway.client.get(url) for url in hints}

    assert {answer.status_code for answer in answers.values()} == {404}
    told = {url: answer.json()["error"]["message"] for url, answer in answers.items()}
    paths = {url: url.removeprefix(operations) for url in hints}
    assert told == {url: f"GET {paths[url]} is nothing this gateway does. {hint}" for url, hint in hints.items()}


async def test_a_gateway_without_models_is_not_ready(gateway):
    """And says why."""
    gateway.services.catalog = type(gateway.services.catalog)(())
    async with httpx.AsyncClient(base_url=gateway.running.operations_url) as operator:
        answer = await operator.get("/readyz")

    assert answer.status_code == 503
    assert "no backend lists a model" in answer.text


async def test_readiness_tells_under_which_conditions_calls_are_taken():
    """A gateway that serves without its store is ready, and says in words what that means."""
    why, how = None, "ok, but for 3 s without the store"

    async def ready():
        return why

    async with AsyncTestClient(Litestar(operations_routes(Metrics(), ready, lambda: how))) as operator:
        answer = await operator.get("/readyz")
        why = "stopping"
        refused = await operator.get("/readyz")

    assert (answer.status_code, answer.text) == (200, how)
    assert answer.headers["content-type"].startswith("text/plain")
    assert (refused.status_code, refused.text) == (503, "stopping")
