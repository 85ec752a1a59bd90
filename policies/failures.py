"""The closed set of ways an attempt can fail, and what each means.

Law: an attempt ends well or as exactly one `Failure`; what happens next is read off `MEANINGS`, never decided ad hoc.
The table stands in the README too. Sources of the statuses: the engines' own answers, see `policies/dialects`.
"""

import re
from enum import StrEnum

from msgspec import Struct


class FailureKind(StrEnum):
    """How an attempt went wrong; the value is its name in traces, metrics and logs."""

    CONNECT = "connect"
    BUSY = "busy"
    SILENCE = "silence"
    STALL = "stall"
    DEADLINE = "deadline"
    RESET = "reset"
    TRUNCATED = "truncated"
    PROTOCOL = "protocol"
    EMPTY = "empty"
    ERROR_EVENT = "error_event"
    SERVER_ERROR = "server_error"
    UNAVAILABLE = "unavailable"
    RATE_LIMITED = "rate_limited"
    CREDENTIALS = "credentials"
    FORBIDDEN = "forbidden"
    MODEL_GONE = "model_gone"
    UNSUPPORTED = "unsupported"
    CONTEXT_OVERFLOW = "context_overflow"
    CALLER = "caller"


class Meaning(Struct, frozen=True):
    """What a failure means.

    `elsewhere`: another deployment may do better. `ejects`: it speaks against the deployment's health.
    `switches_off`: seconds the deployment is kept out as the operator's fault.
    """

    elsewhere: bool
    ejects: bool = False
    switches_off: float = 0.0


OFF_SECONDS = 300.0
"""How long a refused credential or a missing model keeps a deployment out: long enough not to burn callers' time, short
enough that a mended account is found without a restart."""

MEANINGS: dict[FailureKind, Meaning] = {
    FailureKind.CONNECT: Meaning(elsewhere=True, ejects=True),
    FailureKind.BUSY: Meaning(elsewhere=True),  # every connection that we may have there is taken: our own bound
    FailureKind.SILENCE: Meaning(elsewhere=True, ejects=True),
    FailureKind.STALL: Meaning(elsewhere=True, ejects=True),
    FailureKind.DEADLINE: Meaning(elsewhere=True),
    FailureKind.RESET: Meaning(elsewhere=True, ejects=True),
    FailureKind.TRUNCATED: Meaning(elsewhere=True, ejects=True),
    FailureKind.PROTOCOL: Meaning(elsewhere=True, ejects=True),
    FailureKind.EMPTY: Meaning(elsewhere=True, ejects=True),
    FailureKind.ERROR_EVENT: Meaning(elsewhere=True, ejects=True),
    FailureKind.SERVER_ERROR: Meaning(elsewhere=True, ejects=True),
    FailureKind.UNAVAILABLE: Meaning(elsewhere=True, ejects=True),
    FailureKind.RATE_LIMITED: Meaning(elsewhere=True),
    FailureKind.CREDENTIALS: Meaning(elsewhere=True, switches_off=OFF_SECONDS),
    FailureKind.FORBIDDEN: Meaning(elsewhere=True),
    FailureKind.MODEL_GONE: Meaning(elsewhere=True, switches_off=OFF_SECONDS),
    FailureKind.UNSUPPORTED: Meaning(elsewhere=True),
    FailureKind.CONTEXT_OVERFLOW: Meaning(elsewhere=True),
    FailureKind.CALLER: Meaning(elsewhere=False),
}


class Failure(Struct, frozen=True):
    """One failed attempt. `status` is the upstream's, None where no answer came; `retry_after` is in seconds."""

    kind: FailureKind
    detail: str
    status: int | None = None
    retry_after: float | None = None

    @property
    def meaning(self) -> Meaning:
        """What follows from it."""
        return MEANINGS[self.kind]


LONGEST_RETRY = 86_400.0
"""Seconds of a Retry-After beyond which it is a slip; the hosted endpoint says 10,800."""

_OVERFLOW_WORDS = (
    b"exceed_context_size_error",  # llama.cpp
    b"maximum context length",  # vLLM, OpenAI
    b"context_length_exceeded",  # OpenAI
    b"Context size has been exceeded",  # llama.cpp, as a 500
    b"Input does not fit in context length",  # LM Studio
    b"Trying to keep the first",  # LM Studio, older
)

_NO_SUCH_MODEL = re.compile(
    rb"model_not_found"  # OpenAI
    rb"|not found for account"  # hosted NVIDIA
    rb"|\bmodel\b[^.]{0,200}?(?:does not exist|not found)",  # vLLM, Ollama and their like
    re.IGNORECASE,
)

_BY_STATUS: dict[int, FailureKind] = {
    401: FailureKind.CREDENTIALS,
    402: FailureKind.CREDENTIALS,
    403: FailureKind.FORBIDDEN,  # a credential's fault or one prompt's, so it says nothing of the next call
    404: FailureKind.UNSUPPORTED,
    405: FailureKind.UNSUPPORTED,
    408: FailureKind.UNAVAILABLE,
    410: FailureKind.MODEL_GONE,
    425: FailureKind.UNAVAILABLE,
    429: FailureKind.RATE_LIMITED,
    501: FailureKind.UNSUPPORTED,
    502: FailureKind.UNAVAILABLE,
    503: FailureKind.UNAVAILABLE,
    504: FailureKind.UNAVAILABLE,
    529: FailureKind.UNAVAILABLE,
}


def classify(status: int, body: bytes, retry_after: str | None) -> Failure:
    """Say what an upstream's answer of `status` (400 or more) means; `body` is its beginning (some KiB suffice)."""
    kind = _BY_STATUS.get(status, FailureKind.SERVER_ERROR if status >= 500 else FailureKind.CALLER)
    if status in {400, 413, 422, 500} and _overflows(body):
        kind = FailureKind.CONTEXT_OVERFLOW
    if status == 404 and _names_a_model(body):
        kind = FailureKind.MODEL_GONE
    return Failure(kind, f"the upstream answered {status}", status, _seconds(retry_after))


def in_stream(data: bytes) -> Failure:
    """Say what an error event means that came inside a 200, before anything else did."""
    kind = FailureKind.CONTEXT_OVERFLOW if _overflows(data) else FailureKind.ERROR_EVENT
    return Failure(kind, "the upstream sent an error inside its stream", 200)


def _overflows(body: bytes) -> bool:
    return any(words in body for words in _OVERFLOW_WORDS)


def _names_a_model(body: bytes) -> bool:
    """Tell "no such model" from "no such path" or "not this API for that model"."""
    return _NO_SUCH_MODEL.search(body) is not None or body.strip() == b"404 page not found"


def _seconds(retry_after: str | None) -> float | None:
    """Read a Retry-After of whole seconds; its date form says nothing about an engine's queue and is ignored."""
    if retry_after is None or not retry_after.strip().isdecimal():
        return None
    return min(float(retry_after), LONGEST_RETRY)
