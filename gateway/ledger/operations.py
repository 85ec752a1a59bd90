"""Admission, growth and settlement: each from its submission to its answer.

Law: an admission whose caller is gone, or whose answer was lost, is released; a settlement is repeated until it is
done. Both may reach the store twice and count once.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from gateway.ledger import wire
from gateway.ledger.holdings import Holding, Open
from gateway.ledger.plans import Packed
from gateway.ledger.queues import Operation, Patient
from gateway.store.door import StoreDown
from policies.domain import Bill, Claim, Reservation, Standing
from policies.limits import refusal
from policies.rejections import Rejection

Release = Callable[[str, str], None]
"""Ends a reservation, by organization and id, as if it had never been."""

Standings = tuple[Standing | None, Standing | None, Standing | None]
"""Of requests, of tokens, and the tightest of all."""


class OtherPeriod(Exception):  # noqa: N818 - a state of the world, not a programming error
    """The store's clock, in `now_us`, is in another calendar period than ours."""

    def __init__(self, now_us: int) -> None:
        super().__init__("the store's clock is in another period than this gateway's")
        self.now_us = now_us


def _tell(outcome: asyncio.Future[Any], error: Exception) -> None:
    """Give a caller its exception; one that leaves at this very moment need not read it."""
    if not outcome.done():
        outcome.set_exception(error)
        outcome.exception()


def _standings(packed: Packed, answer: wire.Answer, now_us: int) -> Standings:
    """Read the three standings of an answer."""
    requests, tokens, tightest = (packed.standing(answer[i], answer[i + 1], now_us) for i in (3, 5, 7))
    return requests, tokens, tightest


def _refusal(claim: Claim, packed: Packed, answer: wire.Answer, standings: Standings) -> Rejection:
    outcome, place, wait_us = answer[:3]
    level, meter = packed.meters[place - 1]
    requests, tokens, tightest = standings
    return refusal(
        claim,
        level,
        meter,
        retry_after_us=wait_us if outcome == wire.REFUSED else None,
        too_large=outcome == wire.TOO_LARGE,
        requests=requests,
        tokens=tokens,
        tightest=tightest,
    )


class Admission(Operation):
    """Asks for a reservation; `outcome` becomes it, or the rejection, or raises `StoreDown` or `OtherPeriod`."""

    def __init__(
        self, id_: str, name: str, claim: Claim, packed: Packed, holding: Holding, *, release: Release
    ) -> None:
        super().__init__(claim.organization)
        self.outcome: asyncio.Future[Reservation | Rejection] = asyncio.get_running_loop().create_future()
        self._id = id_
        self._name = name
        self._claim = claim
        self._packed = packed
        self._holding = holding
        self._release = release

    def wanted(self) -> bool:
        """Tell whether the caller still waits."""
        return not self.outcome.cancelled()

    def body(self, arguments: wire.Arguments) -> wire.Body:
        """Return what the script reads."""
        return wire.admission(self._id, self._claim, arguments.place(self._packed.blob))

    def answered(self, answer: wire.Answer, now_us: int) -> None:
        """Tell the caller; if it is gone, give back what was granted."""
        granted = answer[0] == wire.DONE
        if self.outcome.cancelled():
            if granted:
                self._release(self.organization, self._id)
            return
        if answer[0] == wire.STALE:
            _tell(self.outcome, OtherPeriod(now_us))
            return
        standings = _standings(self._packed, answer, now_us)
        if not granted:
            self.outcome.set_result(_refusal(self._claim, self._packed, answer, standings))
            return
        self._holding.open[self._id] = Open(self._packed, now_us)
        shadows = tuple((level.kind, meter.kind) for level, meter in (self._packed.meters[i - 1] for i in answer[9]))
        self.outcome.set_result(Reservation(self._name, self._claim, *standings, shadows))

    def failed(self, error: StoreDown) -> bool:
        """Tell the caller, and give back what may have been granted."""
        if self.sent:
            self._release(self.organization, self._id)
        _tell(self.outcome, type(error)(*error.args))
        return False


class Growth(Operation):
    """Asks for more tokens and money; `outcome` becomes None if granted, or the rejection, or raises `StoreDown`."""

    def __init__(self, id_: str, claim: Claim, one: Open, output_tokens: int, money: int) -> None:
        super().__init__(claim.organization)
        self.outcome: asyncio.Future[Rejection | None] = asyncio.get_running_loop().create_future()
        self._claim = replace(claim, input_tokens=0, output_tokens=output_tokens, money=money)
        self._packed = one.packed
        one.step += 1
        self._body = (wire.GROW, id_, one.step, output_tokens, money)

    def wanted(self) -> bool:
        """Tell whether the caller still waits."""
        return not self.outcome.cancelled()

    def body(self, arguments: wire.Arguments) -> wire.Body:  # noqa: ARG002 - it needs none
        """Return what the script reads."""
        return self._body

    def answered(self, answer: wire.Answer, now_us: int) -> None:
        """Tell the caller; what was granted to one that is gone is given back by the settlement."""
        if self.outcome.done():
            return
        granted = answer[0] == wire.DONE or not answer[1]  # 0: it has expired, and its settlement will tell all
        standings = (None, None, None) if granted else _standings(self._packed, answer, now_us)
        self.outcome.set_result(None if granted else _refusal(self._claim, self._packed, answer, standings))

    def failed(self, error: StoreDown) -> bool:
        """Tell the caller."""
        _tell(self.outcome, type(error)(*error.args))
        return False


class Settlement(Patient):
    """Ends a reservation with its bill, or (None) as if it had never been; nobody waits for it."""

    def __init__(self, id_: str, bill: Bill | None, holding: Holding) -> None:
        super().__init__(holding.organization)
        self._id = id_
        self._bill = bill
        self._holding = holding
        holding.settling.add(id_)

    def body(self, arguments: wire.Arguments) -> wire.Body:  # noqa: ARG002 - it needs none
        """Return what the script reads."""
        return wire.settlement(self._id, self._bill)

    def answered(self, answer: wire.Answer, now_us: int) -> None:  # noqa: ARG002 - done now, or done before
        """Forget the reservation."""
        self._holding.settling.discard(self._id)
        if answer[0] == wire.UNKNOWN and self._bill is not None:
            self._holding.lost += 1
