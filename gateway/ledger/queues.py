"""Operations, and how they wait for the next flush.

Law: settlements go before admissions, since they make room, but never take more than half of a call that others need.
"""

from abc import ABC, abstractmethod
from collections import deque

from gateway.ledger import wire
from gateway.store.door import StoreDown

MOST_OPERATIONS = 32
"""Operations of one organization in one flush."""

PATIENT_SHARE = MOST_OPERATIONS // 2
"""Places of those that settlements may take when more wait than fit: fewer, and they would never catch up."""


class BooksBroken(StoreDown):
    """The store is there, and its script cannot read one organization's books."""


class NotToldError(StoreDown):
    """The store is there, and has not been told yet what this gateway admitted without it."""


class Operation(ABC):
    """One operation on one organization's books, from its submission to its answer."""

    urgent = True
    """Whether somebody waits for the answer."""

    ordered = False
    """Whether nothing that this gateway asks for later may be told to the store before it."""

    def __init__(self, organization: str) -> None:
        self.organization = organization
        self.sent = self.kept = False

    def wanted(self) -> bool:
        """Tell whether it still makes sense to send it."""
        return True

    @abstractmethod
    def body(self, arguments: wire.Arguments) -> wire.Body:
        """Return what the script reads."""

    @abstractmethod
    def answered(self, answer: wire.Answer, now_us: int) -> None:
        """Take the script's answer, and the store's clock as it was then."""

    @abstractmethod
    def failed(self, error: StoreDown) -> bool:
        """Learn that it was lost, if it was `sent` perhaps after it was done; return whether to send it again."""


class Patient(Operation):
    """One that nobody waits for, and that the store must learn of: it is sent until it is done."""

    urgent = False

    def failed(self, error: StoreDown) -> bool:  # noqa: ARG002 - whatever it was
        """Ask to be sent again."""
        return True


class Queue:
    """What waits for one organization."""

    __slots__ = ("patient", "urgent")

    def __init__(self) -> None:
        self.urgent: deque[Operation] = deque()
        self.patient: deque[Operation] = deque()

    def take(self) -> list[Operation]:
        """Take what goes with the next flush: settlements first, since they make room."""
        share = min(len(self.patient), max(PATIENT_SHARE, MOST_OPERATIONS - len(self.urgent)))
        taken = [self.patient.popleft() for _ in range(min(share, MOST_OPERATIONS))]
        while self.urgent and len(taken) < MOST_OPERATIONS:
            operation = self.urgent.popleft()
            if operation.wanted():
                taken.append(operation)
        return taken
