"""What can go wrong with the store, sorted by what it means: nobody can be served now, or this one command was wrong.

Law: a store that cannot be reached, or that takes no writes now, is down; one that refuses a command is not.
"""

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    DataError,
    MasterDownError,
    MaxConnectionsError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

__all__ = ["TROUBLE", "NoScriptError", "StoreDown", "why_down"]

TROUBLE = (RedisError, RedisClusterException, OSError, RuntimeError)
"""What a client raises when it does not get its replies; uvloop says RuntimeError of a connection that has closed."""

_UNABLE: dict[type[Exception], str] = {
    OutOfMemoryError: "is out of memory",
    ReadOnlyError: "is a replica and takes no writes",
    BusyLoadingError: "is loading its data",
    MasterDownError: "is a replica that has lost its master",
    ClusterDownError: "is a cluster that is down",
    AuthenticationError: "refuses the user or password of store.url",
}
"""What a server says that cannot serve anybody now, in order from the particular to the general."""

_UNABLE_CODES = {
    "MISCONF": "cannot write its snapshots and takes no writes",
    "NOREPLICAS": "has too few replicas and takes no writes",
    "BUSY": "is busy with a script that does not end",
    "UNKILLABLE": "is busy with a script that does not end",
}
"""The like, for which redis-py has no classes."""


class StoreDown(Exception):  # noqa: N818 - a state of the world, not a programming error
    """The store did not answer in time, cannot serve now (OOM, READONLY, LOADING), or refused a command."""


def why_down(error: Exception) -> str | None:
    """Return why nobody can be served, in words; None if only this command was refused or there was no room for it."""
    for kind, words in _UNABLE.items():
        if isinstance(error, kind):
            return f"the store {words}: {error}"
    if isinstance(error, ResponseError):
        words = _UNABLE_CODES.get(str(error).partition(" ")[0], "")
        return f"the store {words}: {error}" if words else None
    if isinstance(error, DataError | MaxConnectionsError | RedisClusterException):
        return None
    return f"the store cannot be reached: {error}"
