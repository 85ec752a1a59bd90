"""Tokens that must not be taken, and those that look wrong and must be: each by its name, its reason and its answer."""

import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.config.settings import Issuer
from gateway.identity import issuers as deciding
from gateway.identity import tokens as keys
from gateway.identity.issuer_keys import EVERY
from gateway.identity.issuers import Issuers, Verified
from policies import tokens
from policies.rejections import Reason, Rejection
from policies.subjects import Mapping
from policies.tokens import refusal
from tests.fakes.identity_provider import IdentityProvider, digits, new_key

MAPPING = Mapping(organization_claim=("org",), organizations=frozenset({"acme", "globex"}), team="research")


class World(contextlib.AsyncExitStack):
    """Two issuers: one whose set holds keys of every sort, and one that this gateway trusts for its own tokens."""

    async def __aenter__(self):
        await super().__aenter__()
        self.passed = 0.0
        self.idp = await self.enter_async_context(IdentityProvider())
        self.other = await self.enter_async_context(IdentityProvider())
        self.rsa, self.ec, self.ed = new_key(), new_key("ES256", "e1"), new_key("EdDSA", "d1")
        self.ec2 = new_key("ES256", "e2", number=1)
        self.weak, self.p384 = new_key(kid="weak", size=1024), new_key("ES384", "p384", alg=None)
        self.enc, self.ops = new_key(kid="enc", number=2, use="enc"), new_key(kid="ops", number=2, key_ops=["encrypt"])
        self.published = new_key("ES256", "published", number=3, d=digits(bytes(31) + b"x"))
        self.pinned = new_key(kid="pinned", number=4, alg="RS512")
        self.idp.rotate(
            self.rsa, self.ec, self.ec2, self.ed, self.weak, self.p384, self.enc, self.ops, self.published, self.pinned
        )
        self.theirs, self.their_rsa = new_key("ES256", "o1", number=5), new_key(kid="o2", number=5)
        self.other.rotate(self.theirs, self.their_rsa)
        allowed = ("RS256", "ES256", "EdDSA")
        audience = ("sluiceway", "api://sluiceway")
        self.issuers = Issuers(
            [
                Issuer(name="main", issuer=self.idp.issuer, audience=audience, algorithms=allowed, mapping=MAPPING),
                Issuer(
                    name="other",
                    issuer=self.other.issuer,
                    audience=audience,
                    algorithms=("ES256",),
                    mapping=Mapping(organization="rival", team="all"),
                ),
            ],
            now=lambda: time.monotonic() + self.passed,
        )
        await self.issuers.start()
        self.push_async_callback(self.issuers.close)
        assert isinstance(await self.issuers.verify(self.token()), Verified)
        self.passed = EVERY  # the issuer may be asked for a key that is not there
        return self

    def token(self, key=None, header=None, **changes):
        return self.idp.token(key, header, **changes)

    def text(self, head=None, claims=None, key=None):
        """Make a token of raw texts, signed by the right key."""
        key = key or self.rsa
        head = json.dumps({"typ": "JWT", "alg": key.algorithm, "kid": key.kid}) if head is None else head
        return key.sign_text(head, json.dumps(self.idp.claims()) if claims is None else claims).encode()

    def hmac(self, secret, algorithm="HS256"):
        """Make a token signed with `secret`, as whoever knows the public key can make it."""
        head = digits(json.dumps({"typ": "JWT", "alg": algorithm, "kid": "k1"}))
        signed = f"{head}.{digits(json.dumps(self.idp.claims()))}"
        return f"{signed}.{digits(hmac.digest(secret, signed.encode(), hashlib.sha256))}".encode()

    def public(self, encoding):
        return self.rsa.private.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)

    def unsigned(self, algorithm):
        head = digits(json.dumps({"typ": "JWT", "alg": algorithm, "kid": "k1"}))
        return f"{head}.{digits(json.dumps(self.idp.claims()))}.{digits(b'-')}".encode()

    def exp(self, literal):
        """Make a good token but for `exp`, which is written as `literal`."""
        claims = json.dumps(self.idp.claims(exp=None))
        return self.text(claims=f'{claims[:-1]}, "exp": {literal}}}')


@pytest.fixture
async def world():
    async with World() as found:
        yield found


@dataclass(frozen=True)
class Case:
    name: str
    why: str
    make: Callable[[World], bytes]
    answer: Rejection


def resigned(world, signature):
    """Make a good ES256 token with another signature."""
    return b".".join([*world.token(world.ec).split(b".")[:2], digits(signature).encode()])


def last_digit(token):
    """Spell the last digit otherwise: the bits that base64 does not use are set."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + bytes([alphabet[alphabet.index(token[-1]) + 1]])


def swapped(world):
    """Make a good token with another subject's claims put in."""
    head, _, signature = world.token().split(b".")
    return b".".join([head, digits(json.dumps(world.idp.claims(sub="root"))).encode(), signature])


def times(seconds):
    return int(time.time()) + seconds


ORGANIZATION = refusal("its claim `org` has to name an organization, by 1 to 64 letters, digits or . _ -, and one only")
NOT_THEIRS = refusal("its organization is not one that this issuer may speak for here")
SUBJECT = refusal("its claim `sub`, which says whom it is about, has to be a text of 1 to 255 printable characters")

NONE = "RFC 8725 2.1 and CVE-2022-23540: a token that says it needs no signature was taken without one"
CONFUSED = (
    "RFC 8725 2.1, CVE-2016-5431 and CVE-2022-29217: the public key, which everybody knows, was used as an HMAC secret"
)
SMUGGLED = "RFC 8725 3.10 and CVE-2018-0114: a token's own key, or one from where it says, verified it"
INJECTED = "RFC 8725 3.10: a kid that is used as a path, in SQL or as a key of something else opens that"
LAX = "RFC 8725 3.10: what the sender writes is data of an attacker; a type that is not right is not guessed at"
SPELLING = "two spellings of one token pass whatever remembers or revokes tokens by their bytes"

FORGED = [
    Case("alg none", NONE, lambda w: w.unsigned("none"), deciding.ALGORITHM),
    Case("alg None", NONE, lambda w: w.unsigned("None"), deciding.ALGORITHM),
    Case(
        "alg nOnE",
        NONE + ", in spellings that a list of forbidden words had not",
        lambda w: w.unsigned("nOnE"),
        deciding.ALGORITHM,
    ),
    Case("alg none and no signature", NONE, lambda w: w.unsigned("none").rpartition(b".")[0] + b".", tokens.MALFORMED),
    Case("alg empty", NONE, lambda w: w.unsigned(""), deciding.ALGORITHM),
    Case("alg null", NONE, lambda w: w.unsigned(None), tokens.NO_ALGORITHM),
    Case("alg in a list", LAX, lambda w: w.unsigned(["RS256"]), tokens.NO_ALGORITHM),
    Case("alg missing", NONE, lambda w: w.token(header={"alg": None}), tokens.NO_ALGORITHM),
    Case(
        "alg rs256",
        "names are case-sensitive (RFC 7515 4.1.1)",
        lambda w: w.token(header={"alg": "rs256"}),
        deciding.ALGORITHM,
    ),
    Case("HS256 by the key as PEM", CONFUSED, lambda w: w.hmac(w.public(Encoding.PEM)), deciding.ALGORITHM),
    Case("HS256 by the key as DER", CONFUSED, lambda w: w.hmac(w.public(Encoding.DER)), deciding.ALGORITHM),
    Case("HS256 by the key's entry", CONFUSED, lambda w: w.hmac(json.dumps(w.rsa.entry).encode()), deciding.ALGORITHM),
    Case(
        "HS256 by nothing", "a secret that is empty, because none was found", lambda w: w.hmac(b""), deciding.ALGORITHM
    ),
    Case(
        "an algorithm the issuer may not use", "RFC 8725 3.1", lambda w: w.token(new_key("PS256")), deciding.ALGORITHM
    ),
    Case(
        "ES256 with the name of an RSA key",
        "RFC 8725 3.1: a key is for its algorithm",
        lambda w: w.token(w.ec, {"kid": "k1"}),
        keys.UNFIT_KEY,
    ),
    Case("RS256 with the name of an EC key", "RFC 8725 3.1", lambda w: w.token(w.rsa, {"kid": "e1"}), keys.UNFIT_KEY),
    Case("EdDSA with the name of an EC key", "RFC 8725 3.1", lambda w: w.token(w.ed, {"kid": "e1"}), keys.UNFIT_KEY),
    Case(
        "ES256 by a key on P-384",
        "RFC 7518 3.4: a curve for each algorithm",
        lambda w: w.token(w.p384, {"alg": "ES256"}),
        keys.UNFIT_KEY,
    ),
    Case("RS256 by a key that is for RS512", "RFC 7517 4.4", lambda w: w.token(w.pinned), keys.UNFIT_KEY),
    Case("RSA of 1024 bits", "RFC 7518 3.3: it can be factored", lambda w: w.token(w.weak), keys.UNKNOWN_KID),
    Case(
        "a key for encryption",
        "RFC 7517 4.2: another may hold its private part",
        lambda w: w.token(w.enc),
        keys.UNKNOWN_KID,
    ),
    Case("a key whose operations lack verify", "RFC 7517 4.3", lambda w: w.token(w.ops), keys.UNKNOWN_KID),
    Case(
        "a key whose private part is public",
        "everybody can sign with it",
        lambda w: w.token(w.published),
        keys.UNKNOWN_KID,
    ),
    Case(
        "another issuer's key", "RFC 8725 3.8: keys belong to issuers", lambda w: w.token(w.their_rsa), keys.UNKNOWN_KID
    ),
    Case(
        "another issuer's key under a name of ours",
        "RFC 8725 3.8",
        lambda w: w.token(w.their_rsa, {"kid": "k1"}),
        keys.SIGNATURE,
    ),
    Case(
        "another issuer's algorithm",
        "RFC 8725 3.1",
        lambda w: w.rsa.sign(w.other.claims()).encode(),
        deciding.ALGORITHM,
    ),
    Case(
        "a self-made key under a good name",
        "anybody can make a key",
        lambda w: w.token(new_key(number=9)),
        keys.SIGNATURE,
    ),
    Case(
        "no kid where several keys could be meant",
        "OpenID Connect Core 10.1",
        lambda w: w.token(w.ec, {"kid": None}),
        keys.NO_KID,
    ),
    Case(
        "embedded jwk",
        SMUGGLED,
        lambda w: w.token(new_key(number=9), {"jwk": new_key(number=9).entry}),
        tokens.SMUGGLED,
    ),
    Case("jku", SMUGGLED, lambda w: w.token(header={"jku": "http://127.0.0.1/keys"}), tokens.SMUGGLED),
    Case("x5u", SMUGGLED, lambda w: w.token(header={"x5u": "http://127.0.0.1/keys"}), tokens.SMUGGLED),
    Case("x5c", SMUGGLED, lambda w: w.token(header={"x5c": ["MIIB"]}), tokens.SMUGGLED),
    Case(
        "crit",
        "RFC 7515 4.1.11: what is critical has to be understood",
        lambda w: w.token(header={"crit": ["x"], "x": 1}),
        tokens.EXTENDED,
    ),
    Case(
        "b64 false",
        "RFC 7797: the payload would not be what is signed",
        lambda w: w.token(header={"crit": ["b64"], "b64": False}),
        tokens.EXTENDED,
    ),
    Case("b64 false without crit", "RFC 7797 6", lambda w: w.token(header={"b64": False}), tokens.EXTENDED),
    Case("kid as a path", INJECTED, lambda w: w.token(header={"kid": "../../../../dev/null"}), keys.UNKNOWN_KID),
    Case("kid as SQL", INJECTED, lambda w: w.token(header={"kid": "k1' UNION SELECT 'secret' --"}), keys.UNKNOWN_KID),
    Case("kid as a URL", INJECTED, lambda w: w.token(header={"kid": "http://127.0.0.1/k1"}), keys.UNKNOWN_KID),
    Case("kid of an attribute", INJECTED, lambda w: w.token(header={"kid": "__class__"}), keys.UNKNOWN_KID),
    Case("kid is an object", INJECTED, lambda w: w.token(header={"kid": {"k1": 1}}), tokens.KID),
    Case("kid is a list", INJECTED, lambda w: w.token(header={"kid": ["k1"]}), tokens.KID),
    Case("kid is a number", INJECTED, lambda w: w.token(header={"kid": 1}), tokens.KID),
    Case("kid is null", LAX, lambda w: w.text('{"alg":"RS256","kid":null}'), tokens.KID),
    Case("kid is empty", LAX, lambda w: w.token(header={"kid": ""}), tokens.KID),
    Case(
        "kid is long",
        "names of keys that are not there are remembered",
        lambda w: w.token(header={"kid": "k" * 257}),
        tokens.KID,
    ),
    Case(
        "a logout token",
        "RFC 8725 3.11: signed by the same key for another purpose",
        lambda w: w.token(header={"typ": "logout+jwt"}),
        tokens.TYPE,
    ),
    Case(
        "a proof of possession",
        "RFC 9449: the bearer signs it",
        lambda w: w.token(header={"typ": "dpop+jwt"}),
        tokens.TYPE,
    ),
    Case("typ is no text", LAX, lambda w: w.token(header={"typ": 1}), tokens.TYPE),
    Case(
        "an event",
        "RFC 8417: a logout token of before it had a type of its own",
        lambda w: w.token(events={"logout": {}}),
        tokens.EVENT,
    ),
    Case(
        "a token bound to a key",
        "RFC 7800, RFC 9449: without the proof a thief may use it",
        lambda w: w.token(cnf={"jkt": "x"}),
        tokens.BOUND,
    ),
    Case("all-zero signature", "CVE-2022-21449, psychic signatures", lambda w: resigned(w, bytes(64)), keys.SIGNATURE),
    Case(
        "signature of the group's order",
        "CVE-2022-21449's second spelling: n is 0",
        lambda w: resigned(w, bytes.fromhex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551") * 2),
        keys.SIGNATURE,
    ),
    Case(
        "ECDSA signature in DER",
        "another spelling than RFC 7518 3.4's",
        lambda w: resigned(w, w.ec.private.sign(b"x", ECDSA(SHA256()))),
        keys.SIGNATURE,
    ),
    Case(
        "signature cut by a byte", "a short one must not be filled up", lambda w: resigned(w, bytes(63)), keys.SIGNATURE
    ),
    Case("signature of one byte", "likewise", lambda w: w.token().rpartition(b".")[0] + b".AA", keys.SIGNATURE),
    Case("claims changed after signing", "what a signature is for", swapped, keys.SIGNATURE),
    Case("padded", SPELLING, lambda w: w.token() + b"==", tokens.MALFORMED),
    Case("last digit of the signature spelt otherwise", SPELLING, lambda w: last_digit(w.token()), tokens.MALFORMED),
    Case("standard base64", SPELLING, lambda w: b".".join([*w.token().split(b".")[:2], b"+/+/"]), tokens.MALFORMED),
    Case("a line break in it", SPELLING, lambda w: w.token().replace(b".", b"\n.", 1), tokens.MALFORMED),
    Case("a dot at its end", SPELLING, lambda w: w.token() + b".", tokens.MALFORMED),
    Case("a dot before it", SPELLING, lambda w: b"." + w.token(), tokens.MALFORMED),
    Case("two parts", "a signature is not optional", lambda w: w.token().rpartition(b".")[0], tokens.MALFORMED),
    Case(
        "encrypted, in five parts",
        "RFC 8725 3.3: what is inside may be unsigned",
        lambda w: b"e30.AA.AA.AA.AA",
        tokens.ENCRYPTED,
    ),
    Case(
        "a token in a token",
        "RFC 8725 3.3: the inner one's signature would not be checked",
        lambda w: w.text(claims=w.token().decode()),
        tokens.NOT_JSON,
    ),
    Case("17 KiB", "work before any check", lambda w: w.token(groups="x" * 17_000), tokens.TOO_LONG),
    Case(
        "nested a thousand times",
        "a parser's stack",
        lambda w: w.text(claims='{"a":' * 1500 + "1" + "}" * 1500),
        tokens.NOT_JSON,
    ),
    Case(
        "lists nested five thousand times",
        "likewise",
        lambda w: w.text(claims='{"a":' + "[" * 5000 + "]" * 5000 + "}"),
        tokens.NOT_JSON,
    ),
    Case(
        "a claim twice",
        "RFC 8725 2.6's class: two parsers read two subjects",
        lambda w: w.text(claims='{"sub":"ada",' + json.dumps(w.idp.claims(sub="root"))[1:]),
        tokens.TWICE,
    ),
    Case(
        "a claim twice, escaped",
        "likewise, with another spelling of the name",
        lambda w: w.text(claims='{"\\u0073ub":"ada",' + json.dumps(w.idp.claims(sub="root"))[1:]),
        tokens.TWICE,
    ),
    Case(
        "a claim twice, deep",
        "likewise, where a mapping may look",
        lambda w: w.text(claims='{"a":{"b":1,"b":2},' + json.dumps(w.idp.claims())[1:]),
        tokens.TWICE,
    ),
    Case(
        "alg twice",
        "RFC 7515 4: the second one could be none",
        lambda w: w.text('{"alg":"none","alg":"RS256","kid":"k1"}'),
        tokens.TWICE,
    ),
    Case("claims are a list", LAX, lambda w: w.text(claims="[]"), tokens.NOT_JSON),
    Case("claims are null", LAX, lambda w: w.text(claims="null"), tokens.NOT_JSON),
    Case(
        "claims in UTF-16",
        "RFC 8725 3.7",
        lambda w: w.text(claims=json.dumps(w.idp.claims()).encode("utf-16")),
        tokens.NOT_JSON,
    ),
    Case(
        "claims after a byte order mark",
        "RFC 8725 3.7",
        lambda w: w.text(claims="\ufeff" + json.dumps(w.idp.claims())),
        tokens.NOT_JSON,
    ),
    Case("header is a text", LAX, lambda w: w.text('"RS256"'), tokens.NOT_JSON),
    Case("iss of nobody", "RFC 8725 3.8", lambda w: w.token(iss="https://evil.example"), deciding.ISSUER),
    Case("iss with a slash more", "RFC 8725 3.8: exactly", lambda w: w.token(iss=w.idp.issuer + "/"), deciding.ISSUER),
    Case("iss in capitals", "RFC 8725 3.8: exactly", lambda w: w.token(iss=w.idp.issuer.upper()), deciding.ISSUER),
    Case(
        "iss that begins right",
        "RFC 8725 3.8: not by prefix",
        lambda w: w.token(iss=w.idp.issuer + ".evil.example"),
        deciding.ISSUER,
    ),
    Case(
        "iss in a list",
        "CVE-2024-53861's class: membership in place of equality",
        lambda w: w.token(iss=[w.idp.issuer]),
        deciding.ISSUER,
    ),
    Case("iss missing", "RFC 8725 3.8", lambda w: w.token(iss=None), deciding.ISSUER),
    Case(
        "aud of another service",
        "RFC 8725 3.9: that service could use it here",
        lambda w: w.token(aud="billing"),
        tokens.AUDIENCE,
    ),
    Case("aud that begins right", "RFC 8725 3.9: not by prefix", lambda w: w.token(aud="sluiceway2"), tokens.AUDIENCE),
    Case("aud that ours begins with", "CVE-2024-53861's class", lambda w: w.token(aud="sluice"), tokens.AUDIENCE),
    Case("aud missing", "RFC 8725 3.9", lambda w: w.token(aud=None), tokens.AUDIENCE),
    Case("aud an empty list", "RFC 8725 3.9", lambda w: w.token(aud=[]), tokens.AUDIENCE),
    Case("aud an empty text", "RFC 8725 3.9", lambda w: w.token(aud=""), tokens.AUDIENCE),
    Case("aud with a number in it", LAX, lambda w: w.token(aud=["sluiceway", 1]), tokens.AUDIENCE),
    Case(
        "aud an object", "its names would be looked through", lambda w: w.token(aud={"sluiceway": 1}), tokens.AUDIENCE
    ),
    Case("expired", "RFC 7519 4.1.4", lambda w: w.token(exp=times(-31)), tokens.EXPIRED),
    Case("exp 0", LAX, lambda w: w.exp("0"), tokens.EXPIRED),
    Case("exp missing", "a token for ever", lambda w: w.token(exp=None), tokens.EXPIRY),
    Case("exp null", LAX, lambda w: w.exp("null"), tokens.EXPIRY),
    Case("exp negative", LAX, lambda w: w.exp("-1"), tokens.EXPIRY),
    Case("exp a text", LAX, lambda w: w.exp('"99999999999"'), tokens.EXPIRY),
    Case("exp true", "true is 1 to Python", lambda w: w.exp("true"), tokens.EXPIRY),
    Case("exp in milliseconds", "a token for 50,000 years", lambda w: w.exp(str(times(600) * 1000)), tokens.EXPIRY),
    Case("exp of a hundred digits", "a float cannot hold it", lambda w: w.exp("9" * 100), tokens.EXPIRY),
    Case(
        "exp of ten thousand digits",
        "CVE-2020-10735: digits that take seconds to read",
        lambda w: w.exp("9" * 10_000),
        tokens.NOT_JSON,
    ),
    Case("exp 1e999", "infinity is always in the future", lambda w: w.exp("1e999"), tokens.NOT_JSON),
    Case("exp Infinity", "likewise", lambda w: w.exp("Infinity"), tokens.NOT_JSON),
    Case("exp NaN", "every comparison with it is false", lambda w: w.exp("NaN"), tokens.NOT_JSON),
    Case("nbf in the future", "RFC 7519 4.1.5", lambda w: w.token(nbf=times(60)), tokens.NOT_YET),
    Case(
        "iat in the future",
        "made with a clock that is not the issuer's",
        lambda w: w.token(iat=times(60)),
        tokens.NOT_YET,
    ),
    Case("nbf a text", LAX, lambda w: w.token(nbf="0"), tokens.TIMES),
    Case("iat true", LAX, lambda w: w.token(iat=True), tokens.TIMES),
    Case("jti a number", "it could not be revoked by its name", lambda w: w.token(jti=7), tokens.JTI),
    Case("jti with half a character", "it has no bytes to be revoked by", lambda w: w.token(jti="\ud800"), tokens.JTI),
    Case("jti without end", "it is remembered", lambda w: w.token(jti="j" * 1025), tokens.JTI),
    Case("sub missing", "nobody to charge", lambda w: w.token(sub=None), SUBJECT),
    Case("sub empty", "likewise", lambda w: w.token(sub=""), SUBJECT),
    Case("sub a number", LAX, lambda w: w.token(sub=7), SUBJECT),
    Case(
        "sub with a line break", "it stands in logs, tables and the store", lambda w: w.token(sub="ada\nroot"), SUBJECT
    ),
    Case("sub with a NUL", "likewise", lambda w: w.token(sub="ada\0"), SUBJECT),
    Case("sub that turns text around", "it would be read as another's", lambda w: w.token(sub="ada\u202e"), SUBJECT),
    Case("sub with half a character", "it has no bytes", lambda w: w.token(sub="ada\ud800"), SUBJECT),
    Case("sub of 256 characters", "OpenID Connect Core 2", lambda w: w.token(sub="a" * 256), SUBJECT),
    Case("org missing", "nobody to charge", lambda w: w.token(org=None), ORGANIZATION),
    Case("org that is no name", "it stands in keys of the store", lambda w: w.token(org="acme}:level:*"), ORGANIZATION),
    Case("org with a line break", "$ matches before one", lambda w: w.token(org="acme\n"), ORGANIZATION),
    Case("org of two", "neither is meant more", lambda w: w.token(org=["acme", "globex"]), ORGANIZATION),
    Case("org of another issuer", "an issuer speaks for its own only", lambda w: w.token(org="rival"), NOT_THEIRS),
    Case("org in capitals", "names are exact", lambda w: w.token(org="ACME"), NOT_THEIRS),
]

GOOD = [
    ("an ID token", lambda w: w.token()),
    ("an access token (RFC 9068)", lambda w: w.token(header={"typ": "at+jwt"})),
    ("an access token, in full", lambda w: w.token(header={"typ": "application/at+JWT"})),
    ("no typ", lambda w: w.token(header={"typ": None})),
    ("ES256", lambda w: w.token(w.ec)),
    ("EdDSA", lambda w: w.token(w.ed)),
    ("no kid where one key alone can be meant", lambda w: w.token(header={"kid": None})),
    ("a thumbprint of a certificate, as Entra sends it", lambda w: w.token(header={"x5t": "abc"})),
    ("our audience among others (RFC 7519 4.1.3)", lambda w: w.token(aud=["account", "sluiceway"])),
    ("our other audience", lambda w: w.token(aud="api://sluiceway")),
    ("a time with a fraction (RFC 7519 2)", lambda w: w.token(exp=time.time() + 60.5)),
    ("expired, but within the leeway", lambda w: w.token(exp=times(-10))),
    ("not valid yet, but within the leeway", lambda w: w.token(nbf=times(10), iat=times(10))),
    ("no iat", lambda w: w.token(iat=None)),
    ("claims of the issuer's own", lambda w: w.token(groups=["a", {"b": None}], name="Ada \u00e9")),
    ("an organization in a list, as Keycloak tells it", lambda w: w.token(org=["acme"])),
]


@pytest.mark.parametrize("case", FORGED, ids=lambda case: case.name)
async def test_a_forged_token_is_refused_in_so_many_words(world, case):
    """The reason of each is in the table. The words help an honest caller, and quote nothing of the token."""
    token = case.make(world)

    answer = await world.issuers.verify(token)

    assert answer == case.answer
    assert (answer.reason, answer.shape.status) == (Reason.BAD_KEY, 401)
    assert world.issuers.recall(token) is None, "what was refused is not remembered"


@pytest.mark.parametrize(("name", "make"), GOOD, ids=[name for name, _ in GOOD])
async def test_what_looks_odd_but_is_right_is_taken(world, name, make):
    """A gateway that refuses what an issuer may send is no safer, only useless."""
    token = make(world)

    answer = await world.issuers.verify(token)

    assert isinstance(answer, Verified), answer
    assert (answer.issuer, answer.subject.organization, answer.subject.key) == ("main", "acme", "main:ada")
    assert world.issuers.recall(token) == answer


async def test_the_other_issuer_speaks_for_its_own_only(world):
    """Two subjects of one name are two people; what one issuer says of organizations is not asked of the other."""
    theirs = await world.issuers.verify(world.other.token(world.theirs, org="acme"))

    assert (theirs.subject.organization, theirs.subject.key) == ("rival", "other:ada")


def test_no_case_is_there_twice_and_every_refusal_is_reached():
    """A refusal that nothing leads to would be dead, or a check that does not work."""
    assert len({case.name for case in FORGED}) == len(FORGED)
    refusals = {
        value for module in (tokens, keys, deciding) for value in vars(module).values() if isinstance(value, Rejection)
    }

    assert refusals <= {case.answer for case in FORGED}


def test_nothing_of_a_token_is_in_the_words():
    """They are the same whatever was sent, but for the names of claims, which are the operator's."""
    assert all(case.answer.message.startswith("This token is not taken: ") for case in FORGED)
    assert all(case.answer.message.endswith(".") for case in FORGED)
