"""Admission, growth and settlement: each from its submission to its answer.

Law: an admission whose caller is gone, or whose answer was lost, is released; a settlement is repeated until it is
done. Both may reach the store twice and count once.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.ledger import wire
from gateway.ledger.batches import Operation
from gateway.ledger.holdings import Holding, Open
from gateway.store.door import StoreDown
from policies.buckets import standing
from policies.domain import Claim, Reservation, Standing, Usage
from policies.limits import refusal
from policies.rejections import Rejection

Release = Callable[[str, str], None]
"""Ends a reservation, by organization and id, as if it had never been."""


def _tell(outcome: asyncio.Future[Any], error: StoreDown) -> None:
    """Give each caller an exception of its own; one that leaves at this very moment need not read it."""
    if not outcome.done():
        outcome.set_exception(StoreDown(*error.args))
        outcome.exception()


class Admission(Operation):
    """Asks for a reservation; `outcome` becomes it, or the rejection, or `StoreDown`."""

    def __init__(self, id_: str, claim: Claim, plan: bytes, holding: Holding, release: Release) -> None:
        super().__init__(claim.organization)
        self.outcome: asyncio.Future[Reservation | Rejection] = asyncio.get_running_loop().create_future()
        self._id = id_
        self._claim = claim
        self._plan = plan
        self._holding = holding
        self._release = release

    def wanted(self) -> bool:
        """Tell whether the caller still waits."""
        return not self.outcome.cancelled()

    def body(self, arguments: wire.Arguments) -> wire.Body:
        """Return what the script reads."""
        claim = self._claim
        plan = arguments.place(self._plan)
        return (wire.ADMIT, self._id, claim.tokens, claim.prompt_tokens, claim.key, claim.model, plan)

    def answered(self, answer: wire.Answer) -> None:
        """Tell the caller; if it is gone, give back what was granted."""
        granted = answer[0] == wire.DONE
        if self.outcome.cancelled():
            if granted:
                self._release(self.organization, self._id)
            return
        requests, tokens = self._standing(*answer[4:7]), self._standing(*answer[7:10])
        if granted:
            self._holding.open[self._id] = Open()
            self.outcome.set_result(Reservation(self._id, self._claim, requests, tokens))
        else:
            self.outcome.set_result(self._refusal(answer, requests, tokens))

    def failed(self, error: StoreDown) -> bool:
        """Tell the caller, and give back what may have been granted."""
        if self.sent:
            self._release(self.organization, self._id)
        _tell(self.outcome, error)
        return False

    def _standing(self, level: int, meter: int, used: int) -> Standing | None:
        """Return the standing of the meter at that place of the claim, counted from 1; None of 0."""
        return standing(used, self._claim.levels[level - 1].meters[meter - 1]) if level else None

    def _refusal(self, answer: wire.Answer, requests: Standing | None, tokens: Standing | None) -> Rejection:
        outcome, at_level, at_meter, wait_us = answer[:4]
        level = self._claim.levels[at_level - 1]
        return refusal(
            self._claim,
            level,
            level.meters[at_meter - 1],
            retry_after_us=None if outcome == wire.TOO_LARGE else wait_us,
            requests=requests,
            tokens=tokens,
        )


class Growth(Operation):
    """Asks for more tokens; `outcome` says whether they were granted, or becomes `StoreDown`."""

    def __init__(self, reservation: Reservation, step: int, tokens: int) -> None:
        super().__init__(reservation.claim.organization)
        self.outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._body = (wire.GROW, reservation.id, step, tokens)

    def wanted(self) -> bool:
        """Tell whether the caller still waits."""
        return not self.outcome.cancelled()

    def body(self, arguments: wire.Arguments) -> wire.Body:  # noqa: ARG002 - it needs none
        """Return what the script reads."""
        return self._body

    def answered(self, answer: wire.Answer) -> None:
        """Tell the caller; what was granted to one that is gone is given back by the settlement."""
        if not self.outcome.done():
            self.outcome.set_result(answer[0] == wire.DONE)

    def failed(self, error: StoreDown) -> bool:
        """Tell the caller."""
        _tell(self.outcome, error)
        return False


class Settlement(Operation):
    """Ends a reservation with what was used, or (usage None) as if it had never been; nobody waits for it."""

    urgent = False

    def __init__(self, id_: str, usage: Usage | None, holding: Holding) -> None:
        super().__init__(holding.organization)
        self._id = id_
        self._usage = usage or Usage(0, 0, estimated=False)
        self._booked = usage is not None
        self._holding = holding
        holding.settling.add(id_)

    def body(self, arguments: wire.Arguments) -> wire.Body:  # noqa: ARG002 - it needs none
        """Return what the script reads."""
        usage = self._usage
        return (wire.SETTLE, self._id, self._booked, usage.prompt_tokens, usage.completion_tokens, usage.estimated)

    def answered(self, answer: wire.Answer) -> None:  # noqa: ARG002 - done now, or done before
        """Forget the reservation."""
        self._holding.settling.discard(self._id)

    def failed(self, error: StoreDown) -> bool:  # noqa: ARG002 - whatever it was, the settlement must be made
        """Ask to be sent again."""
        return True
