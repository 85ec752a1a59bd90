"""Who bears a token: decided from memory where it was seen before, else from the keys of its issuer.

Law: a token is good only while its issuer's set holds the key that signed it, whatever we remember; and only for whom
the issuer may speak. Memory is bounded, and holds digests of tokens, never tokens.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence

from msgspec import Struct

from gateway import clock
from gateway.config.settings import Issuer
from gateway.identity.issuer_keys import IssuerKeys
from policies.rejections import Rejection
from policies.subjects import Subject, subject_of
from policies.tokens import EXPIRED, Refused, Token, check_purpose, good_until, read_token, refusal

REMEMBERED = 50_000
"""Verified tokens kept, about 1 KB each; the one verified longest ago goes first."""

ISSUER = refusal("its issuer (iss) is none that is configured here, in exactly this spelling")
ALGORITHM = refusal("its algorithm (alg) is not allowed for its issuer")


class Verified(Struct, frozen=True):
    """A good token. `issuer`: the operator's name for it; `expires`: unix seconds from which it is no good.

    The issuer's leeway is in `expires` already. `jti`: its own name, by which it can be revoked. `plan`: of its
    subject, if the issuer's setting names one. `cut`: a stream that outlives it is broken off.
    """

    issuer: str
    subject: Subject
    expires: float
    jti: str | None
    plan: str | None
    cut: bool


class _Known(Struct, frozen=True):
    verified: Verified
    keys: IssuerKeys
    signer: bytes


def _place(issuer: Issuer) -> tuple[object, ...]:
    """Return what says where an issuer's keys are, and what they are called in the log."""
    return issuer.name, issuer.issuer, issuer.jwks_url


def _way(issuer: Issuer) -> tuple[object, ...]:
    """Return what says how they are fetched from there."""
    return issuer.ca, issuer.ca_digest


class Issuers:
    """The issuers whose tokens are taken. `now`: monotonic seconds; `wall`: unix seconds."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        now: Callable[[], float] = clock.monotonic,
        wall: Callable[[], float] = clock.wall,
    ) -> None:
        self._issuers = {one.issuer: (one, IssuerKeys(one, now)) for one in issuers}
        self._now = now
        self._wall = wall
        self._known: dict[bytes, _Known] = {}

    async def start(self) -> None:
        """Begin to fetch keys, and wait for none."""
        for _, keys in self._issuers.values():
            keys.start()

    def take(self, issuers: Sequence[Issuer]) -> None:
        """Take the tokens of these issuers from now on, and of no others.

        The keys stay of whoever is found in the same place, and are fetched anew at once where that is by other
        authorities; the tokens that were seen stay of whoever is the same in all.
        """
        before, self._issuers = self._issuers, {}
        for one in issuers:
            self._issuers[one.issuer] = (one, self._keys_of(one, before.get(one.issuer)))
        left = [pair for pair in before.values() if pair not in self._issuers.values()]
        if left:
            names = {old.name for old, _ in left}
            self._known = {digest: known for digest, known in self._known.items() if known.verified.issuer not in names}
        used = {id(keys) for _, keys in self._issuers.values()}
        for _, keys in left:
            if id(keys) not in used:
                keys.leave()

    def _keys_of(self, issuer: Issuer, before: tuple[Issuer, IssuerKeys] | None) -> IssuerKeys:
        """Return the keys of an issuer, those of `before` where that was the same."""
        if before is None or _place(before[0]) != _place(issuer):
            keys = IssuerKeys(issuer, self._now)
        elif _way(before[0]) != _way(issuer):
            keys = IssuerKeys(issuer, self._now, before[1].known)
        else:
            return before[1]
        keys.start()
        return keys

    async def close(self) -> None:
        """End all fetching."""
        await asyncio.gather(*(keys.close() for _, keys in self._issuers.values()))

    def recall(self, token: bytes) -> Verified | Rejection | None:
        """Decide from memory; None where that does not tell, which `verify` does."""
        known = self._known.get(hashlib.sha256(token).digest())
        if known is None or not known.keys.holds(known.signer):
            return None
        return known.verified if self._wall() < known.verified.expires else EXPIRED

    async def verify(self, token: bytes) -> Verified | Rejection:
        """Decide from the issuer's keys, which are fetched if need be."""
        try:
            known = await self._verified(read_token(token))
        except Refused as no:
            return no.rejection
        self._remember(hashlib.sha256(token).digest(), known)
        return known.verified

    async def _verified(self, token: Token) -> _Known:
        named = token.claims.get("iss")
        issuer, keys = self._issuers.get(named, (None, None)) if isinstance(named, str) else (None, None)
        if issuer is None or keys is None:
            raise Refused(ISSUER)
        if token.algorithm not in issuer.algorithms:
            raise Refused(ALGORITHM)
        signer = (await keys.having(token.kid)).signer(token)
        if self._issuers.get(issuer.issuer) != (issuer, keys):  # others were taken meanwhile
            return await self._verified(token)
        expires = good_until(token.claims, issuer.audience, issuer.leeway, self._wall())
        check_purpose(token.claims)
        subject = subject_of(issuer.name, token.claims, issuer.mapping)
        if isinstance(subject, str):
            raise Refused(refusal(subject))
        cut = issuer.on_expiry == "cut"
        verified = Verified(issuer.name, subject, expires, token.claims.get("jti"), issuer.plan, cut)
        return _Known(verified, keys, signer.fingerprint)

    def _remember(self, digest: bytes, known: _Known) -> None:
        self._known.pop(digest, None)
        self._known[digest] = known
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
