"""Server-sent events as they pass: split, watched for what matters, and otherwise left alone.

Law: bytes go out as they came, but for the usage event that only we asked for, an error event that clients would not
know for one, and a missing `[DONE]`; after an error or a `[DONE]` nothing more does. Where the network cuts a stream
changes nothing. An event is decoded only while the stream is uncommitted, or where a prescan finds a word that matters;
nothing is held once sent. A stream is committed by its first event with content, reasoning, a refusal, a tool delta or
a finish_reason.
Line ends may be CR, LF or CRLF, mixed, and split anywhere (WHATWG HTML, 9.2.5).
"""

import json
import re

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from policies.domain import Usage
from policies.usage import Counter, told_in

EVENTS = "text/event-stream"
"""The content type of a stream."""

MAX_EVENT = 8 * 1024 * 1024
"""Bytes of one event beyond which a stream counts as broken."""

DONE = b"data: [DONE]\n\n"

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment that says nothing and shows that somebody is there."""

_BOUNDARY = re.compile(rb"\r\n(?:\r\n|\n|\r(?!\n))|\n[\n\r]|\r\r")
"""Two line ends. Only after a CRLF may a CR wait for its LF: the LF of any other one leads the next event."""
_LONGEST_HALF = 3
"""Bytes of a boundary that may have waited for its last one."""

_DATA = re.compile(rb"(?:^(?:\xef\xbb\xbf)?|[\r\n])data: ?([^\r\n]*)")
_ERROR_NAME = re.compile(rb"(?:^(?:\xef\xbb\xbf)?|[\r\n])event: ?error[\r\n]")
_OFTEN_NULL = tuple((name, name + b":null", name + b": null") for name in (b'"usage"', b'"finish_reason"'))
_EMPTY = frozenset({b"null", b'""', b"[]", b"{}"})
_CONTENT = ("content", "reasoning", "reasoning_content", "refusal", "tool_calls", "function_call", "audio")


class _Choice(Struct):
    index: int | None = None
    delta: dict[str, Raw] | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Event(Struct):
    choices: list[_Choice] | None = None
    usage: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    object: Raw | UnsetType = UNSET


_decode_event = msgspec.json.Decoder(_Event).decode


class EventTooLargeError(ValueError):
    """One event outgrew `MAX_EVENT`."""


class Splitter:
    """Cuts a byte stream into events, each with its blank line; what is unfinished waits in `rest`."""

    def __init__(self) -> None:
        self.rest = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take in `chunk` and return the events it finished. Raises EventTooLargeError."""
        waiting = len(self.rest)
        if not waiting and b"\r" not in chunk:  # as nearly always; the rule below, by one search in C
            *whole, rest = chunk.split(b"\n\n")
            return self._keep(bytearray(rest), [event + b"\n\n" for event in whole])
        buffer: bytes | bytearray = chunk
        if waiting:
            self.rest += chunk
            buffer = self.rest
        events, start = [], 0
        for boundary in _BOUNDARY.finditer(buffer, max(0, waiting - _LONGEST_HALF)):
            if boundary.end() == len(buffer) and boundary.group() == b"\r\n\r":
                break  # half of a second CRLF: its LF belongs to this event
            events.append(bytes(buffer[start : boundary.end()]))
            start = boundary.end()
        return self._keep(bytearray(buffer[start:]) if start or not waiting else self.rest, events)

    def _keep(self, rest: bytearray, events: list[bytes]) -> list[bytes]:
        self.rest = rest
        if len(rest) > MAX_EVENT:
            raise EventTooLargeError(f"one event has more than {MAX_EVENT} bytes")
        return events


class Tap:
    """Watches one stream. Feed it what the upstream sent; it returns what the caller may have now.

    `committed`: the caller may have seen something. `events`: those that carried content; once committed, those with
    data, unless they had to be decoded. `finished`: a finish_reason came. `done`: `[DONE]` came. `error`: the data of
    an error event; `error_shown`: every client knows it for one. `malformed`: events that were not JSON, passed on.
    """

    def __init__(self, *, withhold_usage: bool) -> None:
        self.committed = False
        self.events = 0
        self.finished = False
        self.done = False
        self.error: bytes | None = None
        self.error_shown = False
        self.malformed = 0
        self._withhold = withhold_usage
        self._counter = Counter()
        self._splitter = Splitter()
        self._held = bytearray()

    @property
    def usage(self) -> Usage | None:
        """What the stream has told of its tokens."""
        return self._counter.total

    def over(self) -> bool:
        """Say whether the stream has said its last word: nothing that follows is looked at."""
        return self.done or self.error is not None

    def feed(self, chunk: bytes) -> bytes:
        """Take in `chunk`; return the bytes to send now, whole events. Raises EventTooLargeError."""
        if self.over():
            return b""
        if self.committed and not self._splitter.rest and _says_little(chunk):
            self.events += chunk.count(b"\ndata:") + chunk.startswith(b"data:")
            return chunk
        out = []
        for event in self._splitter.feed(chunk):
            if self._watch(event):
                out.append(event)
            if self.over():
                break
        return self._now(b"".join(out))

    def end(self) -> bytes:
        """Take in the upstream's end; return what its last event still owes, if only the blank line was missing."""
        rest = bytes(self._splitter.rest)
        if self.over() or not rest.strip() or not _whole(rest):
            return b""
        last = rest + b"\n\n"
        return self._now(last) if self._watch(last) else b""

    def _now(self, ready: bytes) -> bytes:
        """Return what of `ready`, and of what was held before it, may go out."""
        if self.committed:
            if self._held:
                ready = bytes(self._held) + ready
                self._held = bytearray()
            return ready
        self._held += ready
        if len(self._held) > MAX_EVENT:
            raise EventTooLargeError(f"more than {MAX_EVENT} bytes came before anything that a caller could use")
        return b""

    def _watch(self, event: bytes) -> bool:
        """Note what `event` says; False when it is ours alone and must not be passed on."""
        failed = b"event:" in event and _ERROR_NAME.search(event) is not None
        if self.committed and not failed and not _matters(event):
            self.events += event.startswith(b"data:") or _DATA.search(event) is not None
            return True
        data = b"\n".join(_DATA.findall(event))
        if not data:
            return True
        if data.strip() == b"[DONE]":
            self.done = True
            return True
        if failed:
            self.error = data
        try:
            seen = _decode_event(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.malformed += 1
            return not failed
        return self._note(seen, data)

    def _note(self, seen: _Event, data: bytes) -> bool:
        self.error_shown = seen.error is not UNSET and bytes(seen.error) not in _EMPTY
        if self.error_shown or (seen.object is not UNSET and bytes(seen.object) == b'"error"'):
            self.error = data
        if self.error is not None:
            return self.error_shown  # else clients take it for an answer without choices, and fall over it
        told = None if seen.usage is UNSET else told_in(seen.usage)
        if not seen.choices:
            if told is not None:
                self._counter.apart(told)
            return not (self._withhold and told is not None)
        for choice in seen.choices:
            if choice.finish_reason:
                self.finished = True
                self._counter.ended()
        if told is not None:
            self._counter.beside(seen.choices[0].index, told)
        content = any(_has_content(choice) for choice in seen.choices)
        self.events += content
        self.committed = self.committed or content or self.finished
        return True


def _whole(event: bytes) -> bool:
    """Say whether the data of an unfinished event is all here: `[DONE]`, or JSON."""
    data = b"\n".join(_DATA.findall(event)).strip()
    try:
        return data == b"[DONE]" or _decode_event(data) is not None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def _says_little(chunk: bytes) -> bool:
    """Say whether `chunk` is whole events of one line each, none with a word that matters."""
    return (
        chunk.endswith(b"\n\n")
        and chunk.count(b"\n") == 2 * chunk.count(b"\n\n")
        and b"\r" not in chunk
        and not _matters(chunk)
    )


def _matters(text: bytes) -> bool:
    """Say whether a word stands in `text` for which an event must be decoded: rather once too often.

    Some engines write the first two into every event, as null. Four searches in C; one regex takes three times as long.
    """
    if b'"error"' in text or b"[DONE]" in text:
        return True
    for name, tight, wide in _OFTEN_NULL:  # noqa: SIM110 - a generator costs as much as all the searching
        if text.count(name) != text.count(tight) + text.count(wide):
            return True
    return False


def error_event(body: bytes) -> bytes:
    """Write an error body as the last event of a stream."""
    return b"data: " + body + b"\n\n"


def refusal_event(status: int, body: bytes) -> bytes:
    """Write an upstream's own refusal as the last event of a stream: its `error` object, or what words it has in one.

    The ways to say no are the engines': `error` (an object or text), `message`, `detail` (text or a list), `title`.
    """
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = body.decode("utf-8", "replace").strip()
    error = said.get("error") if isinstance(said, dict) else None
    if not (isinstance(error, dict) and isinstance(error.get("message"), str)):
        words = said
        if isinstance(said, dict):
            words = next((said[name] for name in ("error", "message", "detail", "title") if said.get(name)), said)
        message = words if isinstance(words, str) else json.dumps(words)
        error = {"message": message or f"The upstream answered {status}.", "type": "invalid_request_error"}
        error |= {"param": None, "code": status}
    return error_event(json.dumps({"error": error}).encode())


def _has_content(choice: _Choice) -> bool:
    if choice.text:
        return True
    delta = choice.delta or {}
    return any(name in delta and bytes(delta[name]) not in _EMPTY for name in _CONTENT)
