"""The three deployments of a store, each as a client of redis-py: one server, a master that Sentinels name, a cluster.

Law: a client repeats nothing but what a cluster redirects, so whoever sends knows that it was sent once. No reply is
taken from a connection whose last call did not end: redis-py closes it when a call is cancelled. Notices of a managed
service's upkeep are off: with them redis-py looks for no unread data in a connection that it takes from its pool.
"""

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException
from redis.maint_notifications import MaintNotificationsConfig

from gateway.store.addresses import Address, address

__all__ = ["Client", "Command", "Node", "client"]

Command = Sequence[str | bytes | int]
Node = Redis | ClusterNode

MOST_CONNECTIONS = 1000
"""Connections of one gateway to one server: a loop that was held up may have many keys to read at once."""

CONNECT_WITHIN = 2.0
"""Seconds to open a connection, where no deadline of ours comes first."""

SENTINEL_WITHIN = 0.2
"""Seconds that one Sentinel has to answer: the next one is asked while whoever waits still does."""


def client(url: str, *, first: bool = False) -> "Client":
    """Return a client of the store at `url`; nothing is opened yet. Raises ValueError.

    `first`: of the server's database 0, whichever the URL names.
    """
    where = address(url)
    if where.deployment == "cluster":
        return _Cluster(where)
    return (_One if where.deployment == "one" else _Sentinels)(where, first=first)


class Client(ABC):
    """A store of one or more primaries. `connects` counts the connections made so far; `clustered` tells a cluster.

    `database`: which of the server's it is.
    """

    clustered = False
    database = 0

    def __init__(self) -> None:
        self.connects = 0

    @abstractmethod
    def run(self, commands: Sequence[Command]) -> Coroutine[Any, Any, list[Any]]:
        """Send `commands`, one pipeline a node, and return their replies in order, errors among them."""

    @abstractmethod
    async def primaries(self) -> dict[str, Node]:
        """Return every primary by its name; each takes commands by `execute_command`."""

    @abstractmethod
    async def renew(self) -> None:
        """Drop what is known of the deployment and every idle connection: all may be of another time."""

    @abstractmethod
    async def close(self) -> None:
        """Close every connection."""

    async def _connected(self, connection: AbstractConnection) -> None:
        """Greet a new connection, and count it."""
        await connection.on_connect()
        self.connects += 1

    def _options(self) -> dict[str, Any]:
        """Return what every connection to the data is opened with."""
        return {
            "max_connections": MOST_CONNECTIONS,
            "socket_connect_timeout": CONNECT_WITHIN,
            "socket_timeout": None,
            "health_check_interval": 0,
            "protocol": 3,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }


class _One(Client):
    """One server, by its own address."""

    def __init__(self, where: Address, *, first: bool) -> None:
        super().__init__()
        self._name = where.name
        self._redis = self._open(where)
        options = self._redis.connection_pool.connection_kwargs
        if first:
            options["db"] = 0
        self.database = int(options.get("db") or 0)

    def _open(self, where: Address) -> Redis:
        return Redis.from_url(where.urls[0], **self._redis_options())

    def _redis_options(self) -> dict[str, Any]:
        return self._options() | {"retry": Retry(NoBackoff(), 0), "redis_connect_func": self._connected}

    def run(self, commands: Sequence[Command]) -> Coroutine[Any, Any, list[Any]]:
        pipe = self._redis.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        return pipe.execute(raise_on_error=False)

    async def primaries(self) -> dict[str, Node]:
        return {self._name: self._redis}

    async def renew(self) -> None:
        await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        await self._redis.aclose()


class _Sentinels(_One):
    """One master at a time: whoever the Sentinels name when a connection is made.

    A Sentinel is told the password alone: it knows the data's, and one that asks for none does not mind.
    """

    def _open(self, where: Address) -> Redis:
        options = where.options()[0]
        tls = {"ssl": options.pop("connection_class", None) is SSLConnection}
        tls |= {name: options.pop(name) for name in list(options) if name.startswith("ssl_")}
        hosts = [(each["host"], each["port"]) for each in where.options()]
        asking = {"password": options.get("password"), "protocol": 3, "retry": Retry(NoBackoff(), 0), **tls}
        asking |= {"socket_timeout": SENTINEL_WITHIN, "socket_connect_timeout": SENTINEL_WITHIN}
        asking["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
        self._sentinel = Sentinel(hosts, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
        del options["host"], options["port"]
        return cast(Redis, self._sentinel.master_for(where.master, **self._redis_options() | tls | options))

    async def close(self) -> None:
        await super().close()
        await self._redis.connection_pool.aclose()
        await self._sentinel.aclose()


class _Cluster(Client):
    """A cluster: each command goes to the primary of its key's slot; MOVED, ASK and TRYAGAIN are followed.

    Nothing else is repeated, and the map of the slots is drawn anew only by `renew`, or slot by slot as MOVED tells.
    """

    clustered = True

    def __init__(self, where: Address) -> None:
        super().__init__()
        self._where = where
        self._cluster = self._open()

    def _open(self) -> RedisCluster:
        options = self._where.options()[0]
        options["ssl"] = options.pop("connection_class", None) is SSLConnection
        nodes = [ClusterNode(each["host"], each["port"]) for each in self._where.options()]
        del options["host"], options["port"]
        options |= {"startup_nodes": nodes, "retry": Retry(NoBackoff(), 0), "reinitialize_steps": 0}
        cluster = RedisCluster(**self._options() | options)
        for kwargs in (cluster.connection_kwargs, *(node.connection_kwargs for node in cluster.startup_nodes)):
            kwargs["redis_connect_func"] = self._connected  # no parameter of a cluster hands it on
        return cluster

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        pipe = self._cluster.pipeline()
        for command in commands:
            pipe.execute_command(*command)
        try:
            return await pipe.execute(raise_on_error=False)
        except RedisClusterException as error:
            if self._cluster.get_default_node() is None:  # the map could not be drawn; else the command has no one node
                raise RedisConnectionError(str(error)) from error
            raise

    async def primaries(self) -> dict[str, Node]:
        try:
            await self._cluster.initialize()
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error
        return {node.name: node for node in self._cluster.get_primaries()}

    async def renew(self) -> None:
        """Draw the map anew from the nodes that are known; if none of them can tell, from those of the URL."""
        if self._cluster.get_default_node() is None:
            return  # it is drawn at the next call
        try:
            await self._cluster.nodes_manager.initialize()
        except RedisClusterException as error:
            await self.close()
            self._cluster = self._open()
            raise RedisConnectionError(str(error)) from error

    async def close(self) -> None:
        await self._cluster.aclose()  # does nothing while it thinks that it has to be initialized anew
        await self._cluster.nodes_manager.aclose()
        await self._cluster.nodes_manager.aclose("startup_nodes")
