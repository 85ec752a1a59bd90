r"""JSON in whose text a character is cut in half: one escape of a pair of surrogates stands alone.

Law: JSON allows it (RFC 8259, 8.2) and JavaScript writes it where it cuts a text, but msgspec reads no such text. What
is mended is only read, never sent.
"""

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T")

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def mended(text: bytes) -> bytes:
    r"""Return JSON with every surrogate's escape replaced by that of U+FFFD; as it was, where it has none."""
    return _SURROGATE.sub(rb"\\ufffd", text)


def read(decode: Callable[[bytes], T], text: bytes) -> T:
    """Return what `decode` makes of JSON, mended if it must be. Raises what `decode` does of it even then."""
    try:
        return decode(text)
    except msgspec.DecodeError:
        return decode(mended(text))
