"""The backends and what is known of each deployment right now.

Law: what is known of a deployment is `policies.live`; here it is found by its name, told in the log, and put together
with how its backend is reached. A backend at another place is another one, of which nothing is known; one that is
called in another way (its key, its authorities) is the same engine, with the load that is there and all that was
learned of it. Calls that are under way end as they began.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from zlib import crc32

import httpx
import structlog

import policies.live
from gateway import clock
from gateway.config.settings import Backend
from gateway.upstream.transport import PooledTransport, StockTransport, open_transport
from policies.affinity import NONE, Beginning
from policies.apis import APIS
from policies.breaker import Breaker, State
from policies.condition import Condition
from policies.dialects import DIALECTS, Dialect
from policies.domain import API, Deployment, Model, Snapshot
from policies.failures import Failure, FailureKind
from policies.latency import Latency, Pool
from policies.live import FRESH, NOBODY, Elsewhere, Fresh
from policies.probing import Load
from policies.reach import family
from policies.shortlist import ALL, Shortlist

log = structlog.get_logger("sluiceway.fleet")

SECRET = 16
"""Characters of a credential that no text holds by chance; shorter ones (`EMPTY`, `none`) guard nothing."""

TELL_EVERY = 60.0
"""Seconds between two entries in the log of one kind of failure of one deployment; the metrics count them all."""


class Live(policies.live.Live):
    """A deployment's live state whose turns are told in the log."""

    def __init__(self, name: str, dialect: Dialect, condition: Condition | None = None, **more: Any) -> None:  # noqa: ANN401 - as there
        super().__init__(name, dialect, condition, **more)
        self._told_at: dict[FailureKind, float] = {}

    def answered(self, api: API, now: float) -> None:
        """Note that an attempt went well."""
        before = self.breaker.state
        super().answered(api, now)
        if before is not State.CLOSED:
            log.info("back in service", deployment=self.name)

    def failed(self, failure: Failure, api: API, now: float, *, probe: bool, request_id: str = "") -> None:
        """Note how an attempt failed and draw the consequences that its meaning has; `probe`: the breaker's."""
        meaning = failure.meaning
        tells = meaning.elsewhere and now - self._told_at.get(failure.kind, -math.inf) >= TELL_EVERY
        if tells:
            self._told_at[failure.kind] = now
            log.warning(
                "an attempt failed",
                deployment=self.name,
                kind=failure.kind.value,
                detail=failure.detail,
                request_id=request_id,
            )
        if failure.kind is FailureKind.CONNECT:
            self.condition.unreached()
        super().failed(failure, api, now, probe=probe)
        if meaning.switches_off and tells:
            log.error(
                "its model is gone for good: no call is sent there until a restart"
                if failure.status == 410
                else "refused by the upstream: are its URL, its credential and its model name right?",
                deployment=self.name,
                kind=failure.kind.value,
                detail=failure.detail,
            )

    def convicted(self, failure: Failure, now: float, *, probe: bool) -> None:
        """Note that a failure speaks against this deployment."""
        before = self.breaker.state
        super().convicted(failure, now, probe=probe)
        if before is not State.OPEN and self.breaker.state is State.OPEN:
            log.warning("ejected", deployment=self.name, kind=failure.kind.value, detail=failure.detail)


class Home:
    """One backend as it is reached: its settings, dialect, transport and condition. `root`: its URL without `/v1`.

    `more`: what its engine counts of this gateway's calls beyond one a call, by deployment.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.dialect = DIALECTS[backend.kind]
        self.condition = Condition("no replicas" if backend.discovered else None)
        self.more: Counter[str] = Counter()
        # Parsed once: httpx takes 30 us for it, a tenth of a small call.
        self.root = root = backend.base_url.removesuffix("/v1")
        self.urls = {
            api: httpx.URL((root if shape.at_root else backend.base_url) + shape.path) for api, shape in APIS.items()
        }
        self.transport = open_transport(backend)
        self._secrets = _told_by(backend.api_key)
        self.headers = self._asks()

    def take(self, backend: Backend) -> None:
        """Go by other settings of the same place from the next call on; the transport is left as it is.

        A credential that has been replaced is hidden until the next one is: calls made with it may be told it still.
        """
        if backend.api_key != self.backend.api_key:
            self._secrets = _told_by(backend.api_key, self.backend.api_key)
        self.backend = backend
        self.headers = self._asks()

    def _asks(self) -> list[tuple[bytes, bytes]]:
        """Return the headers of every request."""
        headers = [
            (b"host", self.urls["chat"].netloc),
            (b"accept-encoding", b"identity"),
            (b"content-type", b"application/json"),
            (b"user-agent", b"sluiceway"),
            *((name.encode(), value.encode()) for name, value in self.dialect.headers),
        ]
        if self.backend.api_key is not None:
            header, before = self.dialect.auth
            headers.append((header.encode(), before.encode() + self.backend.api_key.encode()))
        return headers

    def discreet(self, said: bytes) -> bytes:
        """Return what the upstream said, as long as it was, with stars for our credential, which some repeat in errors.

        One that is cut in two between parts of a stream is not seen.
        """
        for secret in self._secrets:
            if secret in said:
                said = said.replace(secret, b"*" * len(secret))
        return said


class Fleet:
    """Every backend and every deployment of one gateway. `drained`: names of backends that take no new calls.

    `reached`: each home that a call may be at, by its condition: `homes`, and those that others have taken the name of.
    """

    def __init__(self) -> None:
        self.homes: dict[str, Home] = {}
        self.reached: dict[Condition, Home] = {}
        self._replaced: dict[Home, list[Live]] = {}
        self._outgrown: list[PooledTransport | StockTransport] = []
        self._live: dict[str, Live] = {}
        self._there: dict[Condition, list[Live]] = {}
        self._leaving: dict[str, float] = {}
        self._pools: dict[tuple[str, str], Pool] = {}
        self._shortlists: dict[str, Shortlist] = {}
        self._elsewhere: Mapping[str, Elsewhere] = {}
        self._told: Counter[str] = Counter()
        self.fresh: Fresh = deque(maxlen=FRESH)
        self.freed: Callable[[str | None], None] = _nobody_waits
        self.drained: frozenset[str] = frozenset()

    def add(self, backend: Backend) -> Home:
        """Take in a backend; one that is where it was is kept, with what was learned of it. Raises OSError."""
        before = self.homes.get(backend.name)
        if before is not None and _place(before.backend) == _place(backend):
            self._leaving.pop(backend.name, None)
            self._renew(before, backend)
            return before
        home = Home(backend)
        self._leaving.pop(backend.name, None)
        if before is not None:
            self._replaced[before] = self._forget(before)
        self.homes[backend.name] = self.reached[home.condition] = home
        home.condition.drained = self._is_drained(backend.name)
        home.condition.counted(self._told[backend.name])
        return home

    def _renew(self, home: Home, backend: Backend) -> None:
        """Go on with a home by other settings; what kept calls away from it is tried anew where they may mend that."""
        before = home.backend
        joins = _joins(before) != _joins(backend)
        if joins:
            transport, home.transport = home.transport, open_transport(backend)
            self._outgrown.append(transport)
        home.take(backend)
        for live in self._there.get(home.condition, ()):
            if before.requests_per_minute != backend.requests_per_minute:
                live.allowance.says(_per_minute(home))
            if joins or before.api_key != backend.api_key:
                live.recalled(clock.monotonic())

    def drain(self, names: frozenset[str]) -> None:
        """Send no new call to the backends of these names, nor to a replica of theirs; to all others again."""
        self.drained = names
        for name, home in self.homes.items():
            home.condition.drained = self._is_drained(name)

    def _is_drained(self, name: str) -> bool:
        return name in self.drained or family(name) in self.drained

    def leave(self, name: str, until: float) -> None:
        """Let a backend go: no call is routed to it any more, and by `until` those that were have ended."""
        self._leaving[name] = until

    def leaves(self, name: str) -> bool:
        """Say whether a backend was let go, and is here only for the calls that may still know of it."""
        return name in self._leaving

    @property
    def present(self) -> list[Home]:
        """The backends that can be called, all but those that leave and those that stand for what discovery finds."""
        return [home for name, home in self.homes.items() if name not in self._leaving and not home.backend.discovered]

    async def sweep(self, now: float) -> list[str]:
        """Forget the backends that have left by `now`, and return their names.

        One whose name another has taken is forgotten as soon as no call is there; so are connections of old settings.
        """
        for transport in [one for one in self._outgrown if not one.busy]:
            self._outgrown.remove(transport)
            await transport.aclose()
        for home in [one for one, lives in self._replaced.items() if not any(live.in_flight for live in lives)]:
            del self._replaced[home]
            await self._close(home)
        left = [name for name, until in self._leaving.items() if now >= until]
        for name in left:
            del self._leaving[name]
            home = self.homes.pop(name)
            self._forget(home)
            await self._close(home)
        return left

    async def _close(self, home: Home) -> None:
        self.reached.pop(home.condition, None)
        await home.transport.aclose()

    def back(self, home: Home, now: float) -> None:
        """Let one call for each model of a backend find out at once whether it is back."""
        for live in self._there.get(home.condition, ()):
            live.breaker.due(now)
            live.freeze.back()
            live.latency.forget()
            live.prefilled.forget()

    def _forget(self, home: Home) -> list[Live]:
        """Forget what was learned of a backend's models, and return it."""
        gone = self._there.pop(home.condition, [])
        for live in gone:
            self._live.pop(live.name, None)
        return gone

    def live(self, deployment: Deployment) -> Live:
        """Return the live state of `deployment`, made on first use."""
        live = self._live.get(deployment.id)
        if live is None:
            home = self.homes[deployment.backend]
            live = self._live[deployment.id] = Live(
                deployment.id,
                home.dialect,
                home.condition,
                per_minute=_per_minute(home),
                fresh=self.fresh,
                freed=self._freed,
                pool=self._pool(home, deployment.model),
            )
            live.others = self._elsewhere.get(deployment.id, NOBODY)
            self._there.setdefault(home.condition, []).append(live)
        return live

    def _pool(self, home: Home, model: str) -> Pool:
        """Return what deployments of one kind that serve one model have in common, made on first use."""
        pool = self._pools.get((home.backend.kind, model))
        if pool is None:
            pool = self._pools[home.backend.kind, model] = Pool(home.dialect.priors)
        return pool

    def learners(self, deployments: Iterable[Deployment]) -> dict[tuple[str, ...], Pool | Latency]:
        """Return what learns of each deployment's pool, and then of it at its place, by what all gateways call it."""
        found: dict[tuple[str, ...], Pool | Latency] = {}
        for one in deployments:
            home = self.homes[one.backend]
            kind, url, address = home.backend.kind, home.backend.base_url, home.backend.address or ""
            found[kind, one.model] = self._pool(home, one.model)
            found[one.id, kind, url, address] = self.live(one).latency
        return found

    def _freed(self, name: str) -> None:
        self.freed(name)

    def snapshots(
        self, model: Model, now: float, begins: Beginning = NONE, session: str = "", *, every: bool = False
    ) -> list[Snapshot]:
        """Return the views at `now` of a model's deployments that a call looks at: all, where they are not very many.

        `begins`, `session`: the call's; `every`: all of them, however many.
        """
        deployments: Sequence[Deployment] = model.deployments
        if len(deployments) > ALL and not every:
            shortlist = self._shortlists.get(model.name)
            if shortlist is None or shortlist.deployments is not deployments:
                shortlist = self._shortlists[model.name] = Shortlist(deployments)
            deployments = shortlist.of(_mark(begins, session), clock.dice)
        return [self.live(deployment).snapshot(deployment, now, begins) for deployment in deployments]

    def loads(self) -> dict[str, tuple[int, int]]:
        """Return the load that this gateway's own calls put on each deployment that has any: calls, queued tokens."""
        return {name: (one.in_flight, one.queued_tokens) for name, one in self._live.items() if one.in_flight}

    def more(self) -> dict[str, int]:
        """Return what engines count of this gateway's calls beyond one a call, by deployment that has any such."""
        return {name: more for home in self.homes.values() for name, more in home.more.items() if more}

    def others(self, elsewhere: Mapping[str, Elsewhere]) -> None:
        """Take in the load of all other gateways together, by deployment."""
        self._elsewhere = elsewhere
        for name, live in self._live.items():
            live.others = elsewhere.get(name, NOBODY)
        self._told = Counter()
        for name, load in elsewhere.items():
            at = name.find("/")
            while at >= 0:  # replicas may have paths in their names, and models slashes: only homes are asked for
                self._told[name[:at]] += load.in_flight + load.more
                at = name.find("/", at + 1)
        for name, home in self.homes.items():
            home.condition.counted(self._told[name])
        self.freed(None)

    def heard(self, deployment: str, marks: tuple[int, ...], now: float) -> None:
        """Take in a beginning that another gateway's call had prefilled."""
        live = self._live.get(deployment)
        if live is not None:
            live.prefilled.note(Beginning(marks), now)

    def breakers(self) -> dict[str, Breaker]:
        """Return the breaker of each deployment."""
        return {name: live.breaker for name, live in self._live.items()}

    def measured(self, home: Home, load: Load, before: int) -> None:
        """Take in what a backend's engine says of its load; `before`: what `calls` was when it was asked."""
        home.condition.measured(load, max(before, self.calls(home)))

    def calls(self, home: Home) -> int:
        """Return the calls of all gateways at a backend, as its engine counts them."""
        return self.under_way(home) + home.more.total() + home.condition.elsewhere

    def under_way(self, home: Home) -> int:
        """Return the calls of this gateway at a backend."""
        return sum(live.in_flight for live in self._there.get(home.condition, ()))

    async def close(self) -> None:
        """Close every connection."""
        homes = [*self.homes.values(), *self._replaced]
        for transport in [*(home.transport for home in homes), *self._outgrown]:
            await transport.aclose()


def _place(backend: Backend) -> tuple[object, ...]:
    """Return what says where a backend is, and what is there."""
    return backend.kind, backend.base_url, backend.address, backend.discover, backend.list_file


def _joins(backend: Backend) -> tuple[object, ...]:
    """Return what says how a backend is connected to."""
    return backend.transport, backend.ca, backend.ca_digest, backend.max_connections


def _per_minute(home: Home) -> int | None:
    """Return the calls a minute that each model of a backend is said to take, None where nobody says."""
    return home.backend.requests_per_minute or home.dialect.per_minute


def _told_by(*keys: str | None) -> tuple[bytes, ...]:
    """Return those of some credentials that can be looked for in a text, the longest first: one may hold another."""
    found = [key.encode() for key in keys if key is not None and len(key.encode()) >= SECRET]
    return tuple(sorted(found, key=len, reverse=True))


def _mark(begins: Beginning, session: str) -> int | None:
    """Return what a call has in common with those that had better go where it goes."""
    if session:
        return crc32(session.encode())
    return begins.marks[0] if begins.marks else None


def _nobody_waits(_: str | None) -> None:
    """Offer room to nobody."""
