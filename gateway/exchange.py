"""One call, from its first header to its settlement.

Law: think for free, then pay, then do; nothing is sent whose price is not set aside. One coroutine owns the exchange,
and is cancelled the moment its caller leaves. Whatever ends it, `_finish` runs once and waits for nothing: the
reservation is settled, the load given back, the span ended. Nothing that outlives the call refers to it, so that it is
freed at once and the collector finds no rings.
"""

import asyncio
import contextlib
import re
from typing import Any

import structlog

from gateway import clock
from gateway.attempts import CALLER_LEFT, NOTHING, Attempts
from gateway.cycle import PRESENCE, Presence
from gateway.errors import STOPPING, Headers, new_request_id
from gateway.growth import Growing
from gateway.intake import CallerLeft, Receive
from gateway.placing import Placing
from gateway.planning import Planned, plan
from gateway.reply import LAST_WORDS, Reply, Send
from gateway.services import Services
from gateway.store.door import StoreDown
from gateway.telemetry import Attributes, finish, usage_attributes
from policies.apis import APIS
from policies.candidates import BUDGET
from policies.claims import claim, lacks_money
from policies.domain import (
    API,
    Bill,
    Principal,
    Reservation,
    Route,
)
from policies.explaining import explained, governed
from policies.limits import NANO, limit_headers
from policies.live import Ticket
from policies.rejections import Reason, Rejection

log = structlog.get_logger("sluiceway.exchange")

Scope = Any

_STOPPED = "stopping"
_NOTHING = Bill(NOTHING, outcome="rejected")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PLAIN = re.compile(rb"[A-Za-z0-9._, -]{1,512}")
"""What of a caller's headers goes upstream at all."""
NO_INFERENCE = Rejection(
    Reason.NOT_ALLOWED, "This credential lacks the scope `inference`, so it may not call models. Use another one."
)
"""What a caller without the scope is told."""
_STORE_DOWN = Rejection(
    Reason.STORE_DOWN, "Limits cannot be checked right now, so nothing is served; try again.", retry_after_us=1_000_000
)
_BUG = Rejection(Reason.INTERNAL, "The gateway failed on this call; its log has the reason under this request id.")


_EXPLAIN = b"x-sluiceway-explain"
"""The header by which a caller asks why its call goes where it goes."""


class Exchange:
    """One call, as the ASGI app that a route hands over to."""

    def __init__(self, services: Services, api: API) -> None:
        self._services = services
        self._api = api
        self._left = False
        self._held = 0
        self._principal: Principal | None = None
        self._planned: Planned | None = None
        self._placing: Placing | None = None
        self._reservation: Reservation | None = None
        self._attempts: Attempts | None = None
        self._rejection: Rejection | None = None
        self._spent: Rejection | None = None
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
                if self._placing is not None:
                    self._placing.leave()  # whoever reads the no slowly holds up nobody
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
        planned = plan(services, who, self._api, body, self._told, self._begun_at)
        self._reply.config = services.config  # another one may have been taken while the body came
        if isinstance(planned, Rejection):
            return planned
        self._planned = planned
        return await self._go(planned)

    async def _go(self, planned: Planned) -> Rejection | None:
        """Rank the deployments, pay, wait for a place if need be, and do."""
        placing = self._placing = Placing(self._services, planned)
        found = placing.rank()
        if isinstance(found, Rejection):
            return found
        self._routed(placing)
        admitted = await self._admit(placing, planned, found)
        if isinstance(admitted, Rejection):
            return admitted
        self._reservation = admitted
        self._reply.standing = limit_headers(admitted.requests, admitted.tokens, admitted.tightest)
        if planned.request.stream and planned.deadlines.keep_alive is not None:
            self._reply.keep_alive(planned.deadlines.keep_alive)
        spent = clock.monotonic() - self._begun_at
        self._services.metrics.overhead.observe(spent)
        growing = Growing(self._services, planned.request, admitted)
        no = await self._settle(placing, planned, growing)
        return no or await self._attempt(placing, planned, admitted, growing)

    async def _identify(self) -> Principal | Rejection:
        """Say who calls, if he may call models at all."""
        identities = self._services.identities
        who = identities.cached(self._headers, self._address) or await identities.identify(self._headers, self._address)
        if isinstance(who, Rejection):
            return who
        self._principal = who
        return who if "inference" in who.scopes else NO_INFERENCE

    def _routed(self, placing: Placing) -> None:
        """Take note of where the call would go."""
        if placing.route is not None and self._principal is not None and self._told.get(_EXPLAIN) == b"1":
            self._reply.explained = explained(placing.route)
            self._reply.governed = governed(placing.route, self._principal.voices)

    async def _admit(self, placing: Placing, planned: Planned, found: Route) -> Reservation | Rejection:
        """Pay: set aside at every level what the call will probably use.

        Where money has run out, the call may still go where it costs nothing.
        """
        ledger, who = self._services.ledger, planned.who
        try:
            admitted = await ledger.admit(claim(who, found, planned.estimate))
            if isinstance(admitted, Reservation):
                return admitted
            spared = self._spare(placing, admitted)
            return admitted if spared is None else await ledger.admit(claim(who, spared, planned.estimate))
        except StoreDown as error:
            self._span.record_exception(error)
            return _STORE_DOWN

    async def _settle(self, placing: Placing, planned: Planned, growing: Growing) -> Rejection | None:
        """Get a place, and set aside what it costs more than the one that was paid for: after a wait it may be another.

        Where money has run out, the call may still go where it costs nothing.
        """
        while True:
            before = placing.route
            no = await placing.settle(planned.deadlines.total - (clock.monotonic() - self._begun_at))
            if placing.route is not before:  # it waited
                self._routed(placing)
            if no is not None or placing.route is None:
                return no
            try:
                no = await growing.lacks(placing.route.order[0].deployment.price)
            except StoreDown as error:
                self._span.record_exception(error)
                return _STORE_DOWN
            if no is None or self._spare(placing, no) is None:
                return no

    def _spare(self, placing: Placing, no: Rejection) -> Route | None:
        """Rank those that cost nothing, where it is money that `no` says has run out; None where it may go to none."""
        if placing.broke or not lacks_money(no):
            return None
        self._spent = no
        placing.leave()
        placing.broke = True
        found = placing.rank()
        if isinstance(found, Rejection):
            return None
        self._routed(placing)
        self._reply.dropped = tuple(
            f"{out.deployment.backend} ({BUDGET})" for out in found.dropped if out.dropped == BUDGET
        )
        return found

    async def _attempt(
        self, placing: Placing, planned: Planned, admitted: Reservation, growing: Growing
    ) -> Rejection | None:
        """Do: answer from the route's deployments."""
        services, found = self._services, placing.route
        if found is None:
            raise RuntimeError("a call is attempted after it was routed")
        for level, meter in admitted.shadows:
            services.metrics.shadow_refusals(level, meter.value).inc()
        self._attempts = Attempts(
            services,
            planned,
            self._reply,
            growing,
            call=self._span,
            forwards=_forwarded(self._api, self._headers),
        )
        services.ledger.follow(admitted, self._attempts.bill)
        return await self._attempts.run(found, self._handed_over, self._begun_at)

    def _handed_over(self) -> Ticket:
        """Give the place away, to whom answers for it from now on."""
        placing = self._placing
        if placing is None or placing.ticket is None:
            raise RuntimeError("a call is attempted after it was placed")
        ticket, placing.ticket = placing.ticket, None
        return ticket

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
        self._reply.hush()
        if self._finished:
            return
        self._finished = True
        if self._placing is not None:
            self._placing.leave()
        bill = self._bill()
        if self._reservation is not None:
            if self._attempts is None:  # it waited for a place, in vain
                self._services.ledger.release(self._reservation)
            else:
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
        model = self._planned.model.name if self._planned is not None else "none"
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
        if self._planned is not None:
            attributes["gen_ai.request.model"] = self._planned.model.name
            attributes["sluiceway.stream"] = self._planned.request.stream
        stopped = self._attempts.relay.stopped if self._attempts is not None and self._attempts.relay else None
        refusal = stopped or self._rejection or self._spent
        if refusal is not None and refusal.meter is not None:
            attributes["sluiceway.level"] = refusal.level or ""
            attributes["sluiceway.meter"] = refusal.meter
        if self._reservation is not None and self._reservation.shadows:
            shadows = [f"{level}.{meter.value}" for level, meter in self._reservation.shadows]
            attributes["sluiceway.shadow_refusals"] = shadows
        found = None if self._placing is None else self._placing.route
        if found is not None and self._principal is not None:
            skipped = [] if self._attempts is None else self._attempts.skipped
            dropped = [f"{out.deployment.id}: {out.dropped}" for out in (*found.dropped, *skipped)]
            attributes["sluiceway.dropped"] = dropped
            attributes["sluiceway.route"] = list(explained(found))
            attributes["sluiceway.terms"] = list(governed(found, self._principal.voices))
        return attributes


def _forwarded(api: API, headers: Headers) -> Headers:
    """Return those of the caller's headers that go upstream with a call of `api`."""
    names = APIS[api].forwards
    return [header for header in headers if header[0] in names and _PLAIN.fullmatch(header[1])] if names else []


def _request_id(headers: dict[bytes, bytes]) -> str:
    """Return the caller's request id where it is a plain one, else a new one."""
    told = headers.get(b"x-request-id", b"")
    return told.decode() if _REQUEST_ID.fullmatch(told) else new_request_id()
