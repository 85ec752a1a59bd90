"""What a running call has set aside, and how it grows.

Law: a stream is never held up by the store. It is watched by one number, `at`; past that a growth is asked for beside
it, one at a time, and the stream learns the answer at one of its next chunks. Only a level that says so has a stream
cut, and never because the store is gone: then it is asked again a step later. Nothing here refers to the stream.
"""

import sys
from contextlib import suppress

from gateway import clock
from gateway.services import Services
from gateway.store.door import StoreDown
from policies.candidates import BUDGET
from policies.claims import cost, counts_output, cuts, step
from policies.domain import InferenceRequest, Price, Reservation, Usage
from policies.rejections import Reason, Rejection

NEVER = sys.maxsize


class Growing:
    """The reservation of one call and what was added to it.

    `at`: content events at which the stream must ask `outgrown`.
    """

    __slots__ = (
        "_already",
        "_asking",
        "_money",
        "_output",
        "_price",
        "_refusal",
        "_request",
        "_reservation",
        "_services",
        "at",
    )

    def __init__(self, services: Services, request: InferenceRequest, reservation: Reservation) -> None:
        self.at = NEVER
        self._services = services
        self._request = request
        self._reservation = reservation
        self._output = reservation.claim.output_tokens
        self._money = reservation.claim.money
        self._price: Price | None = None
        self._already = 0
        self._asking = False
        self._refusal: Rejection | None = None

    async def covers(self, price: Price | None) -> str | None:
        """Set aside what the call costs more at `price`; if that cannot be, return why in one word."""
        try:
            refusal = await self.lacks(price)
        except StoreDown:
            return Reason.STORE_DOWN.value
        return None if refusal is None else BUDGET

    async def lacks(self, price: Price | None) -> Rejection | None:
        """Set aside what the call costs more at `price`; if that cannot be, return who refuses. Raises StoreDown."""
        more = cost(price, self._reservation.claim.input_tokens, self._output) - self._money
        return await self._ask(0, more) if more > 0 else None

    def watch(self, price: Price | None, already: int = 0) -> None:
        """Watch a stream that begins now, on a deployment of that price; so many output tokens came before it."""
        self._price, self._already = price, already
        if self._asking:  # for the stream before this one; whoever asks sets `at` then
            self.at = NEVER
            return
        estimates, key = self._services.estimates, self._reservation.claim.key
        self.at = estimates.events_within(key, self._request, max(0, self._output - already))

    def outgrown(self, events: int, told: Usage | None) -> Rejection | None:
        """Set more aside for a stream with so many content events, whose upstream has `told` its usage so far, or not.

        A Rejection: the stream must end, for this reason.
        """
        if self._refusal is not None:
            return self._refusal
        estimates, key = self._services.estimates, self._reservation.claim.key
        counted = estimates.counted_output(key, self._request, events, 0)
        if told is not None:
            counted = max(counted, told.completion_tokens)
        whole = self._already + counted
        more = step(self._output, whole, self._request) if counts_output(self._reservation.claim) else 0
        self.at = NEVER
        if more:
            self._asking = True
            clock.spawn(self._grow(more, counted, events), "growth of a reservation")
        return None

    async def _grow(self, tokens: int, counted: int, events: int) -> None:
        """Ask for `tokens` more, for a stream that had `counted` in so many `events`; then watch again.

        By then it may be another deployment's stream that is watched.
        """
        money = cost(self._price, self._reservation.claim.input_tokens, self._output + tokens) - self._money
        refusal, ask_again_at = None, self._already + counted + tokens
        with suppress(StoreDown):
            refusal = await self._ask(tokens, max(0, money))
            if refusal is None:
                ask_again_at = self._output
        self._asking = False
        if refusal is not None and cuts(refusal, self._reservation.claim.levels):
            self._refusal, self.at = refusal, 0
        else:
            self.at = max(0, ask_again_at - self._already) * events // counted + 1

    async def _ask(self, tokens: int, money: int) -> Rejection | None:
        """Ask the ledger for more, and note it where it is granted. Raises StoreDown."""
        growths = self._services.metrics.growths
        try:
            refusal = await self._services.ledger.grow(self._reservation, tokens, money)
        except StoreDown:
            growths(Reason.STORE_DOWN.value).inc()
            raise
        if refusal is None:
            self._output += tokens
            self._money += money
        growths("granted" if refusal is None else "refused").inc()
        return refusal
