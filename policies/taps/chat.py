"""Streams of chat and text completions: choices with a delta or a text, then a usage of its own, then `[DONE]`.

Law: committed by the first content, reasoning, refusal, tool delta or finish_reason. The usage event that only we asked
for is kept, and a missing `[DONE]` added.
"""

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from policies.domain import Usage
from policies.sse import has_data
from policies.taps.tap import Tap, says_something
from policies.usage import Counter, timed_in, told_in

DONE = b"data: [DONE]\n\n"

_OFTEN_NULL = tuple((name, name + b":null", name + b": null") for name in (b'"usage"', b'"finish_reason"'))
_CONTENT = ("content", "reasoning", "reasoning_content", "refusal", "tool_calls", "function_call", "audio")


class _Choice(Struct):
    index: int | None = None
    delta: dict[str, Raw] | None = None
    text: Raw | UnsetType = UNSET
    finish_reason: str | None = None


class _Event(Struct):
    choices: list[_Choice] | None = None
    usage: Raw | UnsetType = UNSET
    timings: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    object: Raw | UnsetType = UNSET


_decode = msgspec.json.Decoder(_Event).decode


class ChatTap(Tap):
    """Watches a chat's or a text completion's stream.

    Once committed, `events` are those with data, unless they had to be decoded.
    """

    def __init__(self, *, withhold_usage: bool) -> None:
        super().__init__()
        self._withhold = withhold_usage
        self._counter = Counter()
        self._timed = Counter()

    @property
    def usage(self) -> Usage | None:
        """What the stream has told of its tokens, by its usage, else by llama.cpp's timings."""
        return self._counter.total or self._timed.total

    @property
    def last(self) -> bytes:
        """`[DONE]`, unless it came."""
        return b"" if self.done else DONE

    def _watch(self, event: bytes) -> bool:
        """Pass on at once what nearly every event is: data without a name or a word that matters."""
        if self.committed and event.startswith(b"data:") and b"event:" not in event and not self._matters(event):
            self.events += 1
            return True
        return super()._watch(event)

    def _skim(self, chunk: bytes) -> int | None:
        """Look at whole events of one line each, all of it data."""
        if self._matters(chunk) or b"\r" in chunk or not chunk.endswith(b"\n\n"):
            return None
        events = chunk.count(b"\n\ndata:") + chunk.startswith(b"data:")
        return events if chunk.count(b"\n") == 2 * events else None

    @staticmethod
    def _matters(text: bytes) -> bool:
        """Say whether a word stands in `text` for which an event must be decoded: rather once too often.

        Some engines write the first two into every event, as null. Four searches in C; one regex takes three times as
        long.
        """
        if b'"error"' in text or b"[DONE]" in text:
            return True
        for name, tight, wide in _OFTEN_NULL:
            found = text.count(name)
            if found and found != text.count(tight) + text.count(wide):
                return True
        return False

    def _weigh(self, events: bytes) -> int:
        return has_data(events)

    def _note(self, data: bytes) -> bool:
        seen = _decode(data)
        self.error_shown = says_something(seen.error)
        if self.error_shown or (isinstance(seen.object, Raw) and bytes(seen.object) == b'"error"'):
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
        timed = None if seen.timings is UNSET else timed_in(seen.timings)
        if timed is not None:
            self._timed.beside(seen.choices[0].index, timed)
        content = any(_has_content(choice) for choice in seen.choices)
        self.events += content
        self.committed = self.committed or content or self.finished
        return True


class ChoicesTap(ChatTap):
    """Watches a stream of several choices: `finished` once each that was seen to begin has told why it ends.

    Every event is decoded, as any may be the first of its choice.
    """

    def __init__(self, *, withhold_usage: bool) -> None:
        super().__init__(withhold_usage=withhold_usage)
        self._begun: set[int | None] = set()
        self._ended: set[int | None] = set()

    @staticmethod
    def _matters(text: bytes) -> bool:  # noqa: ARG004 - each does
        return True

    def _note(self, data: bytes) -> bool:
        passes = super()._note(data)
        for choice in _decode(data).choices or ():
            self._begun.add(choice.index)
            if choice.finish_reason:
                self._ended.add(choice.index)
        self.finished = bool(self._ended) and self._begun == self._ended
        return passes


def _has_content(choice: _Choice) -> bool:
    if says_something(choice.text):
        return True
    delta = choice.delta or {}
    return any(name in delta and says_something(delta[name]) for name in _CONTENT)
