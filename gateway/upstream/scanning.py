"""What there is to call: the fleet and the catalog kept true to the file, to discovery and to what backends tell.

Law: the catalog is built anew from all of it and swapped whole; a backend that cannot be asked keeps what it said last.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from gateway import clock
from gateway.config.settings import Backend
from gateway.upstream.catalog import Catalog, as_found, listed
from gateway.upstream.discovery import Discovery, Resolve, addresses_of
from gateway.upstream.fleet import Fleet
from gateway.upstream.listing import USUAL_PORTS, Listed, engine_at, models_of
from gateway.upstream.probes import Probes
from policies.domain import Deadlines, Deployment, Model

log = structlog.get_logger("sluiceway.scanning")

RESCAN = 30.0
"""Seconds between looks at what the backends list."""

SWEEP = 5.0
"""Seconds between two looks for backends that have left for good."""


class Scanning:
    """Keeps a fleet and its catalog.

    `models`: those of the file, None where every model that a backend lists is served. `publish` is given each new
    catalog, `forget` the name of each backend that has left for good. `discover`: local engines on their usual ports
    are backends too.
    """

    def __init__(
        self,
        fleet: Fleet,
        backends: Sequence[Backend],
        models: Sequence[Model] | None,
        publish: Callable[[Catalog], None],
        forget: Callable[[str], None],
        *,
        discover: bool = False,
        resolve: Resolve = addresses_of,
    ) -> None:
        self._fleet = fleet
        self._models = models
        self._publish = publish
        self._forget = forget
        self._discover = discover
        self._joined: tuple[Model, ...] = ()
        self._listings: dict[str, list[Listed]] = {}
        self._silent: dict[str, str] = {}
        self._stale = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        for backend in backends:
            fleet.add(backend)
        families = [backend for backend in backends if backend.discovered]
        lasting = max((model.deadlines.total for model in models or ()), default=Deadlines().total)
        self._discovery = Discovery(fleet, families, self._changed, lasting, resolve)
        self._probes = Probes(fleet, self.rebuild)

    async def start(self) -> None:
        """Look at everything once, and then again and again."""
        await self._discovery.start()
        if self._models is None:
            await self.scan()
            self._tasks.append(clock.spawn(self._keep_scanning(), "rescan-backends"))
        self._tasks.append(clock.spawn(self._keep_sweeping(), "sweep-backends"))
        self.rebuild()
        self._probes.follow()

    def close(self) -> None:
        """Look no more."""
        for task in self._tasks:
            task.cancel()
        self._probes.close()
        self._discovery.close()

    async def scan(self) -> None:
        """Look for local engines and for what every backend lists."""
        self._stale.clear()
        if self._discover:
            for found in await asyncio.gather(*(engine_at(port) for port in USUAL_PORTS)):
                if found is not None and found.name not in self._fleet.homes:
                    log.info("found a local engine", backend=found.name, base_url=found.base_url)
                    self._fleet.add(found)
            self._probes.follow()
        homes = self._fleet.present
        for home, listing in zip(homes, await asyncio.gather(*map(models_of, homes)), strict=True):
            self._heard(home.backend.name, listing)
        self.rebuild()

    def join(self, backend: Backend, models: Sequence[Model]) -> None:
        """Serve these models of a backend too."""
        self._fleet.add(backend)
        self._joined += tuple(models)
        self.rebuild()
        self._probes.follow()

    def rebuild(self) -> None:
        """Publish the catalog of what is known now."""
        known = Catalog(self._models) if self._models is not None else self._listed()
        found = as_found((*known.models, *self._joined), self._discovery.replicas, self._window)
        self._publish(Catalog(found, known.unheard))

    def _listed(self) -> Catalog:
        """Return the catalog of what is listed; a family that has no replica yet has not been heard of."""
        empty = [self._fleet.homes[name].backend for name, names in self._discovery.replicas.items() if not names]
        return listed(self._listings, [*(home.backend for home in self._fleet.present), *empty])

    def _window(self, deployment: Deployment) -> int | None:
        """Return the window that a deployment's engine told."""
        return self._fleet.homes[deployment.backend].condition.window(deployment.model)

    def _changed(self) -> None:
        """Follow what discovery found."""
        self._probes.follow()
        self.rebuild()
        self._stale.set()

    def _heard(self, backend: str, listing: list[Listed] | str) -> None:
        """Keep what a backend lists; one that cannot be asked keeps what it listed last, which is logged once."""
        if isinstance(listing, str):
            if self._silent.get(backend) != listing:
                log.warning("a backend's models cannot be listed", backend=backend, why=listing)
            self._silent[backend] = listing
            return
        if self._silent.pop(backend, None) is not None:
            log.info("a backend lists its models again", backend=backend)
        self._listings[backend] = listing

    async def _keep_scanning(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RESCAN):
                    await self._stale.wait()
            try:
                await self.scan()
            except Exception:
                log.exception("the backends could not be scanned; the last catalog stays")

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            try:
                await self._sweep()
            except Exception:
                log.exception("what has left could not be swept out; it is tried again")

    async def _sweep(self) -> None:
        for name in await self._fleet.sweep(clock.monotonic()):
            self._listings.pop(name, None)
            self._silent.pop(name, None)
            self._forget(name)
