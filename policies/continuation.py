"""How another deployment goes on with a text that its upstream broke off, and how the two halves become one answer.

Law: only what can be whole afterwards is continued: one choice of plain text, by chat or completion. What the caller
has seen is never sent again, and never contradicted: a continuation that begins anew and says something else is a
failure. The caller is told the tokens of one answer: the prompt once, all of the output.
"""

import json
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from policies.apis import APIS
from policies.dialects import Prefill
from policies.domain import InferenceRequest
from policies.sse import named_error
from policies.taps.tap import says_something
from policies.usage import told_in

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
LONGEST = 4096
"""Characters of a repetition that is looked for: each length is tried, and the two may be megabytes."""
MOST_TEXT = 8 * 1024 * 1024
"""Bytes of an answer's words that are kept in case it must be continued."""

_PLAIN_FORMATS = (b"", b"null", b'{"type":"text"}')
_OTHERS = ("refusal", "tool_calls", "function_call", "audio")
_ODD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Delta(Struct):
    content: str | None = None
    refusal: Raw | UnsetType = UNSET
    tool_calls: Raw | UnsetType = UNSET
    function_call: Raw | UnsetType = UNSET
    audio: Raw | UnsetType = UNSET


class _Choice(Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Event(Struct):
    choices: list[_Choice] | None = None


class _Failed(Struct):
    error: Raw | UnsetType = UNSET


_decode_text = msgspec.json.Decoder(str).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_failed = msgspec.json.Decoder(_Failed).decode


class SeamError(ValueError):
    """A continuation does not fit to what came before it."""


def continuable(request: InferenceRequest) -> bool:
    """Say whether an answer to `request` could be continued at all."""
    members = request.members
    if request.api == "completions":
        told = [name for name in ("suffix", "echo", "logprobs", "best_of") if _given(members.get(name))]
        return request.choices == 1 and not told and _is_text(members["prompt"])
    if request.api != "chat" or request.choices != 1 or _given(members.get("logprobs")):
        return False
    form = bytes(members.get("response_format", b"")).replace(b" ", b"")
    return form in _PLAIN_FORMATS and bytes(memoryview(members["messages"])[:1]) == b"["


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
    """What a caller has seen of one answer. `text`: its words. `whole`: nothing was in it that cannot be continued.

    One that is not whole is of no use, and keeps nothing.
    """

    def __init__(self) -> None:
        self.whole = True
        self._words = bytearray()  # as a list of pieces, each would take fifty bytes more

    @property
    def text(self) -> str:
        """The words so far."""
        return self._words.decode()

    def take(self, events: bytes) -> None:
        """Take in whole events that go out."""
        if self.whole and not (all(map(self._taken, _datas(events))) and len(self._words) <= MOST_TEXT):
            self.whole = False
            self._words = bytearray()

    def _taken(self, data: bytes) -> bool:
        """Take in one event's data; False where it cannot be continued, as where a character is cut in its escapes."""
        if data.strip() == b"[DONE]":
            return True
        try:
            choices = _decode_event(data).choices or ()
        except _ODD:
            return False
        for choice in choices:
            delta = choice.delta
            if choice.finish_reason or (delta and any(says_something(getattr(delta, name)) for name in _OTHERS)):
                return False
            self._words += ((choice.text if delta is None else delta.content) or "").encode()
        return True


class Seam:
    """Joins a continuation to the `text` before it, of `output_tokens`.

    `exact`: its engine goes on from the text itself. A continuation may repeat the end of the text, or all of it: that
    is cut away. Its role and its thoughts are dropped until its first words are out. Its usage becomes that of the
    whole. `open`: nothing of it is out yet.
    """

    def __init__(self, text: str, output_tokens: int, *, exact: bool) -> None:
        self._text = text
        self._bare = text.lstrip()
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
        usage = None if seen is None else self._summed(seen.get("usage"))
        if seen is not None and usage is not None:
            seen["usage"] = usage
            data = _dumped(seen)
        choices = None if seen is None else seen.get("choices")
        if not self.open or seen is None or not choices:
            event = b"data: " + data + b"\n\n"
            return self._settled() + event if self.open and data.strip() == b"[DONE]" else event
        choice, words = _said(choices)
        if words:
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
            again = self._pending.lstrip()
            return not self._bare.startswith(again) or again == self._bare
        return len(self._pending) >= min(WINDOW, len(self._text))

    def _begins_anew(self) -> bool:
        return len(self._bare) >= ANEW and self._pending.lstrip().startswith(self._bare[:ANEW])

    def _settled(self) -> bytes:
        """Join what is pending and return it as one event, if anything is left of it. Raises SeamError."""
        rest, self._pending = self._pending[self._repeated() :], ""
        self.open = False
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
            again = pending.lstrip()  # engines differ in the space that an answer begins with
            if not again.startswith(self._bare):
                raise SeamError("the continuation began anew and said something else")
            return len(pending) - len(again) + len(self._bare)
        most, least = min(len(text), len(pending), LONGEST), min(LEAST, len(text))
        return next((k for k in range(most, least - 1, -1) if text.endswith(pending[:k])), 0)

    def _summed(self, usage: object) -> dict[str, Any] | None:
        """Return the usage of the whole, None where it is odd: what came before was output, and is prompt now."""
        told = told_in(_dumped(usage)) if isinstance(usage, dict) else None
        if not isinstance(usage, dict) or told is None:
            return None
        prompt = max(0, told.prompt_tokens - self._output_tokens)
        completion = told.completion_tokens + self._output_tokens
        sums = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict) and told.cached_tokens > prompt:
            return usage | sums | {"prompt_tokens_details": details | {"cached_tokens": prompt}}
        return usage | sums


def _given(member: Raw | None) -> bool:
    """Say whether a member says anything: absent, null and false do not."""
    return member is not None and bytes(member) not in {b"null", b"false", b"1"}


def _raw(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))


def _events(events: bytes) -> list[bytes]:
    """Return each of some whole events, its line ends made LF."""
    if b"\r" in events:
        events = events.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return [event for event in events.split(b"\n\n") if event]


def _datas(events: bytes) -> list[bytes]:
    """Return the data of each of some whole events that has any."""
    found = []
    for event in _events(events):
        lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
        if lines:
            found.append(b"\n".join(lines))
    return found


def _is_text(member: Raw) -> bool:
    """Say whether a member is a string that can be added to: an escape may be half of a character."""
    try:
        _decode_text(member)
    except _ODD:
        return False
    return True


def _decoded(data: bytes) -> dict[str, Any] | None:
    try:
        seen = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return seen if isinstance(seen, dict) else None


def _said(choices: object) -> tuple[dict[str, Any], str]:
    """Return the choice that a continuation's event has, and its words. Raises SeamError where they are no text."""
    choice = choices[0] if isinstance(choices, list) else None
    delta = (choice.get("delta") or {}) if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(delta, dict):
        raise SeamError("the continuation is no answer of this API")
    words = (delta.get("content") if "delta" in choice else choice.get("text")) or ""
    if not isinstance(words, str):
        raise SeamError("the continuation is not in words alone")
    return choice, words


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
    return json.dumps(seen, separators=(",", ":")).encode()  # in ASCII, since half a character has no UTF-8


def without_errors(events: bytes) -> bytes:
    """Return whole events without those that tell an error."""
    if b'"error"' not in events and b"event:" not in events:
        return events
    return b"".join(event + b"\n\n" for event in _events(events) if not _tells_error(event))


def _tells_error(event: bytes) -> bool:
    if named_error(event + b"\n"):
        return True
    try:
        return any(says_something(_decode_failed(data).error) for data in _datas(event))
    except _ODD:
        return False
