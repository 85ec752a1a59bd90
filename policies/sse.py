"""Server-sent events as they pass: split, watched for what matters, and otherwise left alone.

Law: bytes go out as they came, but for the usage event that only we asked for and a missing `[DONE]`. An event is
decoded only while the stream is uncommitted, or where a prescan finds a word that matters; nothing is held once sent. A
stream is committed by its first event with content, reasoning, a refusal, a tool delta or a finish_reason.
Line ends may be CR, LF or CRLF, mixed, and split anywhere (WHATWG HTML, 9.2.5).
"""

import json
import re

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from policies.domain import Usage

MAX_EVENT = 8 * 1024 * 1024
"""Bytes of one event beyond which a stream counts as broken."""

DONE = b"data: [DONE]\n\n"

_BOUNDARY = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LONGEST_HALF = 3
"""Bytes of a boundary that may have waited for its last one."""

_DATA = re.compile(rb"(?:^|[\r\n])\xef?\xbb?\xbf?data: ?([^\r\n]*)")
_MATTERS = re.compile(rb'"usage"\s*:\s*\{|"finish_reason"\s*:\s*"|"error"|\[DONE\]')
_EMPTY = frozenset({b"null", b'""', b"[]", b"{}"})
_CONTENT = ("content", "reasoning", "reasoning_content", "refusal", "tool_calls", "function_call")


MOST_TOKENS = 2**31
"""Tokens that an upstream may tell of one answer; more is nonsense and must not reach the books."""


class _Usage(Struct):
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0


class _Choice(Struct):
    delta: dict[str, Raw] | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Event(Struct):
    choices: list[_Choice] | None = None
    usage: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class _Answer(Struct):
    usage: Raw | UnsetType = UNSET


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_usage = msgspec.json.Decoder(_Usage | None).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


class EventTooLargeError(ValueError):
    """One event outgrew `MAX_EVENT`."""


class Splitter:
    """Cuts a byte stream into events, each with its blank line; what is unfinished waits in `rest`."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take in `chunk` and return the events it finished. Raises EventTooLargeError."""
        buffer = self.rest + chunk if self.rest else chunk
        events, start = [], 0
        for boundary in _BOUNDARY.finditer(buffer, max(0, len(self.rest) - _LONGEST_HALF)):
            if boundary.end() == len(buffer) and boundary.group() == b"\r\n\r":
                break  # half of a second CRLF: its LF belongs to this event
            events.append(buffer[start : boundary.end()])
            start = boundary.end()
        self.rest = buffer[start:]
        if len(self.rest) > MAX_EVENT:
            raise EventTooLargeError(f"one event has more than {MAX_EVENT} bytes")
        return events


class Tap:
    """Watches one stream. Feed it what the upstream sent; it returns what the caller may have now.

    `committed`: the caller may have seen something. `usage`: as told, the last one counts. `events`: those that carried
    a choice. `finished`: a finish_reason came. `done`: `[DONE]` came. `error`: the data of an error event. `malformed`:
    events whose data was not JSON, passed on.
    """

    def __init__(self, *, withhold_usage: bool) -> None:
        self.committed = False
        self.usage: Usage | None = None
        self.events = 0
        self.finished = False
        self.done = False
        self.error: bytes | None = None
        self.malformed = 0
        self._withhold = withhold_usage
        self._splitter = Splitter()
        self._held: list[bytes] = []

    def feed(self, chunk: bytes) -> bytes:
        """Take in `chunk`; return the bytes to send now. Raises EventTooLargeError."""
        if self.committed and not self._splitter.rest and chunk.endswith(b"\n\n") and not _MATTERS.search(chunk):
            self.events += chunk.count(b"\ndata:") + chunk.startswith(b"data:")
            return chunk
        out = [event for event in self._splitter.feed(chunk) if self._watch(event)]
        if self.committed:
            ready, self._held = self._held + out, []
            return b"".join(ready)
        self._held += out
        if sum(map(len, self._held)) > MAX_EVENT:
            raise EventTooLargeError(f"more than {MAX_EVENT} bytes came before anything that a caller could use")
        return b""

    def end(self) -> bytes:
        """Return what is still owed to the caller when the upstream has ended well: a last event, a `[DONE]`."""
        rest = self._splitter.rest
        tail = rest + b"\n\n" if rest.strip() and self._watch(rest) else b""
        return tail if self.done else tail + DONE

    def _watch(self, event: bytes) -> bool:
        """Note what `event` says; False when it is ours alone and must not be passed on."""
        if self.committed and not _MATTERS.search(event):
            self.events += b"\ndata:" in event or event.startswith(b"data:")
            return True
        data = b"\n".join(_DATA.findall(event))
        if not data:
            return True
        if data.strip() == b"[DONE]":
            self.done = True
            return True
        try:
            seen = _decode_event(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.malformed += 1
            return True
        return self._note(seen, data)

    def _note(self, seen: _Event, data: bytes) -> bool:
        if seen.error is not UNSET and bytes(seen.error) != b"null":
            self.error = data
            return True
        told = None if seen.usage is UNSET else _told(seen.usage)
        self.usage = told or self.usage
        if not seen.choices:
            return not (self._withhold and told is not None)
        self.events += any(_has_content(choice) for choice in seen.choices)
        for choice in seen.choices:
            self.finished = self.finished or choice.finish_reason is not None
            self.committed = self.committed or choice.finish_reason is not None or _has_content(choice)
        return True


def usage_of(answer: bytes) -> Usage | None:
    """Return the usage that a plain answer tells, or None. Raises ValueError where the answer is not whole JSON."""
    try:
        told = _decode_answer(answer).usage
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the answer is not a whole JSON object: {error}") from error
    return None if told is UNSET else _told(told)


def usage_in(tail: bytes) -> Usage | None:
    """Return the last usage that the end of a long plain answer tells, or None."""
    start = tail.rfind(b'"usage"')
    if start < 0:
        return None
    text = tail[start + len(b'"usage"') :].decode("utf-8", "replace").lstrip(" \t\r\n:")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return _told(text[:end].encode())


def error_event(body: bytes) -> bytes:
    """Write an error body as the last event of a stream."""
    return b"data: " + body + b"\n\n"


def _told(usage: bytes | Raw) -> Usage | None:
    """Read a usage object; None where it is none, which is an engine's oddity and no failure."""
    try:
        told = _decode_usage(usage)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if told is None:
        return None
    prompt, completion = (min(MOST_TOKENS, max(0, n or 0)) for n in (told.prompt_tokens, told.completion_tokens))
    return Usage(prompt, completion, estimated=False)


def _has_content(choice: _Choice) -> bool:
    if choice.text:
        return True
    delta = choice.delta or {}
    return any(name in delta and bytes(delta[name]) not in _EMPTY for name in _CONTENT)
