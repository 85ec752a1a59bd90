"""The backends and what is known of each deployment right now.

Law: the only mutable state of routing. It is read as frozen snapshots and changed only by attempts that begin and end;
an attempt's load is held exactly from its beginning to its end, whatever ends it.
"""

import math

import httpx
import structlog

from gateway.config.settings import Backend
from gateway.upstream.transport import open_transport
from policies.apis import APIS
from policies.breaker import Breaker, State
from policies.dialects import DIALECTS, Dialect
from policies.domain import API, Deployment, Model, Snapshot
from policies.failures import Failure, FailureKind
from policies.latency import Latency

log = structlog.get_logger("sluiceway.fleet")

LACKS_SECONDS = 60.0
"""How long an API that a deployment said it does not have is believed missing: engines restart with other flags."""

TELL_EVERY = 60.0
"""Seconds between two entries in the log of one kind of failure of one deployment; the metrics count them all."""


class Live:
    """One upstream model's live state: load, learned latency, breaker, and whether an operator's fault keeps it out."""

    def __init__(self, name: str, dialect: Dialect) -> None:
        self.name = name
        self.in_flight = 0
        self.queued_tokens = 0
        self.latency = Latency(dialect.priors)
        self.breaker = Breaker()
        self._off: tuple[float, str] = (-math.inf, "")
        self._lacks: dict[API, float] = {}
        self._told_at: dict[FailureKind, float] = {}

    def snapshot(self, deployment: Deployment, now: float) -> Snapshot:
        """Return the frozen view at `now` of `deployment`, which is served here."""
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
            lacks=frozenset(api for api, until in self._lacks.items() if now < until),
        )

    def answered(self, api: API) -> None:
        """Note that an attempt went well."""
        self._lacks.pop(api, None)
        before = self.breaker.state
        self.breaker.succeeded()
        if before is not State.CLOSED:
            log.info("back in service", deployment=self.name)

    def failed(self, failure: Failure, api: API, now: float, *, probe: bool, request_id: str = "") -> None:
        """Note how an attempt failed and draw the consequences that its meaning has; `probe`: the breaker's."""
        meaning = failure.meaning
        if meaning.elsewhere and now - self._told_at.get(failure.kind, -math.inf) >= TELL_EVERY:
            self._told_at[failure.kind] = now
            log.warning(
                "an attempt failed",
                deployment=self.name,
                kind=failure.kind.value,
                detail=failure.detail,
                request_id=request_id,
            )
        if failure.kind is FailureKind.UNSUPPORTED:
            self._lacks[api] = now + LACKS_SECONDS
        if meaning.switches_off:
            self._off = (math.inf if failure.status == 410 else now + meaning.switches_off, failure.detail)
        if meaning.switches_off or failure.kind is FailureKind.FORBIDDEN:
            log.error(
                "refused by the upstream: are its credential and its model name right?",
                deployment=self.name,
                kind=failure.kind.value,
                detail=failure.detail,
            )
        if not meaning.ejects:
            self.breaker.abandoned(probe=probe)
            return
        before = self.breaker.state
        self.breaker.failed(now, probe=probe)
        if before is not State.OPEN and self.breaker.state is State.OPEN:
            log.warning("ejected", deployment=self.name, kind=failure.kind.value, detail=failure.detail)


class Ticket:
    """The load that one call puts on a deployment, from the moment it is routed there until it is over.

    Calls routed at the same moment see one another by it. `ahead`: prompt tokens queued there, ours included. `probe`:
    this call is the one that a half-open breaker let through.
    """

    __slots__ = ("_closed", "_prompt_tokens", "_queued", "ahead", "live", "probe")

    def __init__(self, live: Live, prompt_tokens: int, now: float) -> None:
        self.live = live
        self.ahead = live.queued_tokens + prompt_tokens
        self.probe = live.breaker.sent(now)
        self._prompt_tokens = prompt_tokens
        self._queued = True
        self._closed = False
        live.in_flight += 1
        live.queued_tokens += prompt_tokens

    def leave_queue(self) -> None:
        """Note that the prompt has been prefilled."""
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
    """One backend as it is reached: its settings, dialect and transport."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.dialect = DIALECTS[backend.kind]
        # Parsed once: httpx takes 30 us for it, a tenth of a small call.
        root = backend.base_url.removesuffix("/v1")
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
        if backend.api_key is not None:
            self.headers.append((b"authorization", b"Bearer " + backend.api_key.encode()))


class Fleet:
    """Every backend and every deployment of one gateway."""

    def __init__(self) -> None:
        self.homes: dict[str, Home] = {}
        self._live: dict[str, Live] = {}

    def add(self, backend: Backend) -> Home:
        """Take in a backend; one of the same name is kept as it is."""
        home = self.homes.get(backend.name)
        if home is None:
            home = self.homes[backend.name] = Home(backend)
        return home

    def live(self, deployment: Deployment) -> Live:
        """Return the live state of `deployment`, made on first use."""
        live = self._live.get(deployment.id)
        if live is None:
            live = self._live[deployment.id] = Live(deployment.id, self.homes[deployment.backend].dialect)
        return live

    def snapshots(self, model: Model, now: float) -> list[Snapshot]:
        """Return the views of a model's deployments at `now`."""
        return [self.live(deployment).snapshot(deployment, now) for deployment in model.deployments]

    async def close(self) -> None:
        """Close every connection."""
        for home in self.homes.values():
            await home.transport.aclose()
