"""What this gateway has open, by organization: the memory behind counts, steps and heartbeats.

Law: a reservation is here from its grant to the answer to its settlement, so that whatever else the store holds under
this gateway's name is an orphan.
"""

from collections.abc import Callable

from gateway import clock
from gateway.ledger.plans import Packed
from policies.domain import Bill, Usage

_NOTHING = Bill(Usage(0, 0, estimated=True))


def _nothing() -> Bill:
    return _NOTHING


class Open:
    """One open reservation: its plan, what tells its bill so far, and the last step that grew it.

    `admitted_us`: the store's clock then; `grown_tokens`, `grown_money`: what was set aside since.
    """

    __slots__ = ("admitted_us", "grown_money", "grown_tokens", "packed", "so_far", "step")

    def __init__(self, packed: Packed, admitted_us: int = 0) -> None:
        self.packed = packed
        self.admitted_us = admitted_us
        self.grown_tokens = self.grown_money = 0
        self.so_far: Callable[[], Bill] = _nothing
        self.step = 0


class Holding:
    """One organization's part.

    `open`: granted and not settled. `settling`: settlements on their way. `unknown`: what the last heartbeat found in
    the store under this gateway's name and not here. `lost`: settlements of reservations that the store had lost,
    acknowledged and all. `calls`: each other gateway's last call as the store tells it, and when that value was first
    seen; `looked`: when a heartbeat last looked at them; `again`: whether one is to look once more. `counted`: whether
    the store may have bills so far of ours. `touched`: when this gateway last called for it. Times: monotonic seconds.
    """

    def __init__(self, organization: str) -> None:
        self.organization = organization
        self.open: dict[str, Open] = {}
        self.settling: set[str] = set()
        self.unknown: set[str] = set()
        self.lost = 0
        self.calls: dict[str, tuple[str, float]] = {}
        self.looked = 0.0
        self.again = False
        self.counted = False
        self.touched = clock.monotonic()

    @property
    def known(self) -> int:
        """How many reservations the store may hold for this gateway."""
        return len(self.open) + len(self.settling)

    def counts(self) -> dict[str, Bill]:
        """Return the bill so far of each reservation that has used any tokens."""
        return {id_: bill for id_, one in self.open.items() if (bill := one.so_far()).usage.total}


class Holdings:
    """All organizations that this gateway has lately called for."""

    def __init__(self) -> None:
        self._holdings: dict[str, Holding] = {}
        self._lost = 0

    @property
    def lost(self) -> int:
        """Settlements of reservations that the store had lost, since the start."""
        return self._lost + sum(holding.lost for holding in self._holdings.values())

    def __contains__(self, organization: str) -> bool:
        """Tell whether an organization has a part."""
        return organization in self._holdings

    def get(self, organization: str) -> Holding:
        """Return an organization's part, made on first use."""
        holding = self._holdings.get(organization)
        if holding is None:
            holding = self._holdings[organization] = Holding(organization)
        return holding

    def all(self) -> list[Holding]:
        """Return every part."""
        return list(self._holdings.values())

    def forget(self, holding: Holding) -> None:
        """Drop a part in which nothing is open."""
        self._lost += holding.lost
        del self._holdings[holding.organization]
