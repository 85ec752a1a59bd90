"""The listener over the wire: accepts, secures, counts, and ends in order.

Law: a connection is counted before anything is spent on it, its handshake included. A stop takes whoever has connected
already and nobody else, gives open calls their grace, and then leaves neither a call nor a connection behind; there is
one way to cut it short. Whoever comes after a cut is told so at once: a call that then began would end without a word.
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
from gateway.errors import STOPPING, new_request_id, refusal
from gateway.forwarded import Network, origin, trusts
from gateway.wire import Wire
from policies.apis import spoken

log = structlog.get_logger("sluiceway.listener")

ASGIApplication = Callable[..., Any]

Around = Callable[[ASGIApplication], ASGIApplication]
"""Puts an application around another."""

Yields = Callable[[int], bool]
"""Asked with how many connections are held here: whether others who listen on the same socket go first."""

CUT_GRACE = 2.0
"""Seconds that calls get to tell their callers and settle once they were cut; a caller who reads takes none of it."""

BACKLOG = 2048
"""Connections that the kernel keeps for us to accept; it has its own, mostly larger, bound."""

SHUTDOWN = 600.0
"""Seconds that TLS may take to say farewell: bounded by `Wire`, which knows whether the caller still reads."""

AT_ONCE = 64
"""Connections accepted before others get their turn."""

YIELD = 0.002
"""Seconds for which others go first; whom they do not take by then is taken here."""

PAUSE = 1.0
"""Seconds without accepting, when the process has no file descriptor left."""

_POLL = 0.02


class ForwardedWire(Wire):
    """A connection where some peers are proxies that say for whom they speak."""

    def __init__(self, proxies: tuple[Network, ...], **rest: Any) -> None:  # noqa: ANN401 - as above
        super().__init__(**rest)
        self._proxies = proxies

    def on_headers_complete(self) -> None:
        """Start the request in the name of whoever a trusted proxy speaks for."""
        super().on_headers_complete()
        client = self.client
        if self._busy and client is not None and trusts(self._proxies, client[0]):
            scheme = self.scheme or "http"
            self.scope["client"], self.scope["scheme"] = origin(client, scheme, self.scope["headers"], self._proxies)


class Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to us, counts its connections and can be cut short.

    `context`: its TLS, if any; replaced, it serves those who come from then on. `grace`: seconds that calls get to
    finish once it is told to stop.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        house: Connections,
        context: ssl.SSLContext | None = None,
        proxies: tuple[Network, ...] = (),
        yields: Yields | None = None,
    ) -> None:
        super().__init__(config)
        self.context = context
        self.grace = 0.0
        self._house = house
        self._proxies = proxies
        self._yields = yields
        self._arriving: set[asyncio.Task[None]] = set()
        self._ending = False
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
            if self.context is None and self._yields is None:
                loop = asyncio.get_running_loop()
                self.servers.append(await loop.create_server(self._wire, sock=one, backlog=BACKLOG))
            else:
                one.listen(BACKLOG)
                self._accept_on(one)

    def _accept_on(self, bound: socket) -> None:
        if bound.fileno() >= 0:  # else the stop was faster
            asyncio.get_running_loop().add_reader(bound, self._accept, bound)

    def _accept(self, bound: socket, most: int = AT_ONCE) -> None:
        """Take what connections there are; none as long as it is another's turn."""
        loop = asyncio.get_running_loop()
        try:
            for _ in range(most):
                if most > 1 and self._yields is not None and self._yields(len(self._house)):
                    loop.remove_reader(bound)
                    loop.call_later(YIELD, self._accept_late, bound)
                    return
                if not self._take(bound):
                    return
        except OSError as error:  # no file descriptor is left: asking again at once would only burn time
            log.warning("no connection is accepted for a while", why=str(error), seconds=PAUSE)
            loop.remove_reader(bound)
            loop.call_later(PAUSE, self._accept_on, bound)

    def _accept_late(self, bound: socket) -> None:
        """Take one that nobody whose turn it was has taken."""
        if bound.fileno() >= 0:
            self._accept_on(bound)
            self._accept(bound, 1)

    def _take(self, bound: socket) -> bool:
        """Take one connection, counted before its handshake; False where nobody waits. Raises OSError."""
        try:
            accepted, address = bound.accept()
        except ConnectionAbortedError:  # somebody did, and has left
            return True
        except (BlockingIOError, InterruptedError):
            return False
        its_wire = self._wire()
        if its_wire.arrive(address[0]):
            arrival = clock.spawn(self._admit(accepted, its_wire), "arrival")
            self._arriving.add(arrival)
            arrival.add_done_callback(self._arriving.discard)
        else:
            accepted.close()
        return True

    async def _admit(self, accepted: socket, its_wire: Wire) -> None:
        """Shake hands, over TLS, within the time of a head; whoever does not speak it is let go without a word."""
        secure = self.context is not None
        try:
            accepted.setblocking(False)  # noqa: FBT003 - the standard library's signature
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: its_wire,
                accepted,
                ssl=self.context,
                ssl_handshake_timeout=wire.HEAD_DEADLINE if secure else None,
                ssl_shutdown_timeout=SHUTDOWN if secure else None,
            )
        except OSError:  # the handshake's: no TLS, no common version, too slow, gone
            its_wire.depart()
        except BaseException:
            its_wire.depart()
            raise
        if self._ending and its_wire in self.server_state.connections:
            its_wire.shutdown()

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
        """Take those who have connected already, let open calls finish within the grace, and end the others."""
        self._ending = self._house.parting = True
        self._close_door([one for one in sockets or () if one.fileno() >= 0])
        for connection in list(self.server_state.connections):
            connection.shutdown()
        turning = asyncio.get_running_loop().call_later(wire.FIRST_WORD, self._turn_away)
        await self._ended(0.0 if self._cut else self.grace)
        self.cut()
        await self._ended(CUT_GRACE)
        turning.cancel()
        self._turn_away()
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def _close_door(self, sockets: list[socket]) -> None:
        """Listen no more, and take all who wait: they have been told that they are connected, and would be reset.

        So that nobody comes in between, nothing here waits. Another process may still listen on the same socket.
        """
        doors = [one.dup() for one in sockets]
        for server in self.servers:
            server.close()
        for one in sockets:
            if one.fileno() >= 0:  # no server's that has closed it
                asyncio.get_running_loop().remove_reader(one)
                one.close()
        for door in doors:
            with door, contextlib.suppress(OSError):  # no file descriptor is left
                for _ in range(BACKLOG):
                    if not self._take(door):
                        break

    def _turn_away(self) -> None:
        """Wait no longer for handshakes."""
        for arrival in self._arriving:
            arrival.cancel()

    def part(self) -> None:
        """Ask every caller to come back over another connection, which may lead elsewhere; still take all who come."""
        self._house.parting = True
        for connection in list(self.server_state.connections):
            if isinstance(connection, Wire):
                connection.part()

    def cut(self) -> None:
        """Cancel every open call, which tells its caller, and begin no other. Waits for nothing itself."""
        self.should_exit = True
        if not self._cut:
            self._cut = self._house.over = self._house.parting = True
            for connection in list(self.server_state.connections):
                if isinstance(connection, Wire):
                    connection.part(cut=True)
            # When the loop comes round: a call that has not run at all yet could not tell its caller anything.
            asyncio.get_running_loop().call_soon(_cancel, list(self.server_state.tasks))

    async def _ended(self, within: float) -> None:
        """Wait until no call and no connection is left, for so many seconds, or until a cut (once)."""
        was_cut, until = self._cut, clock.monotonic() + within
        while self._holds_anybody() and clock.monotonic() < until and self._cut == was_cut:  # noqa: ASYNC110 - ends anywhere
            await asyncio.sleep(_POLL)

    def _holds_anybody(self) -> bool:
        return bool(self.server_state.connections or self.server_state.tasks or self._arriving)


def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel("cut")


def _told_of_a_cut(app: ASGIApplication, house: Connections) -> ASGIApplication:
    """Answer a call that comes after a cut, and one that was cut and does not answer that itself, as an admin's."""

    async def served(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's, untyped
        if house.over:
            await _say_so(scope, send)
            return
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            with contextlib.suppress(RuntimeError):  # an answer has begun: it ends with its connection
                await _say_so(scope, send)

    return served


async def _say_so(scope: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's, untyped
    headers, body = refusal(STOPPING, new_request_id(), spoken(scope["path"], scope["headers"]))
    await send({"type": "http.response.start", "status": STOPPING.shape.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def listen(
    stack: contextlib.AsyncExitStack,
    app: ASGIApplication,
    bound: socket,
    house: Connections,
    *,
    context: ssl.SSLContext | None = None,
    proxies: tuple[Network, ...] = (),
    yields: Yields | None = None,
    around: Around | None = None,
) -> Listener:
    """Serve `app` on a bound socket until `stack` closes, which gives open calls the listener's `grace` to finish.

    `context`: over TLS. `proxies`: whose word is taken for the callers' addresses. `yields`: where other processes
    listen on the same socket. `around`: sees every answer, those of a cut as well.
    """
    served = _told_of_a_cut(app, house)
    config = uvicorn.Config(
        served if around is None else around(served),
        http=Wire,
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # `ForwardedWire` reads them, where they are trusted
        timeout_keep_alive=wire.KEEP_ALIVE,
    )
    listener = Listener(config, house, context, proxies, yields)
    task = clock.spawn(listener.serve(sockets=[bound]), "listen")

    async def stop() -> None:
        listener.should_exit = True
        await task

    stack.push_async_callback(stop)
    while not listener.started and not task.done():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.001)
    return listener
