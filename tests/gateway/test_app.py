from tests.gateway.harness import running
from tests.parts.scripted import ScriptedServer


async def test_without_models_every_listed_one_is_served(tmp_path, first):
    """Under its own id."""
    async with running(tmp_path, {"a": first}, models=None) as gateway:
        assert (await gateway.ask(model="scripted")).status_code == 200


async def test_a_rescan_follows_what_backends_list(tmp_path, first):
    """A model that comes is served, one that goes is not."""
    async with running(tmp_path, {"a": first}, models=None) as gateway:
        first.model = "newer"
        await gateway.gateway.scan()

        assert (await gateway.ask(model="newer")).status_code == 200
        assert (await gateway.ask(model="scripted")).status_code == 404


async def test_local_engines_are_found_on_their_usual_ports(tmp_path, first, monkeypatch):
    """And join the backends of the settings."""
    async with ScriptedServer("found") as engine:
        monkeypatch.setattr("gateway.app.USUAL_PORTS", (engine.port,))
        async with running(tmp_path, {"a": first}, models=None) as gateway:
            gateway.gateway._discover = True
            await gateway.gateway.scan()

            assert set(gateway.services.fleet.homes) == {"a", f"transformers-{engine.port}"}
            assert (await gateway.ask(model="found")).status_code == 200


async def test_a_backend_that_cannot_be_asked_keeps_what_it_listed_last(tmp_path, first):
    """A restart of an engine is no reason for a 404."""
    async with running(tmp_path, {"a": first}, models=None) as gateway:
        await first.stop()
        await gateway.gateway.scan()
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
        await gateway.gateway.scan()

        assert (await gateway.ask(model="scripted")).status_code == 200
        assert (await gateway.ask(model="other")).status_code == 404


async def test_every_error_has_the_headers_of_every_answer(gateway):
    """Those of unknown paths and wrong methods too."""
    for answer in (await gateway.client.get("/nope"), await gateway.client.get("/v1/chat/completions")):
        assert answer.headers["x-sluiceway-config"] == "0123456789ab"
        assert answer.headers["x-request-id"].startswith("req_")
