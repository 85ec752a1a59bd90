"""Server-sent events as bytes: what they are called, where they end, what data they carry.

Law: an event goes on exactly as it came. Line ends may be CR, LF or CRLF, mixed, and split anywhere (WHATWG HTML,
9.2.5). Memory a stream is bounded: an event that outgrows `MAX_EVENT` breaks it.
"""

import re

EVENTS = "text/event-stream"
"""The content type of a stream."""

MAX_EVENT = 8 * 1024 * 1024
"""Bytes of one event beyond which a stream counts as broken."""

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment that says nothing and shows that somebody is there."""

_BOUNDARY = re.compile(rb"\r\n(?:\r\n|\n|\r(?!\n))|\n[\n\r]|\r\r")
"""Two line ends. Only after a CRLF may a CR wait for its LF: the LF of any other one leads the next event."""
_LONGEST_HALF = 3
"""Bytes of a boundary that may have waited for its last one."""

_DATA = re.compile(rb"(?:^(?:\xef\xbb\xbf)?|[\r\n])data: ?([^\r\n]*)")
_ERROR_NAME = re.compile(rb"(?:^(?:\xef\xbb\xbf)?|[\r\n])event: ?error[\r\n]")


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


def data_of(event: bytes) -> bytes:
    """Return the data of an event, its lines joined; empty where it has none, as a comment."""
    return b"\n".join(_DATA.findall(event))


def has_data(event: bytes) -> bool:
    """Say whether an event has a line of data."""
    return event.startswith(b"data:") or _DATA.search(event) is not None


def named_error(event: bytes) -> bool:
    """Say whether an event is named `error`."""
    return _ERROR_NAME.search(event) is not None


def event_of(data: bytes, name: str = "") -> bytes:
    """Write one event; its data is one line, as JSON is."""
    head = b"event: " + name.encode() + b"\n" if name else b""
    return head + b"data: " + data + b"\n\n"
