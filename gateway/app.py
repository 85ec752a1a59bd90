"""The composition root: the parts of one gateway, made in order and given back in reverse.

Law: the only place that knows how the parts are made; everything below takes them as arguments.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import Any

import structlog
from litestar.types import ASGIApp, ControllerRouterHandler
from msgspec.structs import astuple

from gateway import clock
from gateway.api.admin import BackendView, Parts
from gateway.api.admin_explain import dry_run
from gateway.api.admin_views import backends_seen
from gateway.api.apps import admin_app, callers_app, guarded_app
from gateway.api.cors import Cors
from gateway.api.inference import straight
from gateway.api.operations import operations_routes
from gateway.config.settings import Settings
from gateway.config.stored import kept_plan, stored_plan
from gateway.following import Following
from gateway.identity.changes import Feed
from gateway.identity.identify import Identities
from gateway.identity.issuers import Issuers
from gateway.identity.last_used import LastUsed
from gateway.identity.records import DrainRecord, PlanRecord
from gateway.identity.registry import Registry
from gateway.ledger import Ledger
from gateway.metrics import Metrics, Vitals
from gateway.peers import Memory, Peers
from gateway.roll import Roll, Row, reached_at
from gateway.services import Services
from gateway.store.door import Store, StoreDown
from gateway.store.joining import Joining
from gateway.telemetry import Telemetry
from gateway.upkeep import Upkeep
from gateway.upstream.allowances import Allowances
from gateway.upstream.catalog import Catalog
from gateway.upstream.fleet import Fleet
from gateway.upstream.scanning import Scanning
from policies.latency import Latency, Pool

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
    """One gateway. `discover`: local engines on their usual ports are backends too.

    `settings`: what it runs on; `config_fault`, `config_waiting`: what of its file as it is now it does not, as
    `reloading.py` has them.
    """

    def __init__(self, settings: Settings, store: Store, listening: Store, admin_key: str, *, discover: bool) -> None:
        """Make the parts. `listening`: the store over connections of its own, which wait for changes."""
        self.settings = settings
        self.config_fault: str | None = None
        self.config_waiting: tuple[str, ...] = ()
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
            allowances=Allowances(store),
            fleet=fleet,
            catalog=Catalog(settings.models or ()),
            metrics=metrics,
            telemetry=Telemetry(
                settings.telemetry.otlp_endpoint, settings.telemetry.sample, version=VERSION, instance=instance
            ),
        )
        metrics.config(settings.digest)
        self.cors = Cors(settings.listen.cors)
        self._admin_key = admin_key
        self._parts: Parts | None = None
        self._local_plans = False
        self._following = (
            Following(self.registry, self.feed, DrainRecord, self._drain),
            Following(self.registry, self.feed, PlanRecord, self._plans_are),
        )
        started, address = int(clock.wall()), reached_at(settings.listen.host, settings.listen.port)
        self._roll = Roll(store, lambda: self._row(instance, started, address))
        self._peers = Peers(store, fleet, instance)
        self._memory = Memory(store, self._learners, lambda: self._peers.count)
        self.joining = Joining(store, self._prepare, self._begin)
        self.scanning = Scanning(
            fleet, settings.backends, settings.models, self._publish, metrics.forget, discover=discover
        )
        self._gauges(metrics)

    def _identities(self) -> Identities:
        return Identities(
            self.registry, self.feed, **_tenancy(self.settings), issuers=self.issuers, last_used=self._last_used
        )

    def _gauges(self, metrics: Metrics) -> None:
        metrics.engines(self._vitals)
        metrics.gauge("sluiceway_open_calls", "Calls under way.", lambda: self.services.intake.open_calls)
        metrics.gauge("sluiceway_waiting_calls", "Calls that wait for a place.", lambda: self.services.room.waiting)
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

    @property
    def knows_nobody(self) -> bool:
        """Whether the store has been away for longer than callers are known without it: each is told 503."""
        gone = self.store.down_since
        if gone is None or self.feed.trusted:
            return False
        return clock.monotonic() >= max(gone, self.feed.proven(self.feed.epoch)) + self.settings.store.identity_grace

    def _figure(self, name: str) -> float:
        return float(getattr(self.ledger.figures, name))

    def _vitals(self) -> dict[str, Vitals]:
        """Return what the probes know of each backend, by its name."""
        found = {home.backend.name: home.condition for home in self.services.fleet.present}
        return {
            name: Vitals(float(seen.down is None) if seen.probed else None, *astuple(seen.load))
            for name, seen in found.items()
        }

    def _row(self, instance: str, started: int, address: str) -> Row:
        """Return what the others are told of this gateway."""
        return Row(
            instance,
            self.settings.digest,
            VERSION,
            started,
            address,
            open_calls=self.services.intake.open_calls,
            waiting=self.services.room.waiting,
            refused=self.config_fault is not None,
        )

    def _learners(self) -> dict[tuple[str, ...], Pool | Latency]:
        """Return what learns of the deployments of all models."""
        models = self.services.catalog.models
        return self.services.fleet.learners(one for model in models for one in model.deployments)

    def _publish(self, catalog: Catalog) -> None:
        self.services.catalog = catalog
        self._memory.appeared()
        room = self.services.room
        for name in room.models:
            model = catalog.find(name)
            chain = [] if model is None else catalog.chain(model)
            room.lists(name, (one.id for link in chain for one in link.deployments))  # one that has come has room

    async def start(self) -> None:
        """Join the store, now or as soon as it comes, and look at the backends. Raises UnfitStore."""
        await self.joining.start()
        await self.issuers.start()
        await self.scanning.start()
        with suppress(StoreDown):  # then it is read once the store is there
            await self._memory.read()

    async def _prepare(self, over: Store) -> None:
        """Do what must precede the first call: the books as they were left, what is drained, the plans."""
        await self.upkeep.start(over)
        await self.ledger.start(over)
        registry = Registry(over)
        for each in self._following:
            await each.start(registry)

    async def _begin(self) -> None:
        """Do what goes on while the store is there."""
        await self.feed.start()
        self._last_used.start()
        self._roll.start()
        self._peers.start()
        self._memory.start()

    async def take(self, settings: Settings) -> None:
        """Go by other settings from the next call on; calls under way end as they began.

        What only a restart can change has to be as it is. Raises OSError, before anything has changed.
        """
        await self.scanning.prepare(settings.backends, settings.models)
        # One turn of the loop from here on, and first what might fail: then whose terms are in force is as it was.
        self.scanning.take(settings.backends, settings.models)
        before, self.settings = self.settings, settings
        self.services.take(settings)
        self.issuers.take(settings.issuers)
        self.cors.take(settings.listen.cors)
        if _of_tenants(before) != _of_tenants(settings):
            self.services.identities.take(**_tenancy(settings))
        if self._parts is not None:
            for name, value in _of_file(settings).items():
                setattr(self._parts, name, value)
        self.services.metrics.config(settings.digest)

    def app(self) -> ASGIApp:
        """Return the app that callers talk to, and admins where the file has them there."""
        callers = callers_app(self.services)
        return straight(self.services, callers, self._admins() if self.settings.admin_on == "callers" else callers)

    def operations(self, ready: Callable[[], Awaitable[str | None]], state: Callable[[], str]) -> ASGIApp:
        """Return the app of the operations' address; `ready` and `state` as `operations_routes` has them."""
        routes = operations_routes(self.services.metrics, ready, state)
        return self._admins(routes) if self.settings.admin_on == "operations" else guarded_app(self.services, routes)

    def _admins(self, beside: Iterable[ControllerRouterHandler] = ()) -> ASGIApp:
        """Return the app of the admin API, and of what else is on its address."""
        self._parts = Parts(
            registry=self.registry,
            store=self.store,
            callers=self.services.identities,
            admin_key=self._admin_key,
            backends=self._seen,
            dry_run=partial(dry_run, self.services),
            catalog=lambda: self.services.catalog,
            serves_without_store=lambda: self.serves_without_store,
            **_of_file(self.settings),
        )
        return admin_app(self.services, self._parts, VERSION, beside)

    def _seen(self) -> list[BackendView]:
        """Return the backends as this gateway sees them now, for admins."""
        return backends_seen(self.services.fleet, self.services.catalog, clock.monotonic())

    async def _last_calls(self) -> None:
        """Let calls that were just cancelled end, so that all of them are settled."""
        until = clock.monotonic() + LAST_CALLS
        while self.services.intake.open_calls and clock.monotonic() < until:  # noqa: ASYNC110 - calls end by themselves
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Settle everything, send the last spans, close every connection; call it when no call is left."""
        self.scanning.close()
        await self.joining.close()
        self.upkeep.close()
        for each in self._following:
            each.close()
        await self.issuers.close()
        await self._roll.close()
        await self._last_calls()
        await self._memory.close()
        await self._peers.close()
        await self._last_used.close()
        await self.feed.close()
        await self.ledger.close()
        await self.services.fleet.close()
        await self.services.telemetry.close()


def _of_tenants(settings: Settings) -> tuple[object, ...]:
    """Return what of the settings says what callers are held to."""
    store = settings.store
    return settings.plans, settings.organizations, settings.model_names, store.when_down, store.identity_grace


def _tenancy(settings: Settings) -> dict[str, Any]:
    """Return the same as `Identities` has it."""
    return {
        "plans": settings.plans,
        "organizations": settings.organizations,
        "when_down": settings.store.when_down,
        "grace": settings.store.identity_grace,
        "compile_plan": partial(kept_plan, models=settings.model_names),
    }


def _of_file(settings: Settings) -> dict[str, Any]:
    """Return what of the settings the admin API's `Parts` hold, by its name there."""
    return {
        "plans": settings.plans,
        "organizations": settings.organizations,
        "issuers": [issuer.name for issuer in settings.issuers],
        "compile_plan": partial(stored_plan, models=settings.model_names),
    }
