"""Read the few facts of a body that decisions need, and keep its members as bytes.

Law: one partial decode of the top level; nested values are looked at only where a fact hangs on them. A duplicate key
counts as its last value, as every engine's JSON reader has it, and only that one is forwarded.
"""

import re
from itertools import chain, islice
from typing import TypeVar

import msgspec
from msgspec import Raw

from policies.apis import APIS, Shape
from policies.domain import API, InferenceRequest
from policies.rejections import Reason, Rejection

T = TypeVar("T")

_members = msgspec.json.Decoder(dict[str, Raw])
_string = msgspec.json.Decoder(str)
_flag = msgspec.json.Decoder(bool | None)
_prompts = msgspec.json.Decoder(list[Raw])
_count = msgspec.json.Decoder(int | None)

MOST_CHOICES = 128
"""The most that the OpenAI API allows of `n`."""
MOST_TOKENS = 10_000_000
"""More output tokens than any model has; the ledger counts exactly far beyond it."""
MOST_PROMPTS = 2**18
"""Prompts or inputs of one call: each takes some eighty bytes of memory besides its own."""
MOST_MARKS = 4096
"""Parts of a prompt that are no text, or bytes inlined, that are looked for: no model takes as many."""
MOST_OPTIONS = 512
"""Bytes of `stream_options`, which is decoded and written anew."""

_MODALITIES = {
    b"image_url": "image",
    b"input_image": "image",
    b"input_audio": "audio",
    b"audio_url": "audio",
    b"file": "file",
    b"input_file": "file",
    b"image": "image",
    b"document": "file",
}
_MARK = re.compile(
    rb'"type"\s*:\s*"(\w+_url|input_(?:image|audio|video|file)|file)"'  # a part that is no text
    rb'|"(?:image_|file_)?url"\s*:\s*"data:|"(?:data|file_data)"\s*:\s*"'  # the beginning of one that is inlined
)


_BLOCKS = (b'"image"', b'"document"')
"""Anthropic's blocks that are no text."""


_SEVERAL = re.compile(rb'\[\s*["\[{]')
_NEXT = re.compile(rb'["\]}]\s*,\s*["\[{]')
"""Where one of several prompts ends and the next begins; seldom, within one."""


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Message(msgspec.Struct):
    content: Raw = Raw()


class _Block(msgspec.Struct):
    type: str = ""
    source: Raw = Raw()
    content: Raw = Raw()


_stream_options = msgspec.json.Decoder(_StreamOptions | None)
_messages = msgspec.json.Decoder(list[_Message])
_blocks = msgspec.json.Decoder(list[_Block])


class _BadMemberError(ValueError):
    """A member has a value that its API does not allow."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


def read(api: API, body: bytes) -> InferenceRequest | Rejection:
    """Read a body's facts, or say what is wrong with it in words the caller can act on."""
    try:
        members = _members.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        return Rejection(Reason.BAD_BODY, f"The body must be one JSON object: {_fault(body, error)}.")
    try:
        return _facts(api, members, len(body))
    except _BadMemberError as error:
        return Rejection(Reason.BAD_MEMBER, str(error), param=error.param)


def _fault(body: bytes, error: Exception) -> str:
    """Say what is wrong with a body that cannot be read."""
    if not body.strip():
        return "it is empty"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if body.startswith(b"\x1f\x8b"):
        return "it is compressed, and content-encoding is not supported; send it uncompressed"
    if "hex escape" in str(error):
        return f"it holds half of a surrogate pair ({error})"
    return str(error)


def _facts(api: API, members: dict[str, Raw], size: int) -> InferenceRequest:
    model = _member(members, "model", _string, "a string that names a model") or ""
    if not model:
        raise _BadMemberError("model", "'model' is missing: name one of the models that GET /v1/models lists.")
    shape = APIS[api]
    if members.keys().isdisjoint(shape.needs):
        raise _BadMemberError(shape.needs[0], f"{' or '.join(map(repr, shape.needs))} is missing.")
    if "stream_options" in members and len(memoryview(members["stream_options"])) > MOST_OPTIONS:
        raise _BadMemberError("stream_options", f"'stream_options' has more than {MOST_OPTIONS} bytes.")
    options = _member(members, "stream_options", _stream_options, "an object whose include_usage is true or false")
    stream = _member(members, "stream", _flag, "true or false") if shape.streams else False
    media, inlined = _media(shape, members)
    prompt = [len(memoryview(members[name])) for name in shape.prompts if name in members]
    limits = [_number(members, name, 0, MOST_TOKENS) for name in shape.bounds if name in members]
    return InferenceRequest(
        api=api,
        model=model,
        stream=bool(stream),
        wants_usage=bool(options and options.include_usage),
        max_tokens=max([limit for limit in limits if limit is not None], default=None),
        choices=_choices(shape, members),
        size=size,
        text_bytes=sum(prompt) - inlined,
        media=len(media),
        modalities=frozenset({"text", *(_MODALITIES[kind] for kind in media if kind in _MODALITIES)}),
        members=members,
    )


def _media(shape: Shape, members: dict[str, Raw]) -> tuple[list[bytes], int]:
    """Return the kinds of a prompt's parts that are no text, and the bytes of those that are inlined."""
    if not shape.media:
        return [], 0
    there = [name for name in shape.needs if name in members]
    prompt = bytes(members[there[0]])
    return _blocks_in(prompt) if shape.family == "anthropic" else _parts_in(prompt)


def _blocks_in(prompt: bytes) -> tuple[list[bytes], int]:
    """Look through Anthropic's messages and what tools returned in them.

    What a tool was given is the caller's own JSON and may look like anything. What tools return holds no other tool's:
    each level would be read once more for every one around it.
    """
    kinds: list[bytes] = []
    inlined = 0
    if not any(word in prompt for word in _BLOCKS):
        return kinds, inlined
    try:
        for message in _messages.decode(prompt):
            said = _list_of_blocks(message.content)
            returned = [_list_of_blocks(block.content) for block in said if block.type == "tool_result"]
            for block in chain(said, *returned):
                if block.type in {"image", "document"}:
                    kinds.append(block.type.encode())
                    inlined += len(bytes(block.source))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # the engine's to judge
    return kinds, inlined


def _list_of_blocks(content: Raw) -> list[_Block]:
    return _blocks.decode(content) if bytes(content).startswith(b"[") else []


def _parts_in(prompt: bytes) -> tuple[list[bytes], int]:
    """Look through OpenAI's messages or items."""
    kinds: list[bytes] = []
    inlined = at = 0
    for _ in range(MOST_MARKS):
        mark = _MARK.search(prompt, at)
        if mark is None:
            break
        at = mark.end()
        if mark[1] is not None:
            kinds.append(mark[1])
            continue
        at = prompt.find(b'"', at) + 1 or len(prompt)  # over megabytes of base64 by `find`, a hundred times a regex
        inlined += at - mark.start()
    return kinds, inlined if kinds else 0


def _member(members: dict[str, Raw], name: str, decoder: msgspec.json.Decoder[T], wanted: str) -> T | None:
    if name not in members:
        return None
    try:
        return decoder.decode(members[name])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _BadMemberError(name, f"{name!r} must be {wanted}.") from None


def _number(members: dict[str, Raw], name: str, least: int, most: int) -> int | None:
    count = _member(members, name, _count, "a whole number")
    if count is not None and not least <= count <= most:
        raise _BadMemberError(name, f"{name!r} must be from {least} to {most}.")
    return count


def _choices(shape: Shape, members: dict[str, Raw]) -> int:
    """Return how many answers are made: `n` (or `best_of`) for each prompt or input of a list."""
    each = max([_number(members, name, 1, MOST_CHOICES) or 1 for name in shape.choices if name in members], default=1)
    if shape.several is None:
        return each
    prompt = bytes(members[shape.several])
    if _SEVERAL.match(prompt) is None:
        return each
    if prompt.count(b",") > MOST_PROMPTS and next(islice(_NEXT.finditer(prompt), MOST_PROMPTS, None), None):
        raise _BadMemberError(shape.several, f"{shape.several!r} has more than {MOST_PROMPTS} parts.")
    return each * len(_prompts.decode(prompt))
