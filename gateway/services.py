"""What every call is served with: the parts that one gateway is made of, put together in `app.py`.

Law: no behaviour here, so that nothing below the composition root needs to know how its neighbours are made.
"""

from collections.abc import Callable
from typing import Protocol

from gateway.config.settings import Settings
from gateway.identity.identify import Identities
from gateway.intake import Intake
from gateway.metrics import Metrics
from gateway.telemetry import Telemetry
from gateway.upstream.allowances import Allowances
from gateway.upstream.catalog import Catalog
from gateway.upstream.fleet import Fleet
from gateway.waiting import WaitingRoom
from policies.domain import Bill, Claim, Reservation
from policies.estimates import Estimates
from policies.ordering import Curiosity
from policies.rejections import Rejection
from policies.retries import RetryBudget


class Books(Protocol):
    """What a call needs of the ledger."""

    async def admit(self, claim: Claim) -> Reservation | Rejection:
        """Reserve at every level or refuse. Raises StoreDown."""

    def settle(self, reservation: Reservation, bill: Bill) -> None:
        """Book what was used and end the reservation; never waits."""

    def release(self, reservation: Reservation) -> None:
        """End the reservation of a call that was never tried, which then costs nothing; never waits."""

    def follow(self, reservation: Reservation, so_far: Callable[[], Bill]) -> None:
        """Ask `so_far` at every heartbeat what the call would be settled with now."""

    async def grow(self, reservation: Reservation, output_tokens: int, money: int) -> Rejection | None:
        """Set so much more aside at every level, or say which meter refuses. Raises StoreDown."""


class Services:
    """The parts of one gateway.

    `catalog` is swapped whole when what the backends list changes, `settings` when the file does; `config` is their
    digest, as answers tell it.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        identities: Identities,
        ledger: Books,
        allowances: Allowances,
        fleet: Fleet,
        catalog: Catalog,
        metrics: Metrics,
        telemetry: Telemetry,
    ) -> None:
        self.settings = settings
        self.identities = identities
        self.ledger = ledger
        self.allowances = allowances
        self.fleet = fleet
        self.catalog = catalog
        self.metrics = metrics
        self.telemetry = telemetry
        self.intake = Intake(settings.limits)
        self.room = WaitingRoom(settings.limits.waiting_calls)
        fleet.freed = self.room.freed
        self.estimates = Estimates()
        self.config = settings.digest.encode()
        self._budgets: dict[str, RetryBudget] = {}
        self._curiosities: dict[str, Curiosity] = {}

    def take(self, settings: Settings) -> None:
        """Serve by other settings from the next call on; what was learned by models' names stays."""
        self.settings = settings
        self.config = settings.digest.encode()
        self.intake.bound(settings.limits)
        self.room.bound(settings.limits.waiting_calls)

    def curiosity(self, model: str) -> Curiosity:
        """Return what finding out about a model's deployments may still cost."""
        curiosity = self._curiosities.get(model)
        if curiosity is None:
            curiosity = self._curiosities[model] = Curiosity()
        return curiosity

    def budget(self, model: str, now: float) -> RetryBudget:
        """Return the retry budget of a model."""
        budget = self._budgets.get(model)
        if budget is None:
            budget = self._budgets[model] = RetryBudget(now)
        return budget
