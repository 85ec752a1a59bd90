"""Which history of the records a server tells: asked together with whatever is read or heard of them.

Law: what two servers say is of one history only if both give it the same name. A gateway has several connections, and
after a failover they may for a while lead to different servers, of which one knows less.
"""

from typing import Any

from msgspec import Struct

from gateway import clock
from gateway.identity.records import PREFIX
from gateway.store.door import Command

VERSION = f"{PREFIX}version"
HISTORY = f"{PREFIX}history"

SCRIPT = """#!lua
local told = redis.pcall('INFO', 'replication')
local line = type(told) == 'string' and string.match(told, 'master_replid:(%x+)')
redis.call('SET', KEYS[2], ARGV[1], 'NX')
return {redis.call('GET', KEYS[1]), (line or '') .. redis.call('GET', KEYS[2])}"""
"""The last version, and the name of the history: the server's, which a failover changes, and one of the records' own,
which goes with them if all of them go.

As a script that may write it is refused where nothing may be written: by a replica, by a master that has lost its
replicas (`min-replicas-to-write`), whose word about what was changed counts for nothing.
"""


class Fence(Struct, frozen=True):
    """Where a server stands: the last version that it knows of, and the name of its history."""

    version: int
    history: bytes


def fence() -> Command:
    """Return the command whose reply `read_fence` reads."""
    return ("EVAL", SCRIPT, 2, VERSION, HISTORY, clock.token_hex(8))


def read_fence(reply: list[Any]) -> Fence:
    """Return what a server said of itself."""
    version, history = reply
    return Fence(int(version or 0), history)
