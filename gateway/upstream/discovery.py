"""Replicas that come and go: the addresses of a name, or the lines of a file.

Law: a lookup that fails and a list that is wrong change nothing and are told once. A replica that goes is sent nothing
new, and keeps its connections until every call that may know of it has ended. The fleet changes in one step.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from socket import IPPROTO_TCP

import httpx
import structlog
from msgspec.structs import replace

from gateway import clock
from gateway.config import ConfigError
from gateway.config.replicas import place_of, read_replicas
from gateway.config.settings import Backend
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

MOST_TOLD = 8
"""Replicas that came or went which the log names at once."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host and a port to its addresses. Raises OSError and UnicodeError."""


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
        self._families = families
        self._changed = changed
        self._lasting = lasting
        self._resolve = resolve
        self._fault: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to look, and return when each family was looked at once or `FIRST` is over."""
        looked = [asyncio.Event() for _ in self._families]
        for family, once in zip(self._families, looked, strict=True):
            watch = self._watch_name if family.list_file is None else self._watch_file
            self._tasks.append(clock.spawn(watch(family, once), f"discover-{family.name}"))
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST):
                for once in looked:
                    await once.wait()

    def close(self) -> None:
        """Look no more."""
        for task in self._tasks:
            task.cancel()

    async def _watch_name(self, family: Backend, once: asyncio.Event) -> None:
        url = httpx.URL(family.base_url)
        port = url.port or (443 if url.scheme == "https" else 80)
        unreached = asyncio.Event()
        while True:
            await self._look_up(family, url.host, port, unreached.set)
            once.set()
            await asyncio.sleep(LOOK_LEAST)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY - LOOK_LEAST):
                    await unreached.wait()
            unreached.clear()

    async def _look_up(self, family: Backend, host: str, port: int, unreached: Callable[[], None]) -> None:
        """Take the addresses that a name has now; the last ones stay where it has none."""
        try:
            found = [
                replace(family, name=f"{family.name}@{_shown(address)}:{port}", discover=None, address=address)
                for address in sorted(set(await self._resolve(host, port)))
            ]
            if found:
                self._take(family, found, unreached)
            else:
                self._tell(family, f"{host} has no address")
        except (OSError, UnicodeError) as error:
            self._tell(family, f"{host} cannot be looked up: {error}")
        except Exception:
            log.exception("the replicas could not be looked up", backend=family.name)

    async def _watch_file(self, family: Backend, once: asyncio.Event) -> None:
        source = family.list_file or Path()
        taken: tuple[int, ...] | None = None
        before = _mark(source)
        while True:
            now = _mark(source)
            if now == before and now != taken:
                taken = now
                self._read(family, source)
            before = now
            once.set()
            await asyncio.sleep(POLL_EVERY)

    def _read(self, family: Backend, source: Path) -> None:
        """Take the replicas that a file lists now; the last ones stay where it is wrong or gone."""
        try:
            named = {f"{family.name}@{place_of(url)}": url for url in read_replicas(source.read_bytes(), str(source))}
            found = [replace(family, name=name, base_url=url, list_file=None) for name, url in named.items()]
            self._take(family, found, lambda: None)
        except OSError as error:
            self._tell(family, f"{source} cannot be read: {error.strerror}")
        except ConfigError as error:
            self._tell(family, str(error))
        except Exception:
            log.exception("the replicas could not be read", backend=family.name)

    def _take(self, family: Backend, found: Sequence[Backend], unreached: Callable[[], None]) -> None:
        """Make `found` the replicas of `family`."""
        if self._fault.pop(family.name, None) is not None:
            log.info("the replicas are known again", backend=family.name)
        before, after = self.replicas[family.name], tuple(backend.name for backend in found)
        if found and before == after and all(self._fleet.homes[backend.name].backend == backend for backend in found):
            return
        for backend in found:
            self._fleet.add(backend).condition.unreached = unreached
        gone = [name for name in before if name not in after]
        for name in gone:
            self._fleet.leave(name, clock.monotonic() + self._lasting)
        self.replicas[family.name] = after
        come = [name for name in after if name not in before]
        log.info(
            "the replicas changed", backend=family.name, there=len(after), come=come[:MOST_TOLD], gone=gone[:MOST_TOLD]
        )
        if not found:
            log.warning("no replicas are left: calls for them are refused", backend=family.name)
        self._changed()

    def _tell(self, family: Backend, fault: str) -> None:
        """Log why the replicas are not known, once."""
        if self._fault.get(family.name) != fault:
            self._fault[family.name] = fault
            told = "the last known replicas stay" if self.replicas[family.name] else "no replicas are known yet"
            log.warning(told, backend=family.name, why=fault)


def _mark(source: Path) -> tuple[int, ...]:
    """Return what changes when a file does, behind whatever links it lies; nothing where it is not there."""
    try:
        stat = source.stat()
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino  # the second one changes with its permissions


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
