"""What tenants' terms mean to calls, through a whole gateway: models, backends, hosted places, scopes, drains."""

import asyncio
import json

import pytest
from msgspec.structs import replace

from gateway import clock
from gateway.identity import keys
from gateway.identity.records import Author, DrainRecord, KeyRecord, OrganizationRecord
from policies.domain import Deadlines, Deployment, Model, Price
from policies.terms import RoutingTerms
from tests.gateway.harness import ASK, TEXT, eventually, running
from tests.parts.scripted import Hang, Pause, Status, delta, sse

ANN = Author("admin key")
PRICES = {"a": Price(10**9, 0), "b": Price(0, 0)}


def serving(name, *places, fallbacks=(), aliases=()):
    deployments = tuple(Deployment(at, "openai", "scripted", None, TEXT, PRICES[at], hosted=at == "b") for at in places)
    return Model(name, aliases, deployments, fallbacks, RoutingTerms(), Deadlines())


@pytest.fixture
async def gateway(tmp_path, first, second):
    """Run a gateway with a local backend `a` and a hosted one `b`, which is the first choice for `m`."""
    models = (
        replace(serving("m", "b", "a", aliases=("nick",)), routing=RoutingTerms(max_attempts=2)),
        serving("big", "b"),
        serving("small", "a", fallbacks=("big",)),
    )
    async with running(tmp_path, {"a": first, "b": second}, models=models) as harness:
        yield harness


async def call(gateway, model, **terms):
    key = await gateway.key(**terms)
    return await gateway.ask(model=model, key=key)


@pytest.mark.parametrize(
    ("model", "models", "status"),
    [("m", ("m",), 200), ("nick", ("m",), 200), ("m", ("nick",), 200), ("big", ("m", "s*"), 403), ("m", (), 403)],
)
async def test_a_key_may_use_the_models_of_its_list(gateway, model, models, status):
    """Under whichever of their names."""
    answer = await call(gateway, model, models=models)

    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "permission_denied"
        assert answer.json()["error"]["param"] == "model"


async def test_a_key_sees_only_the_models_that_it_may_use(gateway):
    """In the list, and one by one."""
    headers = {"authorization": f"Bearer {await gateway.key(models=('s*',))}"}

    listed = await gateway.client.get("/v1/models", headers=headers)
    one = await gateway.client.get("/v1/models/small", headers=headers)
    other = await gateway.client.get("/v1/models/big", headers=headers)

    assert [entry["id"] for entry in listed.json()["data"]] == ["small"]
    assert (one.status_code, other.status_code) == (200, 403)


async def test_a_fallback_is_a_model_like_any_other(gateway, first, second):
    """Failing over gives nobody what it may not use."""
    first.enqueue([Status(503)], [Status(503)])

    assert (await call(gateway, "small", models=("small",))).status_code == 502
    assert second.requests == []
    assert (await call(gateway, "small")).status_code == 200


async def test_prompts_that_stay_local_never_reach_a_hosted_place(gateway, first, second):
    """Neither as a first choice nor when everything else fails; and the answer says why."""
    first.enqueue([Status(503)])

    failed = await call(gateway, "m", local_only=True)
    served = await call(gateway, "m", local_only=True)
    nowhere = await call(gateway, "big", local_only=True)

    assert (failed.status_code, served.status_code, nowhere.status_code) == (502, 200, 403)
    assert served.headers["x-sluiceway-backend"] == "a"
    assert "prompts stay local" in nowhere.json()["error"]["message"]
    assert second.requests == []


async def test_an_organizations_word_binds_all_of_its_keys(gateway, second):
    """What its key says cannot widen it."""
    record = OrganizationRecord(name="acme", backends=("a",))
    await gateway.gateway.registry.put(record, ANN, action="create", expected=None)

    answer = await call(gateway, "m", backends=("a", "b"))

    assert answer.headers["x-sluiceway-backend"] == "a"
    assert (await call(gateway, "big")).status_code == 403
    assert second.requests == []


async def test_without_the_scope_nothing_is_inferred(gateway, first, second):
    """A credential for admins is no credential for models."""
    answer = await call(gateway, "m", scopes=("admin:read",))

    assert answer.status_code == 403
    assert "inference" in answer.json()["error"]["message"]
    assert first.requests == second.requests == []


async def test_a_key_opens_only_from_its_networks(gateway):
    """By the address that the connection comes from."""
    assert (await call(gateway, "m", networks=("127.0.0.0/8",))).status_code == 200

    refused = await call(gateway, "m", networks=("10.0.0.0/8", "::1/128"))

    assert refused.status_code == 403
    assert "127.0.0.1" in refused.json()["error"]["message"]


async def test_a_key_ends_when_it_expires(gateway):
    """As if it had been taken back."""
    assert (await call(gateway, "m", expires=int(clock.wall()) + 60)).status_code == 200

    assert (await call(gateway, "m", expires=int(clock.wall()) - 1)).status_code == 401


async def test_a_drained_backend_gets_no_new_call_until_it_is_resumed(gateway, second):
    """A call under way ends as it would have; the record is read by every gateway."""
    second.enqueue([Status(200, {"content-type": "text/event-stream"}), delta(content="one"), Hang()])
    key = await gateway.key()
    under_way = gateway.client.stream(
        "POST", "/v1/chat/completions", json=ASK | {"stream": True}, headers={"authorization": f"Bearer {key}"}
    )
    async with under_way as stream:
        parts = stream.aiter_bytes()
        assert b"one" in await anext(parts)
        version = await gateway.gateway.registry.put(DrainRecord(backend="b"), ANN, action="drain", expected=0)
        fleet = gateway.services.fleet
        assert await eventually(lambda: fleet.drained == {"b"})

        assert (await gateway.ask(key=key)).headers["x-sluiceway-backend"] == "a"
        refused = await gateway.ask(key=key, model="big")
        assert (refused.status_code, "drained" in refused.json()["error"]["message"]) == (503, True)
        assert fleet.live(serving("m", "b").deployments[0]).in_flight == 1

    await gateway.gateway.registry.remove(DrainRecord(backend="b"), ANN, expected=version)
    assert await eventually(lambda: not fleet.drained)
    assert (await gateway.ask(key=key)).headers["x-sluiceway-backend"] == "b"


async def test_what_changes_is_in_force_within_a_second_and_spares_calls_under_way(gateway, second):
    """Suspended: the stream that runs ends as it would have, the next call is refused."""
    record = OrganizationRecord(name="acme")
    second.enqueue(sse(*"abcdef"))
    key = await gateway.key()
    assert (await gateway.ask(key=key, stream=True)).status_code == 200

    await gateway.gateway.registry.put(replace(record, state="suspended"), ANN, action="update", expected=None)

    changed = asked = clock.monotonic()
    while (answer := await gateway.ask(key=key)).status_code == 200:
        assert asked - changed < 1.0, "a call that was asked a second after the change was served"
        asked = clock.monotonic()
    assert answer.status_code == 403
    assert "acme" in json.loads(answer.content)["error"]["message"]


async def test_a_call_that_moves_on_passes_over_what_was_drained_meanwhile(gateway, first, second):
    """A new attempt is a new call for whoever empties a machine."""
    second.enqueue([Pause(0.5), Status(503)])
    asking = clock.spawn(gateway.ask(key=await gateway.key()), "ask")
    assert await eventually(lambda: second.requests)
    gateway.services.fleet.drain(frozenset({"a"}))

    answer = await asking

    assert answer.status_code == 502
    assert "drained by an operator" in answer.json()["error"]["message"]
    assert first.requests == []


async def test_a_caller_whose_body_comes_slowly_is_judged_when_it_is_there(gateway, first, second):
    """A key that was revoked while its call was being sent opens nothing."""
    key = await gateway.key()
    stored = await gateway.gateway.registry.get(KeyRecord, keys.parse(key))
    sent = asyncio.Event()

    async def slowly():
        whole = json.dumps(ASK).encode()
        yield whole[:10]
        await sent.wait()
        yield whole[10:]

    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    asking = clock.spawn(gateway.client.post("/v1/chat/completions", content=slowly(), headers=headers), "ask slowly")
    assert await eventually(lambda: gateway.services.intake.open_calls)
    await gateway.gateway.registry.put(replace(stored.record, revoked=True), ANN, action="revoke", expected=None)
    async with asyncio.timeout(5):
        while (await gateway.ask(key=key)).status_code != 401:
            pass
    asked = len(first.requests) + len(second.requests)
    sent.set()

    assert (await asking).status_code == 401
    assert len(first.requests) + len(second.requests) == asked


@pytest.mark.parametrize(("cut", "status"), [(True, 504), (False, 200)])
async def test_a_call_ends_with_its_token_where_its_issuer_says_so(gateway, second, monkeypatch, cut, status):
    """Whatever time has gone by before it was sent on counts once."""
    identities = gateway.services.identities
    second.enqueue([Pause(2.5), *sse("late")])
    key = await gateway.key()
    known = await identities.identify([(b"authorization", f"Bearer {key}".encode())], "127.0.0.1")
    ending = replace(known, cut=cut, expires=clock.wall() + 2.0)
    monkeypatch.setattr(identities, "cached", lambda *_: ending)

    answer = await gateway.ask(key=key)

    assert answer.status_code == status
    assert (b"token that this call came with has expired" in answer.content) is cut
    assert len(second.requests) == 1
