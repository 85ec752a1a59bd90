"""One call, from its first header to its settlement.

Law: think for free, then pay, then do. One coroutine owns the exchange, and is cancelled the moment its caller leaves.
Whatever ends it, `_finish` runs once and waits for nothing: the reservation is settled, the load given back, the span
ended. Nothing that outlives the call refers to it, so that it is freed at once and the collector finds no rings.
"""

import asyncio
import contextlib
import re
from typing import Any

import structlog
from msgspec.structs import replace

from gateway import clock
from gateway.attempts import Attempts
from gateway.cycle import PRESENCE, Presence
from gateway.errors import STOPPING, new_request_id
from gateway.intake import CallerLeft, Receive
from gateway.reply import LAST_WORDS, Reply, Send
from gateway.services import Services
from gateway.store.door import StoreDown
from gateway.telemetry import Attributes, finish, usage_attributes
from gateway.upstream.fleet import Ticket
from policies.domain import API, Claim, Estimate, InferenceRequest, Principal, Reservation, Route, Usage
from policies.limits import openai_headers
from policies.rejections import Reason, Rejection
from policies.request import read
from policies.routing import route

log = structlog.get_logger("sluiceway.exchange")

Scope = Any

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_NOTHING = Usage(0, 0, estimated=False)
_STORE_DOWN = Rejection(
    Reason.STORE_DOWN, "Limits cannot be checked right now, so nothing is served; try again.", retry_after_us=1_000_000
)
_BUG = Rejection(Reason.INTERNAL, "The gateway failed on this call; its log has the reason under this request id.")


class Exchange:
    """One call, as the ASGI app that a route hands over to."""

    def __init__(self, services: Services, api: API) -> None:
        self._services = services
        self._api = api
        self._left = False
        self._held = 0
        self._principal: Principal | None = None
        self._request: InferenceRequest | None = None
        self._estimate = Estimate(0, 0, 0, 0)
        self._reservation: Reservation | None = None
        self._attempts: Attempts | None = None
        self._rejection: Rejection | None = None
        self._ticket: Ticket | None = None
        self._finished = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the call."""
        services = self._services
        self._begun_at = clock.monotonic()
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._reply = Reply(send, _request_id(self._headers), services.config)
        self._span = services.telemetry.server_span(scope["path"], self._headers, scope["client"][0])
        self._presence: Presence = scope["extensions"][PRESENCE]
        call = asyncio.current_task()
        if call is None:
            raise RuntimeError("a call is served in a task")
        self._call = call
        full = services.intake.enter()
        try:
            self._rejection = full or await self._serve(receive)
            if self._rejection is not None:
                await self._reply.reject(self._rejection)
        except CallerLeft:
            self._left = True
        except asyncio.CancelledError:  # by `_leave`, or by the listener at the end of the grace
            call.uncancel()
            if not self._left:
                await self._stopping()
        except Exception:
            log.exception("bug", request_id=self._reply.request_id)
            self._rejection = _BUG
            await self._reply.reject(_BUG)
        finally:
            if full is None:
                services.intake.leave(self._held)
            self._finish()

    async def _serve(self, receive: Receive) -> Rejection | None:
        """Take the call through its line; a Rejection where it ends with a no that is ours."""
        services = self._services
        who = services.identities.cached(self._headers) or await services.identities.identify(self._headers)
        if isinstance(who, Rejection):
            return who
        self._principal = who
        body = await services.intake.body(self._headers, receive, self._presence.body)
        if isinstance(body, Rejection):
            return body
        self._held = len(body)
        self._presence.then = self._leave
        if self._presence.gone:
            raise CallerLeft
        planned = self._plan(who, body)
        if isinstance(planned, Rejection):
            return planned
        admitted = await self._admit(who, planned)
        if isinstance(admitted, Rejection):
            return admitted
        self._reservation = admitted
        self._reply.standing = openai_headers(admitted.requests, admitted.tokens)
        services.metrics.overhead.observe(clock.monotonic() - self._begun_at)
        self._attempts = Attempts(
            services, self._known_request(), self._estimate, self._reply, key=who.key, call=self._span
        )
        services.ledger.follow(admitted, lambda: self._usage().total)
        ticket, self._ticket = self._ticket, None
        if ticket is None:
            raise RuntimeError("a call is attempted after it was routed")
        return await self._attempts.run(planned, ticket, self._begun_at)

    def _plan(self, who: Principal, body: bytes) -> Route | Rejection:
        """Think: read the body's facts, find the model, rank its deployments."""
        services = self._services
        request = read(self._api, body)
        if isinstance(request, Rejection):
            return request
        model = services.catalog.find(request.model)
        if model is None:
            return services.catalog.missing(request.model)
        if model.name != request.model:
            request = replace(request, model=model.name)
        self._request = request
        self._estimate = services.estimates.of(who.key, request)
        chain = services.catalog.chain(model)
        now = clock.monotonic()
        snapshots = {link.name: services.fleet.snapshots(link, now) for link in chain}
        planned = route(request, chain, snapshots, self._estimate, clock.dice)
        if isinstance(planned, Route):
            live = services.fleet.live(planned.order[0].deployment)
            self._ticket = Ticket(live, self._estimate.prompt_tokens, now)
        return planned

    async def _admit(self, who: Principal, planned: Route) -> Reservation | Rejection:
        """Pay: set aside at every level what the call will probably use."""
        estimate = self._estimate
        tokens = estimate.prompt_tokens + estimate.reserved_output
        claim = Claim(who.organization, who.key, planned.model.name, who.levels, tokens, estimate.prompt_tokens)
        try:
            return await self._services.ledger.admit(claim)
        except StoreDown as error:
            self._span.record_exception(error)
            return _STORE_DOWN

    async def _stopping(self) -> None:
        """Tell a caller whose call outlived the gateway's grace; one who is not reading is not waited for."""
        self._reply.broke = "stopping"
        self._finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await self._reply.reject(STOPPING)

    def _leave(self) -> None:
        """End the call because its caller has left, which `send` would not say."""
        self._left = True
        self._call.cancel()

    def _known_request(self) -> InferenceRequest:
        if self._request is None:
            raise RuntimeError("a request is asked for after its body was read")
        return self._request

    def _usage(self) -> Usage:
        """Return what the caller pays for: as told, else as counted, nothing where no deployment served."""
        relay = None if self._attempts is None else self._attempts.relay
        if relay is None or not relay.attempt.written:
            return _NOTHING
        told = relay.usage
        if told is not None and relay.finished:
            return told
        estimates, request = self._services.estimates, self._known_request()
        key = "" if self._principal is None else self._principal.key
        completion = estimates.counted_output(key, request, relay.events, relay.answer_bytes)
        if not request.stream and not relay.finished and request.api != "embeddings":
            attempt, now = relay.attempt, clock.monotonic()
            elapsed, most = now - attempt.sent_at, self._estimate.longest_output
            completion = attempt.ticket.live.latency.unseen_tokens(now, elapsed, request.choices, most)
        if told is None:
            return Usage(self._estimate.prompt_tokens, completion, estimated=True)
        return Usage(told.prompt_tokens, max(told.completion_tokens, completion), estimated=True)

    def _finish(self) -> None:
        """Settle, observe, record; nothing here waits, and the second time nothing happens."""
        self._presence.then = None
        if self._finished:
            return
        self._finished = True
        if self._ticket is not None:
            self._ticket.close()
            self._ticket.live.breaker.abandoned(probe=self._ticket.probe)
        usage = self._usage()
        if self._reservation is not None:
            self._services.ledger.settle(self._reservation, usage)
        status = 499 if self._left else self._reply.status or STOPPING.shape.status
        model = self._request.model if self._request is not None else "none"
        metrics = self._services.metrics
        metrics.requests(self._api, model, str(status)).inc()
        source = "estimated" if usage.estimated else "told"
        metrics.tokens(model, "prompt", source).inc(usage.prompt_tokens)
        metrics.tokens(model, "completion", source).inc(usage.completion_tokens)
        broke = "caller_left" if self._left else self._reply.broke
        if broke is not None and self._reply.status:
            metrics.cut(broke).inc()
        no = self._rejection
        if no is not None:
            metrics.rejections(no.reason.value, (no.level or "").partition(" ")[0], no.meter or "").inc()
        error = no.reason.value if no is not None else broke
        if self._span.is_recording():
            finish(self._span, self._attributes(usage), status=status, error=error)

    def _attributes(self, usage: Usage) -> Attributes:
        attributes: Attributes = {
            **usage_attributes(usage),
            "sluiceway.attempts": self._reply.attempts,
            "sluiceway.backend": self._reply.backend,
            "sluiceway.request_id": self._reply.request_id,
        }
        if self._principal is not None:
            attributes["sluiceway.organization"] = self._principal.organization
            attributes["sluiceway.team"] = self._principal.team
            attributes["sluiceway.key"] = self._principal.key
        if self._request is not None:
            attributes["gen_ai.request.model"] = self._request.model
            attributes["sluiceway.stream"] = self._request.stream
        if self._rejection is not None and self._rejection.meter is not None:
            attributes["sluiceway.level"] = self._rejection.level or ""
            attributes["sluiceway.meter"] = self._rejection.meter
        return attributes


def _request_id(headers: list[tuple[bytes, bytes]]) -> str:
    """Return the caller's request id where it is a plain one, else a new one."""
    told = next((value for name, value in headers if name == b"x-request-id"), b"")
    return told.decode() if _REQUEST_ID.fullmatch(told) else new_request_id()
