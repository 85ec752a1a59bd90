"""A running gateway kept on its file: looked at, read again, and taken whole or not at all.

Law: what was read is taken between two calls. A file that cannot be used changes nothing, and is told in the log, by a
metric and by readiness until it is mended, and so is one that does not answer. One that is being written is left alone
until it has stood unchanged for a look. One that is edited while a reading of it hangs is read anew beside that, which
takes it off a dead mount. What only a restart can change stays as it was, and is told by its name.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog
from msgspec.structs import replace

from gateway import clock
from gateway.config.mistakes import ConfigError
from gateway.config.settings import Settings
from gateway.files import Anew, Mark, NoThread, Reader, Unanswered, apart, mark_of
from gateway.http import trusting
from gateway.metrics import Metrics

log = structlog.get_logger("sluiceway.reloading")

LOOK_EVERY = 0.5
"""Seconds between two looks at the files; a change is read at the second look that sees it."""

LAST = 1.0
"""Seconds that a stop gives to a taking that has begun: it may wait longer for new replicas and backends, whose answers
it needs before it changes anything."""

GLANCE_EVERY = 1.0
"""Seconds between two looks at the configuration itself while a file that it names hangs."""

MOST_ABANDONED = 3
"""Readings that may hang at a time and be waited for no more, each of which has a thread; then the next one is."""

IN_PART = "taken in part at most"
"""What a fault begins with that came up while a good file was taken."""

T = TypeVar("T")

Load = Callable[[], Settings]
"""Reads the configuration. Raises ConfigError, and OSError where there is no file to read."""

Outcome = Settings | ConfigError | OSError
"""What came of reading it; `Unanswered` where nothing has yet."""

Hear = Callable[[Outcome, frozenset[Path]], Awaitable[None]]
"""Takes what came of a reading, and which of the files had changed since the one before, as far as is known."""

_RESTART = {
    "listen": ("host", "port", "trusted_proxies"),
    "operations": ("host", "port"),
    "store": ("url", "data_dir", "deadline", "allow_eviction"),
    "telemetry": ("otlp_endpoint", "sample"),
}
"""Settings that sockets, connections and threads were made with, which are there for as long as the process is."""


class _Abandoned(Exception):  # noqa: N818 - a state of the world, not a programming error
    """A reading that hangs, of a configuration that was edited since."""


class Watch:
    """Reads a configuration again whenever it may have changed, one reading at a time.

    `load`: reads it; `files`: those that it was read from before, itself first; `hear`: is given what came of each
    reading, and before that which file keeps it waiting. The first look that finds all of them at rest is followed by a
    reading too, by which all have changed: they may have while the gateway started, or did not answer.
    """

    def __init__(self, load: Load, files: Iterable[Path], hear: Hear) -> None:
        self._load = load
        known = tuple(files)
        self._files = frozenset(known)
        self._first = known[0] if known else Path("the configuration")
        self._reader = self._new_reader()
        self._abandoned: list[Reader] = []
        self._more: frozenset[Path] = frozenset()
        self._hear = hear
        self._known: dict[Path, Mark] | None = None
        self._glance: asyncio.Future[Mark] | None = None
        self._reading = asyncio.Lock()
        self._anew = Anew(self._read_now, "read the configuration")
        self._hearing: asyncio.Task[None] | None = None
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look at the files."""
        self._task = clock.spawn(self._keep_looking(), "watch the configuration")

    async def close(self) -> None:
        """Look no more: what is being read is not heard and not waited for; what is being taken is taken to its end.

        That is given `LAST` seconds, and then goes no further than it has come.
        """
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._hearing is not None:
            _, late = await asyncio.wait({self._hearing}, timeout=LAST)
            for hearing in late:
                log.warning("a changed configuration is taken no further: the stop has begun")
                hearing.cancel()
                await asyncio.wait({hearing})

    def read(self) -> asyncio.Task[None]:
        """Have the configuration read now, and heard, by the task that is returned: once for all who ask before."""
        return self._anew.ask()

    async def _read_now(self) -> None:
        async with self._reading:
            while not self._closed:
                with suppress(_Abandoned):
                    await self._read(await self._marks())
                    return

    async def _keep_looking(self) -> None:
        before: dict[Path, Mark] | None = None
        while True:
            try:
                before = await self._look(before)
            except _Abandoned:
                before = None
            except Exception:
                log.exception("the configuration's files could not be looked at; it is tried again")
            await asyncio.sleep(LOOK_EVERY)

    async def _look(self, before: dict[Path, Mark] | None) -> dict[Path, Mark]:
        """Look at the files, read them if they rest and are not as they were read, and return their marks."""
        async with self._reading:
            now = await self._marks()
            if now == before and now != self._known:
                await self._read(now)
        return now

    async def _marks(self) -> dict[Path, Mark]:
        files = sorted(self._files | self._more, key=lambda path: (path != self._first, path))
        marks: dict[Path, Mark] = {}

        def look() -> dict[Path, Mark]:
            for path in files:
                marks[path] = mark_of(path)
            return marks

        return await self._within_sight(look, marks)

    def _new_reader(self) -> Reader:
        return Reader(self._first, "the last good configuration", self._hear_late)

    async def _within_sight(self, work: Callable[[], T], marks: Mapping[Path, Mark]) -> T:
        """Return what `work` returns, which reads files, the configuration itself as `marks` say, once they do.

        Raises what it raises, NoThread, and _Abandoned.
        """
        reading = clock.spawn(self._reader.read(work), "read the configuration's files")
        seen: Mark = ()
        try:
            while not (await asyncio.wait({reading}, timeout=GLANCE_EVERY))[0]:
                if self._reader.late is not None and self._first in marks:
                    before, seen = seen, await self._first_now()
                    if seen and seen == before and seen != marks[self._first]:
                        self._abandon()
            return reading.result()
        finally:
            reading.cancel()  # the thread goes on, and nobody takes what it brings

    async def _first_now(self) -> Mark:
        """Return the mark of the configuration itself, an empty one where it cannot be had at once."""
        if self._glance is None:
            with suppress(NoThread):
                self._glance = apart(partial(mark_of, self._first))
        if self._glance is None or not (await asyncio.wait({self._glance}, timeout=GLANCE_EVERY))[0]:
            return ()
        glance, self._glance = self._glance, None
        return glance.result()

    def _abandon(self) -> None:
        """Wait for what hangs no more, and for no other file that the configuration named. Raises _Abandoned.

        Where too many hang already, or it has answered meanwhile, nothing is done.
        """
        self._abandoned = [reader for reader in self._abandoned if reader.late is not None]
        late = self._reader.late
        if late is None or len(self._abandoned) == MOST_ABANDONED:
            return
        self._abandoned.append(self._reader)
        self._reader = self._new_reader()
        self._known, self._files, self._more = None, frozenset({self._first}), frozenset()
        log.warning("the configuration was edited and is read anew, beside a file that does not answer", late=str(late))
        raise _Abandoned

    def _hear_late(self, late: Unanswered) -> None:
        """Have it heard that a file does not answer; once it has, all of them are read, as if they had changed."""
        self._known = None
        if not self._closed:
            clock.spawn(self._have_heard(late, frozenset()), "hear of a late file")

    async def _read(self, marks: dict[Path, Mark]) -> None:
        """Read it, the files being as `marks` say, in a thread: a long file would hold up every call for a second."""
        before, known = self._known, self._known or {}
        changed = frozenset(path for path, mark in marks.items() if known.get(path) != mark)
        self._known = marks
        try:
            outcome = await self._outcome(marks)
        except _Abandoned:
            raise
        except NoThread as error:
            self._known = before  # the next look reads it
            log.error("the configuration could not be read; it is tried again", why=str(error))  # noqa: TRY400 - the system is at fault
            return
        except Exception:
            log.exception("the configuration could not be read; it is tried again when it changes")
            return
        if not self._closed:
            # A task of its own: who looks is cancelled by a stop, which may not be what ends a taking half way.
            self._hearing = clock.spawn(self._have_heard(outcome, changed), "take the configuration")
            await asyncio.shield(self._hearing)

    async def _have_heard(self, outcome: Outcome, changed: frozenset[Path]) -> None:
        try:
            await self._hear(outcome, changed)
        except Exception:
            log.exception("the configuration could not be gone by; it is tried again when it changes")

    async def _outcome(self, marks: Mapping[Path, Mark]) -> Outcome:
        try:
            settings = await self._within_sight(self._load, marks)
        except ConfigError as error:
            self._more = frozenset(error.files)
            return error
        except OSError as error:
            return error
        self._files, self._more = frozenset(settings.files) or self._files, frozenset()
        return settings


def trusted(settings: Settings) -> Settings:
    """Return `settings`, once the authorities that they trust are in memory: no call waits for their files then.

    Raises OSError where one cannot be read.
    """
    wanted = {(one.ca, one.ca_digest) for one in settings.backends}
    wanted |= {(one.ca, one.ca_digest) for one in settings.issuers}
    for ca, digest in wanted:
        try:
            trusting(ca, digest)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(ca)) from error
    return settings


class Running(Protocol):
    """The gateway, as far as it is kept on its file.

    `settings`: what it runs on. `config_fault`: why the file as it is now is not what it runs on. `config_waiting`: the
    settings of it that wait for a restart.
    """

    settings: Settings
    config_fault: str | None
    config_waiting: tuple[str, ...]


class Reloading:
    """Keeps `gateway` on its file. `watch`: reads it, at once or when it has changed.

    `take`: has the gateway and all around it go by other settings. `renew`: reads the callers' certificate anew.
    `late`: those of the files that are read beside the configuration which do not answer.
    """

    def __init__(
        self,
        gateway: Running,
        metrics: Metrics,
        load: Load,
        *,
        take: Callable[[Settings], Awaitable[None]],
        renew: Callable[[], Awaitable[None]],
        late: Callable[[], Sequence[Unanswered]],
    ) -> None:
        self.watch = Watch(lambda: trusted(load()), gateway.settings.files, self._hear)
        self._gateway = gateway
        self._metrics = metrics
        self._take = take
        self._renew = renew
        self._wanted: Settings | None = gateway.settings
        metrics.config_stale.set_function(lambda: gateway.config_fault is not None or bool(late()))

    async def _hear(self, outcome: Outcome, changed: frozenset[Path]) -> None:
        tls = self._gateway.settings.listen.tls
        if tls is not None and changed & {tls.cert, tls.key}:
            await self._renew()
        if isinstance(outcome, Unanswered):
            self._stale(faults(outcome))  # the log has it from whoever waits for the file
        elif not isinstance(outcome, Settings):
            self._refuse(outcome)
        elif outcome != self._wanted:
            await self._go_by(outcome)
        elif self._gateway.config_fault is not None:
            log.info("the configuration is good again, and the one in force", config=outcome.digest)
            self._gateway.config_fault = None

    async def _go_by(self, wanted: Settings) -> None:
        gateway, metrics, before = self._gateway, self._metrics, self._gateway.settings
        settings, waiting = attainable(wanted, before)
        try:
            await self._take(settings)
        except Exception as error:
            log.exception("the configuration could not be taken; what it changed so far stays until the next one")
            self._wanted = None  # what is in force is no file's: the next good one is taken, whichever it is
            if self._stale([f"{IN_PART}: {error!r}"]):
                metrics.config_reloads("refused").inc()
            return
        self._wanted = wanted
        gateway.config_waiting = waiting
        metrics.config_waiting.set(len(waiting))
        metrics.config_reloads("taken").inc()
        log.info("the configuration is taken", config=wanted.digest, before=before.digest)
        if waiting:
            log.warning("settings wait for a restart; until then they stay as they were", settings=waiting)
        gone = sorted(before.plans.keys() - wanted.plans.keys())
        if gone:
            log.warning(
                "plans have gone from the file: whoever is bound to one gets 403 unless the store has it", plans=gone
            )
        gateway.config_fault = None

    def _refuse(self, error: ConfigError | OSError) -> None:
        """Keep what is in force, and say why, once."""
        why, digest = faults(error), self._gateway.settings.digest
        if self._stale(why):
            self._metrics.config_reloads("refused").inc()
            log.error("the configuration is refused; the last good one stays", why=why, config=digest)

    def _stale(self, why: list[str]) -> bool:
        """Note why the file as it is now is not in force, and say whether that is news."""
        fault = why[0] if len(why) == 1 else f"{why[0]} (and {len(why) - 1} more)"
        if fault == self._gateway.config_fault:
            return False
        self._gateway.config_fault = fault
        return True


def faults(error: ConfigError | OSError) -> list[str]:
    """Return what is wrong with a configuration, a line each."""
    if isinstance(error, ConfigError):
        return [str(mistake) for mistake in error.mistakes]
    return [f"{error.filename} cannot be read: {error.strerror}"]


def attainable(wanted: Settings, running: Settings) -> tuple[Settings, tuple[str, ...]]:
    """Return `wanted` as far as a process that runs on `running` can have it, and the names of what it cannot."""
    parts: dict[str, Any] = {}
    waiting = []
    for part, names in _RESTART.items():
        new, old = getattr(wanted, part), getattr(running, part)
        waiting += [f"{part}.{name}" for name in names if getattr(new, name) != getattr(old, name)]
        parts[part] = replace(new, **{name: getattr(old, name) for name in names})
    if (wanted.listen.tls is None) != (running.listen.tls is None):
        waiting.append("listen.tls")
        parts["listen"] = replace(parts["listen"], tls=running.listen.tls)
    waiting += ["admin_key"] * (wanted.admin_key != running.admin_key)
    waiting += ["admin.on"] * (wanted.admin_on != running.admin_on)
    return replace(wanted, **parts, admin_key=running.admin_key, admin_on=running.admin_on), tuple(waiting)
