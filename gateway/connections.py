"""How many connections callers may hold, and who goes when there is room for no more.

Law: a full house first lets go of whoever is idle, the longest idle first, and refuses only when nobody is. What is
counted here is sockets, from accept to close, so that the process never runs out of file descriptors by its callers'
doing. Nothing here is done per request.
"""

import resource
from collections.abc import Callable, Iterable
from typing import Protocol

import structlog

from gateway import clock
from gateway.config.settings import Limits
from gateway.forwarded import Network, trusts
from policies.rejections import Reason, Rejection

log = structlog.get_logger("sluiceway.connections")

RESERVE = 512
"""File descriptors for all but callers and upstreams: the store, files, probes, and those who are being refused."""

FEWEST = 16
"""Connections that are taken whatever the limit of file descriptors says."""

TOLD = 128
"""The most connections that are kept open only to tell their callers why they are not taken; others are just closed."""

LOOK_EVERY = 0.1
"""Seconds between searches for idle connections, each of which looks at all of them."""

LOG_EVERY = 10.0
"""Seconds between two entries in the log that connections are refused."""


class Guest(Protocol):
    """A connection, as seen from here."""

    def idle_since(self) -> float | None:
        """Return a number that is the smaller the longer it has been idle; None: it is not."""

    def evict(self) -> None:
        """Close, being idle."""


class Connections:
    """The connections of one listener.

    `most` at once; `per_address` from one address (None: any number), those of `proxies` excepted, which speak for
    many. `told` hears the reason of every refusal: `full` or `address`. `parting`: each is asked to leave after the
    answer that it gets next; `over`: and that one is, that no call is begun any more.
    """

    def __init__(
        self,
        most: int,
        per_address: int | None = None,
        proxies: tuple[Network, ...] = (),
        told: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.most = most
        self.parting = self.over = False
        self._per_address = per_address
        self._proxies = proxies
        self._told = told
        self._in: dict[Guest, str] = {}
        self._refused: set[Guest] = set()
        self._at: dict[str, set[Guest]] = {}
        self._idle: list[tuple[float, Guest]] = []  # the longest idle last
        self._looked_at = self._logged_at = -LOG_EVERY

    def bound(self, most: int, per_address: int | None) -> None:
        """Take so many from now on; whoever is in stays.

        Of those who came while one address might hold any number nobody knows how many it holds.
        """
        self.most = most
        self._per_address = per_address

    def __len__(self) -> int:
        """Return how many were taken and are open."""
        return len(self._in)

    def holds(self, guest: Guest) -> bool:
        """Say whether `guest` is counted here: taken, or refused and still to be told so."""
        return guest in self._in or guest in self._refused

    def enter(self, guest: Guest, address: str) -> Rejection | None:
        """Count a guest in, making room where somebody is idle; a Rejection when it cannot be taken."""
        counted = self._per_address is not None and not trusts(self._proxies, address)
        if counted and not self._room_at(address):
            why = f"your address, {address}, holds {self._per_address} connections already"
            return self._refuse(guest, "address", why)
        if len(self._in) >= self.most and not self._make_room():
            return self._refuse(guest, "full", f"{self.most} connections are open")
        self._in[guest] = address if counted else ""
        if counted:
            self._at.setdefault(address, set()).add(guest)
        return None

    def leave(self, guest: Guest) -> None:
        """Count a guest out."""
        self._refused.discard(guest)
        address = self._in.pop(guest, "")
        if address in self._at:
            neighbours = self._at[address]
            neighbours.discard(guest)
            if not neighbours:
                del self._at[address]

    def _room_at(self, address: str) -> bool:
        guests = self._at.get(address, set())
        if self._per_address is None or len(guests) < self._per_address:
            return True
        idle = _idle(guests)
        return self._evict(min(idle, key=_since)[1]) if idle else False

    def _make_room(self) -> bool:
        while True:
            while self._idle:
                since, guest = self._idle.pop()
                if guest in self._in and guest.idle_since() == since:
                    return self._evict(guest)
            now = clock.monotonic()
            if now - self._looked_at < LOOK_EVERY:
                return False
            self._looked_at = now
            self._idle = sorted(_idle(self._in), key=_since, reverse=True)
            if not self._idle:
                return False

    def _evict(self, guest: Guest) -> bool:
        self.leave(guest)  # at once: the next to come must not find the house full still
        guest.evict()
        return True

    def _refuse(self, guest: Guest, reason: str, why: str) -> Rejection:
        self._told(reason)
        if len(self._refused) < TOLD:
            self._refused.add(guest)
        now = clock.monotonic()
        if now - self._logged_at >= LOG_EVERY:
            self._logged_at = now
            log.warning("connections are refused", reason=reason, why=why, open=len(self))
        return Rejection(Reason.OVERLOADED, f"The gateway is full: {why}; try again.", retry_after_us=1_000_000)


def _idle(guests: Iterable[Guest]) -> list[tuple[float, Guest]]:
    return [(since, guest) for guest in guests if (since := guest.idle_since()) is not None]


def _since(idle: tuple[float, Guest]) -> float:
    return idle[0]


def affordable(wanted: int, open_calls: int) -> int:
    """Return how many connections of `wanted` the process has file descriptors for, after asking for all it may have.

    Every connection can have a call under way, and every one of the `open_calls` at most a connection to an upstream.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (ValueError, OSError):  # macOS tells no hard limit and refuses it
        log.info("the limit of file descriptors stays", limit=soft)
    most = wanted
    if soft != resource.RLIM_INFINITY:
        left = soft - RESERVE
        most = min(wanted, max(FEWEST, left // 2, left - open_calls))
    if most < wanted:
        tell = log.info if wanted == Limits().connections else log.warning  # the default is nobody's wish
        tell(
            "fewer connections than configured: raise `ulimit -n`",
            connections=most,
            wanted=wanted,
            file_descriptors=soft,
        )
    return most
