"""Processes, sockets and signals: a gateway that listens, until it is told to stop.

Law: the store starts first and stops last. A stop is told by readiness at once; then calls are still taken for a pause,
in which whoever sends them here finds out; then no new one is, streams finish within the grace, everything is settled,
and the store is given up.
"""

import asyncio
import contextlib
import ctypes
import errno
import gc
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import structlog

from gateway import clock
from gateway.app import Gateway
from gateway.config.settings import Listen, Settings
from gateway.connections import Connections, affordable
from gateway.files import Anew, Unanswered
from gateway.listener import Listener, Yields, listen
from gateway.reloading import IN_PART, Load, Reloading, trusted
from gateway.store.door import Store, StoreDown
from gateway.store.embedded import embedded
from gateway.tls import Renewal, ServerContext, server_context

log = structlog.get_logger("sluiceway.server")

PROBES = 128
"""Connections to the operations' address."""

HEAP = {-3: 32 << 20, -1: 64 << 20}
"""glibc's `mallopt(3)`: M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, bytes. So up to 64 MiB stay with an idle process."""

TURN = 0.0005
"""Seconds that another thread may hold the interpreter while calls wait: the one that encodes traces takes whatever it
gets, and with Python's own 5 ms it took p99 at saturation from 10 ms to 17 ms."""

GC_THRESHOLDS = (50_000, 50, 100)
"""Collections cost tail latency: at saturation these took p99 from 40 ms to 7 ms against Python's own."""


FEED_DEADLINE = 0.8
"""Seconds in which the store must have said that nothing changed, or what: it is asked to wait 0.2 s for a change."""


class NothingToServeError(RuntimeError):
    """No backend is configured and no local engine was found."""


class Running:
    """A gateway that listens. `url`, `operations_url`: where; `admin_key`: what opens the admin API."""

    def __init__(self, gateway: Gateway, admin_key: str, context: ServerContext | None) -> None:
        """`context`: the callers' TLS at first, if any."""
        self.gateway = gateway
        self.admin_key = admin_key
        self.url = ""
        self.operations_url = ""
        self._stopping = False
        self._hurried = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()
        self._listeners: list[Listener] = []
        self._house: Connections | None = None
        self._reloading: Reloading | None = None
        self._renewal = Renewal(self._show, context)
        self._hung_up = Anew(self._renew_all, "renew what is in files")

    async def ready(self) -> str | None:
        """Say why calls would not be taken, or None."""
        if self._stopping:
            return "stopping"
        if not self.url:
            return "starting"
        gateway = self.gateway
        if gateway.joining.why is not None:
            return gateway.joining.why
        if not gateway.services.catalog.models:
            return "no backend lists a model yet"
        try:
            await gateway.store.send(("PING",))
        except StoreDown as error:
            return self._alone(str(error))
        return None

    def _alone(self, why: str) -> str | None:
        """Say why nobody is served while the store is away, by `why`; None where some are."""
        if not self.gateway.serves_without_store:
            return why
        return f"{why}; no caller is known any more (store.identity_grace)" if self.gateway.knows_nobody else None

    def state(self) -> str:
        """Say how well calls are taken: ok, or under which conditions."""
        gateway, buts = self.gateway, []
        store, fault = gateway.store, gateway.ledger.fault
        wrong = gateway.config_fault
        if wrong is not None and wrong.startswith(IN_PART):
            buts.append(f"the file was {wrong}")
        elif wrong is not None:
            buts.append(f"the file was refused, and the last good one stays ({wrong})")
        if gateway.config_waiting:
            buts.append(f"changed settings wait for a restart ({', '.join(gateway.config_waiting)})")
        if gateway.upkeep.unfit is not None and gateway.upkeep.harmless:
            buts.append(f"the store has to be mended ({gateway.upkeep.unfit})")
        buts += [f"{one.filename} is late, and what it last said stays ({one.strerror})" for one in self._late()]
        if store.down is not None and store.down_since is not None:
            away = clock.monotonic() - store.down_since
            journal = "" if fault is None else f"; what is admitted is not on disk ({fault})"
            buts.append(
                f"for {away:.0f} s without the store ({store.down}): plans that say local are held to this "
                f"gateway's share of what was left, others get 503{journal}"
            )
        return f"ok, but {'; '.join(buts)}" if buts else "ok"

    def owns(self, stack: contextlib.AsyncExitStack, listeners: list[Listener], house: Connections) -> None:
        """Take over what `stop` will close and `cut` will cut, and the callers' connections."""
        self._stack = stack
        self._listeners = listeners
        self._house = house

    def follow(self, load: Load, *, watch: bool) -> None:
        """Keep to what `load` reads: at every `reload`, and (`watch`) whenever its files have changed."""
        gateway = self.gateway
        metrics = gateway.services.metrics
        self._reloading = Reloading(gateway, metrics, load, take=self._take, renew=self.renew, late=self._late)
        if watch:
            self._reloading.watch.start()

    async def reload(self) -> None:
        """Read the configuration now and go by it, if it can be used and there is a file."""
        if self._reloading is not None:
            await asyncio.shield(self._reloading.watch.read())

    def hang_up(self) -> None:
        """Do what SIGHUP asks for: read the certificate's files anew, and then the configuration."""
        self._hung_up.ask()

    async def _renew_all(self) -> None:
        await self.renew()
        if self._reloading is not None:
            self._reloading.watch.read()  # not waited for: the next one renews the certificate, whatever hangs here

    def _late(self) -> list[Unanswered]:
        """Return the files, of those that are read beside the configuration, that do not answer."""
        return [*self.gateway.scanning.late, *self._renewal.late]

    async def _take(self, settings: Settings) -> None:
        """Go by other settings, around the gateway too."""
        before = self.gateway.settings
        await self.gateway.take(settings)
        if self._house is not None and settings.limits != before.limits:
            limits = settings.limits
            self._house.bound(affordable(limits.connections, limits.open_calls), limits.connections_per_address)
        if settings.listen.tls != before.listen.tls:
            await self.renew()

    def cut(self) -> None:
        """End every open call now; each is told and settled, and every connection closed within `CUT_GRACE`."""
        self._hurried.set()
        for listener in self._listeners:
            listener.cut()

    async def renew(self) -> None:
        """Read the certificate's files anew, for the callers who come from now on; useless ones change nothing."""
        tls = self.gateway.settings.listen.tls
        if tls is not None:
            await self._renewal.renew(tls.cert, tls.key)

    def _show(self, context: ssl.SSLContext) -> None:
        """Show a certificate to whoever connects from now on."""
        self._listeners[-1].context = context

    async def stop(self) -> None:
        """Be ready no more, take calls for a pause, then no new ones; let those under way finish, settle, and close."""
        self._stopping = True
        how = self.gateway.settings.shutdown
        open_calls = self.gateway.services.intake.open_calls
        log.info("stopping", open_calls=open_calls, pause_s=how.pause, grace_s=how.grace)
        for listener in self._listeners[-1:]:
            listener.grace = how.grace
            listener.part()
        closing = [] if self._reloading is None else [self._reloading.watch.close()]
        await asyncio.gather(self._pause(how.pause), *closing)
        await self._stack.aclose()
        log.info("stopped")

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until somebody is in a hurry."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurried.wait(), seconds)


async def start(
    settings: Settings,
    *,
    discover: bool = False,
    given: socket.socket | None = None,
    yields: Yields | None = None,
    load: Load | None = None,
    watch: bool = True,
) -> Running:
    """Start a gateway and return it listening; `given`: a bound socket for the callers, in place of one of its own.

    `yields`: whose turn it is, where others listen on that one too. `load`: reads `settings` again, where they come
    from a file; `watch`: and does whenever that has changed.
    Where a store that it does not run itself is away, it is joined when it comes.

    Raises OSError, StoreDown, UnfitStore, DataDirLocked, CertificateError or NothingToServeError.
    """
    callers = settings.listen
    context = None if callers.tls is None else server_context(callers.tls.cert, callers.tls.key)
    async with contextlib.AsyncExitStack() as stack:
        url = settings.store.url
        if url == "embedded":
            url = await stack.enter_async_context(embedded(settings.store.data_dir))
        store = Store(url, deadline=settings.store.deadline)
        stack.push_async_callback(store.close)
        admin_key = settings.admin_key or made_admin_key(settings.store.data_dir)
        listening = Store(url, deadline=FEED_DEADLINE, what="the stream of changes")
        stack.push_async_callback(listening.close)
        gateway = Gateway(trusted(settings), store, listening, admin_key, discover=discover)
        running = Running(gateway, admin_key, context)
        # Made before the store is asked anything: it takes 0.3 s, in which no answer would be read.
        app, operations = gateway.app(), gateway.operations(running.ready, running.state)
        stack.push_async_callback(gateway.close)
        await gateway.start()
        if not gateway.services.fleet.homes:
            raise NothingToServeError("no backend is configured and no local engine answers")
        bound = bind(settings.operations)
        behind = await listen(
            stack, operations, bound, Connections(PROBES), proxies=settings.operations.trusted_proxies
        )
        running.operations_url = url_of("http", settings.operations, bound)
        bound, house = given or bind(callers), _house(gateway)
        proxies, around = callers.trusted_proxies, gateway.cors.around
        front = await listen(stack, app, bound, house, context=context, proxies=proxies, yields=yields, around=around)
        running.url = url_of("https" if callers.tls else "http", callers, bound)
        log.info("listening", url=running.url, connections=house.most)
        running.owns(stack.pop_all(), [behind, front], house)
    if load is not None:
        running.follow(load, watch=watch)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(TURN)
    _keep_freed_memory()
    return running


def _keep_freed_memory() -> None:
    """Let glibc keep the memory of bodies that are done with for the next ones; other allocators are left alone.

    By default it gives blocks of 128 KiB and more back to the kernel, whose fresh pages then cost half of a 4 MB body.
    """
    with contextlib.suppress(OSError, AttributeError):
        glibc = ctypes.CDLL("libc.so.6")
        for parameter, size in HEAP.items():
            glibc.mallopt(parameter, size)


class Signals:
    """SIGTERM and SIGINT as events: the `first` asks to stop, the `second` to stop at once."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._came)
        self.on_hangup(lambda: log.info("SIGHUP before anything could be renewed"))

    def on_hangup(self, act: Callable[[], None]) -> None:
        """Call `act` at every SIGHUP from now on: it would end the process, and a closed terminal sends it too."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, act)

    async def when_again(self, act: Callable[[], None]) -> None:
        """Call `act` at the second signal."""
        await self.second.wait()
        act()

    def _came(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


def _house(gateway: Gateway) -> Connections:
    """Return the count of callers' connections, as many as there may be and can be."""
    limits, metrics = gateway.settings.limits, gateway.services.metrics
    house = Connections(
        affordable(limits.connections, limits.open_calls),
        limits.connections_per_address,
        gateway.settings.listen.trusted_proxies,
        lambda reason: metrics.connections_refused(reason).inc(),
    )
    metrics.connections.set_function(lambda: len(house))
    return house


def url_of(scheme: str, where: Listen, bound: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host = f"[{where.host}]" if ":" in where.host else where.host
    return f"{scheme}://{host}:{bound.getsockname()[1]}"


def admin_key_path(data_dir: Path) -> Path:
    """Return where the admin key is kept that nobody configured."""
    return data_dir / "admin.key"


def made_admin_key(data_dir: Path) -> str:
    """Return the admin key of `data_dir`, made on first use and readable by its owner only."""
    path = admin_key_path(data_dir)
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = path.read_text().strip() if path.exists() else ""
    if kept:
        return kept
    key = f"sw_admin_{clock.token_hex(24)}"
    half = path.with_suffix(".new")
    handle = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)  # whole or not at all: a crash in between leaves no empty key
    return key


def bind(where: Listen) -> socket.socket:
    """Return a socket that is bound, and takes nobody yet. Raises OSError, which says in words what would be right."""
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    # With the protocol named asyncio turns Nagle off, which else costs a small answer 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((where.host, where.port))
    except OSError as error:
        bound.close()
        cure = "set another `host` or `port` in `listen` or `operations`"
        if error.errno == errno.EADDRINUSE:
            cure = "stop what listens there, or set another `listen.port` or `operations.port`"
        raise OSError(f"cannot listen on {where.host}:{where.port}: {error.strerror}; {cure}") from error
    bound.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return bound
