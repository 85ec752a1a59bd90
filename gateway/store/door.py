"""The one door to Redis: pipelined commands, one deadline, one kind of failure.

Law: a caller either gets the replies of all its commands in one round trip, or `StoreDown`, at once while the store is
known to be down. Nothing is repeated: whoever calls knows whether an operation may be (the ledger's may, by its step;
nothing else is). A call that missed its deadline closes its connection, so that a late reply can never be taken for
another call's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from redis.exceptions import NoPermissionError, ResponseError

from gateway import clock
from gateway.store.breaker import Breaker
from gateway.store.clients import Command, Node, client
from gateway.store.failures import TROUBLE, NoScriptError, StoreDown, why_down
from gateway.store.notes import note_at

__all__ = ["Command", "NoScriptError", "Store", "StoreDown"]

T = TypeVar("T")

LATE = 0.025
"""Seconds in which an answer that has come is read by a loop that was busy at the deadline."""

DEADLINE = 0.25
"""Seconds a round trip may take before the store counts as down."""

PATIENCE = 1.0
"""Seconds that the prober gives the store to be found, to take a connection and to answer for the first time."""

SCANNED_AT_ONCE = 1000
"""Keys that one step of a scan looks at."""

CAN_WRITE = ("EVAL", "#!lua\nreturn 1", 0)
"""Runs only where a script may write: not on a replica, out of memory, while loading, or with a disk that fails."""


class Store:
    """A store, wherever it is; it is opened by the first call.

    `round_trips` counts pipelined calls since start, for the metric of that name.
    """

    def __init__(self, url: str, *, deadline: float = DEADLINE, what: str = "the store", first: bool = False) -> None:
        """`url` is as `addresses` reads it; `deadline` is seconds; `what`: its name in the log; `first`: as of `first`.

        Raises ValueError.
        """
        self.round_trips = 0
        self._url = url
        self._what = what
        self._deadline = deadline
        self._client = client(url, first=first)
        self._note = note_at(url)
        self._round_trip = f"a round trip to {what}"
        self._breaker = Breaker(self._ask, what)

    @property
    def down(self) -> str | None:
        """Why the store is down, None while it is not."""
        return self._breaker.why

    @property
    def down_since(self) -> float | None:
        """Since when it is down (monotonic seconds), None while it is not."""
        return self._breaker.since

    @property
    def connects(self) -> int:
        """Connections made so far: a growing number says that what was in flight before may be lost."""
        return self._client.connects

    @property
    def clustered(self) -> bool:
        """Whether the URL says that this is a cluster."""
        return self._client.clustered

    @property
    def database(self) -> int:
        """Which of the server's databases the URL names."""
        return self._client.database

    def on_return(self, callback: Callable[[], None]) -> None:
        """Call `callback` each time the store is back after it was down."""
        self._breaker.on_return(callback)

    def another(self) -> "Store":
        """Return a store at the same address, over connections of its own: it is open while this one is held."""
        return Store(self._url, deadline=self._deadline, what=self._what)

    def first(self) -> "Store":
        """Return a store at the same address that is the server's database 0, which every server has."""
        return Store(self._url, deadline=self._deadline, what=self._what, first=True)

    def hold(self, why: str) -> None:
        """Be down for everybody, by `why`, until `free`: before the first call, or while it must not be used."""
        self._breaker.hold(why)

    def free(self) -> None:
        """Let everybody in."""
        self._breaker.free()

    async def renew(self) -> None:
        """Drop every idle connection: its server may not be the one any more that the URL leads to. Raises `StoreDown`.

        For one that is held, which nobody asks by whom it would be found out.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                await self._client.renew()
        except TimeoutError as error:
            raise StoreDown(self._silence()) from error
        except TROUBLE as error:
            raise StoreDown(self._why(error) or str(error)) from error

    async def send(self, *commands: Command) -> list[Any]:
        """Send `commands` in one round trip and return their replies in order.

        Raises `StoreDown`, or `NoScriptError` when an EVALSHA is not known to the server (nothing of that command ran).
        """
        breaker = self._breaker
        if breaker.why is not None:
            raise StoreDown(breaker.why)
        era = breaker.era
        self.round_trips += 1
        try:
            replies = await self._within(self._client.run(commands))
        except TimeoutError as error:
            raise self._gone(self._silence(), era) from error
        except ResponseError as error:  # to the greeting of a connection: one to a command is among the replies
            raise self._gone(f"the store cannot be reached: {error}", era) from error
        except TROUBLE as error:
            raise self._failed(error, era) from error
        for reply in replies:
            if isinstance(reply, Exception):
                raise self._failed(reply, era) from reply
        return replies

    async def everywhere(self, *commands: Command) -> dict[str, list[Any]]:
        """Send `commands` to every primary, one after the other, and return each one's replies by its name.

        A command that is refused is answered by its error. For cold paths. Raises `StoreDown`.
        """
        return await self._cold(lambda node: self._within(_answers(node, commands)))

    async def load(self, script: bytes) -> None:
        """Give `script` to every primary. Raises `StoreDown`."""
        era = self._breaker.era
        for (reply,) in (await self.everywhere(["SCRIPT LOAD", script])).values():
            if isinstance(reply, Exception):
                raise self._failed(reply, era) from reply

    async def keys(self, pattern: str | bytes) -> list[bytes]:
        """Return the keys that match `pattern`, of every primary: those there all along, and perhaps some others.

        For cold paths: it looks at every key there is, in steps. Raises `StoreDown`.
        """
        found = await self._cold(lambda node: self._scan(node, pattern))
        return [key for keys in found.values() for key in keys]

    async def close(self) -> None:
        """End the prober and close every connection."""
        await self._breaker.close()
        await self._client.close()

    async def _cold(self, work: Callable[[Node], Awaitable[T]]) -> dict[str, T]:
        """Do `work` at every primary in turn. Raises `StoreDown`."""
        if self._breaker.why is not None:
            raise StoreDown(self._breaker.why)
        era = self._breaker.era
        self.round_trips += 1
        try:
            primaries = await self._within(self._client.primaries())
            return {name: await work(node) for name, node in primaries.items()}
        except TimeoutError as error:
            raise self._gone(self._silence(), era) from error
        except TROUBLE as error:
            raise self._failed(error, era) from error

    async def _scan(self, node: Node, pattern: str | bytes) -> list[bytes]:
        found: dict[bytes, None] = {}
        cursor = 0
        while True:
            step = ("SCAN", cursor, "MATCH", pattern, "COUNT", SCANNED_AT_ONCE)
            cursor, keys = await self._within(node.execute_command(*step))
            found.update(dict.fromkeys(keys))
            if not cursor:
                return list(found)

    async def _ask(self) -> None:
        """Ask every primary whether it serves, within the deadline once it has been found. Raises `StoreDown`."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._client.renew()
                primaries = await self._client.primaries()
                for node in primaries.values():
                    await node.execute_command("PING")
            for name, node in primaries.items():
                _serves(name, await self._within(_answers(node, self._questions())))
        except TimeoutError as error:
            raise StoreDown(self._silence()) from error
        except TROUBLE as error:
            raise StoreDown(self._why(error) or f"the store refused a command: {error}") from error

    def _questions(self) -> list[Command]:
        cluster: list[Command] = [("CLUSTER INFO",)] if self._client.clustered else []
        return [("INFO", "replication"), CAN_WRITE, *cluster]

    def _silence(self) -> str:
        return f"the store did not answer within {self._deadline * 1000:.0f} ms"

    def _why(self, error: Exception) -> str | None:
        """Return why nobody can be served, as `why_down` does, or by the note of whoever runs the store."""
        why = why_down(error)
        said = None if why is None or self._note is None else self._note.read()
        return why if said is None else f"the store cannot be reached: {said}"

    def _gone(self, why: str, era: int) -> StoreDown:
        """Take the store for down, and return what to raise."""
        self._breaker.trip(why, era)
        return StoreDown(why)

    def _failed(self, error: Exception, era: int) -> Exception:
        """Return what to raise for `error`, and take the store for down if that is what it means."""
        if isinstance(error, NoScriptError):
            return error
        why = self._why(error)
        if why is None:
            return StoreDown(f"the store refused a command: {error}")
        return self._gone(why, era)

    async def _within(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work` until the deadline. Raises TimeoutError.

        At a deadline that found this loop busy the answer may have come and not been read: it gets `LATE` for that.
        """
        task = clock.spawn(work, self._round_trip)
        try:
            for patience in (self._deadline, LATE):
                if (await asyncio.wait({task}, timeout=patience))[0]:
                    return task.result()
            raise TimeoutError
        finally:
            task.cancel()


async def _answers(node: Node, commands: Sequence[Command]) -> list[Any]:
    """Ask `node` one command after the other; a refused one is answered by its error."""
    replies: list[Any] = []
    for command in commands:
        try:
            replies.append(await node.execute_command(*command))
        except ResponseError as error:
            replies.append(error)
    return replies


def _serves(name: str, replies: list[Any]) -> None:
    """Judge what a primary answered to the prober. Raises `StoreDown`."""
    role, can_write, *cluster = replies
    for reply in replies:
        if isinstance(reply, Exception) and (why := why_down(reply)):
            raise StoreDown(why)
    if isinstance(can_write, Exception) and not isinstance(can_write, NoPermissionError):
        raise StoreDown(f"the store refused a command: {can_write}")
    if isinstance(role, dict) and role.get("role") != "master":
        raise StoreDown(f"the store at {name} is a replica")
    for state in cluster:
        if isinstance(state, dict) and state.get("cluster_state") != "ok":
            raise StoreDown(f"the store is a cluster that is down: {name} says cluster_state {state['cluster_state']}")
