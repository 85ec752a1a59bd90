"""The backends and what is known of each deployment right now.

Law: the only mutable state of routing. It is read as frozen snapshots and changed only by attempts that begin and end;
an attempt's load is held exactly from its beginning to its end, whatever ends it.
"""

import math

import httpx
import structlog

from gateway import clock
from gateway.config.settings import Backend
from gateway.upstream.condition import Condition
from gateway.upstream.transport import open_transport
from policies.affinity import NONE, Beginning, Prefilled
from policies.apis import APIS
from policies.breaker import Breaker, State
from policies.dialects import DIALECTS, Dialect
from policies.domain import API, Deployment, Model, Snapshot
from policies.failures import Failure, FailureKind
from policies.freezes import Freeze
from policies.latency import Latency
from policies.reach import family

log = structlog.get_logger("sluiceway.fleet")

LACKS_SECONDS = 60.0
"""How long an API that a deployment said it does not have is believed missing: engines restart with other flags. Where
it has served within as many seconds, it is the call that it does not serve."""

SECRET = 16
"""Characters of a credential that no text holds by chance; shorter ones (`EMPTY`, `none`) guard nothing."""

TELL_EVERY = 60.0
"""Seconds between two entries in the log of one kind of failure of one deployment; the metrics count them all."""


_ON: tuple[float, str] = (-math.inf, "")
_NOTHING: frozenset[API] = frozenset()


class Live:
    """One upstream model's live state: load, learned latency, breaker, and whether an operator's fault keeps it out.

    `condition`: its backend's. `freeze`: until when it has asked to be left alone.
    """

    def __init__(self, name: str, dialect: Dialect, condition: Condition | None = None) -> None:
        self.name = name
        self.condition = condition or Condition()
        self.in_flight = 0
        self.queued_tokens = 0
        self.latency = Latency(dialect.priors)
        self.breaker = Breaker()
        self.freeze = Freeze(dialect.freeze)
        self.prefilled = Prefilled()
        self._off = _ON
        self._lacks: dict[API, float] = {}
        self._served_at: dict[API, float] = {}
        self._told_at: dict[FailureKind, float] = {}

    def snapshot(self, deployment: Deployment, now: float, begins: Beginning = NONE) -> Snapshot:
        """Return the frozen view at `now` of `deployment`, which is served here, for a prompt that begins so."""
        fixed, rate, token_time = self.latency.predict(now)
        until, reason = self._off
        return Snapshot(
            deployment=deployment,
            in_flight=self.in_flight,
            queued_tokens=self.queued_tokens,
            ttft_fixed=fixed,
            prefill_rate=rate,
            token_time=token_time,
            ejected=not self.breaker.passes(now),
            off=reason if now < until else None,
            retired=until == math.inf,
            lacks=frozenset(api for api, until in self._lacks.items() if now < until) if self._lacks else _NOTHING,
            frozen_for=self.freeze.left(now),
            ttft_spread=self.latency.spread(now),
            down=self.condition.against(deployment.model),
            absent=self.condition.absent,
            drained=self.condition.drained,
            cached=self.prefilled.known(begins, now) if begins.marks else 0.0,
        )

    def answered(self, api: API) -> None:
        """Note that an attempt went well."""
        self.freeze.answered()
        if self._off[0] != math.inf:
            self._off = _ON
        self._lacks.pop(api, None)
        self._served_at[api] = clock.monotonic()
        before = self.breaker.state
        self.breaker.succeeded()
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
        self.freeze.failed(failure, now)
        if failure.kind is FailureKind.UNSUPPORTED and now - self._served_at.get(api, -math.inf) >= LACKS_SECONDS:
            self._lacks[api] = now + LACKS_SECONDS
        if meaning.switches_off:
            self._switch_off(failure, now, tells=tells)
        if not failure.ejects:
            self.breaker.abandoned(probe=probe)
        elif not meaning.on_proof:
            self.convicted(failure, now, probe=probe)

    def _switch_off(self, failure: Failure, now: float, *, tells: bool) -> None:
        """Keep the deployment out, for good where its model is gone."""
        gone = failure.status == 410
        self._off = max(self._off, (math.inf if gone else now + failure.meaning.switches_off, failure.detail))
        if tells:
            log.error(
                "its model is gone for good: no call is sent there until a restart"
                if gone
                else "refused by the upstream: are its URL, its credential and its model name right?",
                deployment=self.name,
                kind=failure.kind.value,
                detail=failure.detail,
            )

    def convicted(self, failure: Failure, now: float, *, probe: bool) -> None:
        """Note that a failure speaks against this deployment."""
        before = self.breaker.state
        self.breaker.failed(now, probe=probe)
        if before is not State.OPEN and self.breaker.state is State.OPEN:
            log.warning("ejected", deployment=self.name, kind=failure.kind.value, detail=failure.detail)


class Ticket:
    """The load that one call puts on a deployment, from the moment it is routed there until it is over.

    Calls routed at the same moment see one another by it. `ahead`: prompt tokens queued there, ours included. `probe`:
    this call is the one that a half-open breaker let through.
    """

    __slots__ = ("_begins", "_closed", "_prompt_tokens", "_queued", "ahead", "live", "probe")

    def __init__(self, live: Live, prompt_tokens: int, now: float, begins: Beginning = NONE) -> None:
        """`prompt_tokens`: those to prefill; `begins`: the prompt, for whoever comes with the same beginning."""
        self.live = live
        self._begins = begins
        self.ahead = live.queued_tokens + prompt_tokens
        self.probe = live.breaker.sent(now)
        self._prompt_tokens = prompt_tokens
        self._queued = True
        self._closed = False
        live.in_flight += 1
        live.queued_tokens += prompt_tokens

    def prefilled(self, now: float) -> None:
        """Note that there is an answer: the prompt has been prefilled, and is in the cache."""
        self.leave_queue()
        if self._begins.marks:
            self.live.prefilled.note(self._begins, now)

    def leave_queue(self) -> None:
        """Note that the prompt has probably been prefilled."""
        if self._queued:
            self._queued = False
            self.live.queued_tokens -= self._prompt_tokens

    def close(self) -> None:
        """Give the load back; the second time nothing happens."""
        self.leave_queue()
        if not self._closed:
            self._closed = True
            self.live.in_flight -= 1


class Home:
    """One backend as it is reached: its settings, dialect, transport and condition. `root`: its URL without `/v1`."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.dialect = DIALECTS[backend.kind]
        self.condition = Condition("no replicas" if backend.discovered else None)
        # Parsed once: httpx takes 30 us for it, a tenth of a small call.
        self.root = root = backend.base_url.removesuffix("/v1")
        self.urls = {
            api: httpx.URL((root if shape.at_root else backend.base_url) + shape.path) for api, shape in APIS.items()
        }
        self.transport = open_transport(backend)
        self.headers: list[tuple[bytes, bytes]] = [
            (b"host", self.urls["chat"].netloc),
            (b"accept-encoding", b"identity"),
            (b"content-type", b"application/json"),
            (b"user-agent", b"sluiceway"),
            *((name.encode(), value.encode()) for name, value in self.dialect.headers),
        ]
        self._secret: bytes | None = None
        if backend.api_key is not None:
            header, before = self.dialect.auth
            secret = backend.api_key.encode()
            self.headers.append((header.encode(), before.encode() + secret))
            self._secret = secret if len(secret) >= SECRET else None

    def discreet(self, said: bytes) -> bytes:
        """Return what the upstream said, as long as it was, with stars for our credential, which some repeat in errors.

        One that is cut in two between parts of a stream is not seen.
        """
        secret = self._secret
        return said if secret is None or secret not in said else said.replace(secret, b"*" * len(secret))


class Fleet:
    """Every backend and every deployment of one gateway. `drained`: names of backends that take no new calls."""

    def __init__(self) -> None:
        self.homes: dict[str, Home] = {}
        self._live: dict[str, Live] = {}
        self._leaving: dict[str, float] = {}
        self.drained: frozenset[str] = frozenset()

    def add(self, backend: Backend) -> Home:
        """Take in a backend; the very same one is kept as it is, with what was learned of it."""
        self._leaving.pop(backend.name, None)
        home = self.homes.get(backend.name)
        if home is None or home.backend != backend:
            self._forget(home)
            home = self.homes[backend.name] = Home(backend)
            home.condition.drained = self._is_drained(backend.name)
        return home

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

    @property
    def present(self) -> list[Home]:
        """The backends that can be called, all but those that leave and those that stand for what discovery finds."""
        return [
            home for name, home in self.homes.items() if name not in self._leaving and home.condition.absent is None
        ]

    async def sweep(self, now: float) -> list[str]:
        """Forget the backends that have left by `now`, and return their names."""
        left = [name for name, until in self._leaving.items() if now >= until]
        for name in left:
            del self._leaving[name]
            home = self.homes.pop(name)
            self._forget(home)
            await home.transport.aclose()
        return left

    def back(self, home: Home, now: float) -> None:
        """Let one call for each model of a backend find out at once whether it is back."""
        for live in self._live.values():
            if live.condition is home.condition:
                live.breaker.due(now)
                live.freeze.back()
                live.latency.forget()
                live.prefilled.forget()

    def _forget(self, home: Home | None) -> None:
        """Forget what was learned of a backend's models."""
        if home is not None:
            self._live = {name: live for name, live in self._live.items() if live.condition is not home.condition}

    def live(self, deployment: Deployment) -> Live:
        """Return the live state of `deployment`, made on first use."""
        live = self._live.get(deployment.id)
        if live is None:
            home = self.homes[deployment.backend]
            live = self._live[deployment.id] = Live(deployment.id, home.dialect, home.condition)
        return live

    def snapshots(self, model: Model, now: float, begins: Beginning = NONE) -> list[Snapshot]:
        """Return the views of a model's deployments at `now`, for a prompt that begins so."""
        return [self.live(deployment).snapshot(deployment, now, begins) for deployment in model.deployments]

    async def close(self) -> None:
        """Close every connection."""
        for home in self.homes.values():
            await home.transport.aclose()
