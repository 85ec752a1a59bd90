"""A running gateway that takes other settings: what changes with the next call, and what does not change at all."""

import asyncio

import httpx
import pytest
from msgspec.structs import replace

from gateway.config.settings import STANDARD, Backend, Limits, Organization
from policies.domain import Deadlines, Deployment, Meter, MeterKind, Model, Plan, Price
from policies.terms import RoutingTerms
from tests.gateway.harness import TEXT, eventually, running
from tests.parts.scripted import Until, plain, sse

TIGHT = Plan("standard", (Meter(MeterKind.REQUESTS_PER_MINUTE, limit=60, burst=1),))


def model(name, *backends, **terms):
    places = tuple(Deployment(one, "openai", "scripted", None, TEXT, Price(0, 0)) for one in backends)
    return Model(name, (), places, (), RoutingTerms(), Deadlines(**terms))


async def take(gateway, **changes):
    """Have a gateway take its settings with some changed."""
    await gateway.gateway.take(replace(gateway.gateway.settings, **{"digest": "ba9876543210", **changes}))


def place(name, upstream, **more):
    return Backend(name, "openai", f"{upstream.url}/v1", f"secret-{name}", probe_every=0, **more)


async def test_calls_go_by_the_new_models_and_backends_and_those_that_stay_keep_what_was_learned(
    tmp_path, first, second
):
    """The old model is gone like one that never was."""
    async with running(tmp_path, {"a": first}) as gateway:
        assert (await gateway.ask()).headers["x-sluiceway-backend"] == "a"
        fleet = gateway.services.fleet
        home, live = fleet.homes["a"], fleet.live(gateway.services.catalog.find("m").deployments[0])
        open_before = home.transport.open
        await take(gateway, backends=(place("a", first), place("b", second)), models=(model("n", "b"), model("o", "a")))

        assert (await gateway.ask()).status_code == 404
        assert (await gateway.ask(model="n")).headers["x-sluiceway-backend"] == "b"
        assert (await gateway.ask(model="o")).headers["x-sluiceway-backend"] == "a"
        assert fleet.live(gateway.services.catalog.find("o").deployments[0]) is live
        assert home.transport.open == open_before == 1


async def test_every_answer_tells_the_digest_in_force_and_a_call_under_way_its_own(tmp_path, first):
    """Whatever it is an answer to."""
    go_on = asyncio.Event()
    first.enqueue([Until(go_on), *plain()])
    async with running(tmp_path, {"a": first}) as gateway, httpx.AsyncClient() as other:
        before = asyncio.ensure_future(gateway.ask())
        await eventually(lambda: first.calls)
        await take(gateway)
        go_on.set()
        admin = {"authorization": "Bearer admin"}
        answers = [
            await gateway.ask(),
            await gateway.ask(model="none"),
            await gateway.client.get("/v1/models"),
            await gateway.client.get("/v1/models/none"),
            await gateway.client.get("/v1/chat/completions"),
            await gateway.client.get("/nowhere"),
            await gateway.client.get("/schema/openapi.json"),
            await gateway.client.get("/admin/v1/plans", headers=admin),
            await gateway.client.get("/admin/v1/plans/none", headers=admin),
            await gateway.client.get("/admin/v1/plans", headers={"authorization": "Bearer x"}),
            await other.get(f"{gateway.running.operations_url}/readyz"),
            await other.get(f"{gateway.running.operations_url}/metrics"),
        ]

        assert (await before).headers["x-sluiceway-config"] == "0123456789ab"
        assert [answer.headers.get_list("x-sluiceway-config") for answer in answers] == [["ba9876543210"]] * 12
        assert gateway.metric("sluiceway_config_info", digest="ba9876543210") == 1
        assert "0123456789ab" not in answers[-1].text


async def test_a_changed_plan_holds_the_callers_from_their_next_call_on(tmp_path, first):
    """Known callers too."""
    async with running(tmp_path, {"a": first}, organizations={"acme": Organization(STANDARD, {})}) as gateway:
        assert [(await gateway.ask()).status_code for _ in range(3)] == [200] * 3
        await take(gateway, plans={"standard": TIGHT}, organizations={"acme": Organization(TIGHT, {})})

        assert {(await gateway.ask()).status_code for _ in range(3)} >= {429}
        await take(gateway, plans={"standard": STANDARD}, organizations={"acme": Organization(STANDARD, {})})
        assert (await gateway.ask()).status_code == 200


async def test_a_fleet_that_cannot_be_taken_leaves_everybody_on_the_terms_before(tmp_path, first, monkeypatch):
    """What can fail comes first: callers held to a file that was told as not in force could not find out why."""
    async with running(tmp_path, {"a": first}) as gateway:
        before, gateway_, parts = gateway.gateway.settings, gateway.gateway, gateway.gateway._parts
        plans = parts.plans

        def broken(backends, models):
            raise RuntimeError("a transport that cannot be made")

        monkeypatch.setattr(gateway_.scanning, "take", broken)
        with pytest.raises(RuntimeError, match="a transport"):
            await take(gateway, plans={"standard": TIGHT}, organizations={"acme": Organization(TIGHT, {})})

        assert gateway_.settings is gateway.services.settings is before
        assert parts.plans is plans
        answers = [await gateway.ask() for _ in range(3)]
        assert [(one.status_code, one.headers["x-sluiceway-config"]) for one in answers] == [(200, "0123456789ab")] * 3
        assert gateway.metric("sluiceway_config_info", digest="0123456789ab") == 1


async def test_whoever_is_held_to_the_same_is_not_compiled_anew(tmp_path, first):
    """A change of backends costs the callers nothing."""
    async with running(tmp_path, {"a": first}) as gateway:
        principal = await gateway.who()
        terms = gateway.services.identities._terms
        await take(gateway, limits=Limits(open_calls=7))

        assert gateway.services.identities._terms == terms
        assert await gateway.who() is principal


async def test_admins_see_the_plans_and_organizations_of_the_new_file(tmp_path, first):
    """And whoever makes a key may name them."""
    async with running(tmp_path, {"a": first}) as gateway:
        gateway.client.headers["authorization"] = "Bearer admin"
        gold = replace(TIGHT, name="gold")
        await take(
            gateway, plans={"standard": STANDARD, "gold": gold}, organizations={"globex": Organization(gold, {})}
        )
        plans = (await gateway.client.get("/admin/v1/plans")).json()["plans"]
        organizations = (await gateway.client.get("/admin/v1/organizations")).json()["organizations"]
        wanted = {"organization": "globex", "team": "t", "name": "n", "plan": "gold"}
        made = await gateway.client.post("/admin/v1/keys", json=wanted)
        ask = {"key": made.json()["id"], "request": {"model": "m", "messages": [{"role": "user", "content": "hi"}]}}
        explained = await gateway.client.post("/admin/v1/explain", json=ask)

        assert {plan["name"] for plan in plans} == {"standard", "gold"}
        assert "globex" in {one["name"] for one in organizations}
        assert made.status_code == 201, made.text
        assert explained.json()["candidates"][0]["deployment"] == "a/scripted"


@pytest.mark.parametrize("change", ["goes", "changes"])
async def test_a_stream_goes_on_where_it_began_when_its_backend_goes_or_changes(tmp_path, first, second, change):
    """Whatever becomes of the backend's name."""
    go_on = asyncio.Event()
    words = sse("one", "two")
    first.enqueue([*words[:3], Until(go_on), *words[3:]])
    async with running(tmp_path, {"a": first}) as gateway:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with gateway.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            new = "b" if change == "goes" else "a"
            await take(gateway, backends=(place(new, second),), models=(model("m", new),))
            await gateway.services.fleet.sweep(0.0)
            during = await gateway.ask()
            go_on.set()
            told = (await answer.aread()).decode()

        assert during.headers["x-sluiceway-backend"] == new
        assert (len(first.calls), len(second.calls)) == (1, 1)
        assert "two" in told
        assert "[DONE]" in told


async def test_a_call_that_was_planned_before_is_made_where_it_was_planned_for(tmp_path, first, second):
    """Its place is there, and so is the load that it holds; the transport is closed only after it."""
    async with running(tmp_path, {"a": first}) as gateway:
        ledger, admit = gateway.services.ledger, gateway.services.ledger.admit
        planned, go_on = asyncio.Event(), asyncio.Event()

        async def slow(claim):
            planned.set()
            await go_on.wait()
            return await admit(claim)

        ledger.admit = slow
        call = asyncio.ensure_future(gateway.ask())
        await planned.wait()
        del ledger.admit
        await take(gateway, backends=(place("a", second, max_connections=3),), models=(model("m", "a"),))
        await gateway.services.fleet.sweep(0.0)
        go_on.set()

        assert (await call).status_code == 200
        assert (len(first.calls), len(second.calls)) == (1, 0)
        assert len(gateway.services.fleet.reached) == 2
        await gateway.services.fleet.sweep(0.0)
        assert len(gateway.services.fleet.reached) == 1


async def test_calls_that_wait_for_a_model_that_has_gone_are_told(tmp_path, first):
    """As one that comes for it now is; those that wait for another go on waiting."""
    go_on = asyncio.Event()
    first.default = [Until(go_on), *plain()]
    narrow = [
        replace(one, deployments=tuple(replace(place, max_in_flight=1) for place in one.deployments))
        for one in (model("m", "a"), model("n", "a"))
    ]
    patient = tuple(replace(one, routing=RoutingTerms(max_wait=60.0)) for one in narrow)
    async with running(tmp_path, {"a": first}, models=patient) as gateway:
        served = asyncio.ensure_future(gateway.ask())
        await eventually(lambda: first.calls)
        gone = asyncio.ensure_future(gateway.ask())
        stays = asyncio.ensure_future(gateway.ask(model="n"))
        await eventually(lambda: gateway.services.room.waiting == 2)
        await take(gateway, models=patient[1:])

        told = await asyncio.wait_for(gone, 10)
        assert (told.status_code, told.json()["error"]["code"]) == (404, "model_not_found")
        assert gateway.services.room.waiting == 1
        go_on.set()
        assert [(await served).status_code, (await stays).status_code] == [200, 200]


async def test_new_limits_hold_for_whoever_comes_and_a_body_is_judged_by_those_it_began_under(tmp_path, first):
    """Nothing that was let in is thrown out."""
    async with running(tmp_path, {"a": first}) as gateway:
        sent = asyncio.Event()

        async def body():
            yield b'{"model": "m", "messages": [{"role": "user", '
            await sent.wait()
            yield b'"content": "hi"}]}'

        call = asyncio.ensure_future(gateway.client.post("/v1/chat/completions", content=body()))
        await eventually(lambda: gateway.services.intake.buffered)
        await take(gateway, limits=Limits(body=50, buffered_total=60, waiting_calls=3))
        sent.set()

        assert (await call).status_code == 200
        assert (await gateway.ask()).status_code == 413
        assert gateway.services.room._queue.most == 3
