"""The attempts of one call: its route's deployments, tried until one has answered.

Law: `policies.retries` says what comes next, the relay does it, and every attempt gives back its load and says what it
learned, whatever ended it. `relay` is the attempt that serves: None while none does, and after one that failed unseen.
Who calls pays for the attempt that serves; what the others cost is told apart. A deployment that is dearer than what is
set aside is tried only once the difference is.
"""

from msgspec.structs import replace

from gateway import clock
from gateway.errors import error_body
from gateway.growth import Growing
from gateway.relay import Relay
from gateway.reply import Reply
from gateway.services import Services
from gateway.telemetry import Attributes, Span, finish, propagate, usage_attributes
from gateway.upstream.attempt import Attempt, AttemptFailed
from gateway.upstream.fleet import Ticket
from policies.domain import Bill, Candidate, Estimate, InferenceRequest, Reservation, Route, Usage
from policies.failures import Failure
from policies.pricing import money
from policies.rejections import Reason, Rejection
from policies.retries import next_attempts, passes, verdict
from policies.rewrite import rewrite
from policies.sse import error_event
from policies.usage import together

CALLER_LEFT = "caller_left"
CUT = "cut_by_limit"

NOTHING = Usage(0, 0, estimated=False)


class Attempts:
    """The attempts of one call, which `reservation` pays.

    `outcome`: how the last one ended. `unpaid`: candidates that were passed over since the difference was refused.
    """

    def __init__(
        self,
        services: Services,
        request: InferenceRequest,
        estimate: Estimate,
        reply: Reply,
        reservation: Reservation,
        *,
        call: Span,
    ) -> None:
        self.relay: Relay | None = None
        self.outcome = CALLER_LEFT
        self.unpaid: dict[str, Candidate] = {}
        self._services = services
        self._request = request
        self._estimate = estimate
        self._key = reservation.claim.key
        self._growing = Growing(services, request, reservation)
        self._reply = reply
        self._call = call
        self._wasted: Usage | None = None
        self._wasted_money = 0

    def bill(self, outcome: str | None = None) -> Bill:
        """Return what the call is settled with if it ends now; `outcome`: how, where it is not the last attempt's."""
        relay, usage, deployment, cost = self.relay, NOTHING, "", 0
        if relay is not None and relay.attempt.written:
            served = relay.attempt.candidate.deployment
            usage, deployment = self._used(relay), served.id
            cost = money(served.price, usage)
        return Bill(
            usage,
            cost,
            deployment,
            outcome or self.outcome,
            self._reply.request_id,
            self._wasted,
            self._wasted_money,
        )

    async def run(self, planned: Route, first: Ticket, begun_at: float) -> Rejection | None:
        """Answer the caller from the first deployment that can; a Rejection where none could.

        `first`: the load that the call already holds on the first one. `begun_at`: when it began, monotonic seconds.
        """
        every = planned.model.deadlines.keep_alive
        if every is not None and self._request.stream:
            self._reply.keep_alive(every)
        try:
            return await self._try(planned, first, begun_at)
        finally:
            self._reply.hush()

    async def _try(self, planned: Route, first: Ticket, begun_at: float) -> Rejection | None:
        budget = self._services.budget(planned.model.name, begun_at)
        budget.call()
        deadline = begun_at + planned.model.deadlines.total
        tried: list[tuple[Candidate, Failure]] = []
        candidate: Candidate | None = planned.order[0]
        ticket = first
        failed: AttemptFailed | None = None
        while candidate is not None:
            failed = await self._attempt(candidate, ticket, len(tried) + 1, deadline)
            if failed is None:
                return None
            tried.append((candidate, failed.failure))
            now = clock.monotonic()
            candidate = await self._payable(next_attempts(planned, tried, deadline - now, budget, now))
            if candidate is not None:
                live = self._services.fleet.live(candidate.deployment)
                ticket = Ticket(live, self._estimate.prompt_tokens, clock.monotonic())
        if failed is not None and failed.passed is not None and passes(tried):
            await self._reply.whole(failed.passed.status, failed.passed.content_type, failed.passed.body)
            return None
        return verdict(tried, deadline - clock.monotonic(), self.unpaid.values())

    async def _payable(self, left: list[Candidate]) -> Candidate | None:
        """Return the first candidate whose price is set aside, or could be just now."""
        for candidate in left:
            deployment = candidate.deployment
            if deployment.id in self.unpaid:
                continue
            reason = await self._growing.covers(deployment.price)
            if reason is None:
                return candidate
            self.unpaid[deployment.id] = replace(candidate, dropped=reason)
            self._reply.dropped += (f"{deployment.backend} ({reason})",)
        return None

    async def _attempt(
        self, candidate: Candidate, ticket: Ticket, number: int, deadline: float
    ) -> AttemptFailed | None:
        """Try one deployment; None once the caller has an answer, whole or cut."""
        request, deployment = self._request, candidate.deployment
        home = self._services.fleet.homes[deployment.backend]
        self._reply.backend, self._reply.attempts = deployment.backend, number
        base_url = home.backend.base_url
        span = self._services.telemetry.attempt_span(self._call, request.api, candidate, number, base_url)
        headers = [(b"x-request-id", self._reply.request_id.encode()), *propagate(span)]
        attempt = Attempt(home, ticket, candidate)
        self._services.metrics.in_flight(deployment.backend).inc()
        if request.stream:
            self._growing.watch(deployment.price)
        relay = self.relay = Relay(attempt, request, self._reply, self._growing, deadline)
        failure: Failure | None = None
        outcome = CALLER_LEFT
        try:
            await relay.run(rewrite(request, deployment, home.dialect), headers)
            failure = relay.cut
            outcome = "ok" if failure is None else failure.kind.value
            if relay.stopped is not None:
                outcome = CUT
                await self._tell_stopped(relay.stopped)
            elif failure is not None:
                await self._tell_cut(failure, told=relay.told)
        except AttemptFailed as failed:
            self._waste(relay)
            self.relay = None
            failure = failed.failure
            outcome = failure.kind.value
            return failed
        else:
            return None
        finally:
            if relay.finished:
                failure, outcome = None, "ok"  # whoever left then had it all
            self.outcome = outcome
            attempt.close()
            self._services.metrics.in_flight(deployment.backend).dec()
            self._learn(attempt, relay, failure, outcome)
            if span.is_recording():
                attributes: Attributes = usage_attributes(relay.usage) if relay.usage is not None else {}
                attributes["sluiceway.outcome"] = outcome
                finish(span, attributes, status=attempt.status or None, error=None if outcome == "ok" else outcome)

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
            now, request_id = clock.monotonic(), self._reply.request_id
            live.failed(failure, self._request.api, now, probe=probe, request_id=request_id)
            return
        if outcome != "ok":
            live.breaker.abandoned(probe=probe)
            return
        live.answered(self._request.api)
        told = relay.usage
        if told is not None:
            attempt.finished(told.completion_tokens)
            self._services.estimates.learn(
                self._key, self._request, told.prompt_tokens, told.completion_tokens, relay.events
            )

    def _used(self, relay: Relay) -> Usage:
        """Return what an attempt has used, or used: as told once it is whole, else as counted and marked so."""
        told, request, attempt = relay.usage, self._request, relay.attempt
        if told is not None and relay.finished:
            return told
        completion = self._services.estimates.counted_output(self._key, request, relay.events, relay.answer_bytes)
        if not request.stream and not relay.finished and request.api != "embeddings":
            now, most = clock.monotonic(), self._estimate.longest_output
            latency = attempt.ticket.live.latency
            completion = latency.unseen_tokens(now, now - attempt.sent_at, request.choices, most)
        if told is None:
            return Usage(self._estimate.prompt_tokens, completion, estimated=True)
        return replace(told, completion_tokens=max(told.completion_tokens, completion), estimated=True)

    def _waste(self, relay: Relay) -> None:
        """Take in what a failed attempt cost: nothing, where the upstream was not reached or refused to work."""
        if not relay.attempt.written or relay.attempt.status >= 300:
            return
        used, before = self._used(relay), self._wasted
        self._wasted_money += money(relay.attempt.candidate.deployment.price, used)
        self._wasted = used if before is None else together(before, used)

    async def _tell_stopped(self, limit: Rejection) -> None:
        """End a stream that outgrew what a limit allows."""
        told = replace(limit, message=f"The answer was cut by a limit: {limit.message}.")
        await self._reply.break_off(CUT, error_event(error_body(told, self._reply.request_id)))

    async def _tell_cut(self, failure: Failure, *, told: bool) -> None:
        """End a committed answer that failed; `told`: the upstream has just said so itself."""
        message = f"The answer broke off ({failure.kind.value}); what came before is incomplete."
        rejection = Rejection(Reason.UPSTREAM_FAILED, message)
        last = b"" if told else error_event(error_body(rejection, self._reply.request_id))
        await self._reply.break_off(failure.kind.value, last)
