"""What watches a stream as it passes: the part that all APIs have in common.

Law: bytes go out as they came, but for what only we asked for, an error event that clients would not know for one, and
a last word that is missing; after an error or a last word nothing more does. Where the network cuts a stream changes
nothing. An event is decoded only while the stream is uncommitted, or where a prescan finds a word that matters;
nothing is held once sent. Of many events that come at once, those halves in which nothing matters are looked at whole.
"""

import msgspec
from msgspec import Raw, UnsetType

from policies import sse
from policies.domain import Usage
from policies.halves import read
from policies.sse import EventTooLargeError, Splitter, data_of, named_error

FEW = 512
"""Bytes of events that are looked at one by one, some three of a chat's; more are halved before."""

_ODD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_EMPTY = frozenset({b"null", b'""', b"[]", b"{}"})


def says_something(value: Raw | UnsetType) -> bool:
    """Say whether a member is there and not empty."""
    return isinstance(value, Raw) and bytes(value) not in _EMPTY


class Tap:
    """Watches one stream. Feed it what the upstream sent; it returns what the caller may have now.

    `committed`: the caller may have seen something. `events`: those that carried content. `number`: events that came,
    where its API numbers them. `finished`: it told why it ends. `done`: its last word came. `error`: the data of an
    error event; `error_shown`: every client knows it for one. `malformed`: events that were not JSON, passed on.
    """

    named = False
    """Whether clients know an error by its event's name, whatever its data."""
    delta = b""
    """What stands in the data of each event with content, where one tells itself by its type."""
    number = 0

    def __init__(self) -> None:
        self.committed = False
        self.events = 0
        self.finished = False
        self.done = False
        self.error: bytes | None = None
        self.error_shown = False
        self.malformed = 0
        self._splitter = Splitter()
        self._held = bytearray()
        self._usage: Usage | None = None

    @property
    def usage(self) -> Usage | None:
        """What the stream has told of its tokens."""
        return self._usage

    @property
    def last(self) -> bytes:
        """What a stream that ended well still owes its caller."""
        return b""

    def over(self) -> bool:
        """Say whether the stream has said its last word: nothing that follows is looked at."""
        return self.done or self.error is not None

    def feed(self, chunk: bytes) -> bytes:
        """Take in `chunk`; return the bytes to send now, whole events. Raises EventTooLargeError."""
        if self.over():
            return b""
        if self.committed and not self._splitter.rest:
            skimmed = self._skim(chunk)
            if skimmed is not None:
                self.events += skimmed
                return chunk
        if len(chunk) > FEW:
            middle = chunk.find(b"\n\n", len(chunk) // 2) + 2
            if 2 <= middle < len(chunk):
                return self.feed(chunk[:middle]) + self.feed(chunk[middle:])
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
        if len(self._held) > sse.MAX_EVENT:
            raise EventTooLargeError(f"more than {sse.MAX_EVENT} bytes came before anything that a caller could use")
        return b""

    def _watch(self, event: bytes) -> bool:
        """Note what `event` says; False when it is ours alone and must not be passed on."""
        failed = b"event:" in event and named_error(event)
        if self.committed and not failed and not self._matters(event):
            self.events += self._weigh(event)
            return True
        data = data_of(event)
        if not data:
            return True
        if data.strip() == b"[DONE]":
            self.done = True
            return self.finished  # a clean end is said only of what told why it ends
        if failed:
            self.error = data
            if self.named:
                self.error_shown = True
                return True
        try:
            return read(self._note, data)
        except _ODD:
            self.malformed += 1
            return not failed

    def _skim(self, chunk: bytes) -> int | None:
        """Return the content events of a chunk of whole events of which none matters; None where it needs a look."""
        if not chunk.endswith(b"\n\n") or b"\r" in chunk or self._matters(chunk):
            return None
        return self._weigh(chunk)

    @staticmethod
    def _matters(text: bytes) -> bool:
        """Say whether a word stands in `text` for which an event must be decoded: rather once too often."""
        raise NotImplementedError

    def _weigh(self, events: bytes) -> int:
        """Return how many content events there are in events that do not matter."""
        return events.count(self.delta)

    def _note(self, data: bytes) -> bool:
        """Decode an event's data and note what it says; False where it must not be passed on. Raises what JSON may."""
        raise NotImplementedError


def _whole(event: bytes) -> bool:
    """Say whether the data of an unfinished event is all here: `[DONE]`, or JSON."""
    data = data_of(event).strip()
    try:
        return data == b"[DONE]" or isinstance(read(msgspec.json.decode, data), dict)
    except _ODD:
        return False
