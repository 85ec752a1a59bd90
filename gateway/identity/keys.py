"""The shape of an API key: `sw_` id `_` secret checksum, all digits base62.

Law: a key tells from itself alone whether it can exist (its checksum), so a mistyped or truncated one costs no store
read. The checksum guards against accidents only; what guards the door is the secret's 256 bits, kept as a SHA-256 of
the whole key. A fast hash is right here: there is nothing to guess in 43 random digits, so nothing to slow down.
"""

import hashlib
import re
import zlib

from gateway import clock

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 12
SECRET_LENGTH = 43
CHECKSUM_LENGTH = 6
KEY_LENGTH = len("sw_") + ID_LENGTH + len("_") + SECRET_LENGTH + CHECKSUM_LENGTH
SHAPE = f"sw_, {ID_LENGTH} letters or digits, _, {SECRET_LENGTH + CHECKSUM_LENGTH} letters or digits"
"""How a key looks, in words for a caller."""

_KEY = re.compile(rf"sw_([0-9A-Za-z]{{{ID_LENGTH}}})_[0-9A-Za-z]{{{SECRET_LENGTH + CHECKSUM_LENGTH}}}")
_FAIR = len(DIGITS) * (256 // len(DIGITS))
"""Bytes from here on are thrown away: taken modulo 62 they would make the first digits likelier than the others."""


def new_key() -> tuple[str, str]:
    """Make a key at random; return its id and the whole key."""
    key_id = _random_digits(ID_LENGTH)
    return key_id, new_secret(key_id)


def new_secret(key_id: str) -> str:
    """Return a whole key with this id and a secret made at random."""
    body = f"sw_{key_id}_{_random_digits(SECRET_LENGTH)}"
    return body + _checksum(body)


def parse(text: str) -> str | None:
    """Return the id of a well-formed key; None where shape or checksum is wrong."""
    found = _KEY.fullmatch(text)
    if found is None or _checksum(text[:-CHECKSUM_LENGTH]) != text[-CHECKSUM_LENGTH:]:
        return None
    return found[1]


def digest(key: bytes) -> bytes:
    """Return what is kept of a whole key: its SHA-256, 32 bytes."""
    return hashlib.sha256(key).digest()


def _random_digits(count: int) -> str:
    digits: list[str] = []
    while len(digits) < count:
        digits += [DIGITS[byte % len(DIGITS)] for byte in clock.token_bytes(count) if byte < _FAIR]
    return "".join(digits[:count])


def _checksum(body: str) -> str:
    rest = zlib.crc32(body.encode())
    digits: list[str] = []
    for _ in range(CHECKSUM_LENGTH):
        rest, digit = divmod(rest, len(DIGITS))
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))
