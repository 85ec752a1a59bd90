"""What there is to call: the fleet and the catalog kept true to the file, to discovery and to what backends tell.

Law: the catalog is built anew from all of it and swapped whole; a backend that cannot be asked keeps what it said last.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple
from weakref import WeakKeyDictionary

import structlog

from gateway import clock
from gateway.config.settings import Backend
from gateway.files import Unanswered
from gateway.http import trusting
from gateway.upstream.catalog import Catalog, as_found, listed
from gateway.upstream.discovery import Discovery, Found, Resolve, addresses_of
from gateway.upstream.fleet import Fleet, Home
from gateway.upstream.listing import USUAL_PORTS, Listed, engine_at, models_of, unlisted
from gateway.upstream.probes import Probes
from policies.domain import Deadlines, Deployment, Model
from policies.reach import family

log = structlog.get_logger("sluiceway.scanning")

RESCAN = 30.0
"""Seconds between looks at what the backends list."""

SWEEP = 5.0
"""Seconds between two looks for backends that have left for good."""

LISTS_WITHIN = 1.0
"""Seconds that a file waits to be taken until the backends that it brings have listed their models."""


MOST_TOLD = 8
"""Models that a backend lists which the log names at once."""


class Prepared(NamedTuple):
    """What was found out for a file before it is taken: replicas of families, models that backends list."""

    found: Found
    told: Mapping[Backend, list[Listed]]


NOTHING = Prepared({}, {})


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
        self._backends = tuple(backends)
        self._models = models
        self._publish = publish
        self._forget = forget
        self._discover = discover
        self._joined: tuple[Model, ...] = ()
        self._prepared = NOTHING
        self._listings: WeakKeyDictionary[Home, list[Listed]] = WeakKeyDictionary()  # of those that are still there
        self._silent: WeakKeyDictionary[Home, str] = WeakKeyDictionary()
        self._unlisted: set[tuple[str, str]] = set()
        self._stale = asyncio.Event()
        self._lasting = _longest(models)
        self._rescanning: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        for backend in backends:
            fleet.add(backend)
        self._discovery = Discovery(fleet, _families(backends), self._changed, self._lasting, resolve)
        self._probes = Probes(fleet, self.rebuild)

    @property
    def late(self) -> list[Unanswered]:
        """The lists of replicas that do not answer."""
        return self._discovery.late

    async def start(self) -> None:
        """Look at everything once, and then again and again."""
        await self._discovery.start()
        if self._models is None:
            await self.scan()
            self._rescanning = clock.spawn(self._keep_scanning(), "rescan-backends")
        self._sweeping = clock.spawn(self._keep_sweeping(), "sweep-backends")
        self.rebuild()
        self._probes.follow()

    async def prepare(self, backends: Sequence[Backend], models: Sequence[Model] | None) -> None:
        """Find out what `take` would else find out only while calls already go by it; nothing changes. Raises OSError.

        Bounded in time: what is not found out by then is found out later.
        """
        self._prepared = NOTHING
        for backend in backends:
            trusting(backend.ca, backend.ca_digest)  # in memory by now, where the file was read apart from calls
        families = _families(backends)
        found = await self._discovery.look(families)
        told: dict[Backend, list[Listed]] = {}
        if models is None:
            replicas = self._discovery.expected(families, found)
            wanted = [one for backend in backends for one in replicas.get(backend.name, [backend])]
            known = {home.backend for home in self._fleet.present} if self._models is None else set()
            asked = [backend for backend in wanted if backend not in known]
            answers = zip(asked, await asyncio.gather(*map(_listing_of, asked)), strict=True)
            told = {backend: listing for backend, listing in answers if not isinstance(listing, str)}
        self._prepared = Prepared(found, told)

    def take(self, backends: Sequence[Backend], models: Sequence[Model] | None) -> None:
        """Go by another file from now on: its backends, and its models as in the class.

        A backend that is as it was stays as it is; one that has gone is sent nothing new, and is closed when every call
        that may know of it has ended.
        """
        (found, told), self._prepared = self._prepared, NOTHING
        before = self._fleet.present
        for backend in backends:
            self._fleet.add(backend)
        names = {backend.name for backend in backends}
        self._lasting = max(self._lasting, _longest(models))
        for gone in self._backends:
            if gone.name not in names:
                self._fleet.leave(gone.name, clock.monotonic() + self._lasting)
        self._discovery.take(_families(backends), found, self._lasting)
        self._backends, self._models = tuple(backends), models
        if models is not None and self._rescanning is not None:
            self._rescanning.cancel()
            self._rescanning = None
        elif models is None and self._rescanning is None:
            self._rescanning = clock.spawn(self._keep_scanning(), "rescan-backends")
        if models is None:
            self._hear(told, before)
        self._changed()

    def close(self) -> None:
        """Look no more."""
        for task in (self._rescanning, self._sweeping):
            if task is not None:
                task.cancel()
        self._probes.close()
        self._discovery.close()

    async def scan(self) -> None:
        """Look for local engines and for what every backend lists."""
        self._stale.clear()
        if self._discover:
            for found in await local_engines():
                if found.name not in self._fleet.homes:
                    log.info("found a local engine", backend=found.name, base_url=found.base_url)
                    self._fleet.add(found)
            self._probes.follow()
        homes = self._fleet.present
        for home, listing in zip(homes, await asyncio.gather(*map(models_of, homes)), strict=True):
            if self._fleet.homes.get(home.backend.name) is home:  # another may have taken its place meanwhile
                self._heard(home, listing)
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
        if self._models is not None:
            self._tell_unlisted(found)

    def _tell_unlisted(self, models: Sequence[Model]) -> None:
        """Log each model that the file names and its backend does not list, once for all replicas of it."""
        before, self._unlisted = self._unlisted, set()
        for one in (one for model in models for one in model.deployments):
            home, name = self._fleet.homes[one.backend], (family(one.backend), one.model)
            if name not in self._unlisted and unlisted(home, one.model):
                self._unlisted.add(name)
                if name not in before:
                    lists = home.condition.told.ids[:MOST_TOLD]
                    log.warning(
                        "a backend does not list a model of the file", backend=one.backend, model=one.model, lists=lists
                    )

    def _listed(self) -> Catalog:
        """Return the catalog of what is listed; a family that has no replica yet has not been heard of."""
        homes, present = self._fleet.homes, self._fleet.present
        empty = [name for name, names in self._discovery.replicas.items() if not names and name in homes]
        absent = [homes[name].backend for name in empty if homes[name].backend.discovered]
        listings = {home.backend.name: self._listings[home] for home in present if home in self._listings}
        return listed(listings, [*(home.backend for home in present), *absent])

    def _window(self, deployment: Deployment) -> int | None:
        """Return the window that a deployment's engine told."""
        return self._fleet.homes[deployment.backend].condition.window(deployment.model)

    def _changed(self) -> None:
        """Follow what discovery found."""
        self._probes.follow()
        self.rebuild()
        self._stale.set()

    def _hear(self, told: Mapping[Backend, list[Listed]], before: Sequence[Home]) -> None:
        """Keep what backends have told for another file; one that only has another name lists what it did before."""
        known = {_unnamed(home.backend): self._listings[home] for home in before if home in self._listings}
        for home in self._fleet.present:
            if home.backend in told:
                self._heard(home, told[home.backend])
            elif home not in self._listings and _unnamed(home.backend) in known:
                self._listings[home] = known[_unnamed(home.backend)]

    def _heard(self, home: Home, listing: list[Listed] | str) -> None:
        """Keep what a backend lists; one that cannot be asked keeps what it listed last, which is logged once."""
        if isinstance(listing, str):
            if self._silent.get(home) != listing:
                log.warning("a backend's models cannot be listed", backend=home.backend.name, why=listing)
            self._silent[home] = listing
            return
        if self._silent.pop(home, None) is not None:
            log.info("a backend lists its models again", backend=home.backend.name)
        self._listings[home] = listing

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
            self._forget(name)


async def local_engines() -> list[Backend]:
    """Return the engines of this machine that answer on their usual ports."""
    found = await asyncio.gather(*map(engine_at, USUAL_PORTS))
    return [engine for engine in found if engine is not None]


async def _listing_of(backend: Backend) -> list[Listed] | str:
    """Return what a backend lists that no call may go to yet, or why it is not known."""
    home = Home(backend)
    try:
        async with asyncio.timeout(LISTS_WITHIN):
            return await models_of(home)
    except TimeoutError:
        return f"GET /models was not answered within {LISTS_WITHIN:g} s"
    finally:
        await home.transport.aclose()


def _unnamed(backend: Backend) -> tuple[object, ...]:
    """Return what says which models a backend lists, whatever its name."""
    return backend.kind, backend.base_url, backend.address, backend.api_key


def _families(backends: Sequence[Backend]) -> list[Backend]:
    """Return the backends that stand for replicas."""
    return [backend for backend in backends if backend.discovered]


def _longest(models: Sequence[Model] | None) -> float:
    """Return the seconds within which every call ends."""
    return max((model.deadlines.total for model in models or ()), default=Deadlines().total)
