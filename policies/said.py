"""What an error answer says itself, apart from what it repeats of the call.

Law: only what stands where engines put their own words is theirs; a caller can put nothing there, however large.
"""

import msgspec
from msgspec import Raw, Struct

WORDS = 8 * 1024
"""Bytes of an error answer in which words are looked for: engines say what is wrong before they repeat the call."""


class Said(Struct, frozen=True):
    """The words of an error answer. `names`: its code, type and status, in lower case. `api`: it came as JSON."""

    message: str
    names: frozenset[str] = frozenset()
    api: bool = False


class _Page(Struct, frozen=True):
    """The members by which engines speak, of an error answer or of the `error` in it; what else it holds is skipped."""

    error: Raw = Raw()
    message: Raw = Raw()
    detail: Raw = Raw()
    code: Raw = Raw()
    type: Raw = Raw()
    status: Raw = Raw()


def said_by(body: bytes) -> Said:
    """Return what an error answer says, from where engines put it: `error` (an object or text), `message`, `detail`."""
    page = _page(body)
    if page is None:
        return Said(body[:WORDS].decode(errors="replace"))
    inner = _page(page.error) or page
    message = _text(page.error) or _text(inner.message) or _text(page.message) or _text(page.detail)
    names = {_text(name).lower() for name in (inner.code, inner.type, inner.status)}
    return Said(message[:WORDS], frozenset(names - {""}), api=True)


def _page(body: bytes | Raw) -> _Page | None:
    """Return the members of an object, None where it is none."""
    try:
        return msgspec.json.decode(body, type=_Page)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _text(value: Raw) -> str:
    """Return a text, empty where it is none."""
    try:
        return msgspec.json.decode(value, type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
