"""What a signed token (JWT, RFC 7519) says, and what in it makes it no credential, whoever signed it.

Law: a token is taken apart strictly: one spelling of each part, no member twice, no number that is none, nothing that
brings a key along (RFC 8725). Until its signature is found good nothing of it is believed; nothing of it is ever quoted
to whoever sent it.
"""

import base64
import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from msgspec import Struct

from policies.rejections import Reason, Rejection

LONGEST_TOKEN = 16 << 10
"""Bytes. Tokens have 1 KiB or two; with a long list of groups in them, a few more."""

LONGEST_KID = 256
"""Characters of a key's name; RFC 7638's thumbprints, which many issuers take, have 43."""

LONGEST_JTI = 1024
"""Characters of a token's own name."""

LATEST = 253_402_300_799
"""The last second of the year 9999: a time past it is one in milliseconds, or no time at all."""

_TYPES = frozenset({"jwt", "at+jwt"})
"""What a credential may call itself (`typ`), in lower case: RFC 7519 and RFC 9068. Whatever else an issuer signs (a
logout, a security event, a proof of possession) is no credential (RFC 8725, section 3.11)."""

_SMUGGLED = ("jwk", "jku", "x5u", "x5c")
"""Members by which a token brings its own key, or says where to get it (RFC 8725, section 3.10)."""

_PARTS = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_DOTS_OF_JWE = 4


class Refused(Exception):  # noqa: N818 - an answer, not a programming error
    """A token that is not taken; `rejection` says why."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.message)
        self.rejection = rejection


class Token(Struct, frozen=True):
    """A token in its parts, none of which is to be believed yet. `signed`: the bytes that `signature` is over."""

    algorithm: str
    kid: str | None
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


def refusal(what: str) -> Rejection:
    """Return the answer to a token that is not taken; `what`: a clause about it, for its bearer."""
    return Rejection(Reason.BAD_KEY, f"This token is not taken: {what}.")


TOO_LONG = refusal(f"it is longer than {LONGEST_TOKEN >> 10} KiB")
MALFORMED = refusal(
    "it is not three parts in base64url, none empty or padded, with dots between: see whether it was cut"
)
ENCRYPTED = refusal("it is encrypted (JWE); ask its issuer for a signed one (JWS)")
NOT_JSON = refusal("its header or its claims are not a JSON object in UTF-8")
TWICE = refusal("its header or its claims have a member twice")
SMUGGLED = refusal("it brings its own key or certificate (jwk, jku, x5u, x5c); only its issuer's own set counts")
EXTENDED = refusal("it asks for an extension (crit, b64) that this gateway does not have")
TYPE = refusal("its type (typ) is neither JWT nor at+jwt, so it is no credential")
KID = refusal(f"the name of its key (kid) is not a text of 1 to {LONGEST_KID} characters")
NO_ALGORITHM = refusal("its algorithm (alg) is not told by a text")
EVENT = refusal("it tells of an event (RFC 8417), so it is no credential")
BOUND = refusal("it is bound to a key of its bearer (cnf), which cannot be checked here; ask for a plain bearer token")
JTI = refusal(f"its own name (jti) is not a text of at most {LONGEST_JTI} printable characters")
AUDIENCE = refusal("it is not for this gateway: its audience (aud) has to be, or to list, the one configured here")
EXPIRY = refusal(f"its expiry (exp) has to be there, and a number of seconds since 1970, up to {LATEST}")
EXPIRED = refusal("it has expired; get a new one")
TIMES = refusal(f"its nbf and iat, where they are there, have to be numbers of seconds since 1970, up to {LATEST}")
NOT_YET = refusal("it is not valid yet (nbf), or was made in the future (iat): see whether its issuer's clock is right")


def read_token(token: bytes) -> Token:
    """Take a token apart. Raises Refused where its shape or its header alone tells that it is no credential."""
    if len(token) > LONGEST_TOKEN:
        raise Refused(TOO_LONG)
    parts = _PARTS.fullmatch(token)
    if parts is None:
        raise Refused(ENCRYPTED if token.count(b".") == _DOTS_OF_JWE else MALFORMED)
    head, claims, signature = (_decoded(part) for part in parts.groups())
    header = members(head)
    _check_header(header)
    return Token(header["alg"], header.get("kid"), members(claims), token[: parts.end(2)], signature)


def good_until(claims: Mapping[str, Any], audience: tuple[str, ...], leeway: float, now: float) -> float:
    """Return until when a token with these claims, which is good at `now`, stays so: unix seconds, leeway included.

    `audience`: one of these has to be meant; that others are meant too is fine (RFC 7519, section 4.1.3). Raises
    Refused.
    """
    told = claims.get("aud")
    meant = [told] if isinstance(told, str) else told
    if not isinstance(meant, list) or not all(isinstance(one, str) for one in meant) or not set(meant) & set(audience):
        raise Refused(AUDIENCE)
    expires = claims.get("exp")
    if not _is_time(expires):
        raise Refused(EXPIRY)
    if now >= expires + leeway:
        raise Refused(EXPIRED)
    begins = [claims[name] for name in ("nbf", "iat") if name in claims]
    if not all(_is_time(one) for one in begins):
        raise Refused(TIMES)
    if any(one > now + leeway for one in begins):
        raise Refused(NOT_YET)
    return float(expires + leeway)


def check_purpose(claims: Mapping[str, Any]) -> None:
    """Raise Refused where claims are not those of a credential that whoever bears it may show."""
    if "events" in claims:
        raise Refused(EVENT)
    if "cnf" in claims:  # RFC 7800: whoever takes it unchecked takes it from a thief as well
        raise Refused(BOUND)
    jti = claims.get("jti", "")
    if not isinstance(jti, str) or len(jti) > LONGEST_JTI or not jti.isprintable():
        raise Refused(JTI)


def members(text: bytes) -> dict[str, Any]:
    """Read a JSON object in which no member, at any depth, is there twice and every number is one. Raises Refused."""
    try:
        found = json.loads(text.decode(), object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise Refused(NOT_JSON) from error
    if not isinstance(found, dict):
        raise Refused(NOT_JSON)
    return found


def _check_header(header: dict[str, Any]) -> None:
    if any(name in header for name in _SMUGGLED):
        raise Refused(SMUGGLED)
    if "crit" in header or "b64" in header:
        raise Refused(EXTENDED)
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        raise Refused(TYPE)
    if not isinstance(header.get("alg"), str):
        raise Refused(NO_ALGORITHM)
    kid = header.get("kid", "-")
    if not isinstance(kid, str) or not 0 < len(kid) <= LONGEST_KID:
        raise Refused(KID)


def _decoded(part: bytes) -> bytes:
    """Decode base64url, whose digits have to be the one spelling of what they stand for (RFC 7515, section 2)."""
    if len(part) % 4 != 1:
        decoded = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
        if base64.urlsafe_b64encode(decoded).rstrip(b"=") == part:
            return decoded
    raise Refused(MALFORMED)


def _is_time(value: Any) -> TypeGuard[float]:  # noqa: ANN401 - a claim is any JSON value
    """Whether it is a NumericDate (RFC 7519, section 2), which may have a fraction; `true` is no number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LATEST


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused(TWICE)
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number that no float holds")
    return number
