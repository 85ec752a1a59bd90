"""The composition root: the parts of one gateway, made in order and given back in reverse.

Law: the only place that knows how the parts are made; everything below takes them as arguments.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import structlog
from litestar import Litestar, Request, Response, Router
from litestar.openapi import OpenAPIConfig
from litestar.types import ASGIApp, ControllerRouterHandler
from msgspec.structs import astuple

from gateway import clock
from gateway.api.admin import CREDENTIALS, ERROR_ANSWERS, BackendView, BodySchemas, Parts, admin_router
from gateway.api.guards import all_guarded
from gateway.api.inference import inference_router, straight
from gateway.api.operations import operations_routes
from gateway.config.settings import Settings
from gateway.config.stored import kept_plan, stored_plan
from gateway.errors import new_request_id
from gateway.following import Following
from gateway.identity.changes import Feed
from gateway.identity.identify import Identities
from gateway.identity.issuers import Issuers
from gateway.identity.last_used import LastUsed
from gateway.identity.records import DrainRecord, PlanRecord
from gateway.identity.registry import Registry
from gateway.ledger import Ledger
from gateway.metrics import Metrics, Vitals
from gateway.roll import Roll, Row
from gateway.services import Services
from gateway.store.door import Store
from gateway.telemetry import Telemetry
from gateway.upkeep import Upkeep
from gateway.upstream.catalog import Catalog
from gateway.upstream.fleet import Fleet
from gateway.upstream.scanning import Scanning
from policies.domain import Deployment

log = structlog.get_logger("sluiceway.app")

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

    def __init__(self, settings: Settings, store: Store, listening: Store, admin_key: str, *, discover: bool) -> None:
        """Make the parts. `listening`: the store over connections of its own, which wait for changes."""
        self.settings = settings
        self.store = store
        instance = clock.token_hex(6)
        self.registry = Registry(store)
        self.feed = Feed(listening)
        self.issuers = Issuers(settings.issuers)
        self._last_used = LastUsed(store)
        self.ledger = Ledger(store, instance, journal=settings.store.data_dir / "journal")
        self.upkeep = Upkeep(store, self.ledger, allow_eviction=settings.store.allow_eviction)
        fleet = Fleet()
        metrics = Metrics()
        self.services = Services(
            settings=settings,
            identities=self._identities(),
            ledger=self.ledger,
            fleet=fleet,
            catalog=Catalog(settings.models or ()),
            metrics=metrics,
            telemetry=Telemetry(
                settings.telemetry.otlp_endpoint, settings.telemetry.sample, version=VERSION, instance=instance
            ),
        )
        self._admin_key = admin_key
        self._local_plans = False
        self._following = (
            Following(self.registry, self.feed, DrainRecord, self._drain),
            Following(self.registry, self.feed, PlanRecord, self._plans_are),
        )
        row = Row(
            instance, settings.digest, VERSION, int(clock.wall()), f"{settings.listen.host}:{settings.listen.port}"
        )
        self._roll = Roll(store, row)
        self.scanning = Scanning(
            fleet, settings.backends, settings.models, self._publish, metrics.forget, discover=discover
        )
        self._gauges(metrics)

    def _identities(self) -> Identities:
        settings = self.settings
        return Identities(
            self.registry,
            self.feed,
            plans=settings.plans,
            organizations=settings.organizations,
            when_down=settings.store.when_down,
            grace=settings.store.identity_grace,
            compile_plan=partial(kept_plan, models=settings.model_names),
            issuers=self.issuers,
            last_used=self._last_used,
        )

    def _gauges(self, metrics: Metrics) -> None:
        metrics.engines(self._vitals)
        metrics.gauge("sluiceway_open_calls", "Calls under way.", lambda: self.services.intake.open_calls)
        metrics.gauge("sluiceway_body_bytes", "Bytes of bodies held.", lambda: self.services.intake.buffered)
        metrics.gauge("sluiceway_store_round_trips", "Store round trips since start.", lambda: self.store.round_trips)
        metrics.gauge("sluiceway_open_reservations", "Unsettled calls.", lambda: self.ledger.open_reservations)
        metrics.gauge("sluiceway_store_down", "1 while the store is away.", lambda: self.store.down is not None)
        for name, text in FIGURES.items():
            metrics.gauge(f"sluiceway_ledger_{name}", text, partial(self._figure, name))
        metrics.gauge("sluiceway_models", "Models served.", lambda: len(self.services.catalog.models))
        metrics.gauge(
            "sluiceway_identities_proven",
            "1 while changes of tenants are followed.",
            lambda: self.feed.trusted,
        )

    def _drain(self, drains: Sequence[DrainRecord]) -> None:
        names = frozenset(drain.backend for drain in drains)
        if names != self.services.fleet.drained:
            log.info("drained backends", names=sorted(names))
            self.services.fleet.drain(names)

    def _plans_are(self, plans: Sequence[PlanRecord]) -> None:
        self._local_plans = any(record.plan.get("when_down") == "local" for record in plans)

    @property
    def serves_without_store(self) -> bool:
        """Whether any plan, of the file or the store, is kept by shares while the store is away."""
        store, plans = self.settings.store, self.settings.plans.values()
        stances = {plan.when_down or store.when_down for plan in plans}
        return self._local_plans or "local" in stances | {store.when_down}

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
        await self.issuers.start()
        await self.scanning.start()
        for each in self._following:
            await each.start()
        await self.feed.start()
        self._last_used.start()
        self._roll.start()

    def app(self) -> ASGIApp:
        """Return the app that callers talk to, and admins where the file has them there."""
        admins = [self._admin()] if self.settings.admin_on == "callers" else []
        return straight(self.services, self._litestar([inference_router(self.services), *admins]))

    def operations(self, ready: Callable[[], Awaitable[str | None]], state: Callable[[], str]) -> ASGIApp:
        """Return the app of the operations' address; `ready` and `state` as `operations_routes` has them."""
        admins = [self._admin()] if self.settings.admin_on == "operations" else []
        return self._litestar([*operations_routes(self.services.metrics, ready, state), *admins])

    def _litestar(self, routes: list[ControllerRouterHandler]) -> Litestar:
        """Make an app of routes of which none is open by mistake."""
        app = Litestar(
            routes,
            exception_handlers={
                kind: _stamped(handler, self.settings.digest) for kind, handler in ERROR_ANSWERS.items()
            },
            response_headers={"x-sluiceway-config": self.settings.digest},
            logging_config=None,
            plugins=[BodySchemas()],
            openapi_config=OpenAPIConfig(
                "Sluiceway", VERSION, description="One endpoint for all models.", components=CREDENTIALS
            ),
        )
        return all_guarded(app)

    def _admin(self) -> Router:
        return admin_router(
            Parts(
                registry=self.registry,
                store=self.store,
                callers=self.services.identities,
                admin_key=self._admin_key,
                plans=self.settings.plans,
                organizations=self.settings.organizations,
                issuers=[issuer.name for issuer in self.settings.issuers],
                compile_plan=partial(stored_plan, models=self.settings.model_names),
                backends=self._seen,
            )
        )

    def _seen(self) -> list[BackendView]:
        """Return the backends as this gateway sees them, for admins."""
        fleet, models = self.services.fleet, self.services.catalog.models
        served: dict[str, dict[str, Deployment]] = {}
        for deployment in (one for model in models for one in model.deployments):
            served.setdefault(deployment.backend, {})[deployment.model] = deployment
        return [
            BackendView(
                name=name,
                kind=home.backend.kind,
                hosted=home.backend.hosted,
                up=home.condition.down is None if home.condition.probed else None,
                why=home.condition.absent or home.condition.down,
                in_flight=sum(fleet.live(one).in_flight for one in served.get(name, {}).values()),
                models=tuple(served.get(name, {})),
            )
            for name, home in fleet.homes.items()
        ]

    async def _last_calls(self) -> None:
        """Let calls that were just cancelled end, so that all of them are settled."""
        until = clock.monotonic() + LAST_CALLS
        while self.services.intake.open_calls and clock.monotonic() < until:  # noqa: ASYNC110 - calls end by themselves
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Settle everything, send the last spans, close every connection; call it when no call is left."""
        self.scanning.close()
        self.upkeep.close()
        for each in self._following:
            each.close()
        await self.issuers.close()
        await self._roll.close()
        await self._last_calls()
        await self._last_used.close()
        await self.feed.close()
        await self.ledger.close()
        await self.services.fleet.close()
        await self.services.telemetry.close()


def _stamped(handler: Callable[..., Response[Any]], config: str) -> Callable[..., Response[Any]]:
    """Give every error answer the headers that every other answer has."""

    def stamped(request: Request[Any, Any, Any], error: Any) -> Response[Any]:  # noqa: ANN401 - the handlers' own
        answer = handler(request, error)
        answer.headers.setdefault("x-sluiceway-config", config)
        answer.headers.setdefault("x-request-id", new_request_id())
        return answer

    return stamped
