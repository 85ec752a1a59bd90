"""The APIs that callers speak, as data: where each lives and which members of a body mean what.

Law: what tells one API from another stands here; an engine's own ways stand in `dialects`. An API is served natively or
not at all: no body or answer is translated from one into another.
"""

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
