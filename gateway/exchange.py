"""One call, from its first header to its settlement.

Law: think for free, then pay, then do. One coroutine owns the exchange, and is cancelled the moment its caller leaves.
Whatever ends it, `_finish` runs once and waits for nothing: the reservation is settled, the load given back, the span
ended. Nothing that outlives the call refers to it, so that it is freed at once and the collector finds no rings.
"""

import asyncio
import contextlib
import math
import re
from typing import Any

import structlog
from msgspec.structs import replace

from gateway import clock
from gateway.attempts import CALLER_LEFT, NOTHING, Attempts
from gateway.cycle import PRESENCE, Presence
from gateway.errors import STOPPING, Headers, new_request_id
from gateway.intake import CallerLeft, Receive
from gateway.reply import LAST_WORDS, Reply, Send
from gateway.services import Services
from gateway.store.door import StoreDown
from gateway.telemetry import Attributes, finish, usage_attributes
from gateway.upstream.fleet import Ticket
from policies.affinity import NONE, beginning
from policies.apis import APIS
from policies.candidates import BUDGET
from policies.claims import claim, lacks_money
from policies.deadlines import HEADER, asked_total
from policies.domain import (
    API,
    Bill,
    Deadlines,
    Estimate,
    InferenceRequest,
    Model,
    Principal,
    Reach,
    Reservation,
    Route,
)
from policies.explaining import explained
from policies.limits import NANO, limit_headers
from policies.reach import may_use
from policies.rejections import Reason, Rejection
from policies.request import read
from policies.routing import route

log = structlog.get_logger("sluiceway.exchange")

Scope = Any

_STOPPED = "stopping"
_TIMEOUT = HEADER.encode()
_NOTHING = Bill(NOTHING, outcome="rejected")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PLAIN = re.compile(rb"[A-Za-z0-9._, -]{1,512}")
"""What of a caller's headers goes upstream at all."""
_STORE_DOWN = Rejection(
    Reason.STORE_DOWN, "Limits cannot be checked right now, so nothing is served; try again.", retry_after_us=1_000_000
)
_NO_INFERENCE = Rejection(
    Reason.NOT_ALLOWED, "This credential lacks the scope `inference`, so it may not call models. Use another one."
)
_BUG = Rejection(Reason.INTERNAL, "The gateway failed on this call; its log has the reason under this request id.")


_SESSIONS = (b"x-affinity", b"x-session-id")
"""The headers by which callers name what their calls have in common; the first is Mistral Vibe's."""

_EXPLAIN = b"x-sluiceway-explain"
"""The header by which a caller asks why its call goes where it goes."""

_CACHE_KEY = "prompt_cache_key"
"""OpenAI's member of the same meaning, as it stands in the body."""

MOST_SESSION = 128
"""Bytes of a session's name that count."""


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
        self._deadlines = Deadlines()
        self._begins = NONE
        self._reservation: Reservation | None = None
        self._attempts: Attempts | None = None
        self._route: Route | None = None
        self._rejection: Rejection | None = None
        self._spent: Rejection | None = None
        self._ticket: Ticket | None = None
        self._finished = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the call."""
        services = self._services
        self._begun_at = clock.monotonic()
        self._headers: Headers = scope["headers"]
        self._told = dict(reversed(self._headers))  # of two of one name the first
        self._reply = Reply(send, _request_id(self._told), services.config, self._api)
        self._address: str = scope["client"][0]
        self._span = services.telemetry.server_span(scope["path"], self._headers, self._address)
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
        who = await self._identify()
        if isinstance(who, Rejection):
            return who
        body = await services.intake.body(self._headers, receive, self._presence.body)
        if isinstance(body, Rejection):
            return body
        self._held = len(body)
        self._presence.then = self._leave
        if self._presence.gone:
            raise CallerLeft
        if self._presence.body is None:  # it may have come so slowly that the caller is no longer who he was
            who = await self._identify()
            if isinstance(who, Rejection):
                return who
        planned = self._plan(who, body)
        if isinstance(planned, Rejection):
            return planned
        admitted = await self._admit(who, planned)
        if isinstance(admitted, Rejection):
            return admitted
        self._reservation = admitted
        services.metrics.overhead.observe(clock.monotonic() - self._begun_at)
        return await self._attempt(admitted)

    async def _identify(self) -> Principal | Rejection:
        """Say who calls, if he may call models at all."""
        identities = self._services.identities
        who = identities.cached(self._headers, self._address) or await identities.identify(self._headers, self._address)
        if isinstance(who, Rejection):
            return who
        self._principal = who
        return who if "inference" in who.scopes else _NO_INFERENCE

    def _plan(self, who: Principal, body: bytes) -> Route | Rejection:
        """Think: read the body's facts, find the model, rank its deployments."""
        services = self._services
        request = read(self._api, body)
        if isinstance(request, Rejection):
            return request
        model = services.catalog.find(request.model)
        if model is None:
            return services.catalog.missing(request.model)
        if not may_use(who.reach, model):
            return services.catalog.barred(request.model, who.reach)
        total = asked_total(self._told.get(_TIMEOUT), model.deadlines.total)
        if isinstance(total, Rejection):
            return total
        left = self._token_left(who)
        if min(total, left) < model.deadlines.total:
            self._deadlines = replace(model.deadlines, total=min(total, left), of_token=left < total)
        else:
            self._deadlines = model.deadlines
        if model.name != request.model:
            request = replace(request, model=model.name)
        session = self._told.get(_SESSIONS[0]) or self._told.get(_SESSIONS[1]) or request.members.get(_CACHE_KEY)
        if session:
            request = replace(request, session=f"{who.key}/{bytes(session)[:MOST_SESSION].decode('latin-1')}")
        self._request = request
        self._estimate = services.estimates.of(who.key, request)
        if len(model.deployments) > 1:
            self._begins = beginning(request, who.organization)
        return self._rank(request, model, who.reach)

    def _token_left(self, who: Principal) -> float:
        """Return after how many seconds of this call its token ends it, if its issuer has that so."""
        if not who.cut or who.expires is None:
            return math.inf
        return clock.monotonic() - self._begun_at + max(who.expires - clock.wall(), 0.0)

    def _rank(self, request: InferenceRequest, model: Model, reach: Reach, *, broke: bool = False) -> Route | Rejection:
        """Rank the deployments of `model` that are within `reach`, and take a place at the first.

        `broke`: only those that cost nothing.
        """
        services = self._services
        chain = [link for link in services.catalog.chain(model) if may_use(reach, link)]
        now = clock.monotonic()
        snapshots = {link.name: services.fleet.snapshots(link, now, self._begins) for link in chain}
        planned = route(request, chain, snapshots, self._estimate, clock.dice, broke=broke, reach=reach)
        if isinstance(planned, Route):
            self._route = planned
            if self._told.get(_EXPLAIN) == b"1":
                self._reply.explained = explained(planned)
            first = planned.order[0]
            self._ticket = Ticket(services.fleet.live(first.deployment), first.prefill, now, self._begins)
        return planned

    async def _admit(self, who: Principal, planned: Route) -> Reservation | Rejection:
        """Pay: set aside at every level what the call will probably use.

        Where money has run out, the call may still go where it costs nothing.
        """
        ledger = self._services.ledger
        try:
            admitted = await ledger.admit(claim(who, planned, self._estimate))
            if isinstance(admitted, Reservation) or not lacks_money(admitted):
                return admitted
            self._spent = admitted
            self._leave_place()
            again = self._rank(self._known_request(), planned.model, who.reach, broke=True)
            if isinstance(again, Rejection):
                return admitted
            self._reply.dropped = tuple(
                f"{out.deployment.backend} ({BUDGET})" for out in again.dropped if out.dropped == BUDGET
            )
            return await ledger.admit(claim(who, again, self._estimate))
        except StoreDown as error:
            self._span.record_exception(error)
            return _STORE_DOWN

    async def _attempt(self, admitted: Reservation) -> Rejection | None:
        """Do: answer from the route's deployments."""
        services, planned = self._services, self._route
        ticket, self._ticket = self._ticket, None
        if ticket is None or planned is None:
            raise RuntimeError("a call is attempted after it was routed")
        self._reply.standing = limit_headers(admitted.requests, admitted.tokens, admitted.tightest)
        for level, meter in admitted.shadows:
            services.metrics.shadow_refusals(level, meter.value).inc()
        self._attempts = Attempts(
            services,
            self._known_request(),
            self._estimate,
            self._reply,
            admitted,
            call=self._span,
            deadlines=self._deadlines,
            begins=self._begins,
            forwards=_forwarded(self._api, self._headers),
        )
        services.ledger.follow(admitted, self._attempts.bill)
        return await self._attempts.run(planned, ticket, self._begun_at)

    async def _stopping(self) -> None:
        """Tell a caller whose call outlived the gateway's grace; one who is not reading is not waited for."""
        self._reply.broke = _STOPPED
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

    def _leave_place(self) -> None:
        """Give back the load of a call that is not attempted."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.close()
            ticket.live.breaker.abandoned(probe=ticket.probe)

    def _bill(self) -> Bill:
        """Return what the caller pays for, nothing where no deployment served."""
        if self._attempts is None:
            return _NOTHING
        if self._left:
            return self._attempts.bill(CALLER_LEFT)
        if self._rejection is _BUG:
            return self._attempts.bill(_BUG.reason.value)
        return self._attempts.bill(_STOPPED if self._reply.broke == _STOPPED else None)

    def _finish(self) -> None:
        """Settle, observe, record; nothing here waits, and the second time nothing happens."""
        self._presence.then = None
        if self._finished:
            return
        self._finished = True
        self._leave_place()
        bill = self._bill()
        if self._reservation is not None:
            self._services.ledger.settle(self._reservation, bill)
        status = 499 if self._left else self._reply.status or STOPPING.shape.status
        broke = CALLER_LEFT if self._left else self._reply.broke
        self._count(bill, status, broke)
        no = self._rejection
        error = no.reason.value if no is not None else broke
        if self._span.is_recording():
            finish(self._span, self._attributes(bill), status=status, error=error)

    def _count(self, bill: Bill, status: int, broke: str | None) -> None:
        """Observe how the call ended and what was booked."""
        metrics, usage, no = self._services.metrics, bill.usage, self._rejection
        model = self._request.model if self._request is not None else "none"
        metrics.requests(self._api, model, str(status)).inc()
        source = "estimated" if usage.estimated else "told"
        metrics.tokens(model, "prompt", source).inc(usage.prompt_tokens)
        metrics.tokens(model, "completion", source).inc(usage.completion_tokens)
        if bill.money:
            metrics.cost(model).inc(bill.money / NANO)
        if broke is not None and self._reply.status:
            metrics.cut(broke).inc()
        if no is not None:
            metrics.rejections(no.reason.value, no.level or "", no.meter or "").inc()

    def _attributes(self, bill: Bill) -> Attributes:
        attributes: Attributes = {
            **usage_attributes(bill.usage),
            "sluiceway.cost_usd": bill.money / NANO,
            "sluiceway.outcome": bill.outcome,
            "sluiceway.attempts": self._reply.attempts,
            "sluiceway.continued": 0 if self._attempts is None else self._attempts.continued,
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
        stopped = self._attempts.relay.stopped if self._attempts is not None and self._attempts.relay else None
        refusal = stopped or self._rejection or self._spent
        if refusal is not None and refusal.meter is not None:
            attributes["sluiceway.level"] = refusal.level or ""
            attributes["sluiceway.meter"] = refusal.meter
        if self._reservation is not None and self._reservation.shadows:
            shadows = [f"{level}.{meter.value}" for level, meter in self._reservation.shadows]
            attributes["sluiceway.shadow_refusals"] = shadows
        if self._route is not None:
            skipped = [] if self._attempts is None else self._attempts.skipped.values()
            dropped = [f"{out.deployment.id}: {out.dropped}" for out in (*self._route.dropped, *skipped)]
            attributes["sluiceway.dropped"] = dropped
            attributes["sluiceway.route"] = list(explained(self._route))
        return attributes


def _forwarded(api: API, headers: Headers) -> Headers:
    """Return those of the caller's headers that go upstream with a call of `api`."""
    names = APIS[api].forwards
    return [header for header in headers if header[0] in names and _PLAIN.fullmatch(header[1])] if names else []


def _request_id(headers: dict[bytes, bytes]) -> str:
    """Return the caller's request id where it is a plain one, else a new one."""
    told = headers.get(b"x-request-id", b"")
    return told.decode() if _REQUEST_ID.fullmatch(told) else new_request_id()
