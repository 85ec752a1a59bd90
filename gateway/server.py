"""Processes, sockets and signals: a gateway that listens, until it is told to stop.

Law: the store starts first and stops last; a stop takes no new call, lets streams finish within `GRACE`, settles
everything, then gives up the store.
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import structlog

from gateway import clock
from gateway.app import Gateway
from gateway.config.settings import Listen, Settings
from gateway.connections import Connections, affordable
from gateway.listener import Listener, listen
from gateway.store.door import Store, StoreDown
from gateway.store.embedded import embedded
from gateway.tls import CertificateError, server_context

log = structlog.get_logger("sluiceway.server")

GRACE = 30
"""Seconds that open calls get to finish after a stop was asked for."""

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

    def __init__(self, gateway: Gateway, admin_key: str) -> None:
        self.gateway = gateway
        self.admin_key = admin_key
        self.url = ""
        self.operations_url = ""
        self._stopping = False
        self._stack = contextlib.AsyncExitStack()
        self._listeners: list[Listener] = []

    async def ready(self) -> str | None:
        """Say why calls would not be taken, or None."""
        if self._stopping:
            return "stopping"
        if not self.url:
            return "starting"
        if not self.gateway.services.catalog.models:
            return "no backend lists a model yet"
        if self.gateway.upkeep.unfit is not None:
            return self.gateway.upkeep.unfit
        try:
            await self.gateway.store.send(("PING",))
        except StoreDown as error:
            return None if self.gateway.serves_without_store else str(error)
        return None

    def state(self) -> str:
        """Say how well calls are taken: ok, or under which conditions."""
        store, fault = self.gateway.store, self.gateway.ledger.fault
        if store.down is None or store.down_since is None:
            return "ok"
        away = clock.monotonic() - store.down_since
        journal = "" if fault is None else f"; what is admitted is not on disk ({fault})"
        return (
            f"ok, but for {away:.0f} s without the store ({store.down}): plans that say local are held to this "
            f"gateway's share of what was left, others get 503{journal}"
        )

    def owns(self, stack: contextlib.AsyncExitStack, listeners: list[Listener]) -> None:
        """Take over what `stop` will close and `cut` will cut."""
        self._stack = stack
        self._listeners = listeners

    def cut(self) -> None:
        """End every open call now; each is told and settled, and every connection closed within `CUT_GRACE`."""
        for listener in self._listeners:
            listener.cut()

    def renew(self) -> None:
        """Read the certificate's files anew, for the callers who come from now on; useless ones change nothing."""
        tls = self.gateway.settings.listen.tls
        if tls is None:
            return
        try:
            self._listeners[-1].context = server_context(tls.cert, tls.key)
        except CertificateError as error:
            log.error("the certificate in force stays", why=str(error))  # noqa: TRY400 - no traceback: a file is at fault
        else:
            log.info("certificate renewed", cert=str(tls.cert))

    async def stop(self) -> None:
        """Stop taking calls, let those under way finish, settle, and close."""
        self._stopping = True
        log.info("stopping", open_calls=self.gateway.services.intake.open_calls)
        await self._stack.aclose()
        log.info("stopped")


async def start(settings: Settings, *, discover: bool = False) -> Running:
    """Start a gateway and return it listening.

    Raises OSError, StoreDown, UnfitStore, DataDirLocked, CertificateError or NothingToServeError.
    """
    callers = settings.listen
    context = None if callers.tls is None else server_context(callers.tls.cert, callers.tls.key)
    async with contextlib.AsyncExitStack() as stack:
        url = settings.store.url
        if url == "embedded":
            url = await stack.enter_async_context(embedded(settings.store.data_dir))
        store = Store(url)
        stack.push_async_callback(store.close)
        admin_key = settings.admin_key or made_admin_key(settings.store.data_dir)
        listening = Store(url, deadline=FEED_DEADLINE, what="the stream of changes")
        stack.push_async_callback(listening.close)
        gateway = Gateway(settings, store, listening, admin_key, discover=discover)
        stack.push_async_callback(gateway.close)
        await gateway.start()
        if not gateway.services.fleet.homes:
            raise NothingToServeError("no backend is configured and no local engine answers")
        running = Running(gateway, admin_key)
        operations = gateway.operations(running.ready, running.state)
        bound = _bind(settings.operations)
        behind = await listen(stack, operations, bound, GRACE, Connections(PROBES))
        running.operations_url = _url("http", settings.operations, bound)
        bound, house = _bind(callers), _house(gateway)
        front = await listen(
            stack, gateway.app(), bound, GRACE, house, context=context, proxies=callers.trusted_proxies
        )
        running.url = _url("https" if callers.tls else "http", callers, bound)
        log.info("listening", url=running.url, connections=house.most)
        running.owns(stack.pop_all(), [behind, front])
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


def _url(scheme: str, where: Listen, bound: socket.socket) -> str:
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


def _bind(where: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    # With the protocol named asyncio turns Nagle off, which else costs a small answer 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((where.host, where.port))
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"cannot listen on {where.host}:{where.port}: {error.strerror}") from error
    bound.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return bound
