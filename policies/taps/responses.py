"""Streams of OpenAI's Responses: items that open, grow by `.delta` events and close, then the response as a whole.

Law: committed by the first delta, or by the end; what opens a response or an item is held. `response.completed` and
`response.incomplete` end it well, `response.failed` and `error` do not. Usage is told once, at the end.
"""

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from policies.sse import has_data
from policies.taps.tap import Tap, says_something
from policies.usage import told_in

_ENDS = frozenset({"response.completed", "response.incomplete"})
_FAILURES = frozenset({"response.failed", "error"})


class _Response(Struct):
    usage: Raw | UnsetType = UNSET


class _Event(Struct):
    type: str = ""
    response: _Response | None = None
    error: Raw | UnsetType = UNSET


_decode = msgspec.json.Decoder(_Event).decode


class ResponsesTap(Tap):
    """Watches a stream of Responses."""

    delta = b'.delta"'

    def _skim(self, chunk: bytes) -> int | None:
        content = super()._skim(chunk)
        if content is not None:
            self.number += chunk.count(b"\ndata:") + chunk.startswith(b"data:")
        return content

    def _watch(self, event: bytes) -> bool:
        self.number += has_data(event)
        return super()._watch(event)

    @staticmethod
    def _matters(text: bytes) -> bool:
        """Say whether a word stands in `text` for which an event must be decoded: rather once too often."""
        return (
            b'"response.com' in text
            or b'"response.inc' in text
            or b'"response.fail' in text
            or b'"error"' in text
            or b"error\n" in text
            or b"[DONE]" in text
        )

    def _note(self, data: bytes) -> bool:
        seen = _decode(data)
        self.error_shown = seen.type in _FAILURES or says_something(seen.error)
        if self.error_shown:
            self.error = data
        if self.error is not None:
            return self.error_shown
        if seen.response is not None and seen.response.usage is not UNSET:
            self._usage = told_in(seen.response.usage) or self._usage
        content = seen.type.endswith(".delta")
        self.events += content
        self.finished = self.done = seen.type in _ENDS
        self.committed = self.committed or content or self.finished
        return True
