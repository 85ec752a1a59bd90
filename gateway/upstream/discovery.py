"""Replicas that come and go: the addresses of a name, or the lines of a file.

Law: a lookup that fails, a list that is wrong and one that does not answer change nothing and are told once: the last
known replicas of that very source stay, never those of another one. A replica that goes is sent nothing new, and keeps
its connections until every call that may know of it has ended. The fleet changes in one step.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from socket import IPPROTO_TCP

import httpx
import structlog
from msgspec.structs import replace

from gateway import clock
from gateway.config import ConfigError
from gateway.config.replicas import place_of, read_replicas
from gateway.config.settings import Backend
from gateway.files import Mark, Readers, Unanswered, mark_of
from gateway.upstream.fleet import Fleet

log = structlog.get_logger("sluiceway.discovery")

LOOK_EVERY = 5.0
"""Seconds between two lookups of a name."""

LOOK_LEAST = 1.0
"""Seconds between two, when a connection failed in between."""

POLL_EVERY = 1.0
"""Seconds between two looks at a file. What changed is read at the next look that finds it unchanged, so that a file
that is being written is not taken for a shorter one."""

FIRST = 3.0
"""Seconds that a start waits for the first lookups."""

MORE = 5.0
"""Seconds that a file waits to be taken until the families that it brings were looked at once."""

MOST_TOLD = 8
"""Replicas that came or went which the log names at once."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host and a port to its addresses. Raises OSError and UnicodeError."""

Found = Mapping[Backend, Sequence[Backend]]
"""The replicas of families that were looked at before they are followed."""


async def addresses_of(host: str, port: int) -> list[str]:
    """Return the addresses of `host`, as the system resolves it. Raises OSError and UnicodeError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, proto=IPPROTO_TCP)
    return [str(address[0]) for *_, address in found]


class Discovery:
    """Keeps the replicas of each backend in `families` true to what there is.

    `changed` is called after each change. `lasting`: seconds within which every call ends. `replicas`: the names of
    those there are, by family.
    """

    def __init__(
        self,
        fleet: Fleet,
        families: Sequence[Backend],
        changed: Callable[[], None],
        lasting: float,
        resolve: Resolve = addresses_of,
    ) -> None:
        self.replicas: dict[str, tuple[str, ...]] = {family.name: () for family in families}
        self._fleet = fleet
        self._first = families
        self._families: dict[str, Backend] = {}
        self._changed = changed
        self._lasting = lasting
        self._resolve = resolve
        self._readers = Readers("the last known replicas")
        self._fault: dict[str, str] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def late(self) -> list[Unanswered]:
        """The lists that do not answer."""
        lists = [family.list_file for family in self._families.values()]
        return self._readers.late((file,) for file in lists if file is not None)

    async def start(self) -> None:
        """Begin to look, and return when each family was looked at once or `FIRST` is over."""
        looked = [self._follow(family) for family in self._first]
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST):
                for once in looked:
                    await once.wait()

    async def look(self, families: Sequence[Backend]) -> Found:
        """Look once at each list that is new or to be used otherwise, and at each name of which nothing is known.

        Nothing is changed. One that could not be looked up, or not within `MORE` seconds, is missing from what is
        returned.
        """
        known = self._known()
        others = [family for family in families if self._families.get(family.name) != family]
        sought = [family for family in others if family.list_file is not None or _source(family) not in known]
        seen: dict[Backend, Sequence[Backend] | str] = {}

        async def once(family: Backend) -> None:
            seen[family] = await self._replicas_of(family)

        with suppress(TimeoutError):
            async with asyncio.timeout(MORE):
                await asyncio.gather(*map(once, sought))
        late = [family.name for family in sought if family not in seen]
        if late:
            told = "replicas are not known yet, and no longer waited for: calls for them are refused until they are"
            log.warning(told, backends=late, waited=MORE)
        return {family: found for family, found in seen.items() if not isinstance(found, str)}

    def expected(self, families: Sequence[Backend], found: Found) -> dict[str, Sequence[Backend]]:
        """Return the replicas that each of `families` is to begin with: those `found`, or the last known of its source.

        They are reached as their family is to be.
        """
        known = self._known()
        return {one.name: found[one] if one in found else self._alike(one, known.get(_source(one))) for one in families}

    def take(self, families: Sequence[Backend], found: Found, lasting: float) -> None:
        """Follow these families and no others, as `expected` has them; `changed` is not called.

        `lasting`: as of the class, from now on. The replicas of a family that has gone, or is now another source's, are
        sent nothing new.
        """
        others = [family for family in families if self._families.get(family.name) != family]
        expected = self.expected(others, found)
        self._lasting = max(self._lasting, lasting)  # calls from before last as long as they were to
        for name in self._families.keys() - {family.name for family in families}:
            self._drop(name)
            del self._families[name]
            self._leave(self.replicas.pop(name))
        for family in others:
            self._drop(family.name)
            if self.replicas.setdefault(family.name, ()) or expected[family.name]:
                self._put(family, expected[family.name], _nothing)
            self._follow(family)

    def close(self) -> None:
        """Look no more."""
        for name in [*self._tasks]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        """Look for the replicas of a family no more."""
        self._fault.pop(name, None)
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()

    def _known(self) -> dict[tuple[object, ...], str]:
        """Return, for each source of which replicas are known, a family that has them."""
        return {_source(family): name for name, family in self._families.items() if self.replicas[name]}

    def _alike(self, family: Backend, known: str | None) -> Sequence[Backend]:
        """Return the replicas of the family `known`, which has the same source, as those of `family`."""
        alike = []
        for name in () if known is None else self.replicas[known]:
            backend = self._fleet.homes[name].backend
            alike.append(_replica(family, name.removeprefix(f"{known}@"), backend.base_url, backend.address))
        return alike

    def _follow(self, family: Backend) -> asyncio.Event:
        """Look for the replicas of a family from now on; the event is set when it was looked at once."""
        self._families[family.name] = family
        once = asyncio.Event()
        source = family.list_file
        watch = self._watch_name(family, once) if source is None else self._watch_file(family, source, once)
        self._tasks[family.name] = clock.spawn(watch, f"discover-{family.name}")
        return once

    async def _watch_name(self, family: Backend, once: asyncio.Event) -> None:
        unreached = asyncio.Event()
        while True:
            await self._look_at(family, unreached.set)
            once.set()
            await asyncio.sleep(LOOK_LEAST)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY - LOOK_LEAST):
                    await unreached.wait()
            unreached.clear()

    async def _watch_file(self, family: Backend, source: Path, once: asyncio.Event) -> None:
        taken: Mark | None = None
        before: Mark | None = None
        while True:
            try:
                now = await self._readers.of(source).read(partial(mark_of, source))
            except RuntimeError:  # no thread to spare
                log.exception("a list could not be looked at; it is tried again", backend=family.name)
            else:
                if before in {None, now} and now != taken:
                    taken = now
                    await self._look_at(family, _nothing)
                before = now
            once.set()
            await asyncio.sleep(POLL_EVERY)

    async def _look_at(self, family: Backend, unreached: Callable[[], None]) -> None:
        """Take the replicas that a family has now; the last ones stay where nobody can say."""
        found = await self._replicas_of(family)
        if isinstance(found, str):
            self._tell(family, found)
            return
        try:
            self._take(family, found, unreached)
        except Exception:
            log.exception("the replicas could not be taken", backend=family.name)

    async def _replicas_of(self, family: Backend) -> Sequence[Backend] | str:
        """Return the replicas that a family has now, or why nobody can say."""
        try:
            if family.list_file is None:
                return await self._addressed(family)
            return await self._readers.of(family.list_file).read(partial(_listed, family, family.list_file))
        except Exception as error:
            log.exception("the replicas could not be looked up", backend=family.name)
            return f"the lookup broke: {error!r}"

    async def _addressed(self, family: Backend) -> Sequence[Backend] | str:
        """Return a replica for each address that a name has now, or why there is none."""
        url = httpx.URL(family.base_url)
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            addresses = sorted(set(await self._resolve(url.host, port)))
        except (OSError, UnicodeError) as error:
            return f"{url.host} cannot be looked up: {error}"
        found = [_replica(family, f"{_shown(address)}:{port}", family.base_url, address) for address in addresses]
        return found or f"{url.host} has no address"

    def _take(self, family: Backend, found: Sequence[Backend], unreached: Callable[[], None]) -> None:
        """Make `found` the replicas of `family`, and tell whoever wants to know."""
        if self._fault.pop(family.name, None) is not None:
            log.info("the replicas are known again", backend=family.name)
        homes, before = self._fleet.homes, self.replicas[family.name]
        if found and before == _names(found) and all(homes[backend.name].backend == backend for backend in found):
            for name in before:
                homes[name].condition.unreached = unreached
            return
        self._put(family, found, unreached)
        self._changed()

    def _put(self, family: Backend, found: Sequence[Backend], unreached: Callable[[], None]) -> None:
        """Have the fleet hold `found` as the replicas of `family`."""
        before, after = self.replicas[family.name], _names(found)
        for backend in found:
            self._fleet.add(backend).condition.unreached = unreached
        gone = [name for name in before if name not in after]
        self._leave(gone)
        self.replicas[family.name] = after
        come = [name for name in after if name not in before]
        log.info(
            "the replicas changed", backend=family.name, there=len(after), come=come[:MOST_TOLD], gone=gone[:MOST_TOLD]
        )
        if not found:
            log.warning("no replicas are left: calls for them are refused", backend=family.name)

    def _leave(self, names: Sequence[str]) -> None:
        for name in names:
            self._fleet.leave(name, clock.monotonic() + self._lasting)

    def _tell(self, family: Backend, fault: str) -> None:
        """Log why the replicas are not known, once."""
        if self._fault.get(family.name) != fault:
            self._fault[family.name] = fault
            told = "the last known replicas stay" if self.replicas[family.name] else "no replicas are known yet"
            log.warning(told, backend=family.name, why=fault)


def _replica(family: Backend, place: str, base_url: str, address: str | None) -> Backend:
    """Return the replica of a family that is found at `place`."""
    name = f"{family.name}@{place}"
    return replace(family, name=name, base_url=base_url, address=address, discover=None, list_file=None)


def _listed(family: Backend, source: Path) -> Sequence[Backend] | str:
    """Return a replica for each line of a list as it is now, or what is wrong with it."""
    try:
        urls = read_replicas(source.read_bytes(), str(source))
    except OSError as error:
        return f"{source} cannot be read: {error.strerror}"
    except ConfigError as error:
        return str(error)
    return [_replica(family, place_of(url), url, None) for url in urls]


def _names(backends: Sequence[Backend]) -> tuple[str, ...]:
    return tuple(backend.name for backend in backends)


def _nothing() -> None:
    """Look no sooner."""


def _source(family: Backend) -> tuple[object, ...]:
    """Return what says where the replicas of a family are, and whose they are, which holds for those found before."""
    return family.base_url, family.discover, family.list_file, family.hosted


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
