"""Who sends these headers: decided in memory, and from the store once a second a key.

Law: no caller is trusted on a record older than `TRUST`, save while the store is away by those plans that say `local`,
on one read within `RECENT` before that; and none is refused for what the store could not say: with the store gone an
answer is 503, never 401. What strangers cost is bounded: in memory (`STRANGERS_REMEMBERED`) and in questions to the
store (`strangers.py`).
"""

import asyncio
import hmac
from collections.abc import Callable, Mapping
from typing import TypeVar

from msgspec import Struct

from gateway import clock
from gateway.config.settings import Organization
from gateway.identity import keys
from gateway.identity.directory import Directory, KeyRecord
from gateway.identity.principals import principal
from gateway.identity.strangers import RATE, Strangers
from gateway.store.door import StoreDown
from policies.domain import Plan, Principal, WhenDown
from policies.rejections import Reason, Rejection
from policies.shares import stance

TRUST = 1.0
"""Seconds a record is trusted, from before it was read: a revocation is in force everywhere within a second."""

RECENT = 3600.0
"""Seconds before the store was missed within which a record must have been read to be trusted on: an older one may be
of a key that was revoked long since."""

KEYS_REMEMBERED = 100_000
"""Records kept, about 100 MB; the one read longest ago goes first."""

STRANGER_TRUST = 10.0
"""Seconds an id without a record is remembered: ids are random, so none is asked for before it exists."""

STRANGERS_REMEMBERED = 10_000
"""Ids without a record kept, about 1 MB; the oldest goes first."""

V = TypeVar("V")

Headers = list[tuple[bytes, bytes]]
"""As ASGI gives them: names in lower case."""

NO_KEY = Rejection(
    Reason.NO_KEY, "This request carries no API key. Send one as `Authorization: Bearer sw_...` or as `x-api-key`."
)
MALFORMED = Rejection(
    Reason.BAD_KEY, f"This is not a Sluiceway API key. One looks like this: {keys.SHAPE}. Was it cut or mistyped?"
)
UNKNOWN = Rejection(
    Reason.BAD_KEY, "No such API key. It is well formed, but this gateway's operator never gave it out."
)
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


class _Known(Struct, frozen=True):
    """A key's record, what its holder gets, when that was read and until when it is trusted (monotonic seconds)."""

    record: KeyRecord
    outcome: Principal | Rejection
    read: float
    until: float

    def judge(self, credential: bytes) -> Principal | Rejection:
        return self.outcome if hmac.compare_digest(keys.digest(credential), self.record.digest) else UNKNOWN


class Identities:
    """The callers this gateway knows. `now`: monotonic seconds."""

    def __init__(
        self,
        directory: Directory,
        plans: Mapping[str, Plan],
        organizations: Mapping[str, Organization],
        when_down: WhenDown = "deny",
        now: Callable[[], float] = clock.monotonic,
    ) -> None:
        """`when_down`: the stance of levels without a plan that says otherwise."""
        self._directory = directory
        self._plans = plans
        self._organizations = organizations
        self._when_down = when_down
        self._now = now
        self._known: dict[bytes, _Known] = {}
        self._unknown: dict[bytes, float] = {}
        self._missed: float | None = None  # since when the store does not answer us
        self._strangers = Strangers(directory)
        self._reading: dict[bytes, asyncio.Task[_Known | Rejection]] = {}

    def cached(self, headers: Headers) -> Principal | Rejection | None:
        """Decide without the store; None where the store has to be asked, which `identify` does."""
        credential = _credential(headers)
        return NO_KEY if credential is None else self._recall(credential)

    async def identify(self, headers: Headers) -> Principal | Rejection:
        """Decide, reading the record where memory does not tell; callers who need the same record share a read."""
        credential = _credential(headers)
        if credential is None:
            return NO_KEY
        outcome = self._recall(credential)
        if outcome is not None:
            return outcome
        key_id = _id(credential)
        reading = self._reading.get(key_id)
        if reading is None:
            if key_id not in self._known and self._strangers.full:
                return CROWDED
            reading = self._reading[key_id] = clock.spawn(self._read(key_id), "read an API key's record")
            reading.add_done_callback(lambda _: self._reading.pop(key_id))
        found = await asyncio.shield(reading)
        return found if isinstance(found, Rejection) else found.judge(credential)

    def _recall(self, credential: bytes) -> Principal | Rejection | None:
        key_id = _id(credential)
        known = self._known.get(key_id)
        if known is not None and self._now() < known.until:
            return known.judge(credential)
        if keys.parse(credential.decode("latin-1")) is None:
            return MALFORMED
        return UNKNOWN if self._now() < self._unknown.get(key_id, 0.0) else None

    async def _read(self, key_id: bytes) -> _Known | Rejection:
        name = key_id.decode()
        asked = self._now()
        try:
            # A key that was good a moment ago waits for no turn among the strangers.
            if key_id not in self._known and not await self._strangers.exists(name):
                return self._forget(key_id)
            asked = self._now()
            record = await self._directory.get(name)
        except StoreDown:
            return self._still(key_id, asked)
        self._missed = None
        if record is None:
            return self._forget(key_id)
        last = self._known.get(key_id)
        if last is not None and last.record == record:
            outcome = last.outcome  # the same object, for which the ledger has packed the meters
        else:
            outcome = principal(record, self._plans, self._organizations, self._when_down)
        known = _Known(record, outcome, asked, asked + TRUST)
        _remember(self._known, key_id, known, KEYS_REMEMBERED)
        return known

    def _still(self, key_id: bytes, asked: float) -> _Known | Rejection:
        """Trust an old record a little longer, if its holder's plans are kept while the store is away."""
        missed = self._missed = asked if self._missed is None else self._missed
        known = self._known.get(key_id)
        if known is None or isinstance(known.outcome, Rejection) or known.read < missed - RECENT:
            return STORE_DOWN
        if stance(known.outcome.levels) == "deny":
            return STORE_DOWN
        renewed = self._known[key_id] = _Known(known.record, known.outcome, known.read, asked + TRUST)
        return renewed

    def _forget(self, key_id: bytes) -> Rejection:
        self._known.pop(key_id, None)
        _remember(self._unknown, key_id, self._now() + STRANGER_TRUST, STRANGERS_REMEMBERED)
        return UNKNOWN


def _credential(headers: Headers) -> bytes | None:
    """Return the bearer token, else the first `x-api-key`: a client made for one API may send its own habit along."""
    other = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer" and (token := token.strip()):
                return token
        elif name == b"x-api-key" and other is None:
            other = value.strip() or None
    return other


def _id(credential: bytes) -> bytes:
    """Return where the id stands in a well-formed key."""
    return credential[3 : 3 + keys.ID_LENGTH]


def _remember(memory: dict[bytes, V], key_id: bytes, value: V, bound: int) -> None:
    """Put `key_id` last in `memory`, and let the first one go where it would hold more than `bound`."""
    memory.pop(key_id, None)
    memory[key_id] = value
    if len(memory) > bound:
        del memory[next(iter(memory))]
