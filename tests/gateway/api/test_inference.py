import anthropic
import msgspec
import openai
import pytest

from gateway.api.inference import ROUTES
from gateway.upstream.catalog import Catalog
from policies.apis import PATHS
from tests.policies.builders import deployment, model


async def test_the_models_are_listed_for_whoever_holds_a_key(gateway):
    """In the shape that SDKs read."""
    answer = await gateway.client.get("/v1/models")

    assert answer.json()["object"] == "list"
    assert [entry["id"] for entry in answer.json()["data"]] == ["m"]
    assert answer.headers["x-sluiceway-config"] == "0123456789ab"


async def test_a_models_id_may_hold_slashes(gateway):
    """And its largest window is told."""
    named = msgspec.structs.replace(model(deployment(window=10), deployment("b", window=99)), name="org/m")
    gateway.services.catalog = Catalog([named])

    answer = await gateway.client.get("/v1/models/org/m")

    assert answer.json() == {
        "id": "org/m",
        "object": "model",
        "created": 0,
        "owned_by": "sluiceway",
        "max_model_len": 99,
    }


async def test_an_unknown_model_is_404_in_openais_shape(gateway):
    """With a request id."""
    answer = await gateway.client.get("/v1/models/nope")

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m"])
async def test_nobody_lists_without_a_key(gateway, path):
    """Everything is authenticated."""
    assert (await gateway.client.get(path, headers={"authorization": ""})).status_code == 401


def test_every_api_has_its_route():
    """By the path that its clients call."""
    assert set(PATHS.values()) == set(ROUTES)
    assert {"/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/tokenize"} < set(PATHS)


@pytest.mark.parametrize("path", PATHS)
async def test_the_hot_routes_answer_405_and_stand_in_the_openapi_page(gateway, path):
    """Though they hand over to an app of ours."""
    answer = await gateway.client.get(path)
    page = (await gateway.client.get("/schema/openapi.json")).json()

    assert answer.status_code == 405
    assert answer.json()["error"]["type"] == "invalid_request_error"
    title, description = ROUTES[PATHS[path]]
    assert page["paths"][path]["post"].items() >= {"summary": title, "description": description}.items()


async def test_an_unknown_path_is_404_in_openais_shape(gateway):
    """As SDKs expect of errors."""
    answer = await gateway.client.post("/v1/nope", json={})

    assert answer.status_code == 404
    assert "error" in answer.json()


async def test_completions_and_embeddings_reach_their_paths(gateway, first):
    """With the upstream's own model name."""
    await gateway.ask("completions", prompt="x")
    await gateway.ask("embeddings", input="x")

    assert [request.path for request in first.requests] == ["/v1/completions", "/v1/embeddings"]


async def test_an_sdk_with_a_wrong_base_url_is_told_the_right_one(gateway):
    """OpenAI's without `/v1`, Anthropic's with it: each in the shape that it raises on."""
    url, key = gateway.running.url, gateway.client.headers["authorization"].removeprefix("Bearer ")
    ask = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    async with openai.AsyncOpenAI(base_url=url, api_key=key) as client:
        with pytest.raises(openai.NotFoundError) as of_openai:
            await client.chat.completions.create(**ask)
    async with anthropic.AsyncAnthropic(base_url=f"{url}/v1", api_key=key) as client:
        with pytest.raises(anthropic.NotFoundError) as of_anthropic:
            await client.messages.create(**ask)

    said = "POST /chat/completions is nothing this gateway does. Did you mean /v1/chat/completions? "
    assert of_openai.value.body["message"] == f"{said}An OpenAI base_url ends with /v1."
    assert of_anthropic.value.body["error"]["message"].endswith(
        "Did you mean /v1/messages? An Anthropic base_url ends before /v1."
    )


async def test_an_sdk_does_not_repeat_a_call_that_no_deployment_can_ever_take(gateway, first):
    """It is its caller's to change."""
    key = gateway.client.headers["authorization"].removeprefix("Bearer ")
    image = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
    async with openai.AsyncOpenAI(base_url=f"{gateway.running.url}/v1", api_key=key) as client:
        with pytest.raises(openai.BadRequestError, match="a/scripted takes no image") as refused:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": [image]}])

    assert (refused.value.code, refused.value.param) == ("invalid_value", "messages")
    assert gateway.metric("sluiceway_requests_total", api="chat", model="m", status="400") == 1
    assert first.requests == []
