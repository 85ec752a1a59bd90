"""The listener over the wire: accepts, secures, counts, and ends in order.

Law: a connection is counted before anything is spent on it, its handshake included. A stop takes no new connection,
gives open calls their grace, and then leaves neither a call nor a connection behind; there is one way to cut it short.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterator
from socket import socket
from typing import Any

import structlog
import uvicorn

from gateway import clock, wire
from gateway.connections import Connections
from gateway.errors import STOPPING, error_body, error_headers, new_request_id
from gateway.forwarded import Network
from gateway.wire import ForwardedWire, Wire

log = structlog.get_logger("sluiceway.listener")

ASGIApplication = Callable[..., Any]

CUT_GRACE = 2.0
"""Seconds that calls get to tell their callers and settle once they were cut; a caller who reads takes none of it."""

BACKLOG = 2048
"""Connections that the kernel keeps for us to accept; it has its own, mostly larger, bound."""

SHUTDOWN = 600.0
"""Seconds that TLS may take to say farewell: bounded by `Wire`, which knows whether the caller still reads."""

AT_ONCE = 64
"""Connections accepted before others get their turn."""

PAUSE = 1.0
"""Seconds without accepting, when the process has no file descriptor left."""

_POLL = 0.02


class Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to us, counts its connections and can be cut short.

    `context`: its TLS, if any; replaced, it serves those who come from then on.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        house: Connections,
        context: ssl.SSLContext | None = None,
        proxies: tuple[Network, ...] = (),
    ) -> None:
        super().__init__(config)
        self.context = context
        self._house = house
        self._proxies = proxies
        self._arriving: set[asyncio.Task[None]] = set()
        self._cut = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen on bound sockets."""
        self.servers = []
        self.started = True
        for one in sockets or ():
            if self.context is None:
                loop = asyncio.get_running_loop()
                self.servers.append(await loop.create_server(self._wire, sock=one, backlog=BACKLOG))
            else:
                one.listen(BACKLOG)
                self._accept_on(one)

    def _accept_on(self, bound: socket) -> None:
        if bound.fileno() >= 0:  # else the stop was faster
            asyncio.get_running_loop().add_reader(bound, self._accept, bound)

    def _accept(self, bound: socket) -> None:
        """Take what connections there are, each counted before its handshake."""
        loop = asyncio.get_running_loop()
        for _ in range(AT_ONCE):
            try:
                accepted, address = bound.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no file descriptor is left: asking again at once would only burn time
                log.warning("no connection is accepted for a while", why=str(error), seconds=PAUSE)
                loop.remove_reader(bound)
                loop.call_later(PAUSE, self._accept_on, bound)
                return
            its_wire = self._wire()
            if its_wire.arrive(address[0]):
                arrival = clock.spawn(self._secure(accepted, its_wire), "tls-handshake")
                self._arriving.add(arrival)
                arrival.add_done_callback(self._arriving.discard)
            else:
                accepted.close()

    async def _secure(self, accepted: socket, its_wire: Wire) -> None:
        """Shake hands within the time of a head; whoever does not speak TLS is let go without a word."""
        try:
            accepted.setblocking(False)  # noqa: FBT003 - the standard library's signature
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: its_wire,
                accepted,
                ssl=self.context,
                ssl_handshake_timeout=wire.HEAD_DEADLINE,
                ssl_shutdown_timeout=SHUTDOWN,
            )
        except OSError:  # the handshake's: no TLS, no common version, too slow, gone
            its_wire.depart()
        except BaseException:
            its_wire.depart()
            raise

    def _wire(self) -> Wire:
        """Return the protocol of a new connection."""
        made: dict[str, Any] = {
            "house": self._house,
            "config": self.config,
            "server_state": self.server_state,
            "app_state": {},
        }
        return ForwardedWire(self._proxies, **made) if self._proxies else Wire(**made)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Take no new connection, let open calls finish within the grace, and end the others."""
        for server in self.servers:
            server.close()
        for one in sockets or ():
            if one.fileno() >= 0:  # no server's that has closed it
                asyncio.get_running_loop().remove_reader(one)
                one.close()
        for arrival in self._arriving:
            arrival.cancel()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._ended(0.0 if self._cut else self.config.timeout_graceful_shutdown or 0.0)
        self.cut()
        await self._ended(CUT_GRACE)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def cut(self) -> None:
        """Cancel every open call, which tells its caller, and end the wait for them. Waits for nothing itself."""
        self.should_exit = True
        if not self._cut:
            self._cut = True
            for task in list(self.server_state.tasks):
                task.cancel("cut")

    async def _ended(self, within: float) -> None:
        """Wait until no call and no connection is left, for so many seconds, or until a cut (once)."""
        was_cut, until = self._cut, clock.monotonic() + within
        state = self.server_state
        while (state.connections or state.tasks) and clock.monotonic() < until and self._cut == was_cut:  # noqa: ASYNC110 - ends anywhere
            await asyncio.sleep(_POLL)


def _told_of_a_cut(app: ASGIApplication) -> ASGIApplication:
    """Answer a call that was cut and does not answer that itself, as an admin's."""

    async def served(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's, untyped
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            body = error_body(STOPPING, new_request_id())
            headers = [*error_headers(STOPPING), (b"content-type", b"application/json")]
            headers.append((b"content-length", b"%d" % len(body)))
            with contextlib.suppress(RuntimeError):  # an answer has begun: it ends with its connection
                start = {"type": "http.response.start", "status": STOPPING.shape.status, "headers": headers}
                await send(start)
                await send({"type": "http.response.body", "body": body})

    return served


async def listen(
    stack: contextlib.AsyncExitStack,
    app: ASGIApplication,
    bound: socket,
    grace: int,
    house: Connections,
    *,
    context: ssl.SSLContext | None = None,
    proxies: tuple[Network, ...] = (),
) -> Listener:
    """Serve `app` on a bound socket until `stack` closes, which gives open calls `grace` seconds to finish.

    `context`: over TLS. `proxies`: whose word is taken for the callers' addresses.
    """
    config = uvicorn.Config(
        _told_of_a_cut(app),
        http=Wire,
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # `ForwardedWire` reads them, where they are trusted
        timeout_keep_alive=wire.KEEP_ALIVE,
        timeout_graceful_shutdown=grace,
    )
    listener = Listener(config, house, context, proxies)
    task = clock.spawn(listener.serve(sockets=[bound]), "listen")

    async def stop() -> None:
        listener.should_exit = True
        await task

    stack.push_async_callback(stop)
    while not listener.started and not task.done():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.001)
    return listener
