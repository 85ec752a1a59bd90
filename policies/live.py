"""What one gateway knows of one upstream model right now, and the load that its calls put there.

Law: the only mutable state of routing. It is read as frozen snapshots and changed only by calls that begin and end, by
probes and by the other gateways' word; a call's load is held exactly from the making of its ticket to its close,
whatever ends it. What is own is exact; what others say is added to it and never mixed with it.
"""

import math
from collections import deque
from collections.abc import Callable

from msgspec import Struct

from policies.affinity import NONE, Beginning, Prefilled
from policies.allowance import Allowance
from policies.breaker import CLOSED, Breaker
from policies.candidates import EJECTED
from policies.condition import Condition
from policies.dialects import Dialect
from policies.domain import API, Deployment, Snapshot
from policies.failures import Failure, FailureKind
from policies.freezes import Freeze
from policies.latency import Latency, Pool

LACKS_SECONDS = 60.0
"""How long an API that a deployment said it does not have is believed missing: engines restart with other flags. Where
it has served within as many seconds, it is the call that it does not serve."""

LEAST_USUAL = 0.05
"""Seconds below which a usual first token is no measure: a hiccup of the network is many times that."""

LEAST_OWN = 0.1
"""Share of an answer's time that is its own decoding at least, however much was prefilled meanwhile."""

FRESH = 1000
"""Beginnings noted here that wait to be told to the other gateways; the oldest go first."""

_ON: tuple[float, str] = (-math.inf, "")
_NOTHING: frozenset[API] = frozenset()

Fresh = deque[tuple[str, tuple[int, ...]]]
"""Deployments' ids with the marks of a beginning that has been prefilled there."""


class Elsewhere(Struct, frozen=True):
    """The load on a deployment that is not this gateway's own: calls, and prefill work without a first token.

    `more`: what an engine counts beyond one a call: further choices of one prompt, further inputs.
    """

    in_flight: int = 0
    queued_tokens: int = 0
    more: int = 0


NOBODY = Elsewhere()


class Withheld(Struct, frozen=True):
    """Why calls are kept away from a deployment, and for how many seconds more; None: nobody can say."""

    why: str
    seconds: float | None


class Live:
    """One upstream model's live state: load, learned latency, breaker, and whether an operator's fault keeps it out.

    `condition`: its backend's. `freeze`: until when it has asked to be left alone. `allowance`: what is believed of its
    own limit. `others`: the load of the other gateways. `queued_tokens`: prefill work of this gateway's calls without a
    first token, `prefilled_tokens`: all that it has done for them so far, both as `prefill.py` counts it. `freed`:
    called with its name when there may be room again. `fresh`: where beginnings are noted for the other gateways.
    """

    def __init__(
        self,
        name: str,
        dialect: Dialect,
        condition: Condition | None = None,
        *,
        per_minute: int | None = None,
        fresh: Fresh | None = None,
        freed: Callable[[str], None] | None = None,
        pool: Pool | None = None,
    ) -> None:
        self.name = name
        self.condition = condition or Condition()
        self.in_flight = 0
        self.queued_tokens = 0
        self.prefilled_tokens = 0
        self.others = NOBODY
        self.latency = Latency(dialect.priors, pool)
        self.breaker = Breaker()
        self.freeze = Freeze(dialect.freeze)
        self.allowance = Allowance(per_minute)
        self.prefilled = Prefilled()
        self.fresh = deque(maxlen=FRESH) if fresh is None else fresh
        self.freed = freed
        self._off = _ON
        self._lacks: dict[API, float] = {}
        self._served_at: dict[API, float] = {}

    @property
    def calls(self) -> int:
        """Calls there, of all gateways, and of those that call it past all of them where its engine tells."""
        return self.in_flight + self.others.in_flight + self.condition.foreign

    def snapshot(self, deployment: Deployment, now: float, begins: Beginning = NONE) -> Snapshot:
        """Return the frozen view at `now` of `deployment`, which is served here, for a prompt that begins so."""
        until, reason = self._off
        breaker, condition, others, allowance = self.breaker, self.condition, self.others, self.allowance
        return Snapshot(  # by position: by name it takes seven times as long, and a call makes one a deployment
            deployment,
            self.in_flight + others.in_flight + condition.foreign,
            self.queued_tokens + others.queued_tokens,
            self.latency.pace(now),
            breaker.state is not CLOSED and not breaker.passes(now),
            reason if now < until else None,
            until == math.inf,
            frozenset(api for api, until in self._lacks.items() if now < until) if self._lacks else _NOTHING,
            self.freeze.left(now),
            condition.against(deployment.model),
            condition.absent,
            condition.drained,
            self.prefilled.known(begins, now) if begins.marks else 0.0,
            self.prefilled.tells,
            breaker.fails(now),
            condition.load.kv_use,
            self.latency.unheard(now),
            breaker.share(now),
            allowance.wait(now) if allowance.limit else 0.0,
            allowance.shadow(now) if allowance.limit else 0,
            condition.foreign,
        )

    @property
    def retired(self) -> bool:
        """Whether its model is gone for good."""
        return self._off[0] == math.inf

    def withheld(self, now: float) -> Withheld | None:
        """Return what keeps calls away at `now` whatever they ask for, as calls have found it; None where nothing."""
        until, reason = self._off
        if now < until:
            return Withheld(f"off: {reason}", None if self.retired else until - now)
        left = self.freeze.left(now)
        if left:
            return Withheld("asked to be left alone", left)
        return None if self.breaker.state is CLOSED else Withheld(EJECTED, None)

    def answered(self, api: API, now: float) -> None:
        """Note that an attempt went well."""
        self.freeze.answered()
        if not self.retired:
            self._off = _ON
        self._lacks.pop(api, None)
        self._served_at[api] = now
        self.breaker.succeeded(now)

    def failed(self, failure: Failure, api: API, now: float, *, probe: bool, request_id: str = "") -> None:  # noqa: ARG002 - whoever logs wants it
        """Note how an attempt failed and draw the consequences that its meaning has; `probe`: the breaker's."""
        meaning = failure.meaning
        self.freeze.failed(failure, now)
        if failure.kind is FailureKind.UNSUPPORTED and now - self._served_at.get(api, -math.inf) >= LACKS_SECONDS:
            self._lacks[api] = now + LACKS_SECONDS
        if meaning.switches_off:
            until = math.inf if failure.status == 410 else now + meaning.switches_off
            self._off = max(self._off, (until, failure.detail))
        if not failure.ejects:
            self.breaker.abandoned(probe=probe)
        elif not meaning.on_proof:
            self.convicted(failure, now, probe=probe)

    def recalled(self, now: float) -> None:
        """Take in that it is called in another way: what was said to calls by the old one says nothing of the new."""
        self._off = _ON
        self.freeze.lift()
        self.breaker.due(now)

    def convicted(self, failure: Failure, now: float, *, probe: bool) -> None:  # noqa: ARG002 - whoever logs wants it
        """Note that a failure speaks against this deployment."""
        self.breaker.failed(now, probe=probe)

    def first_token(self, now: float, ttft: float, ahead: int) -> None:
        """Note a first token after `ttft` seconds, with `ahead` of prefill work before it, its own included.

        Whether it crawls is judged by what is usual there, which slowness does not become at once.
        """
        usual = self.latency.usual_first(ahead)
        self.latency.observe_first(now, ttft, ahead)
        self.breaker.slow(now, ttft / max(usual, LEAST_USUAL))

    def noted(self, begins: Beginning, now: float) -> None:
        """Remember that a prompt is prefilled here by now or soon, and that the others have not heard of it."""
        self.prefilled.note(begins, now)
        self.fresh.append((self.name, begins.marks))


class Ticket:
    """The load that one call puts on a deployment, from the moment it is routed there until it is over.

    Calls routed at the same moment see one another by it. `ahead`: prefill work queued there, ours included. `probe`:
    this call is the one that a half-open breaker let through.
    """

    __slots__ = (
        "_begins",
        "_beside",
        "_closed",
        "_noted_at",
        "_prefills",
        "_queued",
        "_work",
        "ahead",
        "live",
        "probe",
    )

    def __init__(self, live: Live, work: int, now: float, begins: Beginning = NONE) -> None:
        """`work`: that of its prefill; `begins`: the prompt, for whoever comes with the same beginning."""
        self.live = live
        self._begins = begins
        self.ahead = live.queued_tokens + live.others.queued_tokens + work
        self.probe = live.breaker.sent(now)
        self._work = work
        self._queued = True
        self._closed = False
        self._beside = live.calls
        self._prefills = live.prefilled_tokens
        self._noted_at = now
        live.in_flight += 1
        live.queued_tokens += work
        if begins.marks:  # whoever comes next finds it there: engines prefill in the order of arrival
            live.noted(begins, now)

    @property
    def beside(self) -> float:
        """Calls that this one has shared the deployment with: the mean of its beginning and now."""
        return (self._beside + self._now_beside) / 2

    @property
    def _now_beside(self) -> int:
        return self.live.calls - (not self._closed)

    def prefilled(self, now: float) -> None:
        """Note that there is an answer: the prompt has been prefilled, and is in the cache."""
        self.leave_queue()
        self.live.prefilled_tokens += self._work
        self._prefills = self.live.prefilled_tokens
        if not self._closed:
            self._beside = self._now_beside
        if self._begins.marks:
            self.live.prefilled.note(self._begins, now)

    def paced(self, now: float, seconds: float, tokens: int) -> None:
        """Note an answer whose `tokens` after the first took so many seconds.

        What the engine prefilled meanwhile for others held it up: that is told apart, or a replica that gets the large
        prompts would be taken for a slow machine. Of what other gateways had prefilled we know only their calls.
        """
        live = self.live
        ours = max(1, live.in_flight + self._closed)
        prefills = (live.prefilled_tokens - self._prefills) * (ours + live.others.in_flight) / ours
        held_up = prefills * live.latency.pace(now).prefill
        live.latency.observe_pace(now, max(LEAST_OWN * seconds, seconds - held_up) / tokens, self.beside)

    def leave_queue(self) -> None:
        """Note that the prompt has probably been prefilled."""
        if self._queued:
            self._queued = False
            self.live.queued_tokens -= self._work

    def drop(self) -> None:
        """Give the load of a call back that is not attempted after all."""
        self.live.breaker.abandoned(probe=self.probe)
        self.close()

    def close(self) -> None:
        """Give the load back; the second time nothing happens."""
        if not self._closed:
            self._closed = True
            live = self.live
            if self._queued and self._begins.marks:
                live.prefilled.unnote(self._begins, self._noted_at)
            self.leave_queue()
            live.in_flight -= 1
            if live.freed is not None:
                live.freed(live.name)
