from typing import get_args

import pytest

from policies.apis import APIS, MODELS, PATHS, meant, spoken
from policies.domain import API


def test_every_api_has_its_shape_and_its_own_path():
    """A caller's path names the API."""
    assert set(APIS) == set(get_args(API))
    assert len({shape.path for shape in APIS.values()}) == len(APIS)


@pytest.mark.parametrize("api", APIS)
def test_what_streams_generates_and_what_generates_is_bounded_and_charged(api):
    """Else a stream would have no output to count, or an output no bound to reserve."""
    shape = APIS[api]
    assert shape.generates or not shape.streams
    assert bool(shape.bounds) == shape.generates
    assert shape.charged or not shape.generates
    assert set(shape.needs) <= set(shape.prompts)
    assert shape.several in {None, *shape.prompts}
    assert shape.end == "done" or shape.streams


@pytest.mark.parametrize("path", PATHS)
def test_a_path_speaks_its_own_api_whatever_its_headers(path):
    """Each reads errors in its own shape, though its client forgot a header."""
    for headers in ([], [(b"anthropic-version", b"2023-06-01")]):
        assert spoken(path, headers) == PATHS[path]


def test_other_paths_speak_as_the_headers_say():
    for path in ("/v1/models", "/v1/models/org/m", "/v1/nothing"):
        assert APIS[spoken(path, [(b"x", b"y")])].family == "openai"
        assert APIS[spoken(path, [(b"x", b"y"), (b"anthropic-version", b"")])].family == "anthropic"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/chat/completions", "Did you mean /v1/chat/completions? An OpenAI base_url ends with /v1."),
        ("/chat/completions/", "Did you mean /v1/chat/completions? An OpenAI base_url ends with /v1."),
        ("/v1/v1/responses", "Did you mean /v1/responses? An OpenAI base_url ends with /v1."),
        ("/models", "Did you mean /v1/models? An OpenAI base_url ends with /v1."),
        ("/v1/v1/messages", "Did you mean /v1/messages? An Anthropic base_url ends before /v1."),
        (
            "/v1/v1/messages/count_tokens",
            "Did you mean /v1/messages/count_tokens? An Anthropic base_url ends before /v1.",
        ),
        ("/v1/v1/models", "Did you mean /v1/models? An Anthropic base_url ends before /v1."),
        ("/v1/tokenize", "Did you mean /tokenize?"),
    ],
)
def test_a_base_url_that_is_wrong_is_told(path, words):
    assert meant(path) == words


@pytest.mark.parametrize(
    "path", [*PATHS, MODELS, "/v1", "/", "", "/v1/v1", "/v1/threads/x/messages", "/v1/v1/v1/chat/completions"]
)
def test_a_path_that_is_right_or_nothing_like_one_is_told_nothing(path):
    assert meant(path) is None
