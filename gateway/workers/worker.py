"""A worker: one gateway like any other, on a socket that it was given, told by its supervisor what to do.

Law: it outlives its supervisor only as long as its open calls take: a channel that ends is an order to stop. It reads
no file of settings itself, so that all workers run what the supervisor has found good.
"""

import signal
import socket
import sys
from urllib.parse import urlsplit

import structlog
import uvloop

from gateway import clock, logs, server
from gateway.config.settings import Settings
from gateway.store.door import StoreDown
from gateway.store.embedded import DataDirLocked
from gateway.store.preconditions import UnfitStore
from gateway.tls import CertificateError
from gateway.workers.channel import Channel, Failed, Handed, Listening, Stop, Task
from gateway.workers.turns import Turns

log = structlog.get_logger("sluiceway.workers")

CANNOT = (OSError, StoreDown, UnfitStore, DataDirLocked, CertificateError)
"""Why a gateway may be unable to start."""

FAILED = 2
"""The exit code of a worker that could not start."""


def main() -> None:
    """Be the worker whose channel is the descriptor that the one argument names."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.exit(uvloop.run(_work(int(sys.argv[1]))))


async def _work(descriptor: int) -> int:
    """Serve until told to stop, and return the exit code."""
    channel = await Channel.over(socket.socket(fileno=descriptor))
    task = await channel.receive()
    if not isinstance(task, Task):  # the supervisor has gone before it could say a word
        return 0
    logs.configure(worker=task.number)
    orders = Orders(channel, task.settings, server.Signals())
    listening = clock.spawn(orders.obey(), "obey the supervisor")
    yields = Turns(task.turns, task.workers).of(task.number)
    try:
        running = await server.start(
            task.settings,
            discover=task.discover,
            given=_callers(task),
            yields=yields,
            load=orders.load,
            watch=False,
        )
    except server.NothingToServeError:
        return await _failed(channel, None)
    except CANNOT as error:
        return await _failed(channel, str(error))
    yields(0)  # so that the others know of us before our first caller comes
    orders.serve(running)
    channel.send(_listening(running))
    await orders.signals.first.wait()
    cutting = clock.spawn(orders.signals.when_again(running.cut), "cut-on-second-signal")
    await running.stop()
    cutting.cancel()
    listening.cancel()
    return 0


async def _failed(channel: Channel, why: str | None) -> int:
    channel.send(Failed(why))
    await channel.flush()
    return FAILED


def _listening(running: server.Running) -> Listening:
    gateway = running.gateway
    models = tuple(model.name for model in gateway.services.catalog.models)
    port = urlsplit(running.operations_url).port or 0
    return Listening(port, tuple(gateway.services.fleet.homes), models, gateway.joining.why)


def _callers(task: Task) -> socket.socket:
    """Return the callers' socket."""
    family = socket.AF_INET6 if ":" in task.settings.listen.host else socket.AF_INET
    # With the protocol named asyncio turns Nagle off, which else costs a small answer 40 ms.
    callers = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=task.callers)
    callers.setblocking(False)  # noqa: FBT003 - the standard library's signature; it is so, but this object knows not
    return callers


class Orders:
    """What the supervisor tells, done. `signals`: when to stop."""

    def __init__(self, channel: Channel, settings: Settings, signals: server.Signals) -> None:
        self.signals = signals
        self._running: server.Running | None = None
        self._channel = channel
        self._file = self._begun_with = Handed(settings)

    def load(self) -> Settings:
        """Return the settings that were handed down last. Raises the ConfigError or OSError that was, instead."""
        return self._file.read()

    def serve(self, running: server.Running) -> None:
        """Have the gateway that was started do what is told, and what was told meanwhile."""
        self._running = running
        self.signals.on_hangup(running.hang_up)
        if self._file != self._begun_with:
            running.hang_up()

    async def obey(self) -> None:
        """Do what is told, to the end of the channel, which is an order to stop."""
        while (message := await self._channel.receive()) is not None:
            if isinstance(message, Handed):
                self._take(message)
            elif isinstance(message, Stop):
                self._stop(at_once=message.at_once)
        if not self.signals.first.is_set():
            log.error("the supervisor is gone: this worker lets its open calls finish and ends")
            self._stop(at_once=False)

    def _take(self, file: Handed) -> None:
        self._file = file
        if self._running is not None and file.renews:
            self._running.hang_up()
        elif self._running is not None:
            clock.spawn(self._running.reload(), "reload")

    def _stop(self, *, at_once: bool) -> None:
        self.signals.first.set()
        if at_once:
            self.signals.second.set()
