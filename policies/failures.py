"""The closed set of ways an attempt can fail, and what each means.

Law: an attempt ends well or as exactly one `Failure`; what happens next is read off `MEANINGS`, never decided ad hoc.
An answer is told by its status, unless its words say better (`_RULES`, then `_BLAMES`, the first that fits). Engines
repeat what a caller sent: words that speak against a deployment count only where the engine itself begins to speak, so
that no caller can put them there. The table stands in the README too. Sources of the statuses and words: the engines'
own answers and sources, named beside each.
"""

import json
import re
from enum import StrEnum

from msgspec import Struct

from policies.said import WORDS, Said, said_by


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
    MISFIT = "misfit"
    SERVER_ERROR = "server_error"
    UNAVAILABLE = "unavailable"
    RATE_LIMITED = "rate_limited"
    CREDENTIALS = "credentials"
    FORBIDDEN = "forbidden"
    BLOCKED = "blocked"
    MODEL_GONE = "model_gone"
    UNSUPPORTED = "unsupported"
    CONTEXT_OVERFLOW = "context_overflow"
    REFUSED = "refused"
    CALLER = "caller"


class Meaning(Struct, frozen=True):
    """What a failure means.

    `elsewhere`: another deployment may do better. `ejects`: it speaks against the deployment's health; `on_proof`: but
    only if another one then serves the same call, since the call itself may be what breaks engines. `freezes`: it may
    say for how long the deployment wants to be left alone. `switches_off`: seconds the deployment is kept out as the
    operator's fault.
    """

    elsewhere: bool
    ejects: bool = False
    on_proof: bool = False
    freezes: bool = False
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
    FailureKind.EMPTY: Meaning(elsewhere=True, ejects=True, on_proof=True),
    FailureKind.ERROR_EVENT: Meaning(elsewhere=True, ejects=True, on_proof=True),
    FailureKind.MISFIT: Meaning(elsewhere=True),  # of a continuation: the model began anew, its engine is well
    FailureKind.SERVER_ERROR: Meaning(elsewhere=True, ejects=True, on_proof=True),
    FailureKind.UNAVAILABLE: Meaning(elsewhere=True, ejects=True, freezes=True),
    FailureKind.RATE_LIMITED: Meaning(elsewhere=True, freezes=True),
    FailureKind.CREDENTIALS: Meaning(elsewhere=True, switches_off=OFF_SECONDS),
    FailureKind.FORBIDDEN: Meaning(elsewhere=True, switches_off=OFF_SECONDS),
    FailureKind.BLOCKED: Meaning(elsewhere=True, ejects=True, on_proof=True),  # a firewall's rules look at the call
    FailureKind.MODEL_GONE: Meaning(elsewhere=True, switches_off=OFF_SECONDS),
    FailureKind.UNSUPPORTED: Meaning(elsewhere=True),
    FailureKind.CONTEXT_OVERFLOW: Meaning(elsewhere=True),
    FailureKind.REFUSED: Meaning(elsewhere=False),  # what one place's rules forbid is not carried to another
    FailureKind.CALLER: Meaning(elsewhere=False),
}


class Failure(Struct, frozen=True):
    """One failed attempt.

    `status`: the upstream's, None where no answer came. `retry_after`: seconds for which it asked to be left alone,
    None where it did not, or where that means nothing.
    `window`, `tokens`: of an overflow, the context window and the size of the request, where the engine told them.
    """

    kind: FailureKind
    detail: str
    status: int | None = None
    retry_after: float | None = None
    window: int | None = None
    tokens: int | None = None

    @property
    def meaning(self) -> Meaning:
        """What follows from it."""
        return MEANINGS[self.kind]

    @property
    def ejects(self) -> bool:
        """Whether it speaks against the deployment's health: what says when it will be back is left alone instead."""
        return self.meaning.ejects and not self.retry_after


_NOTHING = re.compile(rb"\s*\{\s*\}\s*")

LONGEST_ERROR = 64 * 1024
"""Bytes beyond which an answer is no mere error."""

_OF_ERRORS = frozenset({"error", "message", "object", "type", "code", "status", "request_id", "detail"})
"""The members of an answer that is nothing but an error: an answer by the Responses API has an `error` too."""

NEAR_THE_WINDOW = 0.9
"""Share of a context window from which an answer of nothing is an overflow: what is counted before is an estimate, and
a chat template adds to it. LM Studio answers 200 and no word to a prompt that does not fit (its bug tracker, 2339)."""

_ENDS = re.compile(rb'"finish_reason":\s*"(?:stop|length)"')

_BY_STATUS: dict[int, FailureKind] = {
    401: FailureKind.CREDENTIALS,
    402: FailureKind.CREDENTIALS,
    403: FailureKind.FORBIDDEN,
    405: FailureKind.UNSUPPORTED,
    407: FailureKind.CREDENTIALS,  # of a proxy on the way, ours to name
    408: FailureKind.UNAVAILABLE,
    410: FailureKind.MODEL_GONE,
    425: FailureKind.UNAVAILABLE,
    429: FailureKind.RATE_LIMITED,
    499: FailureKind.UNAVAILABLE,  # hosted NVIDIA, when a connection inside it was given up
    501: FailureKind.UNSUPPORTED,
    502: FailureKind.UNAVAILABLE,
    503: FailureKind.UNAVAILABLE,
    504: FailureKind.UNAVAILABLE,
    529: FailureKind.UNAVAILABLE,
}


class _Rule(Struct, frozen=True):
    """An answer of one of these statuses with these words anywhere is of this kind, which harms nobody but its call."""

    statuses: frozenset[int]
    words: re.Pattern[bytes]
    kind: FailureKind


class _Blame(Struct, frozen=True):
    """An answer of one of these statuses whose message opens so, or that has one of these names, is of this kind."""

    statuses: frozenset[int]
    opening: re.Pattern[str]
    names: frozenset[str]
    kind: FailureKind


def _rule(kind: FailureKind, statuses: set[int], *words: str) -> _Rule:
    """Make a rule; its words are in lower case, as a search that ignores case takes ten times as long."""
    return _Rule(frozenset(statuses), re.compile("|".join(words).encode()), kind)


def _blame(kind: FailureKind, statuses: set[int], *openings: str, names: tuple[str, ...] = ()) -> _Blame:
    return _Blame(frozenset(statuses), re.compile("|".join(openings), re.IGNORECASE), frozenset(names), kind)


_RULES = (
    _rule(
        FailureKind.CONTEXT_OVERFLOW,
        {200, 400, 413, 422, 500},
        "maximum context length",  # vLLM, OpenAI, Mistral; SGLang of the sum of input and output
        "maximum model length",  # vLLM, of token ids
        r"cannot be greater than max_(?:model_len|total_tokens)",  # vLLM, of max_tokens alone
        "exceed_context_size_error",  # llama.cpp
        "available context size",  # llama.cpp before that type
        "context size has been exceeded",  # llama.cpp as a 500, LM Studio (MLX)
        "longer than the model.s context length",  # SGLang, of the input alone
        "fit in context length",  # LM Studio
        "trying to keep the first",  # LM Studio, older
        "tokens to keep from the initial prompt is greater",  # LM Studio, older
        "context_length_exceeded",  # OpenAI
        "exceeds the context window",  # OpenAI, of /v1/responses
        "exceed(?:s|ed)? the configured limit of",  # OpenAI, newer models
        "context too long|input too large|couldn.t fit with truncation",  # as Vibe knows them
        "model_context_exceeded|prompt_too_long",
        "prompt is too long",  # Anthropic
    ),
    _rule(
        FailureKind.REFUSED,
        {400, 403, 422, 451},
        "content_policy|content management policy|usage polic",  # OpenAI, Azure
        "content_filter|responsibleaipolicyviolation",  # Azure
        r"moderation|flagged_input|flagged\b",  # OpenRouter (403 with reasons and flagged_input), OpenAI's images
        "safety system",  # OpenAI
        "safety filter|guardrail",  # Bedrock, NeMo Guardrails
    ),
    _rule(
        FailureKind.CALLER,
        {500},  # llama.cpp, to what is wrong in the call
        r'"message":\s{0,4}"(?:failed to parse (?:messages|tools)|cannot use both|\w{1,40} input is not supported)',
        r'"message":\s{0,4}"\W\w{1,80}\W is required',
    ),
    _rule(
        FailureKind.RATE_LIMITED,
        {503},
        "request queue is full|queue timeout reached|aborted by a higher priority",  # SGLang
        "currently busy and cannot accept new requests",  # vLLM with --max-num-queued-reqs
    ),
)

_EXHAUSTED, _BY_NAME = r"resource_?exhausted\b", ("resource_exhausted", "resourceexhausted")

_BLAMES = (
    # Hosted NVIDIA, of a worker that has all it takes ("Worker local total request limit reached"); gRPC's name for it.
    _blame(FailureKind.RATE_LIMITED, {200, 500, 502, 503}, r"[\w .:=\[-]{0,60}\b" + _EXHAUSTED, names=_BY_NAME),
    _blame(FailureKind.RATE_LIMITED, {400}, r"(?:upstream error from [\w .-]{1,40}: )?" + _EXHAUSTED, names=_BY_NAME),
    _blame(  # hosted NVIDIA
        FailureKind.UNAVAILABLE, {400}, r"(?:function id '[\w-]{1,64}': )?degraded function cannot be invoked"
    ),
    _blame(
        FailureKind.UNSUPPORTED,
        {400},
        r"the model does not support [a-z ]{1,40} API\b",  # vLLM, older; now it is a 501
        "(?:this|the) model does not appear to be an embedding model",  # SGLang
    ),
    # Of any model but its one, transformers; LM Studio; DeepSeek; Mistral, by its type.
    _blame(
        FailureKind.MODEL_GONE,
        {400},
        "server is pinned to",
        "no models loaded",
        "model not exist",
        names=("invalid_model",),
    ),
    _blame(
        FailureKind.MODEL_GONE,
        {404},
        "function .{1,80}: not found for account",  # hosted NVIDIA
        r"(?:the )?(?:requested )?model\b.{0,300}?(?:does not exist|not found)",  # vLLM, Ollama and their like
        r"model: \S+\Z",  # Anthropic
        "no endpoints found for ",  # OpenRouter
        r"\s*404 page not found\s*\Z",  # hosted NVIDIA, of a model that it does not know
        names=("model_not_found", "deploymentnotfound"),  # OpenAI, LM Studio; Azure
    ),
)

_PATHS = re.compile(
    r"(?:404\b\W*)?(?:file )?not found\b"  # FastAPI, llama.cpp
    r"|(?:(?:an?|the|this|no|un\w+|invalid|requested|request|such) ){0,4}(?:path|url|route|endpoint|page|resource)\b"
    r"|this is (?:not )?a chat model\b"  # OpenAI ("not supported in the v1/completions endpoint")
    r"|no handler\b|cannot post\b",
    re.IGNORECASE,
)
"""How the message of a 404 opens that is about the path and not about anything that the caller named."""

_ACCOUNT = re.compile(r"\byour (?:account|organi[sz]ation|project|api key)\b", re.IGNORECASE)
"""What the message of a 403 says that is about who asks and not about what, whatever policy it names."""

_WINDOW = re.compile(
    rb"(?:maximum context length (?:is|of)|context length \(|available context size \(|maximum model length of"
    rb'|max_model_len=|"n_ctx": ?|context length (?:only supports|of only)|configured limit of|tokens >) ?(\d{1,9})\b',
    re.IGNORECASE,
)
_TOKENS = re.compile(
    rb"(?:total of (?:at least )?|resulted in |request has (?:about )?|you requested (?:about )?|prompt contains "
    rb"(?:at least )?|the input has |the input \(|request \(|prompt \(length |too long: |keep the first )"
    rb"(\d{1,9})(?=\)| (?:input )?tokens)",
    re.IGNORECASE,
)


def classify(status: int, body: bytes, retry_after: float | None) -> Failure:
    """Say what an upstream's answer of `status` (400 or more) means; `body` is its beginning (some KiB suffice).

    `retry_after`: the seconds for which it asks to be left alone (`policies.freezes`).
    """
    said = said_by(body)
    kind = _kind_by_words(status, body, said)
    if kind is None and status == 404:
        named = said.api and said.message and _PATHS.match(said.message) is None
        kind = FailureKind.CALLER if named else FailureKind.UNSUPPORTED
    if kind is None:
        kind = _BY_STATUS.get(status, FailureKind.SERVER_ERROR if status >= 500 else FailureKind.CALLER)
    return _failure(kind, f"the upstream answered {status}", status, body, retry_after)


def in_stream(data: bytes) -> Failure:
    """Say what an error event means that came inside a 200, before anything else did."""
    kind = _kind_by_words(200, data, said_by(data)) or FailureKind.ERROR_EVENT
    return _failure(kind, "the upstream sent an error inside its stream", 200, data, None)


def of_answer(answer: bytes) -> Failure | None:
    """Say what is wrong with a plain answer of a 200: it is an error all the same, or nothing; None where it is fine.

    LM Studio answers 200 and an error to whatever it does not know (its bug tracker, 618), transformers' server 200 and
    `{}` where its model failed.
    """
    if _NOTHING.fullmatch(answer):
        return Failure(FailureKind.EMPTY, "the answer is an empty object", 200)
    if b'"error"' not in answer or b'"choices"' in answer or len(answer) > LONGEST_ERROR:
        return None
    try:
        said = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if isinstance(said, dict) and said.get("error") and set(said) <= _OF_ERRORS:
        return in_stream(answer)
    return None


def of_nothing(prompt_tokens: int, window: int | None) -> Failure:
    """Say what an answer without a word means, to a prompt of that size where the context window is `window`."""
    if window is not None and prompt_tokens >= NEAR_THE_WINDOW * window:
        return Failure(FailureKind.CONTEXT_OVERFLOW, "nothing was said to a prompt as long as the window", 200)
    return Failure(FailureKind.EMPTY, "the answer ended without content", 200)


def says_nothing(end: bytes) -> bool:
    """Say whether an answer that ends so, without a word before, might be one to a prompt that did not fit.

    What a filter or the model itself refused to say has another finish_reason.
    """
    return _ENDS.search(end) is not None


def _kind_by_words(status: int, body: bytes, said: Said) -> FailureKind | None:
    if status == 403 and _ACCOUNT.search(said.message):
        return FailureKind.FORBIDDEN
    words = body[:WORDS].lower()
    kind = next((rule.kind for rule in _RULES if status in rule.statuses and rule.words.search(words)), None)
    if kind is not None:
        return kind
    if status == 403 and words.lstrip().startswith(b"<"):
        return FailureKind.BLOCKED
    blames = (blame for blame in _BLAMES if status in blame.statuses)
    return next((one.kind for one in blames if one.names & said.names or one.opening.match(said.message)), None)


def _failure(kind: FailureKind, detail: str, status: int, body: bytes, retry_after: float | None) -> Failure:
    if kind is FailureKind.CONTEXT_OVERFLOW:
        return Failure(
            kind, detail, status, window=_number(_WINDOW, body[:WORDS]), tokens=_number(_TOKENS, body[:WORDS])
        )
    return Failure(kind, detail, status, retry_after if MEANINGS[kind].freezes else None)


def _number(pattern: re.Pattern[bytes], body: bytes) -> int | None:
    found = pattern.search(body)
    return None if found is None else int(found[1])
