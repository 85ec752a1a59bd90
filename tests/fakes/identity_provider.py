"""An identity provider as far as a resource server sees one: its OpenID configuration, its keys, and tokens.

Law: real HTTP and real keys; what it signs is exactly what the test wrote, well formed or not. How it misbehaves is a
switch, and every question it was asked is in `asked`.
"""

import asyncio
import base64
import json
import time
from dataclasses import dataclass, field
from functools import cache

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from tests.parts.http1 import Connection, Http1Server

CONFIGURATION = "/.well-known/openid-configuration"
JWKS = "/jwks"

_CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


@dataclass(frozen=True)
class SigningKey:
    """A private key: its name, and the algorithm it signs with. `listed`: what its entry in the set says besides."""

    kid: str | None
    algorithm: str
    private: object
    listed: dict = field(default_factory=dict)

    @property
    def entry(self) -> dict:
        """Its entry in a set of keys; a member that `listed` has as None is left out."""
        told = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private.public_key(), as_dict=True)
        told = {"kid": self.kid, "use": "sig", "alg": self.algorithm} | told | self.listed
        return {name: value for name, value in told.items() if value is not None}

    def sign(self, claims, **header) -> str:
        """Make a token; `header` adds to the usual members, or takes one away (None)."""
        head = {"typ": "JWT", "alg": self.algorithm, "kid": self.kid} | header
        head = {name: value for name, value in head.items() if value is not None}
        return self.sign_text(json.dumps(head), claims if isinstance(claims, str) else json.dumps(claims))

    def sign_text(self, head, claims) -> str:
        """Make a token of two texts (or bytes), whatever they say."""
        signed = f"{digits(head)}.{digits(claims)}"
        return f"{signed}.{digits(jwt.get_algorithm_by_name(self.algorithm).sign(signed.encode(), self.private))}"


def digits(data) -> str:
    """Return text or bytes in base64url without padding."""
    data = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def new_key(algorithm="RS256", kid="k1", size=2048, number=0, **listed) -> SigningKey:
    """Return a key for `algorithm`; the same every time for the same `number`, since RSA keys take long to make."""
    kind = algorithm if algorithm.startswith("E") else "RSA"
    return SigningKey(kid, algorithm, _private(kind, size, number), listed)


@cache
def _private(kind, size, number):
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind]())
    if kind == "EdDSA":
        return ed448.Ed448PrivateKey.generate() if size == 448 else ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=size)


class IdentityProvider(Http1Server):
    """A provider whose first key is called k1. `tls`: a server's context, with which it speaks https.

    `down`: connections are reset. `held`: while cleared, nothing is answered. `instead`: bytes (and a status) by path
    that are answered in place of what would be right. `configuration`: members put over those of the right one.
    """

    def __init__(self, algorithm="RS256", tls=None) -> None:
        super().__init__()
        self._tls = tls
        self.keys = [new_key(algorithm)]
        self.down = False
        self.held = asyncio.Event()
        self.held.set()
        self.instead: dict[str, tuple[int, bytes]] = {}
        self.configuration: dict[str, object] = {}
        self.asked: list[str] = []
        """The paths of all questions, in order."""

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    async def start(self):
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def issuer(self) -> str:
        """Its own name: the `iss` of its tokens."""
        return self.url

    def rotate(self, *keys: SigningKey) -> None:
        """Have these keys and no others."""
        self.keys = list(keys)

    def claims(self, **changes) -> dict:
        """Return the claims of a good token; None takes one away."""
        now = int(time.time())
        usual = {"iss": self.issuer, "sub": "ada", "aud": "sluiceway", "iat": now, "exp": now + 600, "org": "acme"}
        return {name: value for name, value in (usual | changes).items() if value is not None}

    def token(self, key: SigningKey | None = None, header=None, **changes) -> bytes:
        """Return a token by its first key, or another one, with changed claims and members of the header."""
        return (key or self.keys[0]).sign(self.claims(**changes), **(header or {})).encode()

    async def handle(self, request, connection):
        self.asked.append(request.path)
        if self.down:
            connection.reset()
            return
        await self.held.wait()
        right = {CONFIGURATION: self._configuration(), JWKS: {"keys": [key.entry for key in self.keys]}}
        if request.path in self.instead:
            await connection.answer(*self.instead[request.path])
        elif request.path in right:
            await connection.answer(200, json.dumps(right[request.path]).encode())
        else:
            await connection.answer(404, b"{}")

    def _configuration(self):
        usual = {
            "issuer": self.issuer,
            "jwks_uri": self.url + JWKS,
            "id_token_signing_alg_values_supported": sorted({key.algorithm for key in self.keys}),
        }
        return usual | self.configuration
