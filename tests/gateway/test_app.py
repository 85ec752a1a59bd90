import asyncio
import os
import signal

import pytest
from msgspec.structs import replace

from gateway import clock
from gateway.app import Gateway
from gateway.config.settings import STANDARD, StoreSettings
from gateway.identity.records import Author, PlanRecord
from gateway.store.door import Store
from gateway.store.preconditions import UnfitStore
from gateway.upstream.catalog import Catalog
from tests.gateway.harness import eventually, running, settings
from tests.parts.gateway import STORE_DEADLINE
from tests.parts.scripted import Until, plain


async def test_every_error_has_the_headers_of_every_answer(gateway):
    """Those of unknown paths and wrong methods too."""
    for answer in (await gateway.client.get("/nope"), await gateway.client.get("/v1/chat/completions")):
        assert answer.headers["x-sluiceway-config"] == "0123456789ab"
        assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("store", "plans", "local"),
    [
        ("deny", ["deny", None], False),
        ("deny", ["deny", "local"], True),
        ("local", ["deny", None], True),
        ("local", [], True),
        ("deny", [], False),
    ],
)
async def test_a_gateway_is_ready_without_the_store_where_any_plan_is_served_so(tmp_path, store, plans, local):
    """Callers without a plan have the store's stance."""
    stances = {str(i): replace(STANDARD, when_down=stance) for i, stance in enumerate(plans)}
    made = settings(tmp_path, {}, plans=stances, store=StoreSettings("embedded", tmp_path, when_down=store))

    nowhere = Store("redis://127.0.0.1:9")
    assert Gateway(made, nowhere, nowhere, "admin", discover=False).serves_without_store is local


async def test_replicas_that_are_found_relieve_those_who_wait(tmp_path, first, second, monkeypatch):
    """At once and one after the other, and one that has gone gets no more calls."""
    monkeypatch.setattr("gateway.waiting.TICK", 60.0)
    gate = asyncio.Event()
    first.default = [Until(gate), *plain()]
    (model,) = settings(tmp_path, {"a": first, "b": second}).models
    here, there = (replace(one, max_in_flight=1) for one in model.deployments)
    async with running(tmp_path, {"a": first, "b": second}, models=(replace(model, deployments=(here,)),)) as gateway:
        room = gateway.services.room
        calls = [asyncio.ensure_future(gateway.ask()) for _ in range(3)]
        assert await eventually(lambda: room.waiting == 2)
        gateway.gateway._publish(Catalog([replace(model, deployments=(there,))]))
        assert await eventually(lambda: room.waiting == 0)
        gate.set()
        answers = await asyncio.gather(*calls)

    assert [answer.status_code for answer in answers] == [200] * 3
    assert (len(first.requests), len(second.requests)) == (1, 2)


async def test_a_stored_plan_has_its_own_stance(gateway):
    """Every gateway learns of it, though its file knows of none."""
    author, record = Author("admin key"), PlanRecord(name="p", plan={"tokens_in_all": 5, "when_down": "local"})
    assert not gateway.gateway.serves_without_store

    await gateway.gateway.registry.put(record, author, action="create", expected=0)
    assert await eventually(lambda: gateway.gateway.serves_without_store)

    await gateway.gateway.registry.remove(record, author, expected=None)
    assert await eventually(lambda: not gateway.gateway.serves_without_store)


@pytest.mark.parametrize("on", ["callers", "operations"])
async def test_admins_have_one_address(tmp_path, first, on):
    """The file says which; on the other there is no such path."""
    async with running(tmp_path, {"a": first}, admin_on=on) as gateway:
        urls = {"callers": gateway.running.url, "operations": gateway.running.operations_url}
        asked = {
            name: await gateway.client.get(f"{url}/admin/v1/keys", headers={"authorization": "Bearer admin"})
            for name, url in urls.items()
        }

    assert {name: answer.status_code for name, answer in asked.items()} == dict.fromkeys(urls, 404) | {on: 200}


async def test_a_gateway_starts_on_no_store_that_is_not_fit(tmp_path, first, monkeypatch):
    """And nothing of it is left running."""
    monkeypatch.setattr("gateway.store.preconditions.OLDEST_VALKEY", (99, 0))
    with pytest.raises(UnfitStore, match="which is too old"):
        async with running(tmp_path, {"a": first}):
            pass
    monkeypatch.undo()

    async with running(tmp_path, {"a": first}) as gateway:
        assert (await gateway.ask()).status_code == 200


async def test_calls_go_on_without_the_store_and_the_metrics_say_so(tmp_path, first):
    """Everything is booked on its return."""
    store = StoreSettings("embedded", tmp_path / "data", when_down="local", deadline=STORE_DEADLINE)
    async with running(tmp_path, {"a": first}, store=store) as gateway:
        assert (await gateway.ask()).status_code == 200
        (info,) = await gateway.gateway.store.send(("INFO", "server"))
        os.kill(info["process_id"], signal.SIGSTOP)
        try:
            answers = [await gateway.ask() for _ in range(5)]
            figures = [gateway.metric(name) for name in ("sluiceway_store_down", "sluiceway_ledger_local")]
        finally:
            os.kill(info["process_id"], signal.SIGCONT)

        assert [answer.status_code for answer in answers] == [200] * 5
        assert figures == [1, 5]
        await eventually(lambda: gateway.gateway.store.down is None)
        await eventually(lambda: gateway.gateway.ledger.open_reservations == 0)
        assert sum(row.requests for row in await gateway.usage()) == 6
        assert gateway.metric("sluiceway_store_down") == 0


async def test_an_admin_sees_what_calls_found_wrong_with_a_backend_whose_probes_are_well(gateway):
    """An ejected one would else look like the others."""
    (model,) = gateway.services.catalog.models
    live = gateway.services.fleet.live(model.deployments[0])
    assert {view.why for view in gateway.gateway._seen()} == {None}
    for _ in range(3):
        live.breaker.failed(clock.monotonic(), probe=False)

    told = next(view.why for view in gateway.gateway._seen())
    assert told.startswith("scripted ejected: its last calls failed (a call tries it again in ")


async def test_an_admin_is_warned_of_a_model_by_the_catalog_of_now(gateway):
    """One that has come meanwhile is known."""
    body = {
        "organization": "acme",
        "team": "t",
        "name": "n",
        "plan": "standard",
        "models": ["m2"],
        "backends": ["b", "c"],
    }
    headers, told = {"authorization": "Bearer admin"}, []
    for _ in range(2):
        told.append((await gateway.client.post("/admin/v1/keys", json=body, headers=headers)).json()["warnings"])
        (model,) = gateway.services.catalog.models
        gateway.gateway._publish(Catalog([replace(model, aliases=(*model.aliases, "m2"))]))

    (model, backend, shut), later = told
    assert model.startswith("models: no model here is called m2, ")
    assert shut.startswith("nothing that this gateway serves can be called with it: ")
    assert later == [backend]


async def test_what_the_others_are_told_of_a_gateway_is_as_it_is_now(gateway, first):
    """Its calls, and whether its file has been changed into one that it cannot run on."""
    first.enqueue([Until(gate := asyncio.Event()), *plain()])
    call = asyncio.ensure_future(gateway.ask())
    assert await eventually(lambda: first.requests)
    gateway.gateway.config_fault = "gateway.yaml:3: nonsense"
    busy = gateway.gateway._roll._row()
    gate.set()
    await call
    gateway.gateway.config_fault = None
    idle = gateway.gateway._roll._row()

    assert (busy.open_calls, busy.waiting, busy.refused) == (1, 0, True)
    assert (idle.open_calls, idle.waiting, idle.refused) == (0, 0, False)
    assert (idle.config, idle.instance, idle.address) == ("0123456789ab", busy.instance, "127.0.0.1:0")
