"""Who sends these headers: decided in memory while the records in it have proof, else from the store.

Law: no caller is trusted on a record that nothing proves (`mirror.py`), save while the store is away by those plans
that say `local`, for `grace` seconds from when it was last proven. None is refused for what the store could not say:
with the store gone an answer is yes or 503, never 401. What strangers cost is bounded, in memory and in questions.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable, Coroutine, Hashable, Mapping
from typing import Any, TypeVar

from msgspec import Struct

from gateway import clock
from gateway.config.settings import Organization
from gateway.identity import keys
from gateway.identity.changes import Feed
from gateway.identity.issuers import Issuers, Verified
from gateway.identity.last_used import LastUsed
from gateway.identity.locks import UNKNOWN, Lock, lock_of
from gateway.identity.mirror import REMEMBERED, TRUST, Entry, Mirror, Wanted
from gateway.identity.principals import (
    Bearer,
    CompilePlan,
    Compiler,
    Tenants,
    of_key,
    of_token,
    plans_named,
)
from gateway.identity.records import KeyRecord, OrganizationRecord, PlanRecord, TeamRecord, TokenRecord
from gateway.identity.registry import Registry
from gateway.identity.strangers import RATE, Crowded
from gateway.store.door import StoreDown
from policies.domain import Plan, Principal, WhenDown
from policies.rejections import Reason, Rejection
from policies.shares import stance

TOKENS_REMEMBERED = 20_000
"""Tokens whose principal is kept, about 40 MB; the one that was read longest ago goes first."""

TRIES = 3
"""Times that a caller's records are read, where each time they are out of date before he is judged."""

K = TypeVar("K", bound=Hashable)

Found = Mapping[Wanted, Entry]

Headers = list[tuple[bytes, bytes]]
"""As ASGI gives them: names in lower case."""

_WAY = "`Authorization: Bearer sw_...` or as `x-api-key`"
NO_KEY = Rejection(Reason.NO_KEY, f"This request carries no API key. Send one as {_WAY}.")
NO_BEARER = Rejection(Reason.NO_KEY, f"The authorization header does not begin with `Bearer `. Send the key as {_WAY}.")
ADMIN_KEY = Rejection(
    Reason.BAD_KEY,
    "This looks like an admin key, which calls no model and opens only its own gateway's admin API. "
    "For calls, make an API key with `sluiceway keys create`.",
)
MALFORMED = Rejection(
    Reason.BAD_KEY, f"This is not a Sluiceway API key. One looks like this: {keys.SHAPE}. Was it cut or mistyped?"
)
TOKEN_REVOKED = Rejection(Reason.BAD_KEY, "This token was revoked. Get another from whoever issued it.")
STORE_DOWN = Rejection(
    Reason.STORE_DOWN,
    "API keys cannot be checked now, because the key store does not answer. Try again shortly.",
    retry_after_us=1_000_000,
)
CROWDED = Rejection(
    Reason.OVERLOADED,
    "Too many unknown API keys are being checked. Try again shortly.",
    retry_after_us=1_000_000 // RATE,
)

_TOKEN = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class _Known(Struct, eq=False):
    """What somebody gets, and the records that say so; `lock` is a key's, a token has been verified.

    `epoch`, `until`: the oldest proof among the records. `generation`: the mirror's when none of them was stale.
    `lent`: until when it is believed without proof (monotonic seconds), because the store is away. `verified`: the
    token, if it is one's. `terms`: which of the gateway's files, counted, it was compiled by.
    """

    outcome: Principal | Rejection
    parts: tuple[Entry, ...]
    lock: Lock | None
    epoch: int
    until: float
    generation: int
    terms: int
    verified: Verified | None = None
    lent: float = 0.0


class Identities:
    """The callers this gateway knows. `now`: monotonic seconds; `wall`: unix seconds."""

    def __init__(
        self,
        registry: Registry,
        feed: Feed,
        *,
        plans: Mapping[str, Plan],
        organizations: Mapping[str, Organization],
        when_down: WhenDown,
        grace: float,
        compile_plan: CompilePlan,
        issuers: Issuers | None = None,
        last_used: LastUsed | None = None,
        now: Callable[[], float] = clock.monotonic,
        wall: Callable[[], float] = clock.wall,
    ) -> None:
        """`plans`, `organizations`: the file's. `when_down`: the stance of levels without a plan that says otherwise.

        `grace`: seconds, 0 for none. `issuers` None: no tokens are taken. `last_used` None: nobody notes uses.
        """
        self._feed = feed
        self._issuers = issuers
        self._touch: Callable[[str], None] = last_used.touch if last_used is not None else lambda _: None
        self._now = now
        self._wall = wall
        self._mirror = Mirror(registry, feed, now)
        self._terms = -1
        self.take(plans=plans, organizations=organizations, when_down=when_down, grace=grace, compile_plan=compile_plan)
        self._keys: dict[bytes, _Known] = {}
        self._tokens: dict[Verified, _Known] = {}
        self._loading: dict[Hashable, asyncio.Task[_Known | Rejection]] = {}

    def take(
        self,
        *,
        plans: Mapping[str, Plan],
        organizations: Mapping[str, Organization],
        when_down: WhenDown,
        grace: float,
        compile_plan: CompilePlan,
    ) -> None:
        """Go by what another file says of tenants: each known caller is compiled anew with its next call.

        Not while the store is away: what is left of new meters only the store can say.
        """
        self._organizations = organizations
        self._grace = grace
        self._compiler = Compiler(plans, compile_plan, when_down)
        self._terms += 1
        self._mirror.generation += 1  # so that a call that compares it compares nothing more

    def cached(self, headers: Headers, address: str) -> Principal | Rejection | None:
        """Decide without the store; None where it or an issuer has to be asked, which `identify` does.

        `address`: the caller's IP address.
        """
        credential = _credential(headers)
        if isinstance(credential, Rejection):
            return credential
        if credential.startswith(b"sw_"):
            known = self._keys.get(_id(credential))
            return self._recall_stranger(credential) if known is None else self._answer(known, credential, address)
        return MALFORMED if self._issuers is None else self._recall_token(self._issuers, credential, address)

    async def identify(self, headers: Headers, address: str) -> Principal | Rejection:
        """Decide, reading what memory does not tell; callers who need the same records share a read."""
        outcome = self.cached(headers, address)
        if outcome is not None:
            return outcome
        credential = _credential(headers)
        if isinstance(credential, Rejection):
            return credential
        if credential.startswith(b"sw_"):
            return await self._ask(_id(credential), self._load_key, credential, address)
        verified = await self._issuers.verify(credential) if self._issuers is not None else MALFORMED
        if isinstance(verified, Rejection):
            return verified
        return await self._ask(verified, self._load_token, credential, address)

    def _recall_stranger(self, credential: bytes) -> Rejection | None:
        name = keys.parse(credential.decode("latin-1"))
        if name is None:
            return ADMIN_KEY if credential.startswith(b"sw_admin_") else MALFORMED
        entry = self._mirror.peek(KeyRecord, name)
        return UNKNOWN if entry is not None and entry.record is None else None

    def _recall_token(self, issuers: Issuers, credential: bytes, address: str) -> Principal | Rejection | None:
        verified = issuers.recall(credential)
        if verified is None:
            return None if _TOKEN.fullmatch(credential) else MALFORMED
        if isinstance(verified, Rejection):
            return verified
        known = self._tokens.get(verified)
        return None if known is None else self._answer(known, credential, address)

    def _answer(self, known: _Known, credential: bytes, address: str) -> Principal | Rejection | None:
        """Judge by what is known; None where it has neither proof nor leave."""
        if self._proven(known):
            return self._judge(known, credential, address)
        if self._now() >= known.lent or _stale(known):
            return None
        outcome = self._judge(known, credential, address)
        return STORE_DOWN if isinstance(outcome, Rejection) else outcome

    def _proven(self, known: _Known) -> bool:
        generation = self._mirror.generation
        if known.generation != generation:
            if _stale(known):
                return False
            if known.terms == self._terms:
                known.generation = generation
            elif self._feed.trusted:
                if not self._renewed(known):
                    return False
                known.generation = generation
        return (known.epoch == self._feed.epoch and self._feed.trusted) or self._now() < known.until

    def _renewed(self, known: _Known) -> bool:
        """Compile a caller anew from its records; False where the file now names one that is not among them."""
        bearer = of_key(known.parts[0].record) if known.verified is None else of_token(known.verified)
        found = {part.wanted: part for part in known.parts}
        if not all(one in found for one in self._tenants(bearer, found)):
            return False
        outcome = self._outcome(bearer, found)
        if known.outcome != outcome:  # for that very object the ledger has packed the meters
            known.outcome = outcome
        known.terms = self._terms
        return True

    def _judge(self, known: _Known, credential: bytes, address: str) -> Principal | Rejection:
        refusal = None if known.lock is None else known.lock.refusal(credential, address, self._wall())
        outcome = refusal or known.outcome
        if isinstance(outcome, Principal):
            self._touch(outcome.key)
        return outcome

    async def _ask(
        self, name: K, load: Callable[[K], Coroutine[Any, Any, _Known | Rejection]], credential: bytes, address: str
    ) -> Principal | Rejection:
        """Judge by records that are read now. A caller who leaves takes nobody's read along."""
        for _ in range(TRIES):
            loading = self._loading.get(name)
            if loading is None:
                loading = self._loading[name] = clock.spawn(load(name), "find out who is calling")
                loading.add_done_callback(lambda _: self._loading.pop(name))
            known = await asyncio.shield(loading)
            outcome = known if isinstance(known, Rejection) else self._answer(known, credential, address)
            if outcome is not None:
                return outcome
        return STORE_DOWN

    async def _load_key(self, key_id: bytes) -> _Known | Rejection:
        first = (KeyRecord, key_id.decode())
        before = self._keys.get(key_id)

        def needs(found: Found) -> list[Wanted]:
            record = found[first].record
            return [first] if record is None else [first, *self._tenants(of_key(record), found)]

        try:
            found = await self._gather([part.wanted for part in before.parts] if before else [first], needs)
        except StoreDown:
            return self._lend(before)
        except Crowded:
            return CROWDED
        record = found[first].record
        if record is None:
            self._keys.pop(key_id, None)
            return UNKNOWN
        known = self._know(self._outcome(of_key(record), found), lock_of(record), found, before)
        _remember(self._keys, key_id, known, REMEMBERED)
        return known

    async def _load_token(self, verified: Verified) -> _Known | Rejection:
        bearer, before = of_token(verified), self._tokens.get(verified)
        ban = [(TokenRecord, _ban(verified.issuer, verified.jti))] if verified.jti is not None else []

        def needs(found: Found) -> list[Wanted]:
            return [*ban, *self._tenants(bearer, found)]

        try:
            found = await self._gather(needs({}), needs)
        except StoreDown:
            return self._lend(before)
        known = self._know(self._outcome(bearer, found), None, found, before, verified)
        _remember(self._tokens, verified, known, TOKENS_REMEMBERED)
        return known

    async def _gather(self, wanted: list[Wanted], needs: Callable[[Found], list[Wanted]]) -> Found:
        """Read until all is there that `needs` names of what is there, and none of it has changed meanwhile."""
        while True:
            found = dict(zip(wanted, await self._mirror.fetch(wanted), strict=True))
            wanted = needs(found)
            if all(one in found and not found[one].stale for one in wanted):
                return {one: found[one] for one in wanted}

    def _tenants(self, bearer: Bearer, found: Found) -> list[Wanted]:
        """Return the records that a bearer's principal is made of, as far as those that are found tell."""
        organization, team = _places(bearer)
        plans = plans_named(bearer, self._of(bearer, found))
        return list(dict.fromkeys([organization, team, *((PlanRecord, name) for name in plans)]))

    def _of(self, bearer: Bearer, found: Found) -> Tenants:
        organization, team = (found[place].record if place in found else None for place in _places(bearer))
        return Tenants(organization, team, self._organizations.get(bearer.organization))

    def _outcome(self, bearer: Bearer, found: Found) -> Principal | Rejection:
        if any(sort is TokenRecord and entry.record is not None for (sort, _), entry in found.items()):
            return TOKEN_REVOKED
        stored = {name: entry.record for (sort, name), entry in found.items() if sort is PlanRecord}
        return self._compiler.principal(bearer, self._of(bearer, found), stored)

    def _know(
        self,
        outcome: Principal | Rejection,
        lock: Lock | None,
        found: Found,
        before: _Known | None,
        verified: Verified | None = None,
    ) -> _Known:
        """Keep the outcome of before where it is the same: for that very object the ledger has packed the meters."""
        if before is not None and before.outcome == outcome:
            outcome = before.outcome
        parts = tuple(found.values())
        return _Known(
            outcome=outcome,
            lock=lock,
            parts=parts,
            epoch=min(part.epoch for part in parts),
            until=min(part.asked for part in parts) + TRUST,
            generation=self._mirror.generation,
            terms=self._terms,
            verified=verified,
        )

    def _lend(self, known: _Known | None) -> _Known | Rejection:
        """Believe old records a little longer, if the plans are kept while the store is away.

        That is for `grace` seconds from when the last of them was proven, which is when the store was missed. Where the
        plans were to deny, another file may say otherwise by now.
        """
        if known is None:
            return STORE_DOWN
        if known.terms != self._terms and _denied(known.outcome):
            self._renewed(known)
        if _denied(known.outcome):
            return STORE_DOWN
        proven = min(max(part.asked, self._feed.proven(part.epoch)) for part in known.parts)
        now = self._now()
        if now >= proven + self._grace:
            return STORE_DOWN
        known.lent = min(now + TRUST, proven + self._grace)
        return known


def _credential(headers: Headers) -> bytes | Rejection:
    """Return the bearer token, else the first `x-api-key`: a client made for one API may send its own habit along."""
    other, nothing = None, NO_KEY
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer" and (token := token.strip()):
                return token
            nothing = NO_KEY if scheme.lower() in {b"", b"bearer"} else NO_BEARER
        elif name == b"x-api-key" and other is None:
            other = value.strip() or None
    return nothing if other is None else other


def _id(credential: bytes) -> bytes:
    """Return where the id stands in a well-formed key."""
    return credential[3 : 3 + keys.ID_LENGTH]


def _denied(outcome: Principal | Rejection) -> bool:
    """Say whether somebody is not served while the store is away."""
    return isinstance(outcome, Rejection) or stance(outcome.levels) == "deny"


def _stale(known: _Known) -> bool:
    return any(part.stale for part in known.parts)


def _places(bearer: Bearer) -> tuple[Wanted, Wanted]:
    """Return where the records of a bearer's organization and team are."""
    return (OrganizationRecord, bearer.organization), (TeamRecord, f"{bearer.organization}/{bearer.team}")


def _ban(issuer: str, jti: str) -> str:
    """Return the name that a token is revoked by."""
    return f"{issuer}/{hashlib.sha256(jti.encode()).hexdigest()}"


def _remember(memory: dict[K, _Known], name: K, known: _Known, bound: int) -> None:
    """Put `name` last in `memory`, and let the first one go where it would hold more than `bound`."""
    memory.pop(name, None)
    memory[name] = known
    if len(memory) > bound:
        del memory[next(iter(memory))]
