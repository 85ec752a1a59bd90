"""The keys of an issuer (JWK Set, RFC 7517), and whether one of them signed a token.

Law: a key is for the algorithms of its own type and curve, and of these only for those that its issuer says; what a
token says of its algorithm picks among them and never adds one (RFC 8725, sections 3.1 and 3.2). Whatever in a set is
secret, weak, not for signatures or not to be understood is no key.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import jwt
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from msgspec import Struct

from policies.tokens import LONGEST_KID, Refused, Token, members, refusal

MOST_KEYS = 100
"""Keys in one set: large issuers have about ten."""

RSA_BITS = range(2048, 8193)
"""RFC 7518, section 3.3, asks for 2048 at least; more than 8192 only cost time."""

EXPONENT_BITS = 64
"""Of an RSA key: OpenSSL's own bound for large ones; a larger exponent only costs time."""

LONGEST_NUMBER = RSA_BITS[-1] // 6 + 3
"""Base64 digits of a key's numbers: of one that is a megabyte long nothing is even computed."""

_READERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}

_FAMILIES: dict[tuple[str, str | None], tuple[str, ...]] = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
"""Type and curve of a key, and the algorithms it can be for (RFC 7518, section 3.1; RFC 8037)."""

_NUMBERS = ("n", "e", "x", "y")

UNKNOWN_KID = refusal("its issuer has no such key (kid): it was withdrawn, or never was there; get a new token")
NO_KID = refusal("it does not say which key signed it (kid), and its issuer has not exactly one for its algorithm")
UNFIT_KEY = refusal("its key (kid) is not one for its algorithm (alg)")
SIGNATURE = refusal("its signature is not by its issuer's key")


class BadKeysError(Exception):
    """A document that is no set of keys; the text says why."""


class Key(Struct, frozen=True):
    """A public key, and what it is for. `fingerprint`: of all that makes it what it is, the same at every reading."""

    kid: str | None
    algorithms: frozenset[str]
    public: Any
    fingerprint: bytes


class KeySet:
    """The usable keys of an issuer at one moment. `fingerprints` and `names`: theirs."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.fingerprints = frozenset(key.fingerprint for key in keys)
        self._all = keys
        self._named: dict[str, list[Key]] = {}
        for key in keys:
            if key.kid is not None:
                self._named.setdefault(key.kid, []).append(key)
        self.names = self._named.keys()

    def signer(self, token: Token) -> Key:
        """Return the key that signed `token`. Raises Refused.

        A token has to name its key, unless only one can be meant. Keys of one name are all tried: those of different
        types may share one (RFC 7517, section 4.5).
        """
        named = self._all if token.kid is None else self._named.get(token.kid, ())
        fit = [key for key in named if token.algorithm in key.algorithms]
        if token.kid is None and len(fit) != 1:
            raise Refused(NO_KID)
        if not fit:
            raise Refused(UNFIT_KEY if named else UNKNOWN_KID)
        check = jwt.get_algorithm_by_name(token.algorithm)
        for key in fit:
            if check.verify(token.signed, key.public, token.signature):
                return key
        raise Refused(SIGNATURE)


def read_keys(document: bytes) -> KeySet:
    """Return the usable keys of a JWK Set. Raises BadKeysError where the document is none."""
    try:
        told = members(document).get("keys")
    except Refused as error:
        raise BadKeysError("it is not a JSON object, or has a member twice") from error
    if not isinstance(told, list):
        raise BadKeysError("it has no list of `keys`")
    if len(told) > MOST_KEYS:
        raise BadKeysError(f"it has more than {MOST_KEYS} keys")
    return KeySet([key for entry in told if (key := _key(entry)) is not None])


def _key(entry: Any) -> Key | None:  # noqa: ANN401 - whatever stands in the set
    if not isinstance(entry, dict) or not _signs(entry):
        return None
    kid, algorithms = entry.get("kid"), _algorithms(entry)
    if not algorithms or not (kid is None or (isinstance(kid, str) and 0 < len(kid) <= LONGEST_KID)):
        return None
    public = _public(entry)
    if public is None:
        return None
    made_of = [kid, sorted(algorithms), *(entry.get(name) for name in ("kty", "crv", *_NUMBERS))]
    return Key(kid, algorithms, public, hashlib.sha256(json.dumps(made_of).encode()).digest())


def _signs(entry: dict[str, Any]) -> bool:
    """Whether a key is for signatures (RFC 7517, sections 4.2 and 4.3); one whose private part is told is for none."""
    operations = entry.get("key_ops", ["verify"])
    meant = entry.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    return meant and "d" not in entry


def _algorithms(entry: dict[str, Any]) -> frozenset[str]:
    kind, curve, own = entry.get("kty"), entry.get("crv"), entry.get("alg")
    if not isinstance(kind, str) or not (curve is None or isinstance(curve, str)):
        return frozenset()
    family = _FAMILIES.get((kind, curve), ())
    return frozenset(name for name in family if own is None or own == name)


def _public(entry: dict[str, Any]) -> Any:  # noqa: ANN401 - only PyJWT looks inside
    """Return the key itself, None where its numbers are no key, or none of a size that we take."""
    numbers = [entry[name] for name in _NUMBERS if name in entry]
    if not all(isinstance(number, str) and len(number) <= LONGEST_NUMBER for number in numbers):
        return None
    try:
        public = _READERS[entry["kty"]](entry)
    except (jwt.InvalidKeyError, ValueError):
        return None
    if entry["kty"] != "RSA":
        return public
    small = public.public_numbers().e.bit_length() <= EXPONENT_BITS
    return public if small and public.key_size in RSA_BITS else None
