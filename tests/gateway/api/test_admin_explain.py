import re

import httpx
import msgspec
import pytest
from msgspec.structs import replace

from gateway.api.admin_explain import ANYBODY, MOST_BODY, dry_run
from gateway.identity.records import Author, PlanRecord, TeamRecord
from gateway.store.door import StoreDown
from policies.affinity import BLOCK
from policies.domain import Price, RoutingTerms
from policies.reach import LEAVES
from tests.gateway.api.support import ASK, error, fleet_services
from tests.gateway.harness import running, settings

LONG = ("the river and the garden and " * BLOCK)[: 5 * BLOCK]
"""Larger than what is sent somewhere to find out how it does."""


def prompt(text="hi"):
    return {"model": "alias", "messages": [{"role": "user", "content": text}]}


@pytest.fixture
async def gateway(app, tmp_path, first, second):
    """Run a gateway over two vLLM that cost the same. `app`: the first one of a process takes long to build."""
    (model,) = settings(tmp_path, {"a": first, "b": second}).models
    deployments = tuple(replace(one, price=Price(0, 0), kind="vllm") for one in model.deployments)
    equal = replace(model, deployments=deployments, routing=RoutingTerms(ttft_target=2.0, max_price=10**9))
    equal = replace(equal, told=frozenset({"max_price"}))
    async with running(tmp_path, {"a": first, "b": second}, models=(equal,), kind="vllm") as harness:
        yield harness


@pytest.fixture
async def explain(gateway):
    """Return a way to ask where a call would go."""
    headers = {"authorization": "Bearer admin"}
    async with httpx.AsyncClient(base_url=gateway.running.url, headers=headers, timeout=20) as client:

        async def explain(request, **more):
            return await client.post("/admin/v1/explain", json={"request": request, **more})

        yield explain


def key_id(gateway):
    return gateway.client.headers["authorization"].removeprefix("Bearer sw_")[:12]


async def told(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_every_term_is_told_of_a_call_that_nobody_has_restricted(explain):
    """With units that the page tells."""
    found = await told(await explain(prompt(LONG)))

    assert (found["model"], found["output_tokens"], found["refusal"], found["waits"]) == ("m", 350, None, False)
    assert found["prompt_tokens"] > 0
    origins = found["terms"].pop("origins")
    assert {name: one["level"] for name, one in origins.items()} == dict.fromkeys(found["terms"], "default") | {
        "max_price": "model"
    }
    assert {one["plan"] for one in origins.values()} == {None}
    assert found["terms"] == {
        "policy": "balanced",
        "priority": "normal",
        "value_of_time": 0.002,
        "ttft_target": 2.0,
        "tpot_target": None,
        "max_price": 1.0,
        "max_attempts": 3,
        "max_wait": 30.0,
    }
    assert {one["deployment"] for one in found["candidates"]} == {"a/scripted", "b/scripted"}
    for one in found["candidates"]:
        assert one["money"] == one["shadow"] == one["imposed"] == one["cached"] == 0
        assert one["prefill"] == found["prompt_tokens"]
        assert one["score"] == pytest.approx(0.002 * (2 * one["ttft"] + one["own"] + one["risk"]))
        assert one["why"] == "in time"
    assert found["because"].endswith("so that the dice decide, or the session.")


async def test_a_dry_run_ranks_as_the_call_itself_does(gateway, explain):
    """Term by term as the call's own header has it, cached beginnings included."""
    long = prompt(LONG) | {"prompt_cache_key": "a session, so that no dice decide"}
    place = (await gateway.client.post("/v1/chat/completions", json=long)).headers["x-sluiceway-backend"]
    found = await told(await explain(long, key=key_id(gateway)))
    answer = await gateway.client.post("/v1/chat/completions", json=long, headers={"x-sluiceway-explain": "1"})

    assert {one["deployment"]: one["cached"] > 0.8 for one in found["candidates"]} == {
        f"{name}/scripted": name == place for name in ("a", "b")
    }
    header = answer.headers["x-sluiceway-route"]
    assert re.findall(r'"(\w/scripted)"', header) == [one["deployment"] for one in found["candidates"]]
    for one in found["candidates"]:
        assert f";prefill={one['prefill']};cached={one['cached']:.3f};" in header


async def test_caches_are_told_to_no_other_organization(gateway, explain):
    """Nor to nobody in particular."""
    long = prompt(LONG)
    await gateway.client.post("/v1/chat/completions", json=long)
    other = (await gateway.key(organization="globex"))[3:15]

    for more in ({}, {"key": other}):
        found = await told(await explain(long, **more))
        assert [one["cached"] for one in found["candidates"]] == [0, 0]


async def test_a_dry_run_leaves_no_trace(gateway, first, second, explain):
    """Nobody upstream hears of it, nobody pays, no load is taken and nothing is learned."""
    services = gateway.services
    for _ in range(5):
        await told(await explain(prompt(), key=key_id(gateway)))

    lives = [services.fleet.live(one) for model in services.catalog.models for one in model.deployments]
    assert not first.requests
    assert not second.requests
    assert [(live.in_flight, live.queued_tokens) for live in lives] == [(0, 0), (0, 0)]
    assert gateway.gateway.ledger.open_reservations == 0
    assert await gateway.usage() == []


async def test_a_keys_reach_and_wishes_count(gateway, explain):
    """Wherever they come from, as for its calls."""
    key = await gateway.key(backends=("b",), routing={"policy": "cheapest", "priority": "low"})
    found = await told(await explain(prompt(), key=key[3:15]))

    assert (found["terms"]["policy"], found["terms"]["priority"]) == ("cheapest", "low")
    assert [one["deployment"] for one in found["candidates"]] == ["b/scripted"]
    assert [one["deployment"] for one in found["dropped"]] == ["a/scripted"]
    assert found["because"] == "b/scripted is the only one that can serve the call."


async def test_each_term_is_told_with_the_level_that_was_heard(gateway, explain):
    """With its plan, by which it is found; the call's own header says the same."""
    slow = PlanRecord(name="slow", plan={"requests_per_minute": 600, "routing": {"priority": "low", "max_price": 2}})
    registry, author = gateway.gateway.registry, Author("a test")
    await registry.put(slow, author, action="create", expected=0)
    await registry.put(TeamRecord(organization="acme", name="slow", plan="slow"), author, action="create", expected=0)
    key = await gateway.key(team="slow", routing={"policy": "cheapest"})
    found = (await told(await explain(prompt(), key=key[3:15])))["terms"]["origins"]
    headers = {"authorization": f"Bearer {key}", "x-sluiceway-explain": "1"}
    answer = await gateway.client.post("/v1/chat/completions", json=prompt(), headers=headers)

    assert found["priority"] == {"level": "team", "plan": "slow"}
    assert found["max_price"] == {"level": "model", "plan": None}, "which is less than the plan's"
    assert found["policy"] == found["value_of_time"] == {"level": "key", "plan": None}
    assert found["max_wait"] == {"level": "default", "plan": None}
    terms = answer.headers["x-sluiceway-terms"].split(", ")
    assert {"policy=cheapest;by=key", 'priority=low;by=team;plan="slow"', "max_price=1;by=model"} <= set(terms)


async def test_what_a_caller_would_be_told_is_told(gateway, explain):
    """With status and message, as the call itself is refused."""
    barred, viewer = await gateway.key(models=("n",)), await gateway.key(scopes=("admin:read",))
    for body, key in ((prompt(), barred), (prompt(), viewer), (prompt() | {"model": "nothing"}, barred), ({}, barred)):
        found = (await told(await explain(body, key=key[3:15])))["refusal"]
        headers = {"authorization": f"Bearer {key}"}
        own = await gateway.client.post("/v1/chat/completions", json=body, headers=headers)
        assert found == {"status": own.status_code} | {
            name: own.json()["error"][name] for name in ("code", "message", "param")
        }


async def test_a_key_that_is_no_good_any_more_says_why(gateway, explain):
    """As it would to its caller."""
    revoked, expired = await gateway.key(revoked=True), await gateway.key(expires=1)

    assert "revoked" in (await told(await explain(prompt(), key=revoked[3:15])))["refusal"]["message"]
    assert "expired" in (await told(await explain(prompt(), key=expired[3:15])))["refusal"]["message"]


async def test_what_nothing_can_serve_is_told_with_what_it_would_use(gateway, explain):
    """The reasons are in the refusal's own words."""
    gateway.services.fleet.drain(frozenset({"a", "b"}))
    found = await told(await explain(prompt()))

    assert (found["model"], found["candidates"], found["because"]) == ("m", [], None)
    assert found["terms"]["max_price"] == 1.0, "which may be why"
    assert found["refusal"]["status"] == 503
    assert "a/scripted drained by an operator" in found["refusal"]["message"]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"request": ASK, "key": "0" * 12}, "key", "there is no key 000000000000"),
        ({"request": ASK, "key": "sw_x"}, "key", "the 12 letters and digits after `sw_`"),
        ({"request": ASK, "api": "images"}, "api", "must be one of chat, completions, embeddings"),
        ({"request": "a body in quotes"}, "request", "must be the body of a call: a JSON object"),
        ({"key": None}, None, "request"),
        ({"request": ASK, "model": "m"}, None, "model"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_wrong_question_is_told_what_would_be_right(admin, body, param, words):
    """In no validator's words."""
    found = error(await admin.post("/explain", json=body), 400)

    assert found["param"] == param
    assert words in found["message"]
    assert "regex" not in found["message"]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_body_may_be_as_large_as_a_long_prompt_and_no_larger(admin):
    """The refusal tells this route's own bound."""
    long = ASK | {"messages": [{"role": "user", "content": "x" * (MOST_BODY - 1000)}]}
    found = error(await admin.post("/explain", content=b" " * (MOST_BODY + 1)), 413)

    assert (await admin.post("/explain", json={"request": long})).status_code == 200
    assert found["message"] == "The body is larger than 1024 KiB."


@pytest.mark.asyncio(loop_scope="module")
async def test_a_question_that_needs_no_key_needs_no_store(admin, parts, monkeypatch):
    """And one that does says so; no change is spoken of, since none was asked for."""

    async def gone(*_):
        raise StoreDown("it sleeps")

    monkeypatch.setattr(type(parts.registry), "get", gone)
    found = error(await admin.post("/explain", json={"request": ASK, "key": "0" * 12}), 503)

    assert (await admin.post("/explain", json={"request": ASK})).status_code == 200
    assert "Ask without `key`" in found["message"]
    assert "change" not in found["message"]


@pytest.mark.asyncio(loop_scope="module")
async def test_while_the_store_is_down_it_is_told_what_becomes_of_the_call(admin, parts, monkeypatch):
    """Beside the route, which a caller would not get."""
    assert (await admin.post("/explain", json={"request": ASK})).json()["store"] is None
    monkeypatch.setattr(type(parts.store), "down", "it sleeps")
    denied = (await admin.post("/explain", json={"request": ASK})).json()
    monkeypatch.setattr(parts, "serves_without_store", lambda: True)
    some = (await admin.post("/explain", json={"request": ASK})).json()

    assert (denied["refusal"], len(denied["candidates"])) == (None, 2)
    assert denied["store"].startswith(
        "The store is down: the call would be refused with 503 store_unavailable, because"
    )
    gone = (await admin.post("/explain", json={"request": ASK | {"model": "gone"}})).json()
    assert (gone["refusal"]["code"], gone["store"]) == ("model_not_found", None)
    assert "unless its caller's plans all say `when_down: local`" in some["store"]


@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_tells_the_unit_of_every_number(app):
    """An answer whose numbers mean nothing explains nothing."""
    schemas = app.openapi_schema.to_schema()["components"]["schemas"]
    for name in ("CandidateTold", "TermsTold", "OriginTold", "Explanation"):
        for field, schema in schemas[name]["properties"].items():
            if field not in {"policy", "priority"}:
                assert schema.get("description"), f"{name}.{field}"


def test_a_dry_run_of_a_local_only_caller_tells_what_is_barred():
    """Nothing of the route's terms is left out where a deployment is."""
    who = replace(ANYBODY, reach=replace(ANYBODY.reach, local_only=True))
    run = dry_run(fleet_services(), who, "chat", msgspec.json.encode(ASK))

    assert [one.deployment.id for one in run.route.order] == ["rack/small"]
    assert [(one.deployment.id, one.dropped) for one in run.route.dropped] == [("openai/small", LEAVES)]
