"""What the tests of the admin API share."""

from types import SimpleNamespace

from gateway.api.admin import BackendView
from gateway.api.admin_parts import ModelOut
from gateway.config.settings import STANDARD, Backend, Organization
from gateway.upstream.catalog import Catalog
from gateway.upstream.fleet import Fleet
from policies.domain import Deadlines, Deployment, Meter, MeterKind, Model, Plan, Price
from policies.estimates import Estimates
from policies.terms import RoutingTerms

ADMIN_KEY = "admin-key-of-the-tests"
SMALL = Plan("small", (Meter(MeterKind.REQUESTS_PER_MINUTE, limit=5, burst=5),))
PLANS = {"standard": STANDARD, "small": SMALL}
ORGANIZATIONS = {
    "globex": Organization(SMALL, {"sales": STANDARD, "legal": None}, "Asia/Kolkata"),
    "initech": Organization(None, {}),
}
"""What the file says of tenants."""

BACKENDS = [
    BackendView(
        name="rack",
        kind="vllm",
        hosted=False,
        up=True,
        why="ministral off: the upstream answered 401 (for 5 min more)",
        in_flight=3,
        models=("mistral-small", "ministral"),
        out=(ModelOut("ministral", "off: the upstream answered 401", 271),),
        unlisted=("ministral",),
    ),
    BackendView(
        name="pool@10.0.0.1:8000", kind="vllm", hosted=False, up=False, why="it is down", in_flight=0, models=()
    ),
    BackendView(name="openai", kind="openai", hosted=True, up=None, why=None, in_flight=0, models=("gpt",)),
]


def fleet_services():
    """Return as much of a gateway's services as routes are made from: a model, on an own and a hosted backend."""
    fleet, text = Fleet(), frozenset({"text"})
    fleet.add(Backend("rack", "vllm", "http://127.0.0.1:9/v1", None))
    fleet.add(Backend("openai", "openai", "http://127.0.0.1:9/v1", None))
    deployments = (
        Deployment("rack", "vllm", "small", None, text, Price(0, 0)),
        Deployment("openai", "openai", "small", None, text, None, hosted=True),
    )
    model = Model("mistral-small", ("small",), deployments, (), RoutingTerms(), Deadlines())
    return SimpleNamespace(catalog=Catalog([model]), estimates=Estimates(), fleet=fleet)


ASK = {"model": "mistral-small", "messages": [{"role": "user", "content": "hi"}]}
NEW = {"organization": "acme", "team": "research", "name": "ci"}
READS = [
    "/organizations",
    "/organizations/acme",
    "/organizations/acme/teams",
    "/organizations/acme/teams/research",
    "/keys",
    "/keys/000000000000",
    "/plans",
    "/plans/small",
    "/backends",
    "/gateways",
    "/audit",
    "/usage",
    "/usage?organization=acme",
    "/ledger/check",
    "/ledger/check?organization=acme",
]
CHANGES = [
    ("PUT", "/organizations/acme", {}),
    ("DELETE", "/organizations/acme", None),
    ("PUT", "/organizations/acme/teams/research", {}),
    ("DELETE", "/organizations/acme/teams/research", None),
    ("POST", "/keys", NEW),
    ("PATCH", "/keys/000000000000", {"name": "x"}),
    ("POST", "/keys/000000000000/rotate", {}),
    ("DELETE", "/keys/000000000000", None),
    ("PUT", "/plans/gold", {"requests_per_minute": 5}),
    ("DELETE", "/plans/gold", None),
    ("POST", "/backends/rack/drain", {}),
    ("POST", "/backends/rack/resume", None),
    ("POST", "/tokens/revoke", {"issuer": "sso", "jti": "x", "expires": "1h"}),
]
QUESTIONS = [("POST", "/explain", {"request": ASK, "key": "000000000000"})]
ROUTES = [("GET", path, None) for path in READS] + CHANGES + QUESTIONS
"""A request of every route."""


def error(response, status):
    """Return the error of an answer, having checked its shape and status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return answer["error"]


def record(response, status=200):
    """Return the record of an answer, having checked that its ETag is its version."""
    assert response.status_code == status, response.text
    answer = response.json()
    assert response.headers.get("etag") == (None if answer["version"] is None else f'"{answer["version"]}"')
    return answer


def seen(answer):
    """Return the headers of a change to a record as it was read."""
    return {"if-match": answer.headers["etag"]}
