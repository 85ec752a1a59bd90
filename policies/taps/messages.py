"""Streams of Anthropic's Messages: `message_start`, blocks of content in deltas, `message_delta`, `message_stop`.

Law: committed by the first delta of a block, a block that comes whole (a tool's call), or a stop_reason. Clients heed
an event by its name alone, so an error is shown where it is named so. Usage is cumulative: the prompt's in
`message_start`, or again in a `message_delta`, which has the output's.
"""

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from policies.domain import Usage
from policies.taps.tap import Tap, says_something
from policies.usage import told_in

_DRIBBLED = frozenset({"text", "thinking"})
"""Blocks that begin empty."""


class _Message(Struct):
    usage: Raw | UnsetType = UNSET


class _Block(Struct):
    type: str = ""


class _Delta(Struct):
    stop_reason: str | None = None


class _Event(Struct):
    type: str = ""
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


_decode = msgspec.json.Decoder(_Event).decode


class MessagesTap(Tap):
    """Watches a stream of Messages."""

    named = True
    delta = b'"content_block_delta"'

    @staticmethod
    def _matters(text: bytes) -> bool:
        """Say whether a word stands in `text` for which an event must be decoded: rather once too often."""
        return b'"message_' in text or b'"error"' in text or b"error\n" in text or b"[DONE]" in text

    def _note(self, data: bytes) -> bool:
        seen = _decode(data)
        if seen.type == "error" or says_something(seen.error):
            self.error = data  # without its name, which is why nobody would know it
            return False
        if seen.message is not None:
            self._told(seen.message.usage)
        self._told(seen.usage)
        content = seen.type == "content_block_delta"
        self.events += content
        self.finished = self.finished or (seen.delta is not None and bool(seen.delta.stop_reason))
        self.done = seen.type == "message_stop"
        whole_block = seen.content_block is not None and seen.content_block.type not in _DRIBBLED
        self.committed = self.committed or content or whole_block or self.finished
        return True

    def _told(self, usage: Raw | UnsetType) -> None:
        """Take in what is told so far: whoever tells less now has told it before."""
        told, before = None if usage is UNSET else told_in(usage), self._usage
        if told is not None and before is not None:
            told = Usage(
                max(before.prompt_tokens, told.prompt_tokens),
                max(before.completion_tokens, told.completion_tokens),
                estimated=False,
                cached_tokens=max(before.cached_tokens, told.cached_tokens),
                reasoning_tokens=max(before.reasoning_tokens, told.reasoning_tokens),
            )
        self._usage = told or before
