"""What an upstream can do wrong, each as a script for a plain and a streamed call.

Law: a whole answer says `WORDS`, in the name of the deployment that was asked, and tells the usage of its place; what
is cut says the first of them. Nothing here knows what ought to follow: that is `outcomes.py`.
"""

import gzip
import json
from functools import partial

from tests.parts.scripted import (
    DONE,
    Bytes,
    Close,
    Hang,
    Pause,
    Raw,
    Reset,
    Status,
    delta,
    error,
    event,
    usage,
    whole,
)

EVENTS = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}

WORDS = [f"w{number:02d} " for number in range(60)]
TEXT = "".join(WORDS)
ALL = len(WORDS)

LATE = 5.0
"""Seconds that are too long wherever a deadline of `outcomes.PATIENCE` holds: what stands for 20 or 30 s."""
SLOW = 0.5
"""Seconds that are not."""

NO_IDLE_END = 0.12
"""Seconds before a reset or an end without an answer: sooner, over an old connection, it would be taken for the end of
an idle one that crossed our request, which is then sent once more (`gateway/upstream/transport.py`, STALE)."""

LIMITED = 2
"""Seconds of a Retry-After."""


def told(ask, words=ALL):
    """Return the usage that a place tells: no two places tell the same."""
    return usage(ask.prompt + 1 + ask.place, words)


def _join(*parts):
    return Bytes(b"".join(part.data for part in parts), sum(part.tokens for part in parts))


def opening(ask, words=0):
    """Return the beginning of a stream: a role and so many words."""
    return _join(delta(ask.model, role="assistant", content=""), *(delta(ask.model, content=w) for w in WORDS[:words]))


def rest(ask, words=0):
    """Return the rest of a stream after so many words: the other ones and its end."""
    return _join(*(delta(ask.model, content=word) for word in WORDS[words:]), delta(ask.model, finish="stop"))


def closing(ask, words=ALL):
    """Return a stream's usage and its last word."""
    last = {"id": "c-1", "object": "chat.completion.chunk", "created": 0, "model": ask.model, "choices": []}
    return _join(event(last | {"usage": told(ask, words)}), DONE)


def chat(ask, text=TEXT, finish="stop", **message):
    """Return a plain answer."""
    said = {"role": "assistant", "content": text} | message
    choice = {"index": 0, "message": said, "finish_reason": finish}
    answer = {"id": "c-1", "object": "chat.completion", "created": 0, "model": ask.model, "choices": [choice]}
    return answer | {"usage": told(ask)}


def data(ask):
    """Return the whole body of a good answer."""
    if ask.stream:
        return _join(opening(ask), rest(ask), closing(ask)).data
    return json.dumps(chat(ask)).encode()


def kind(ask):
    """Return the content type of a good answer."""
    return EVENTS if ask.stream else JSON


def well(ask):
    """Answer."""
    if ask.stream:
        return [Status(200, EVENTS), Bytes(data(ask), ALL)]
    return whole(200, chat(ask), tokens=ALL)


def half(ask, words, *then):
    """Answer so many words of 60, or that share of a plain answer, and then do something else."""
    if ask.stream:
        return [Status(200, EVENTS), opening(ask, words), *then]
    body = data(ask)
    head = JSON | {"content-length": str(len(body))}
    return [Status(200, head), Bytes(body[: len(body) * words // ALL], words), *then]


def answers(status, message="no", **headers):
    """Make a play of one error."""
    return lambda ask: error(status, message, **headers)


def says(status, body, content_type="application/json"):
    """Make a play of one body."""
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    head = {"content-type": content_type, "content-length": str(len(raw))}
    return lambda ask: [Status(status, head), Bytes(raw)]


nothing = says(200, {})


def steps(*them):
    """Make a play of these steps."""
    return lambda ask: them


def limited_once(ask):
    """Answer 429 until `LIMITED` seconds after the first question, and then well."""
    left = LIMITED - ask.since
    return error(429, "slow down", retry_after=str(int(left) + 1 if left % 1 else int(left))) if left > 0 else well(ask)


def unavailable_once(ask):
    """Answer 503 with a Retry-After the first time that a call asks, and then well."""
    return well(ask) if ask.again else error(503, "loading", retry_after="1")


def error_once(ask):
    """Answer 500 the first time that a call asks, and then well."""
    return well(ask) if ask.again else error(500, "boom")


def after_head(*then):
    """Make a play that sends a good head and nothing else."""
    return lambda ask: [Status(200, kind(ask)), *([delta(ask.model, role="assistant")] if ask.stream else []), *then]


def first_token_after(seconds):
    """Make a play whose answer comes late; a stream's head comes at once."""
    return lambda ask: (
        [Status(200, EVENTS), Pause(seconds), Bytes(data(ask), ALL)] if ask.stream else [Pause(seconds), *well(ask)]
    )


def stalled(ask):
    """Stop for `LATE` seconds after 20 of 60 tokens, and go on."""
    if ask.stream:
        return half(ask, 20, Pause(LATE), rest(ask, 20), closing(ask))
    body = data(ask)
    return half(ask, 20, Pause(LATE), Bytes(body[len(body) * 20 // ALL :]))


def malformed(ask):
    """Send one event, or a body, that is no JSON."""
    if ask.stream:
        return half(ask, 20, Bytes(b'data: {"choices": [{"delta": oops\n\n'), rest(ask, 20), closing(ask))
    return [Status(200, JSON), Bytes(data(ask)[:-40] + b"oops}")]


def no_done(ask):
    """Tell usage and end without [DONE]."""
    last = {"id": "c-1", "object": "chat.completion.chunk", "created": 0, "model": ask.model, "choices": []}
    return [Status(200, EVENTS), opening(ask, 60), delta(ask.model, finish="stop"), event(last | {"usage": told(ask)})]


def no_finish(ask):
    """End in order, but neither with a finish_reason nor with [DONE]."""
    return [Status(200, EVENTS), opening(ask, 40)]


def done_unfinished(ask):
    """Say [DONE] after 40 words, and not why."""
    return [Status(200, EVENTS), opening(ask, 40), DONE]


ERROR = {"message": "the engine fell over", "type": "server_error", "param": None, "code": 500}


def error_event(words):
    """Make a play that tells an error after so many words, and says [DONE] as vLLM does."""
    return lambda ask: [Status(200, EVENTS), opening(ask, words), event({"error": ERROR}), DONE]


def named_error_event(words):
    """Make a play that tells an error by the event's name, as LM Studio does."""
    raw = b"event: error\ndata: " + json.dumps({"message": "the engine fell over"}).encode() + b"\n\n"
    return lambda ask: [Status(200, EVENTS), opening(ask, words), Bytes(raw)]


LM_STUDIO = "Input does not fit in context length. The input has 5000 tokens, but the context length only supports 4096"

OVERFLOWS = {
    "vllm": says(
        400,
        {
            "error": {
                "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            }
        },
    ),
    "vllm, older": says(
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    "sglang": says(
        400,
        {
            "object": "error",
            "message": "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    "llama.cpp": says(
        400,
        {
            "error": {
                "code": 400,
                "message": "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 5000,
                "n_ctx": 4096,
            }
        },
    ),
    "llama.cpp, as a 500": says(
        500, {"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}}
    ),
    "lm studio, older": says(
        400, {"error": "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded"}
    ),
    "openai": says(
        400,
        {
            "error": {
                "message": "Your input exceeds the context window of this model.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        },
    ),
}
"""The ways in which engines say that a prompt is too long, by engine."""


def lm_studio_overflow(ask):
    """Say it inside a 200, by an event named error."""
    raw = json.dumps({"error": {"message": LM_STUDIO}, "message": LM_STUDIO}).encode()
    return [Status(200, EVENTS), Bytes(b"event: error\ndata: " + raw + b"\n\n")]


def zero_deltas(ask):
    """Answer 200 without one delta, or one word, but with usage (LM Studio, GGUF)."""
    if ask.stream:
        return [Status(200, EVENTS), closing(ask, 0)]
    return whole(200, chat(ask, "") | {"usage": told(ask, 0)})


def only_an_end(ask):
    """Answer 200 with a finish_reason and usage, and without a word."""
    return [Status(200, EVENTS), _join(opening(ask), delta(ask.model, finish="stop"), closing(ask, 0))]


POLICY = {
    "error": {
        "message": "The response was filtered due to the prompt triggering the content management policy.",
        "type": "invalid_request_error",
        "param": "prompt",
        "code": "content_filter",
    }
}


def refuses(ask):
    """Refuse by words of the model's own, as OpenAI does."""
    if ask.stream:
        words = [delta(ask.model, refusal=word) for word in WORDS]
        return [Status(200, EVENTS), _join(opening(ask), *words, delta(ask.model, finish="stop"), closing(ask))]
    return whole(200, chat(ask, None, refusal=TEXT))


def filtered(ask):
    """Stop without a word, by a content filter, as Azure does."""
    if ask.stream:
        return [Status(200, EVENTS), _join(opening(ask), delta(ask.model, finish="content_filter"), closing(ask, 0))]
    return whole(200, chat(ask, "", "content_filter"))


def too_long_a_length(ask):
    """Promise 1,000 bytes more than come."""
    body = data(ask)
    return [Status(200, kind(ask) | {"content-length": str(len(body) + 1000)}), Bytes(body, ALL), Close()]


def too_short_a_length(ask):
    """Promise half of what comes."""
    body = data(ask)
    return [Status(200, kind(ask) | {"content-length": str(len(body) // 2)}), Bytes(body, ALL), Close()]


def garbage_for_chunks(words):
    """Make a play that breaks chunked coding after so many words (0: before any)."""

    def play(ask):
        if ask.stream:
            begun = [opening(ask, words)] if words else []
        else:
            begun = [Bytes(data(ask)[: 20 * words])] if words else []
        return [Status(200, kind(ask)), *begun, Raw(b"zz\r\nthis is no chunk\r\n"), Hang()]

    return play


def dripping(ask):
    """Send a head that never ends, a byte at a time."""
    return [Raw(b"HTTP/1.1 200 OK\r\nx-slow: "), *[Pause(0.2), Raw(b"a")] * 200]


def zipped(ask):
    """Answer in gzip."""
    body = gzip.compress(data(ask))
    return [Status(200, kind(ask) | {"content-encoding": "gzip", "content-length": str(len(body))}), Bytes(body)]


redirected = partial(answers, location="http://127.0.0.1:9/v1/chat/completions")

reset_before = steps(Pause(NO_IDLE_END), Reset())
closed_before = steps(Pause(NO_IDLE_END), Close())
silent = steps(Hang())
not_http = steps(Raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), Hang())
empty = steps(Status(200, EVENTS))
