import asyncio
import json

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from gateway.config.settings import Backend
from gateway.upstream import discovery
from gateway.upstream import scanning as module
from gateway.upstream.catalog import Catalog
from gateway.upstream.fleet import Fleet
from gateway.upstream.scanning import Scanning
from tests.gateway.harness import eventually, running, settings
from tests.parts.scripted import ScriptedServer, Until, sse
from tests.policies.builders import deployment, model


async def test_without_models_every_listed_one_is_served(tmp_path, first):
    """Under its own id."""
    async with running(tmp_path, {"a": first}, models=None) as gateway:
        assert (await gateway.ask(model="scripted")).status_code == 200


async def test_a_rescan_follows_what_backends_list(tmp_path, first):
    """A model that comes is served, one that goes is not."""
    async with running(tmp_path, {"a": first}, models=None) as gateway:
        first.model = "newer"
        await gateway.gateway.scanning.scan()

        assert (await gateway.ask(model="newer")).status_code == 200
        assert (await gateway.ask(model="scripted")).status_code == 404


async def test_local_engines_are_found_on_their_usual_ports(tmp_path, first, monkeypatch):
    """And join the backends of the settings."""
    async with ScriptedServer("found") as engine:
        monkeypatch.setattr("gateway.upstream.scanning.USUAL_PORTS", (engine.port,))
        async with running(tmp_path, {"a": first}, models=None) as gateway:
            gateway.gateway.scanning._discover = True
            await gateway.gateway.scanning.scan()

            assert set(gateway.services.fleet.homes) == {"a", f"transformers-{engine.port}"}
            assert (await gateway.ask(model="found")).status_code == 200


async def test_a_backend_that_cannot_be_asked_keeps_what_it_listed_last(tmp_path, first):
    """A restart of an engine is no reason for a 404."""
    async with running(tmp_path, {"a": first}, models=None) as gateway:
        await first.stop()
        await gateway.gateway.scanning.scan()
        assert [model.name for model in gateway.services.catalog.models] == ["scripted"]
        await first.start()

        assert (await gateway.ask(model="scripted")).status_code == 200


async def test_a_model_may_still_come_while_a_backend_has_not_been_heard_of(tmp_path, first):
    """A 503 that clients repeat, not a 404 that they believe."""
    await first.stop()
    async with running(tmp_path, {"a": first}, models=None) as gateway:
        unknown = await gateway.ask(model="scripted")
        assert (unknown.status_code, unknown.headers["retry-after"]) == (503, "5")
        await first.start()
        await gateway.gateway.scanning.scan()

        assert (await gateway.ask(model="scripted")).status_code == 200
        assert (await gateway.ask(model="other")).status_code == 404


@pytest.fixture
async def scanning(monkeypatch):
    """Keep a fleet of a test's own backends in quick time; yield how to start, and what was published and forgotten."""
    monkeypatch.setattr(discovery, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(discovery, "LOOK_LEAST", 0.01)
    monkeypatch.setattr(module, "SWEEP", 0.02)
    started = []

    async def start(backends, models, **options):
        fleet, forgotten = Fleet(), []
        published = [Catalog(models or ())]
        kept = Scanning(fleet, backends, models, published.append, forgotten.append, **options)
        started.append((kept, fleet))
        await kept.start()
        return fleet, published, forgotten

    yield start
    for kept, fleet in started:
        kept.close()
        await fleet.close()


def served_by(published):
    return {model.name: [one.backend for one in model.deployments] for model in published[-1].models}


def named(upstream, **settings):
    """Return a family whose name any resolver may make addresses of, at the port of `upstream`."""
    return Backend("gpu", "openai", f"http://gpu.local:{upstream.port}/v1", discover="dns", **settings)


async def test_a_familys_deployment_becomes_one_a_replica_as_they_come_and_go(scanning, first):
    """The catalog is swapped whole; what has left is forgotten when every call that knew of it is over."""
    addresses = ["127.0.0.1", "127.0.0.2"]

    async def resolve(host, port):
        return list(addresses)

    served = model(deployment("gpu"))
    short = replace(served, deadlines=replace(served.deadlines, total=0.1))
    fleet, published, forgotten = await scanning([named(first, probe_every=0)], [short], resolve=resolve)
    one, two = (f"gpu@127.0.0.{number}:{first.port}" for number in (1, 2))
    assert served_by(published) == {"m": [one, two]}
    addresses.remove("127.0.0.1")
    await eventually(lambda: served_by(published) == {"m": [two]})
    assert one in fleet.homes

    await eventually(lambda: forgotten == [one])
    assert one not in fleet.homes


async def test_what_each_replica_lists_is_served_as_soon_as_it_comes(scanning, first):
    """Without models in the file."""
    addresses = []

    async def resolve(host, port):
        return list(addresses)

    _, published, _ = await scanning([named(first)], None, resolve=resolve)
    assert (served_by(published), published[-1].unheard) == ({}, ("gpu",))
    addresses.append("127.0.0.1")

    await eventually(lambda: served_by(published) == {"scripted": [f"gpu@127.0.0.1:{first.port}"]})
    assert published[-1].unheard == ()


async def test_a_window_that_an_engine_tells_is_its_deployments(scanning, first):
    """A LoRA adapter's is its base's, and it is a deployment like any other; one in the file stays what it is."""
    vllm = [{"id": "base", "max_model_len": 4096}, {"id": "lora", "parent": "base"}]
    first.handle = lambda _, connection: connection.answer(200, json.dumps({"data": vllm}).encode())
    backend = Backend("gpu-a", "openai", f"{first.url}/v1")
    served = [
        model(*(replace(deployment(), model=name, context_window=window) for window in (None, 7)), name=name)
        for name in ("base", "lora")
    ]
    _, published, _ = await scanning([backend], served)
    await eventually(lambda: published[-1].find("lora").deployments[0].context_window == 4096)

    windows = [[one.context_window for one in model.deployments] for model in published[-1].models]
    assert windows == [[4096, 7], [4096, 7]]
    _, listed, _ = await scanning([backend], None)
    assert [[one.context_window for one in model.deployments] for model in listed[-1].models] == [[4096], [4096]]


async def test_a_model_of_the_file_that_its_backend_does_not_list_is_logged_once(scanning, first):
    """With those that it lists: a name misspelt is found before a call is."""
    listed = [{"id": "sim"}]
    first.handle = lambda _, connection: connection.answer(200, json.dumps({"data": listed}).encode())
    served = [model(replace(deployment("a"), model=name), name=name) for name in ("sim", "sims")]
    with capture_logs() as logs:
        fleet, published, _ = await scanning([Backend("a", "openai", f"{first.url}/v1", probe_every=0.1)], served)
        await eventually(lambda: fleet.homes["a"].condition.probed)
        seen = len(published)
        listed[0]["max_model_len"] = 4096
        fleet.homes["a"].condition.failures = 1  # so that it is asked about its models again
        await eventually(lambda: len(published) > seen)

    told = [line for line in logs if "does not list" in line["event"]]
    assert [(one["backend"], one["model"], one["lists"]) for one in told] == [("a", "sims", ("sim",))]


async def test_a_model_whose_backend_has_no_address_yet_exists_and_is_refused_for_now(tmp_path, first):
    """By 503 with the reason, until an address comes."""
    served = replace(model(deployment("gpu")), name="m")
    path = tmp_path / "replicas"
    path.write_text("# none yet\n")
    backends = (Backend("gpu", "openai", "", probe_every=0, list_file=path),)
    async with running(tmp_path, {}, models=(served,), backends=backends) as gateway:
        assert (await gateway.client.get("/v1/models")).json()["data"][0]["id"] == "m"
        refused = await gateway.ask()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_deployment_available")
        assert "gpu/m no replicas" in refused.json()["error"]["message"]
        path.write_text(f"{first.url}/v1\n")
        await eventually(lambda: len(gateway.services.fleet.present) == 1)

        answer = await gateway.ask()
        assert (answer.status_code, answer.headers["x-sluiceway-backend"]) == (200, f"gpu@127.0.0.1:{first.port}")


async def test_a_primary_that_is_down_is_passed_over_and_gets_its_calls_back(tmp_path, first, second, monkeypatch):
    """A refused probe puts it last without ejecting it; when it is back one call finds out, however long the pause."""
    monkeypatch.setattr("gateway.upstream.probes.AGAIN", 0.05)
    made = settings(tmp_path, {"a": first, "b": second})
    backends = tuple(replace(one, probe_every=0.05) for one in made.backends)
    async with running(tmp_path, {"a": first, "b": second}, backends=backends) as gateway:
        homes = gateway.services.fleet.homes
        await eventually(lambda: homes["a"].condition.probed and homes["b"].condition.probed)
        await first.stop()
        for _ in range(4):
            assert (await gateway.ask()).headers["x-sluiceway-backend"] == "b"
        await eventually(lambda: homes["a"].condition.down is not None)
        down = await gateway.ask()
        assert (down.headers["x-sluiceway-backend"], down.headers["x-sluiceway-attempts"]) == ("b", "1")
        assert gateway.metric("sluiceway_backend_up", backend="a") == 0
        live = gateway.services.fleet.live(gateway.services.catalog.find("m").deployments[0])
        live.breaker._until = 1e12  # as after many openings
        await first.start()
        await eventually(lambda: homes["a"].condition.down is None)

        assert (await gateway.ask()).headers["x-sluiceway-backend"] == "a"
        assert gateway.metric("sluiceway_backend_up", backend="a") == 1


async def test_a_backend_that_is_down_is_tried_when_nothing_else_is_left(tmp_path, first):
    """A probe is no reason to refuse a call."""
    async with running(tmp_path, {"a": first}) as gateway:
        gateway.services.fleet.homes["a"].condition.down = "its probe was answered 503"

        assert (await gateway.ask()).status_code == 200


async def test_a_call_under_way_on_a_replica_that_goes_is_ended_there(tmp_path, first, second):
    """New ones go elsewhere at once; a route that was made before may still lead there."""
    go_on = asyncio.Event()
    words = sse("one", "two")
    first.default = [*words[:3], Until(go_on), *words[3:]]
    path = tmp_path / "replicas"
    path.write_text(f"{first.url}/v1\n")
    backends = (Backend("gpu", "openai", "", probe_every=0, list_file=path),)
    async with running(tmp_path, {}, models=(model(deployment("gpu")),), backends=backends) as gateway:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with gateway.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            path.write_text(f"{second.url}/v1\n")
            await eventually(lambda: gateway.services.fleet.present[0].backend.base_url == f"{second.url}/v1")
            assert (await gateway.ask()).headers["x-sluiceway-backend"] == f"gpu@127.0.0.1:{second.port}"
            go_on.set()
            told = (await answer.aread()).decode()

        assert answer.headers["x-sluiceway-backend"] == f"gpu@127.0.0.1:{first.port}"
        assert "two" in told
        assert "[DONE]" in told
        assert len(first.calls) == 1
