"""The one door to Redis: pipelined commands, one deadline, one kind of failure.

Law: a caller either gets the replies of all its commands in one round trip, or `StoreDown`. redis-py's own retries are
off: whoever calls knows whether an operation may be repeated (the ledger's may, by its step; nothing else is). A call
that missed its deadline closes its connection, so that a late reply can never be taken for another call's.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from gateway import clock

__all__ = ["Command", "NoScriptError", "Store", "StoreDown"]

LATE = 0.025
"""Seconds in which an answer that has come is read by a loop that was busy at the deadline."""

DEADLINE = 0.25
"""Seconds a round trip may take before the store counts as down."""

Command = Sequence[str | bytes | int]


class StoreDown(Exception):  # noqa: N818 - a state of the world, not a programming error
    """The store did not answer in time, refused, or cannot serve now (OOM, READONLY, LOADING)."""


class Store:
    """An open store. `round_trips` counts pipelined calls since start, for the metric of that name."""

    def __init__(self, url: str, *, deadline: float = DEADLINE) -> None:
        self.round_trips = 0
        self._deadline = deadline
        self._redis = Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=2.0,
            socket_timeout=None,
            health_check_interval=0,
            protocol=3,
        )

    async def send(self, *commands: Command) -> list[Any]:
        """Send `commands` in one round trip and return their replies in order.

        Raises `StoreDown`, or `NoScriptError` when an EVALSHA is not known to the server (nothing of that command ran).
        """
        pipe = self._redis.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        self.round_trips += 1
        try:
            replies: list[Any] = await self._within(pipe.execute(raise_on_error=False))
        except TimeoutError as error:
            raise StoreDown(f"the store did not answer within {self._deadline * 1000:.0f} ms") from error
        except (RedisError, OSError) as error:
            raise StoreDown(f"the store cannot be reached: {error}") from error
        for reply in replies:
            if isinstance(reply, NoScriptError):
                raise reply
            if isinstance(reply, ResponseError):
                raise StoreDown(f"the store refused a command: {reply}") from reply
            if isinstance(reply, Exception):
                raise StoreDown(f"the store failed: {reply}") from reply
        return replies

    async def _within(self, work: Coroutine[Any, Any, list[Any]]) -> list[Any]:
        """Wait for `work` until the deadline. Raises TimeoutError.

        At a deadline that found this loop busy the answer may have come and not been read: it gets `LATE` for that.
        """
        task = clock.spawn(work, "store round trip")
        try:
            for patience in (self._deadline, LATE):
                if (await asyncio.wait({task}, timeout=patience))[0]:
                    return task.result()
            raise TimeoutError
        finally:
            task.cancel()

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()
