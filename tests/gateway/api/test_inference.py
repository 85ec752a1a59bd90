import msgspec
import pytest

from gateway.api.inference import HOT, ROUTES
from gateway.upstream.catalog import Catalog
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
    assert set(HOT.values()) == set(ROUTES)
    assert {"/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/tokenize"} < set(HOT)


@pytest.mark.parametrize("path", HOT)
async def test_the_hot_routes_answer_405_and_stand_in_the_openapi_page(gateway, path):
    """Though they hand over to an app of ours."""
    answer = await gateway.client.get(path)
    page = (await gateway.client.get("/schema/openapi.json")).json()

    assert answer.status_code == 405
    assert answer.json()["error"]["type"] == "invalid_request_error"
    title, description = ROUTES[HOT[path]]
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
