"""The composition root: the parts of one gateway, made in order and given back in reverse.

Law: the only place that knows how the parts are made; everything below takes them as arguments.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

from litestar import Litestar, Request, Response
from litestar.openapi import OpenAPIConfig
from litestar.types import ASGIApp
from msgspec.structs import astuple

from gateway import clock
from gateway.api.admin import ERROR_ANSWERS, admin_router
from gateway.api.inference import inference_router, straight
from gateway.config.settings import Settings
from gateway.errors import new_request_id
from gateway.identity.directory import Directory
from gateway.identity.identify import Identities
from gateway.ledger import Ledger
from gateway.metrics import Metrics, Vitals
from gateway.services import Services
from gateway.store.door import Store
from gateway.telemetry import Telemetry
from gateway.upkeep import Upkeep
from gateway.upstream.catalog import Catalog
from gateway.upstream.fleet import Fleet
from gateway.upstream.scanning import Scanning

LAST_CALLS = 3.0
"""Seconds that cancelled calls get to end."""

VERSION = version("sluiceway")

FIGURES = {
    "reaped": "Reservations of lost gateways that this one has ended.",
    "lost": "Settlements of reservations that the store had acknowledged and lost.",
    "repeated": "Calls of the store made once more after another server took over.",
    "local": "Calls admitted by this gateway's own share while the store was away.",
}
"""The ledger's counts since start that are told as metrics."""


class Gateway:
    """One gateway. `discover`: local engines on their usual ports are backends too."""

    def __init__(self, settings: Settings, store: Store, admin_key: str, *, discover: bool) -> None:
        self.settings = settings
        self.store = store
        instance = clock.token_hex(6)
        self.directory = Directory(store)
        journal = settings.store.data_dir / "journal"
        local = serves_without_store(settings) or any(journal.glob("*"))  # what lies there is told, whatever plans say
        self.ledger = Ledger(store, instance, journal=journal if local else None)
        self.upkeep = Upkeep(store, self.ledger, allow_eviction=settings.store.allow_eviction)
        fleet = Fleet()
        metrics = Metrics()
        self.services = Services(
            settings=settings,
            identities=Identities(self.directory, settings.plans, settings.organizations, settings.store.when_down),
            ledger=self.ledger,
            fleet=fleet,
            catalog=Catalog(settings.models or ()),
            metrics=metrics,
            telemetry=Telemetry(
                settings.telemetry.otlp_endpoint, settings.telemetry.sample, version=VERSION, instance=instance
            ),
        )
        self._admin_key = admin_key
        self.scanning = Scanning(
            fleet, settings.backends, settings.models, self._publish, metrics.forget, discover=discover
        )
        metrics.engines(self._vitals)
        metrics.gauge("sluiceway_open_calls", "Calls under way.", lambda: self.services.intake.open_calls)
        metrics.gauge("sluiceway_body_bytes", "Bytes of bodies held.", lambda: self.services.intake.buffered)
        metrics.gauge("sluiceway_store_round_trips", "Store round trips since start.", lambda: store.round_trips)
        metrics.gauge("sluiceway_open_reservations", "Unsettled calls.", lambda: self.ledger.open_reservations)
        metrics.gauge("sluiceway_store_down", "1 while the store is away.", lambda: store.down is not None)
        for name, text in FIGURES.items():
            metrics.gauge(f"sluiceway_ledger_{name}", text, partial(self._figure, name))
        metrics.gauge("sluiceway_models", "Models served.", lambda: len(self.services.catalog.models))

    def _figure(self, name: str) -> float:
        return float(getattr(self.ledger.figures, name))

    def _vitals(self) -> dict[str, Vitals]:
        """Return what the probes know of each backend, by its name."""
        found = {home.backend.name: home.condition for home in self.services.fleet.present}
        return {
            name: Vitals(float(seen.down is None) if seen.probed else None, *astuple(seen.load))
            for name, seen in found.items()
        }

    def _publish(self, catalog: Catalog) -> None:
        self.services.catalog = catalog

    async def start(self) -> None:
        """Join the store and look at the backends. Raises StoreDown and UnfitStore."""
        await self.upkeep.start()
        await self.ledger.start()
        await self.scanning.start()

    def app(self) -> ASGIApp:
        """Return the app that callers and admins talk to."""
        return straight(self.services, self._routes())

    def _routes(self) -> Litestar:
        zones = {name: one.time_zone for name, one in self.settings.organizations.items()}
        admin = admin_router(self.directory, self.store, self.settings.plans, zones, self._admin_key)
        return Litestar(
            [inference_router(self.services), admin],
            exception_handlers={
                kind: _stamped(handler, self.settings.digest) for kind, handler in ERROR_ANSWERS.items()
            },
            response_headers={"x-sluiceway-config": self.settings.digest},
            logging_config=None,
            openapi_config=OpenAPIConfig("Sluiceway", VERSION, description="One endpoint for all models."),
        )

    async def _last_calls(self) -> None:
        """Let calls that were just cancelled end, so that all of them are settled."""
        until = clock.monotonic() + LAST_CALLS
        while self.services.intake.open_calls and clock.monotonic() < until:  # noqa: ASYNC110 - calls end by themselves
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Settle everything, send the last spans, close every connection; call it when no call is left."""
        self.scanning.close()
        self.upkeep.close()
        await self._last_calls()
        await self.ledger.close()
        await self.services.fleet.close()
        await self.services.telemetry.close()


def serves_without_store(settings: Settings) -> bool:
    """Say whether any plan is kept by shares while the store is away."""
    stances = {plan.when_down or settings.store.when_down for plan in settings.plans.values()}
    return "local" in stances | {settings.store.when_down}


def _stamped(handler: Callable[..., Response[Any]], config: str) -> Callable[..., Response[Any]]:
    """Give every error answer the headers that every other answer has."""

    def stamped(request: Request[Any, Any, Any], error: Any) -> Response[Any]:  # noqa: ANN401 - the handlers' own
        answer = handler(request, error)
        answer.headers.setdefault("x-sluiceway-config", config)
        answer.headers.setdefault("x-request-id", new_request_id())
        return answer

    return stamped
