import json
import time

import pytest

from policies.failures import (
    MEANINGS,
    Failure,
    FailureKind,
    Meaning,
    classify,
    in_stream,
    of_nothing,
    says_nothing,
)
from policies.said import WORDS

OVERFLOW = FailureKind.CONTEXT_OVERFLOW


def openai(message, kind="BadRequestError", code=400):
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def sglang(message, code):
    return json.dumps({"object": "error", "message": message, "type": "x", "param": None, "code": code}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"error":{"message":"bad"}}', FailureKind.CALLER),
        (413, b"", FailureKind.CALLER),
        (422, b'{"detail":[]}', FailureKind.CALLER),
        (451, b"", FailureKind.CALLER),
        (401, b'{"error":"Unauthorized"}', FailureKind.CREDENTIALS),
        (402, b"Cloud credits expired", FailureKind.CREDENTIALS),
        (403, b"", FailureKind.FORBIDDEN),
        (403, b'{"status":403,"title":"Forbidden","detail":"Authorization failed"}', FailureKind.FORBIDDEN),
        (405, b'{"detail":"Method Not Allowed"}', FailureKind.UNSUPPORTED),
        (410, b'{"title":"Gone","detail":"has reached its end of life on 2026-01-01"}', FailureKind.MODEL_GONE),
        (501, b'{"error":{"type":"not_supported_error"}}', FailureKind.UNSUPPORTED),
        (429, b"", FailureKind.RATE_LIMITED),
        (429, b'{"status":429,"title":"Too Many Requests","detail":"queue full"}', FailureKind.RATE_LIMITED),
        (499, b"", FailureKind.UNAVAILABLE),
        (500, b"", FailureKind.SERVER_ERROR),
        (502, b"Upstream request failed.", FailureKind.UNAVAILABLE),
        (503, b'{"error":{"message":"Loading model","type":"unavailable_error"}}', FailureKind.UNAVAILABLE),
        (504, b"", FailureKind.UNAVAILABLE),
        (529, b"", FailureKind.UNAVAILABLE),
        (400, b'{"detail":"DEGRADED function cannot be invoked"}', FailureKind.UNAVAILABLE),
        (400, openai("The model does not support Embeddings API"), FailureKind.UNSUPPORTED),
        (400, b"{\"detail\":\"Server is pinned to 'a'; requested 'b'.\"}", FailureKind.MODEL_GONE),
        (400, b'{"object":"error","message":"Invalid model: x","type":"invalid_model"}', FailureKind.MODEL_GONE),
        (400, openai("Model Not Exist"), FailureKind.MODEL_GONE),
        (400, openai("This model does not appear to be an embedding model by default."), FailureKind.UNSUPPORTED),
        (400, b'{"detail":"Function id \'a-1\': DEGRADED function cannot be invoked"}', FailureKind.UNAVAILABLE),
    ],
)
def test_an_answer_has_one_meaning(status, body, kind):
    """The table of failures, as engines really write them."""
    assert classify(status, body, None).kind is kind


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error":{"code":"model_not_found"}}', FailureKind.MODEL_GONE),
        (openai("The model `x` does not exist. Valid aliases: tiny.", "NotFoundError", 404), FailureKind.MODEL_GONE),
        (openai("The model `llama-3.1-8b` does not exist.", "NotFoundError", 404), FailureKind.MODEL_GONE),
        (b'{"error":"model \'qwen2.5:7b\' not found"}', FailureKind.MODEL_GONE),
        (
            b'{"type":"error","error":{"type":"not_found_error","message":"model: claude-9"},"request_id":"r"}',
            FailureKind.MODEL_GONE,
        ),
        (b'{"error":{"code":"DeploymentNotFound","message":"The API deployment ..."}}', FailureKind.MODEL_GONE),
        (b"404 page not found\n", FailureKind.MODEL_GONE),
        (
            b'{"status":404,"title":"Not Found","detail":"Function \'f\': Not found for account \'a\'"}',
            FailureKind.MODEL_GONE,
        ),
        (b'{"detail":"Not Found"}', FailureKind.UNSUPPORTED),
        (b'{"status":404,"title":"Not Found"}', FailureKind.UNSUPPORTED),
        (b'{"error":{"message":"File Not Found","type":"not_found_error","code":404}}', FailureKind.UNSUPPORTED),
        (openai("Invalid URL (POST /v1/responses)"), FailureKind.UNSUPPORTED),
        (
            openai("This is a chat model and not supported in the v1/completions endpoint."),
            FailureKind.UNSUPPORTED,
        ),
        (b'{"message":"no Route matched with those values"}', FailureKind.UNSUPPORTED),
        (openai("Unknown request URL: POST /v1/responses."), FailureKind.UNSUPPORTED),
        (b'{"error":"Unexpected endpoint or method. (POST /v1/responses)"}', FailureKind.UNSUPPORTED),
        (b'{"statusCode":404,"error":"Not Found","message":"Route POST:/x not found"}', FailureKind.UNSUPPORTED),
        (b"default backend - 404", FailureKind.UNSUPPORTED),
        (b"<html><title>404 Not Found</title></html>", FailureKind.UNSUPPORTED),
        (b"", FailureKind.UNSUPPORTED),
        (b"[" * 100_000, FailureKind.UNSUPPORTED),
        (openai("Response with id 'resp_x' not found.", "NotFoundError", 404), FailureKind.CALLER),
        (sglang("Response with id 'resp_x' not found.", 404), FailureKind.CALLER),
        (b'{"detail":"File file-1 does not belong to you"}', FailureKind.CALLER),
    ],
)
def test_a_404_is_about_the_model_or_the_path_or_what_the_caller_named(body, kind):
    """Only the last is the caller's; an engine that has no such path says so in a few well-known ways."""
    assert classify(404, body, None).kind is kind


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, b'{"error":{"code":403,"message":"Input was flagged","metadata":{"reasons":["violence"]}}}'),
        (403, b'{"error":{"message":"openai/x requires moderation. Your input was flagged for ..."}}'),
        (400, b'{"error":{"code":"content_filter","innererror":{"code":"ResponsibleAIPolicyViolation"}}}'),
        (400, b'{"error":{"code":"content_policy_violation"}}'),
        (422, b'{"error":{"message":"Your request was rejected as a result of our safety system."}}'),
        (451, b'{"error":{"message":"blocked by our content_policy"}}'),
    ],
)
def test_a_refusal_of_the_prompts_content_is_no_fault_of_the_operators(status, body):
    """It goes to the caller as it is, and to no other deployment: whoever forbids it is not to be got round."""
    failure = classify(status, body, None)

    assert failure.kind is FailureKind.REFUSED
    assert failure.meaning == Meaning(elsewhere=False)


def test_a_refused_credential_keeps_its_deployment_out():
    """401, 402 and 403 alike: an operator must mend them."""
    for status in (401, 402, 403):
        assert classify(status, b"", None).meaning.switches_off


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b'{"error":{"message":"ResourceExhausted: Worker local total request limit reached (33/32)"}}'),
        (400, b'{"error":{"message":"Upstream error from Nvidia: ResourceExhausted: Worker local total"}}'),
        (503, b'{"error":{"code":8,"status":"RESOURCE_EXHAUSTED"}}'),
        (503, sglang("The request queue is full.", 503)),
        (503, sglang("Request queue timeout reached.", 503)),
        (503, sglang("The request is aborted by a higher priority request.", 503)),
        (503, openai("The engine is currently busy and cannot accept new requests. Please", "x", 503)),
    ],
)
def test_whoever_is_full_is_limited_and_not_broken(status, body):
    """Whatever the status: it must not be ejected for having much to do."""
    failure = classify(status, body, None)

    assert failure.kind is FailureKind.RATE_LIMITED
    assert not failure.ejects


def test_a_prompt_that_is_quoted_back_makes_no_limit():
    """A 400 that repeats what the caller sent is still the caller's."""
    body = openai("1 validation error: {'loc': 'body.messages', 'input': 'tell me about ResourceExhausted'}")

    assert classify(400, body, None).kind is FailureKind.CALLER


ECHOES = [
    (400, "Invalid 'response_id': '{}'. Expected an ID that begins with 'resp'."),
    (400, "1 validation error:\n  {{'loc': ('body', 'temperature'), 'input': '{}'}}"),
    (404, "Response with id '{}' not found."),
]


@pytest.mark.parametrize(("status", "message"), ECHOES)
@pytest.mark.parametrize(
    "words",
    [
        "Server is pinned to",
        "DEGRADED function cannot be invoked",
        "The model does not support Chat API",
        "this model does not appear to be an embedding model",
        "ResourceExhausted",
        "resp_ model_not_found",
        "resp_ model",
        "resp_ function 'f': Not found for account",
        "resp_ url path route endpoint method",
        "resp_\n404 page not found\n",
        '", "code": "model_not_found", "x": "',
        '"message": "Server is pinned to',
    ],
)
def test_no_caller_can_speak_against_a_deployment(status, message, words):
    """Engines repeat what they were sent: a call whose member says so must not switch it off, or eject it, for all."""
    told = openai(message.format(words))

    assert classify(status, told, None).kind is FailureKind.CALLER
    assert classify(status, told[:-1] + b', "param": ' + json.dumps(words).encode() + b"}", None).ejects is False


def test_a_name_that_is_repeated_at_length_is_still_the_callers():
    """A 404 of a megabyte is read as one of a line is."""
    assert classify(404, openai(f"Response with id '{'x' * 2**20}' not found."), None).kind is FailureKind.CALLER


@pytest.mark.parametrize("status", [400, 403, 404, 422, 500, 503])
@pytest.mark.parametrize("filling", ["x", "model ", " ", "Function ", "exceed", "your "])
def test_to_read_a_long_error_takes_as_long_as_to_read_a_short_one(status, filling):
    """Everybody else waits meanwhile, and a caller may have the engine repeat a megabyte."""

    def seconds(length):
        body = openai(filling * (length // len(filling)))
        taken = []
        for _ in range(3):
            begun = time.process_time()
            classify(status, body, None)
            classify(status, body[40:], None)  # no JSON
            taken.append(time.process_time() - begun)
        return min(taken)

    assert seconds(64 * WORDS) < 32 * seconds(WORDS)


@pytest.mark.parametrize(
    "message", ["Your account has been flagged for a review.", "Blocked: your organization broke our usage policies."]
)
def test_what_is_wrong_with_our_own_account_is_the_operators(message):
    """Its words are not shown to callers, whatever policy they name."""
    assert classify(403, openai(message), None).kind is FailureKind.FORBIDDEN


def test_a_firewalls_page_is_no_word_about_a_credential():
    """Its rules look at what callers write: one call must not keep a deployment from all others for minutes."""
    page = b"<!DOCTYPE html><html><title>Attention Required! | Cloudflare</title></html>"
    failure = classify(403, page, None)

    assert failure.kind is FailureKind.BLOCKED
    assert failure.meaning == Meaning(elsewhere=True, ejects=True, on_proof=True)


MAXIMUM = "This model's maximum context length is"
EXCEEDS = "Requested token count exceeds the model's maximum context length"

OVERFLOWS = [
    (f"{MAXIMUM} 2048 tokens. However, your prompt contains 9018 characters (more than 8192)", 2048, None),
    (f"{MAXIMUM} 2048 tokens. However, your prompt contains at least 2049 input tokens", 2048, 2049),
    (f"{MAXIMUM} 4096 tokens. However, you requested 5000 tokens (4000 in the messages", 4096, 5000),
    (
        f"{MAXIMUM} 4096 tokens. However, you requested 9 output tokens and your prompt contains 4090 input tokens",
        4096,
        4090,
    ),
    (f"{MAXIMUM} 8192 tokens. However, your messages resulted in 9001 tokens.", 8192, 9001),
    ("max_tokens=5000 cannot be greater than max_model_len=2048. Please request fewer output tokens.", 2048, None),
    ("The decoder prompt (length 5000) is longer than the maximum model length of 2048.", 2048, 5000),
    ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", 4096, 5000),
    (f"{EXCEEDS} of 4096 tokens. You requested a total of 5000 tokens: 4000 tokens from the input", 4096, 5000),
    ("request (13392 tokens) exceeds the available context size (8192 tokens), try increasing it", 8192, 13392),
    ("Context size has been exceeded.", None, None),
    ("Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded", None, 5000),
    ("prompt is too long: 150000 tokens > 128000 maximum", 128000, 150000),
    ("Prompt contains 5000 tokens, too large for model with 4096 maximum context length", None, 5000),
    (
        "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 509178 tokens.",
        272000,
        509178,
    ),
    ("model_context_exceeded", None, None),
]


@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize(("message", "window", "tokens"), OVERFLOWS)
def test_every_engine_has_its_own_words_for_an_overflow(status, message, window, tokens):
    """Vibe, OpenAI, Anthropic, Mistral and the engines, each with the numbers that it tells."""
    failure = classify(status, openai(message), None)

    assert failure.kind is OVERFLOW
    assert (failure.window, failure.tokens) == (window, tokens)


def test_llama_cpp_tells_an_overflow_by_its_type_and_numbers():
    """And a word of the prompt's cannot: a 404 is none."""
    told = b'{"error":{"type":"exceed_context_size_error","n_prompt_tokens":9019,"n_ctx":2048}}'

    assert classify(400, told, None) == Failure(OVERFLOW, "the upstream answered 400", 400, None, 2048, None)
    assert classify(404, openai("maximum context length"), None).kind is FailureKind.CALLER


def test_every_kind_has_a_meaning():
    """The set is closed."""
    assert set(MEANINGS) == set(FailureKind)


def test_whoever_says_when_it_is_back_is_not_ejected():
    """It is left alone for as long as it asked for."""
    assert classify(503, b"", None).ejects
    assert not classify(503, b"", 5.0).ejects
    assert classify(503, b"", 0.0).ejects
    assert (classify(500, b"", 5.0).ejects, classify(500, b"", 5.0).retry_after) == (True, None)


def test_an_overflow_inside_a_stream_is_told_from_other_errors():
    """LM Studio answers 200 and then says so; a worker of the hosted endpoint that it is full."""
    told = openai(
        "Input does not fit in context length. The input has 31430 tokens, but the context length only supports 30000"
    )

    assert (in_stream(told).kind, in_stream(told).window, in_stream(told).tokens) == (OVERFLOW, 30000, 31430)
    assert in_stream(openai("ResourceExhausted: Worker")).kind is FailureKind.RATE_LIMITED
    assert in_stream(b'{"error":{}}').kind is FailureKind.ERROR_EVENT


@pytest.mark.parametrize(
    ("prompt", "window", "kind"),
    [(900, 1000, OVERFLOW), (899, 1000, FailureKind.EMPTY), (10**9, None, FailureKind.EMPTY)],
)
def test_an_answer_of_nothing_near_the_window_is_an_overflow(prompt, window, kind):
    """So LM Studio answers what does not fit; elsewhere it is a failure of the deployment's."""
    assert of_nothing(prompt, window).kind is kind


def test_only_an_end_that_claims_to_be_a_good_one_may_be_an_overflow():
    """A filter's silence is an answer."""
    assert says_nothing(b'{"choices": [{"delta": {}, "finish_reason": "stop"}]}')
    assert says_nothing(b'"finish_reason":"length"')
    assert not says_nothing(b'"finish_reason": "content_filter"')
    assert not says_nothing(b'"finish_reason": "tool_calls"')
