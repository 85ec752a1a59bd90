"""The APIs that callers speak, as data: where each lives and which members of a body mean what.

Law: what tells one API from another stands here; an engine's own ways stand in `dialects`. An API is served natively or
not at all: no body or answer is translated from one into another.
"""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from policies.domain import API

Family = Literal["openai", "anthropic"]
"""Whose shape errors have."""

End = Literal["done", "event"]
"""How a stream says its last word: with `[DONE]`, or with an event of its own."""


class Shape(Struct, frozen=True):
    """One API.

    `path`: under a base URL that ends with `/v1`; `at_root`: under the base URL without it. `prompts`: the members that
    make up the prompt. `needs`: one of these must be there; the first that is may hold media, where `media`. `bounds`:
    the members that bound the output of one choice. `choices`: those that ask for several; `several`: the member that
    may be a list of prompts, each with choices of its own. `generates`: it makes output tokens. `charged` False: it
    only counts tokens, so that it uses none. `streams`: it takes `stream`. `end`: how its streams end. `family`: whose
    errors it has. `forwards`: the caller's headers that go upstream.
    """

    path: str
    prompts: tuple[str, ...]
    needs: tuple[str, ...]
    bounds: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    several: str | None = None
    media: bool = False
    generates: bool = False
    charged: bool = True
    streams: bool = False
    end: End = "done"
    family: Family = "openai"
    at_root: bool = False
    forwards: frozenset[bytes] = frozenset()


_OUTPUT = ("max_tokens", "max_completion_tokens")
_CHOICES = ("n", "best_of")
_ANTHROPIC = frozenset({b"anthropic-version", b"anthropic-beta"})

APIS: dict[API, Shape] = {
    "chat": Shape(
        "/chat/completions",
        ("messages", "tools", "functions", "response_format"),
        ("messages",),
        _OUTPUT,
        choices=_CHOICES,
        media=True,
        generates=True,
        streams=True,
    ),
    "completions": Shape(
        "/completions",
        ("prompt", "suffix"),
        ("prompt",),
        _OUTPUT,
        choices=_CHOICES,
        several="prompt",
        generates=True,
        streams=True,
    ),
    "embeddings": Shape("/embeddings", ("input",), ("input",), several="input"),
    "responses": Shape(
        "/responses",
        ("input", "instructions", "tools", "text"),
        ("input",),
        ("max_output_tokens",),
        media=True,
        generates=True,
        streams=True,
        end="event",
    ),
    "messages": Shape(
        "/messages",
        ("messages", "system", "tools"),
        ("messages",),
        ("max_tokens",),
        media=True,
        generates=True,
        streams=True,
        end="event",
        family="anthropic",
        forwards=_ANTHROPIC,
    ),
    "count_tokens": Shape(
        "/messages/count_tokens",
        ("messages", "system", "tools"),
        ("messages",),
        media=True,
        charged=False,
        family="anthropic",
        forwards=_ANTHROPIC,
    ),
    "tokenize": Shape(
        "/tokenize",
        ("prompt", "messages", "content"),
        ("prompt", "messages", "content"),
        media=True,
        charged=False,
        at_root=True,
    ),
}

PATHS: dict[str, API] = {("" if shape.at_root else "/v1") + shape.path: api for api, shape in APIS.items()}
"""Each API by the whole path that its clients call."""

MODELS = "/v1/models"
"""The path of the list of models, which is every API's."""

_BASES: dict[Family, str] = {
    "openai": "An OpenAI base_url ends with /v1.",
    "anthropic": "An Anthropic base_url ends before /v1.",
}
"""What a client's base URL is to be: OpenAI's puts the path behind it, Anthropic's `/v1` and the path."""


def _hints() -> dict[str, str]:
    """Return what to tell whoever calls a path with one `/v1` too few or too many, by that path."""
    known, found = (*PATHS, MODELS), {}
    for right in known:
        api, rest = PATHS.get(right), right.removeprefix("/v1")
        for wrong in (rest, f"/v1{rest}", f"/v1/v1{rest}"):
            family: Family = "openai" if api is None else APIS[api].family
            if api is None and wrong.startswith("/v1/v1"):
                family = "anthropic"  # whose clients bring a `/v1` of their own
            base = "" if rest == right else f" {_BASES[family]}"
            if wrong not in known:
                found[wrong] = f"Did you mean {right}?{base}"
    return found


_HINTS = _hints()


def meant(path: str) -> str | None:
    """Say what was probably meant by a path that is none, where a base URL has a `/v1` too few or too many."""
    return _HINTS.get(path.rstrip("/"))


def spoken(path: str, headers: Iterable[tuple[bytes, bytes]]) -> API:
    """Return the API in whose shape a caller of `path` reads errors, `headers` being the call's.

    Of a path that is no one API's, as the list of models, Anthropic's clients tell themselves by the header that theirs
    all send.
    """
    api = PATHS.get(path)
    if api is None:
        api = "messages" if any(name == b"anthropic-version" for name, _ in headers) else "chat"
    return api
