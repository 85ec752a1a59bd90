"""The backends and what is known of each deployment right now.

Law: the only mutable state of routing. It is read as frozen snapshots and changed only by attempts that begin and end;
an attempt's load is held exactly from its beginning to its end, whatever ends it.
"""

import math

import httpx
import structlog

from gateway.config.settings import Backend
from gateway.upstream.transport import open_transport
from policies.breaker import Breaker, State
from policies.dialects import DIALECTS, Dialect
from policies.domain import API, Deployment, Model, Snapshot
from policies.failures import Failure, FailureKind
from policies.latency import Latency

log = structlog.get_logger("sluiceway.fleet")


class Live:
    """One deployment's live state: load, learned latency, breaker, and whether an operator's fault keeps it out."""

    def __init__(self, deployment: Deployment, dialect: Dialect) -> None:
        self.deployment = deployment
        self.in_flight = 0
        self.queued_tokens = 0
        self.latency = Latency(dialect.priors)
        self.breaker = Breaker()
        self._off: tuple[float, str] = (-math.inf, "")
        self._lacks: set[API] = set()

    def snapshot(self, now: float) -> Snapshot:
        """Return the frozen view at `now`."""
        fixed, rate, token_time = self.latency.predict(now)
        until, reason = self._off
        return Snapshot(
            deployment=self.deployment,
            in_flight=self.in_flight,
            queued_tokens=self.queued_tokens,
            ttft_fixed=fixed,
            prefill_rate=rate,
            token_time=token_time,
            ejected=not self.breaker.passes(now),
            off=reason if now < until else None,
            lacks=frozenset(self._lacks),
        )

    def expect(self, prompt_tokens: int) -> None:
        """Count a call in that is on its way here: those routed at the same moment must see one another."""
        self.in_flight += 1
        self.queued_tokens += prompt_tokens

    def release(self, prompt_tokens: int) -> None:
        """Take back `expect`."""
        self.in_flight -= 1
        self.queued_tokens -= prompt_tokens

    def answered(self) -> None:
        """Note that an attempt went well."""
        before = self.breaker.state
        self.breaker.succeeded()
        if before is not State.CLOSED:
            log.info("back in service", deployment=self.deployment.id)

    def failed(self, failure: Failure, api: API, now: float) -> None:
        """Note how an attempt failed and draw the consequences that its meaning has."""
        meaning = failure.meaning
        if failure.kind is FailureKind.UNSUPPORTED:
            self._lacks.add(api)
        if meaning.switches_off:
            self._off = (math.inf if failure.status == 410 else now + meaning.switches_off, failure.detail)
            log.error(
                "switched off: mend its credential or its model name",
                deployment=self.deployment.id,
                kind=failure.kind.value,
                detail=failure.detail,
            )
        if not meaning.ejects:
            self.breaker.abandoned()
            return
        before = self.breaker.state
        self.breaker.failed(now)
        if before is not State.OPEN and self.breaker.state is State.OPEN:
            log.warning("ejected", deployment=self.deployment.id, kind=failure.kind.value, detail=failure.detail)


class Home:
    """One backend as it is reached: its settings, dialect and transport."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.dialect = DIALECTS[backend.kind]
        self.transport: httpx.AsyncBaseTransport = open_transport()
        self.headers: list[tuple[str, str]] = [
            ("accept-encoding", "identity"),
            ("content-type", "application/json"),
            ("user-agent", "sluiceway"),
            *self.dialect.headers,
        ]
        if backend.api_key is not None:
            self.headers.append(("authorization", f"Bearer {backend.api_key}"))


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
            live = self._live[deployment.id] = Live(deployment, self.homes[deployment.backend].dialect)
        return live

    def snapshots(self, model: Model, now: float) -> list[Snapshot]:
        """Return the views of a model's deployments at `now`."""
        return [self.live(deployment).snapshot(now) for deployment in model.deployments]

    async def close(self) -> None:
        """Close every connection."""
        for home in self.homes.values():
            await home.transport.aclose()
