"""The supervisor of several workers: it holds what there is only one of, and hands each what it needs of that.

Law: the callers' socket is bound once and outlives every worker, so that a caller who comes while one is replaced only
waits. The store starts first and stops last, and lives on while a worker does whose supervisor was killed. The file is
read here alone: a worker has what was last found good, and why what came since was not; one that takes another's place
runs on no more of it than those who were there before it came.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog
from msgspec.structs import replace

from gateway import server
from gateway.config.mistakes import ConfigError
from gateway.config.settings import Settings
from gateway.connections import Connections
from gateway.listener import listen
from gateway.reloading import Load, Outcome, Watch, attainable
from gateway.tls import server_context
from gateway.workers.channel import Handed, Listening
from gateway.workers.child import Child, begin
from gateway.workers.crew import Crew
from gateway.workers.kept import Kept, keep
from gateway.workers.operations import Operations

log = structlog.get_logger("sluiceway.workers")


class Supervisor:
    """The workers that share what is `kept`. `url`, `operations_url`: where; `settings`: the last that were good.

    `told`: what the first of them said of itself. `discover`, `load`: as of `supervise`.
    """

    def __init__(self, kept: Kept, *, discover: bool, load: Load | None) -> None:
        self.settings = kept.first
        self.url = ""
        self.operations_url = server.url_of("http", self.settings.operations, kept.operations)
        self.told = Listening(0)
        self._kept = kept
        self._crew = Crew(kept.workers, self._begin)
        self._discover = discover
        self._file = Handed(kept.inside(self.settings))
        self._watch = None if load is None else Watch(load, self.settings.files, self._hear)
        self._stack = contextlib.AsyncExitStack()

    @property
    def ports(self) -> Mapping[int, int | None]:
        """Each worker's operations port, by its number; None where it does not listen."""
        return self._crew.ports

    @property
    def answering(self) -> Sequence[int]:
        """The operations ports of those that listen, and answered when they were last looked at."""
        return self._crew.answering

    @property
    def restarts(self) -> Mapping[int, int]:
        """How often each worker was replaced, by its number."""
        return self._crew.restarts

    @property
    def stopping(self) -> bool:
        """Whether no worker takes calls for long."""
        return self._crew.stopping

    @property
    def digest(self) -> str:
        """Which configuration is in force."""
        return self.settings.digest

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start the workers, in what `stack` holds, and return once one of them listens.

        Raises OSError, NothingToServeError and CannotStart.
        """
        kept, listening = self._kept, self.settings.listen
        await listen(stack, Operations(self), kept.operations, Connections(server.PROBES))
        stack.push_async_callback(self._crew.end)
        self.told = await self._crew.start()
        self.url = server.url_of("https" if listening.tls else "http", listening, kept.callers)
        if self._watch is not None:
            self._watch.start()
            stack.push_async_callback(self._watch.close)
        self._stack = stack.pop_all()

    def hang_up(self) -> None:
        """Do what SIGHUP asks for: have the callers' certificate read anew, and read the configuration."""
        self._crew.hand(replace(self._file, renews=True))
        if self._watch is not None:
            self._watch.read()

    def cut(self) -> None:
        """End every open call now."""
        self._crew.cut()

    async def stop(self) -> bool:
        """Be ready no more and have every worker stop as one alone would; return whether each ended as it should."""
        how = self.settings.shutdown
        log.info("stopping", workers=self._kept.workers, pause_s=how.pause, grace_s=how.grace)
        self._kept.callers.close()  # else callers would still be connected when no worker takes them any more
        well = await self._crew.stop(how.pause + how.grace)
        await self._stack.aclose()
        log.info("stopped")
        return well

    async def _begin(self, number: int) -> Child:
        """Start a worker on what the others run on, and tell it what the file says: what of it waits, or is wrong."""
        kept = self._kept
        running, _ = attainable(self.settings, kept.first)
        child = await begin(kept.task(number, kept.inside(running), discover=self._discover), kept.lifelines)
        child.ended.add_done_callback(lambda _: kept.turns.absent(number))
        child.hand(self._file)  # it may have changed meanwhile
        return child

    async def _hear(self, outcome: Outcome, changed: frozenset[Path]) -> None:
        """Hand on what came of reading the file."""
        tls, before = self.settings.listen.tls, self._file
        renews = tls is not None and bool(changed & {tls.cert, tls.key})
        if isinstance(outcome, ConfigError):
            self._file = Handed(mistakes=outcome.mistakes)
        elif isinstance(outcome, OSError):
            self._file = Handed(unread=outcome)
        else:
            self.settings = outcome
            self._file = Handed(self._kept.inside(outcome))
        if renews or self._file != before:
            self._crew.hand(replace(self._file, renews=renews))


async def supervise(settings: Settings, workers: int, *, discover: bool, load: Load | None) -> Supervisor:
    """Start so many workers, and return their supervisor once one of them takes calls.

    `discover`: local engines on their usual ports are backends too; `load`: reads `settings` again, where they come
    from a file.

    Raises OSError, StoreDown, DataDirLocked, CertificateError, NothingToServeError or CannotStart.
    """
    tls = settings.listen.tls
    if tls is not None:
        server_context(tls.cert, tls.key)  # else each worker would say what is wrong with it
    async with contextlib.AsyncExitStack() as stack:
        supervisor = Supervisor(await stack.enter_async_context(keep(settings, workers)), discover=discover, load=load)
        await supervisor.start(stack)
    return supervisor
