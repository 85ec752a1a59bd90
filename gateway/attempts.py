"""The attempts of one call: its route's deployments, tried until one has answered.

Law: `policies.retries` says what comes next, the relay does it, and every attempt gives back its load and says what it
learned, whatever ended it. `relay` is the attempt that serves: None while none does, and after one that failed unseen.
Who calls pays for the attempt that serves; what the others cost is told apart. A deployment that is dearer than what is
set aside is tried only once the difference is. A stream that breaks off is gone on with where its model says so.
"""

from collections.abc import Callable, Iterable

from msgspec.structs import replace

from gateway import clock
from gateway.continuing import Continuing
from gateway.errors import Headers
from gateway.growth import Growing
from gateway.planning import Planned
from gateway.relay import Relay
from gateway.reply import Reply
from gateway.services import Services
from gateway.succession import Succession
from gateway.suspects import Suspects
from gateway.telemetry import Attributes, Span, finish, propagate, usage_attributes
from gateway.upstream.attempt import Attempt, AttemptFailed
from policies.apis import APIS
from policies.continuation import continuable
from policies.deadlines import EXPIRED
from policies.domain import Bill, Candidate, Route, Usage
from policies.failures import Failure, FailureKind
from policies.live import Ticket
from policies.parts import Part, shares
from policies.pricing import money
from policies.reach import booked
from policies.rejections import Reason, Rejection
from policies.retries import passes, verdict
from policies.rewrite import rewrite
from policies.usage import together

CALLER_LEFT = "caller_left"
CUT = "cut_by_limit"

NOTHING = Usage(0, 0, estimated=False)
REFUSED = 300
"""The least HTTP status of an upstream that will not work for a call."""

LIMITED = 429
"""The HTTP status of an upstream that counts calls over time."""


class Attempts:
    """The attempts of one call, for which `growing` sets aside; `forwards` are the caller's headers that go upstream.

    `outcome`: how the last one ended.
    """

    def __init__(
        self,
        services: Services,
        planned: Planned,
        reply: Reply,
        growing: Growing,
        *,
        call: Span,
        forwards: Headers,
    ) -> None:
        self.relay: Relay | None = None
        self.outcome = CALLER_LEFT
        self._services = services
        self._request = planned.request
        self._estimate = planned.estimate
        self._deadlines = planned.deadlines
        self._key = planned.who.key
        self._growing = growing
        self._succession = Succession(services, planned, growing)
        self._reply = reply
        self._call = call
        self._forwards = forwards
        self._suspects = Suspects()
        self._continuing: Continuing | None = None
        self._wasted: Usage | None = None
        self._wasted_money = 0

    def bill(self, outcome: str | None = None) -> Bill:
        """Return what the call is settled with if it ends now; `outcome`: how, where it is not the last attempt's."""
        relay, usage, cost = self.relay, NOTHING, 0
        wasted, wasted_money = self._wasted, self._wasted_money
        parts = [] if self._continuing is None else [*self._continuing.parts]
        served = None if self._continuing is None else self._continuing.last
        if relay is not None and relay.attempt.written and relay.attempt.status < REFUSED:
            served = relay.attempt.candidate.deployment
            usage = self._used(relay)
            cost = money(served.price, usage)
            if parts:
                parts.append(Part(served.price, usage))
        if parts:
            divided = shares(parts)
            usage, cost = divided.usage, divided.money
            wasted = divided.wasted if wasted is None else together(wasted, divided.wasted)
            wasted_money += divided.wasted_money
        name, replica = ("", "") if served is None else booked(served)
        how, id_ = outcome or self.outcome, self._reply.request_id
        return Bill(usage, cost, name, how, id_, wasted, wasted_money, replica)

    @property
    def skipped(self) -> Iterable[Candidate]:
        """Candidates that were passed over: drained meanwhile, full, or dearer than could be set aside."""
        return self._succession.skipped.values()

    @property
    def continued(self) -> int:
        """How many times another deployment was asked to go on with the answer."""
        return 0 if self._continuing is None else len(self._continuing.parts)

    async def run(self, route: Route, take: Callable[[], Ticket], begun_at: float) -> Rejection | None:
        """Answer the caller from the first deployment that can; a Rejection where none could.

        `take`: hands over the load that the call already holds on the first one. `begun_at`: when it began, monotonic
        seconds.
        """
        if route.model.on_stream_failure == "continue" and self._request.stream and continuable(self._request):
            self._continuing = Continuing(self._request)
        try:
            return await self._try(route, take, begun_at)
        finally:
            self._suspects.acquit()

    async def _try(self, route: Route, take: Callable[[], Ticket], begun_at: float) -> Rejection | None:
        budget = self._services.budget(route.model.name, begun_at)
        budget.call()
        deadline = begun_at + self._deadlines.total
        tried: list[tuple[Candidate, Failure]] = []
        candidate, ticket = route.order[0], take()
        while True:
            last = len(tried) + 1 >= min(len(route.order), route.terms.max_attempts)
            failed = await self._attempt(candidate, ticket, len(tried) + 1, deadline, last=last)
            if failed is None:
                return None
            tried.append((candidate, self._ours(failed.failure)))
            following = await self._succession.after(route, tried, deadline, budget)
            self._reply.dropped += self._succession.told()
            if following is None:
                break
            candidate, ticket = following
        if failed.passed is not None and passes(tried) and not self.continued:
            await self._reply.whole(failed.passed.status, failed.passed.content_type, failed.passed.body)
            return None
        now = clock.monotonic()
        no = verdict(
            tried,
            self._request.api,
            tokens=self._estimate.prompt_tokens + (self._request.max_tokens or 0),
            remaining=deadline - now,
            back=min(self._services.fleet.live(before.deployment).freeze.left(now) for before, _ in tried),
            skipped=self.skipped,
        )
        return self._ended(no)

    def _ours(self, failure: Failure) -> Failure:
        """Return what a failure means for the call: that a continuation is refused is not its caller's fault."""
        asked_by_us = self.continued and failure.kind is FailureKind.CALLER
        return replace(failure, kind=FailureKind.UNSUPPORTED) if asked_by_us else failure

    async def _attempt(
        self, candidate: Candidate, ticket: Ticket, number: int, deadline: float, *, last: bool
    ) -> AttemptFailed | None:
        """Try one deployment; None once the caller has an answer, whole or cut."""
        try:
            relay, body, headers, span = self._begin(candidate, ticket, number, deadline, last=last)
        except Exception:
            ticket.drop()
            raise
        attempt = relay.attempt
        failure: Failure | None = None
        outcome = CALLER_LEFT
        try:
            await relay.run(body, headers)
            failure = relay.cut
            outcome = "ok" if failure is None else failure.kind.value
            if relay.stopped is not None:
                outcome = CUT
                await self._tell_stopped(relay.stopped, relay.number)
            elif failure is not None and self._goes_on(failure, relay):
                return AttemptFailed(failure)
            elif failure is not None:
                await self._tell_cut(failure, relay)
        except AttemptFailed as failed:
            self._waste(relay)
            self.relay = None
            failure = failed.failure
            outcome = failure.kind.value
            return failed
        except Exception:
            outcome = Reason.INTERNAL.value
            raise
        else:
            return None
        finally:
            if relay.finished:
                failure, outcome = None, "ok"  # whoever left then had it all
            self.outcome = outcome
            attempt.close()
            self._services.metrics.in_flight(candidate.deployment.backend).dec()
            self._learn(attempt, relay, failure, outcome)
            if span.is_recording():
                self._finish(span, relay, outcome)

    def _begin(
        self, candidate: Candidate, ticket: Ticket, number: int, deadline: float, *, last: bool
    ) -> tuple[Relay, bytes, Headers, Span]:
        """Make an attempt ready: its relay, the body and the headers to send, its span."""
        deployment, continuing = candidate.deployment, self._continuing
        home = self._services.fleet.reached[ticket.live.condition]
        request = self._request if continuing is None else continuing.asks(home.dialect)
        self._reply.backend, self._reply.attempts = deployment.backend, number
        base_url = home.backend.base_url
        span = self._services.telemetry.attempt_span(self._call, request.api, candidate, number, base_url)
        forwards = [(name, value) for name, value in self._forwards if name.decode() not in dict(home.dialect.headers)]
        headers = [(b"x-request-id", self._reply.request_id.encode()), *propagate(span), *forwards]
        if request.stream:
            self._growing.watch(deployment.price, 0 if continuing is None else continuing.output_tokens)
        body, self._reply.changed = rewrite(request, deployment, home.dialect)
        relay = self.relay = Relay(
            Attempt(home, ticket, candidate, request.choices),
            request,
            self._reply,
            self._growing,
            deadline,
            deadlines=self._deadlines,
            prompt_tokens=self._estimate.prompt_tokens,
            last=last,
            serves=self._suspects.convict,
            hand=None if continuing is None else continuing.passes,
        )
        self._services.metrics.in_flight(deployment.backend).inc()
        return relay, body, headers, span

    def _finish(self, span: Span, relay: Relay, outcome: str) -> None:
        """End an attempt's recorded span."""
        attributes: Attributes = usage_attributes(relay.usage) if relay.usage is not None else {}
        attributes["sluiceway.outcome"] = outcome
        attributes.update(relay.attempt.names)
        if self._reply.changed:
            attributes["sluiceway.changed"] = self._reply.changed
        finish(span, attributes, status=relay.attempt.status or None, error=None if outcome == "ok" else outcome)

    def _learn(self, attempt: Attempt, relay: Relay, failure: Failure | None, outcome: str) -> None:
        """Take from an attempt what it says about its deployment and about calls like this one."""
        live, metrics = attempt.ticket.live, self._services.metrics
        backend, probe = attempt.candidate.deployment.backend, attempt.ticket.probe
        metrics.attempts(backend, outcome).inc()
        if relay.malformed:
            metrics.malformed.inc(relay.malformed)
        if attempt.first_at and relay.events:
            metrics.ttft(backend).observe(attempt.first_at - attempt.sent_at)
        if failure is not None:
            self._blame(attempt, relay, failure)
            return
        if outcome != "ok":
            live.breaker.abandoned(probe=probe)
            return
        live.answered(self._request.api, clock.monotonic())
        told = relay.usage
        attempt.served(None if self.continued else told)
        if self.continued:
            metrics.continued.inc()
            return
        if told is not None:
            attempt.finished(told.completion_tokens)
            self._services.estimates.learn(
                self._key, self._request, told.prompt_tokens, told.completion_tokens, relay.events
            )

    def _blame(self, attempt: Attempt, relay: Relay, failure: Failure) -> None:
        """Hold a failure against its deployment as far as it speaks against it."""
        live, probe, now = attempt.ticket.live, attempt.ticket.probe, clock.monotonic()
        if failure.kind is FailureKind.SILENCE and self._request.stream:
            attempt.unheard()
        hosted = attempt.home.backend.hosted or live.allowance.limit > 0
        # Of our own engines a 429 says that they are full, and only now.
        if failure.kind is FailureKind.RATE_LIMITED and failure.status == LIMITED and hosted:
            self._services.allowances.refused(live, attempt.home, failure, now)
        live.failed(failure, self._request.api, now, probe=probe, request_id=self._reply.request_id)
        if failure.ejects and failure.meaning.on_proof:
            if relay.committed:  # it had begun to serve the call
                live.convicted(failure, now, probe=probe)
            else:
                self._suspects.add(attempt.ticket, failure)

    def _used(self, relay: Relay) -> Usage:
        """Return what an attempt has used, or used: as told once it is whole, else as counted and marked so."""
        told, request, attempt = relay.usage, self._request, relay.attempt
        if not APIS[request.api].charged:
            return NOTHING
        if told is not None and relay.finished:
            return told
        completion = self._services.estimates.counted_output(self._key, request, relay.events, relay.answer_bytes)
        if not request.stream and not relay.finished and APIS[request.api].generates:
            now, most = clock.monotonic(), self._estimate.longest_output
            latency = attempt.ticket.live.latency
            decoding = now - attempt.sent_at - attempt.candidate.ttft
            unseen = latency.unseen_tokens(now, decoding, request.choices, most)
            completion = max(unseen, min(completion, most)) if relay.committed else unseen
        if told is None:
            return Usage(self._estimate.prompt_tokens, completion, estimated=True)
        return replace(told, completion_tokens=max(told.completion_tokens, completion), estimated=True)

    def _goes_on(self, failure: Failure, relay: Relay) -> bool:
        """Say whether another deployment may go on with an answer that broke off; if so, keep what it has cost."""
        if self._continuing is None or not relay.streams or not self._continuing.goes_on(failure):
            return False
        if self._continuing.unseen:
            self._waste(relay)
        else:
            self._continuing.broke(relay.attempt.candidate.deployment, self._used(relay))
        self.relay = None
        self._reply.wake()
        return True

    def _waste(self, relay: Relay) -> None:
        """Take in what a failed attempt cost: nothing, where the upstream was not reached or refused to work."""
        if not relay.attempt.written or relay.attempt.status >= REFUSED:
            return
        used, before = self._used(relay), self._wasted
        self._wasted_money += money(relay.attempt.candidate.deployment.price, used)
        self._wasted = used if before is None else together(before, used)

    def _ended(self, no: Rejection) -> Rejection:
        """Return a refusal in the words of what it was for: a deadline may be the end of the caller's token."""
        if no.reason is Reason.DEADLINE and self._deadlines.of_token:
            return replace(no, message=EXPIRED)
        return no

    async def _tell_stopped(self, limit: Rejection, number: int) -> None:
        """End a stream that outgrew what a limit allows, after so many numbered events."""
        told = replace(limit, message=f"The answer was cut by a limit: {limit.message}.")
        await self._reply.cut(CUT, told, number)

    async def _tell_cut(self, failure: Failure, relay: Relay) -> None:
        """End a committed answer that failed, unless the upstream has just said so itself."""
        message = f"The answer broke off ({failure.kind.value}); what came before is incomplete."
        reason = Reason.DEADLINE if failure.kind is FailureKind.DEADLINE else Reason.UPSTREAM_FAILED
        rejection = self._ended(Rejection(reason, message))
        if relay.told:
            await self._reply.break_off(failure.kind.value)
        else:
            await self._reply.cut(failure.kind.value, rejection, relay.number)
