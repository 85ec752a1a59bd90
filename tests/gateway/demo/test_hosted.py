from gateway.demo.hosted import join_hosted
from tests.gateway.harness import running
from tests.parts.scripted import ScriptedServer


async def test_what_the_hosted_endpoint_lists_joins_the_models(tmp_path):
    """And is called with its own key; the demo's model stays where it was."""
    async with (
        ScriptedServer("mistralai/x") as hosted,
        ScriptedServer() as simulated,
        running(tmp_path, {"simulated": simulated}) as gateway,
    ):
        assert await join_hosted(gateway.gateway, "nvapi-1", f"{hosted.url}/v1") == 1

        assert (await gateway.ask(model="mistralai/x")).status_code == 200
        assert (await gateway.ask(model="m")).headers["x-sluiceway-backend"] == "simulated"
        assert hosted.requests[-1].header("authorization") == "Bearer nvapi-1"


async def test_an_endpoint_that_does_not_answer_changes_nothing(gateway):
    """The tour goes on."""
    assert await join_hosted(gateway.gateway, "nvapi-1", "http://127.0.0.1:9/v1") is None
    assert [model.name for model in gateway.services.catalog.models] == ["m"]
