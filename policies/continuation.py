"""How another deployment goes on with a text that its upstream broke off, and how the two halves become one answer.

Law: only what can be whole afterwards is continued: one choice of plain text, by chat or completion. What the caller
has seen is never sent again, and never contradicted: a continuation that begins anew and says something else is a
failure. The caller is told the tokens of one answer: the prompt once, all of the output.
"""

import json
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from policies.apis import APIS
from policies.dialects import Prefill
from policies.domain import InferenceRequest

INSTRUCTION = (
    "Your last message was cut off. Go on with it from exactly where it ends, in the middle of a word if it ends "
    "there. Repeat nothing of it, and say nothing else."
)
"""What an engine is told that cannot be made to go on from an unfinished message."""

WINDOW = 200
"""Characters of a continuation that are looked at for a repetition: a model that repeats, repeats a sentence or so."""
ANEW = 40
"""Characters in common with the text's beginning by which a continuation has begun anew: no chance makes so many."""
LEAST = 4
"""Characters that count as a repetition: fewer are as likely a doubled letter or a short word."""
MOST_TEXT = 8 * 1024 * 1024
"""Characters of an answer that are kept in case it must be continued."""

_PLAIN_FORMATS = ("", "null", '{"type":"text"}')
_OTHERS = ("refusal", "tool_calls", "function_call", "audio")


class SeamError(ValueError):
    """A continuation does not fit to what came before it."""


def continuable(request: InferenceRequest) -> bool:
    """Say whether an answer to `request` could be continued at all."""
    members = request.members
    if request.api == "completions":
        told = [name for name in ("suffix", "echo", "logprobs", "best_of") if _given(members.get(name))]
        return request.choices == 1 and not told and bytes(members["prompt"]).startswith(b'"')
    if request.api != "chat" or request.choices != 1 or _given(members.get("logprobs")):
        return False
    form = bytes(members.get("response_format", b"")).decode().replace(" ", "")
    return form in _PLAIN_FORMATS


def continued(request: InferenceRequest, text: str, output_tokens: int, prefill: Prefill | None) -> InferenceRequest:
    """Return the request that goes on from `text`, of so many `output_tokens`, at an engine of that `prefill`."""
    members = dict(request.members)
    for name in APIS[request.api].bounds:
        bound = members.get(name)
        if bound is not None and (most := msgspec.json.decode(bound, type=int | None)) is not None:
            members[name] = _raw(max(1, most - output_tokens))
    if request.api == "completions":
        members["prompt"] = _raw(msgspec.json.decode(members["prompt"], type=str) + text)
    elif text:
        last: dict[str, Any] = {"role": "assistant", "content": text}
        if prefill == "prefix":
            last["prefix"] = True
        if prefill == "flags":
            members["continue_final_message"], members["add_generation_prompt"] = _raw(value=True), _raw(value=False)
        more = [last] if prefill else [last, {"role": "user", "content": INSTRUCTION}]
        given = msgspec.json.decode(members["messages"], type=list[Raw])
        members["messages"] = _raw([*given, *map(_raw, more)])
    most_left = None if request.max_tokens is None else max(1, request.max_tokens - output_tokens)
    return replace(request, members=members, max_tokens=most_left, text_bytes=request.text_bytes + len(text.encode()))


class Transcript:
    """What a caller has seen of one answer. `text`: its words. `whole`: nothing was in it that cannot be continued."""

    def __init__(self) -> None:
        self.whole = True
        self._parts: list[str] = []
        self._size = 0

    @property
    def text(self) -> str:
        """The words so far."""
        return "".join(self._parts)

    def take(self, events: bytes) -> None:
        """Take in whole events that go out."""
        for data in _datas(events):
            for choice in _choices(data):
                delta = choice.get("delta") or {}
                words = delta.get("content") if "delta" in choice else choice.get("text")
                if choice.get("finish_reason") or any(delta.get(name) for name in _OTHERS):
                    self.whole = False
                if isinstance(words, str):
                    self._parts.append(words)
                    self._size += len(words)
                elif words:
                    self.whole = False
        self.whole = self.whole and self._size <= MOST_TEXT


class Seam:
    """Joins a continuation to the `text` before it, of `output_tokens`.

    `exact`: its engine goes on from the text itself. A continuation may repeat the end of the text, or all of it: that
    is cut away. Its role and its thoughts are dropped until its first words are out. Its usage becomes that of the
    whole. `open`: nothing of it is out yet.
    """

    def __init__(self, text: str, output_tokens: int, *, exact: bool) -> None:
        self._text = text
        self._output_tokens = output_tokens
        self._exact = exact or not text
        self._pending = ""
        self.open = True
        self._template: dict[str, Any] = {}

    def mend(self, events: bytes) -> bytes:
        """Take in whole events and return those that may go out now. Raises SeamError."""
        if not self.open and not _tells_usage(events):
            return events
        return b"".join(self._one(data) for data in _datas(events))

    def _one(self, data: bytes) -> bytes:
        seen = _decoded(data)
        choices = _choices(data)
        if seen is not None and isinstance(seen.get("usage"), dict):
            seen["usage"] = self._summed(seen["usage"])
            data = _dumped(seen)
        if not self.open or seen is None or not choices:
            event = b"data: " + data + b"\n\n"
            return self._settled() + event if self.open and data.strip() == b"[DONE]" else event
        choice = choices[0]
        words = (choice.get("delta") or {}).get("content") if "delta" in choice else choice.get("text")
        if isinstance(words, str) and words:
            self._pending += words
            self._template = seen
        others = any((choice.get("delta") or {}).get(name) for name in _OTHERS)
        if choice.get("finish_reason") or others:
            return self._settled() + (b"data: " + _without_words(seen) + b"\n\n")
        return self._settled() if self._pending and self._enough() else b""

    def _enough(self) -> bool:
        """Say whether what is pending shows how it joins."""
        if self._exact:
            return bool(self._pending.strip()) or not self._text
        if self._begins_anew():
            return not self._text.startswith(self._pending) or self._pending == self._text
        return len(self._pending) >= min(WINDOW, len(self._text))

    def _begins_anew(self) -> bool:
        return len(self._text) >= ANEW and self._pending.startswith(self._text[:ANEW])

    def _settled(self) -> bytes:
        """Join what is pending and return it as one event, if anything is left of it. Raises SeamError."""
        self.open = False
        rest, self._pending = self._pending[self._repeated() :], ""
        if not rest:
            return b""
        choice = self._template["choices"][0]
        if "delta" in choice:
            choice["delta"] = {"content": rest}
        else:
            choice["text"] = rest
        choice["finish_reason"] = None
        return b"data: " + _dumped(self._template) + b"\n\n"

    def _repeated(self) -> int:
        """Return how many characters of what is pending were there before. Raises SeamError."""
        text, pending = self._text, self._pending
        if self._exact:  # engines' templates trim what they are given, and the model then writes the space again
            space = len(text) - len(text.rstrip())
            return next((k for k in range(min(space, len(pending)), 0, -1) if text.endswith(pending[:k])), 0)
        if self._begins_anew():
            if not pending.startswith(text):
                raise SeamError("the continuation began anew and said something else")
            return len(text)
        most, least = min(len(text), len(pending)), min(LEAST, len(text))
        return next((k for k in range(most, least - 1, -1) if text.endswith(pending[:k])), 0)

    def _summed(self, usage: dict[str, Any]) -> dict[str, Any]:
        """Return the usage of the whole: what came before was output, and is now in the prompt."""
        prompt = max(0, int(usage.get("prompt_tokens") or 0) - self._output_tokens)
        completion = int(usage.get("completion_tokens") or 0) + self._output_tokens
        told = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return usage | told


def _given(member: Raw | None) -> bool:
    """Say whether a member says anything: absent, null and false do not."""
    return member is not None and bytes(member) not in {b"null", b"false", b"1"}


def _raw(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))


def _datas(events: bytes) -> list[bytes]:
    """Return the data of each of some whole events."""
    found = []
    for event in events.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n"):
        lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
        if lines:
            found.append(b"\n".join(lines))
    return found


def _decoded(data: bytes) -> dict[str, Any] | None:
    try:
        seen = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return seen if isinstance(seen, dict) else None


def _choices(data: bytes) -> list[dict[str, Any]]:
    choices = (_decoded(data) or {}).get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _tells_usage(events: bytes) -> bool:
    return b'"usage":{' in events or b'"usage": {' in events


def _without_words(seen: dict[str, Any]) -> bytes:
    """Return an event without the words that were taken out of it."""
    choice = seen["choices"][0]
    if "delta" in choice:
        choice["delta"] = {name: value for name, value in (choice["delta"] or {}).items() if name != "content"}
    else:
        choice["text"] = ""
    return _dumped(seen)


def _dumped(seen: dict[str, Any]) -> bytes:
    return json.dumps(seen, ensure_ascii=False, separators=(",", ":")).encode()


def without_errors(events: bytes) -> bytes:
    """Return whole events without those that tell an error."""
    if b'"error"' not in events and b"event:" not in events:
        return events
    kept = []
    for event in events.split(b"\n\n"):
        data = next(iter(_datas(event)), b"")
        told = (_decoded(data) or {}).get("error") or event.startswith(b"event: error")
        if event and not told:
            kept.append(event + b"\n\n")
    return b"".join(kept)
