"""What an upstream tells of tokens: read from its usage objects, added up over a stream.

Law: told is told, to the token; what is no usage is an engine's oddity and no failure. Cached and reasoning tokens are
part of the sums and bounded by them; whoever tells odd details has told the sums all the same. Each API has names of
its own, and one object never has two APIs'. Anthropic's `input_tokens` are those that no cache had part in, and so they
are with vLLM, SGLang and llama.cpp; OpenAI's are all. llama.cpp's `timings` count where there is no usage.
"""

import json
from collections.abc import Collection

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from policies.domain import Usage
from policies.halves import read

MOST_CHOICES = 128
"""Choices of one answer whose own usage is kept apart; the OpenAI API allows no more."""

MOST_TOKENS = 2**31
"""Tokens that an upstream may tell of one answer; more is nonsense and must not reach the books."""


class _InputDetails(Struct):
    cached_tokens: int | None = None


class _OutputDetails(Struct):
    reasoning_tokens: int | None = None


class _Sums(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None

    @property
    def input(self) -> int:
        parts = self.input_tokens, self.cache_read_input_tokens, self.cache_creation_input_tokens
        return _within(MOST_TOKENS, self.prompt_tokens or sum(_within(MOST_TOKENS, part) for part in parts))

    @property
    def output(self) -> int:
        return _within(MOST_TOKENS, self.completion_tokens or self.output_tokens)


class _Usage(_Sums):
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None
    reasoning_tokens: int | None = None  # where SGLang tells it


class _Timings(Struct):
    prompt_n: int | None = None
    cache_n: int | None = None
    predicted_n: int | None = None


class _Answer(Struct):
    usage: Raw | UnsetType = UNSET
    timings: Raw | UnsetType = UNSET


_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_decode_usage = msgspec.json.Decoder(_Usage | None).decode
_decode_sums = msgspec.json.Decoder(_Sums).decode
_decode_timings = msgspec.json.Decoder(_Timings).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


def told_in(usage: bytes | Raw) -> Usage | None:
    """Read a usage object; None where it is none."""
    try:
        told = _decode_usage(usage)
    except _ERRORS:
        return _bare(usage)
    if told is None:
        return None
    prompt, completion = told.input, told.output
    of_prompt = told.prompt_tokens_details or told.input_tokens_details
    of_completion = told.completion_tokens_details or told.output_tokens_details
    cached = told.cache_read_input_tokens if of_prompt is None else of_prompt.cached_tokens
    reasoning = None if of_completion is None else of_completion.reasoning_tokens
    return Usage(
        prompt,
        completion,
        estimated=False,
        cached_tokens=_within(prompt, cached),
        reasoning_tokens=_within(completion, reasoning or told.reasoning_tokens),
    )


def timed_in(timings: bytes | Raw) -> Usage | None:
    """Read llama.cpp's `timings`: tokens of the prompt that it worked through, that it had, and that it made."""
    try:
        told = _decode_timings(timings)
    except _ERRORS:
        return None
    if told.predicted_n is None:
        return None
    cached = _within(MOST_TOKENS, told.cache_n)
    prompt = _within(MOST_TOKENS, _within(MOST_TOKENS, told.prompt_n) + cached)
    completion = _within(MOST_TOKENS, told.predicted_n)
    return Usage(prompt, completion, estimated=False, cached_tokens=_within(prompt, cached))


def usage_of(answer: bytes) -> Usage | None:
    """Return the usage that a plain answer tells, or None. Raises ValueError where the answer is not whole JSON."""
    try:
        told = read(_decode_answer, answer)
    except _ERRORS as error:
        raise ValueError(f"the answer is not a whole JSON object: {error}") from error
    usage = None if told.usage is UNSET else told_in(told.usage)
    return timed_in(told.timings) if usage is None and told.timings is not UNSET else usage


def usage_in(tail: bytes) -> Usage | None:
    """Return the last usage that the end of a long plain answer tells, or None."""
    usage, timings = _last(tail, b'"usage"'), _last(tail, b'"timings"')
    told = None if usage is None else told_in(usage)
    return timed_in(timings) if told is None and timings is not None else told


def _last(tail: bytes, name: bytes) -> bytes | None:
    """Return the last value that has this name in the end of a JSON text, None where none is whole."""
    start = tail.rfind(name)
    if start < 0:
        return None
    text = tail[start + len(name) :].decode("utf-8", "replace").lstrip(" \t\r\n:")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return text[:end].encode()


class Counter:
    """What a stream has told of its tokens, added up; `total` is None until it tells any.

    Beside a choice usage is that choice's, so far (vLLM's continuous usage, llama.cpp's completions). In an event of
    its own it is everybody's, but where another choice ends after it, as with llama.cpp, who tells it once a choice.
    """

    def __init__(self) -> None:
        self.total: Usage | None = None
        self._choices: dict[int | None, Usage] = {}
        self._ended = False
        self._told = False
        self._before: Usage | None = None

    def beside(self, index: int | None, told: Usage) -> None:
        """Take in the usage that came with choice `index`."""
        if index in self._choices or len(self._choices) < MOST_CHOICES:
            self._choices[index] = told
        self.total = _outputs_of(told, self._choices.values())

    def apart(self, told: Usage) -> None:
        """Take in the usage that came without a choice."""
        self._told = True
        self.total = told if self._before is None else _outputs_of(told, (self._before, told))

    def ended(self) -> None:
        """Note that a choice ended; what was told since another one did was not of this one."""
        if self._ended and self._told:
            self._before, self._told = self.total, False
        self._ended = True


def together(one: Usage, other: Usage) -> Usage:
    """Add up two attempts."""
    return Usage(
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        estimated=one.estimated or other.estimated,
        cached_tokens=one.cached_tokens + other.cached_tokens,
        reasoning_tokens=one.reasoning_tokens + other.reasoning_tokens,
    )


def _outputs_of(last: Usage, outputs: Collection[Usage]) -> Usage:
    """Add up the `outputs` of one prompt, which `last` tells."""
    if len(outputs) == 1:
        return last
    completion = min(MOST_TOKENS, sum(told.completion_tokens for told in outputs))
    reasoning = min(completion, sum(told.reasoning_tokens for told in outputs))
    return Usage(
        last.prompt_tokens,
        completion,
        estimated=False,
        cached_tokens=last.cached_tokens,
        reasoning_tokens=reasoning,
    )


def _bare(usage: bytes | Raw) -> Usage | None:
    """Read only the sums of a usage object."""
    try:
        told = _decode_sums(usage)
    except _ERRORS:
        return None
    return Usage(told.input, told.output, estimated=False)


def _within(most: int, tokens: int | None) -> int:
    return min(most, max(0, tokens or 0))
