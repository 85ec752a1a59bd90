"""Where a store is: the URL of one server, of Sentinels with a master's name, or of nodes of a cluster.

Law: one URL says it all. `redis://`, `rediss://` and `unix://` are redis-py's own; `redis+sentinel://` and
`redis+cluster://` (and `rediss+` for TLS) name several hosts, with one user and password for all of them.
"""

from typing import Any, Literal
from urllib.parse import unquote

from msgspec import Struct
from redis.asyncio.connection import parse_url

Deployment = Literal["one", "sentinel", "cluster"]

_PORTS = {"sentinel": 26379, "cluster": 6379}


class Address(Struct, frozen=True):
    """Where to find a store: a URL as redis-py reads it for each host, and the master's name where Sentinels know it.

    `name` is the store's name in messages; it holds no password.
    """

    deployment: Deployment
    urls: tuple[str, ...]
    name: str
    master: str = ""

    def options(self) -> list[dict[str, Any]]:
        """Return redis-py's options of each host, with its port."""
        port = _PORTS.get(self.deployment, 6379)
        return [{"host": "localhost", "port": port, **parse_url(url)} for url in self.urls]


def address(url: str) -> Address:
    """Read a store's URL. Raises ValueError, saying what would be right."""
    scheme, separator, rest = url.partition("://")
    plain, _, kind = scheme.partition("+")
    if not separator or plain not in ("redis", "rediss", "unix") or kind not in ("", "sentinel", "cluster"):
        raise ValueError(
            "a store's URL begins with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
        )
    if not kind:
        return Address("one", (url,), _without_password(plain, rest))
    where, question, query = rest.partition("?")
    hosts, _, path = where.partition("/")
    user, at, hosts = hosts.rpartition("@")
    if not all(hosts.split(",")):
        raise ValueError(f"{scheme}:// takes its hosts as host:port,host:port")
    master, _, db = path.partition("/")
    if kind == "sentinel" and not master:
        raise ValueError(f"{scheme}://{hosts} lacks the name of the master: {scheme}://{hosts}/NAME")
    tail = (f"/{db}" if kind == "sentinel" and db else "") + question + query
    urls = tuple(f"{plain}://{user}{at}{host}{tail}" for host in hosts.split(","))
    if kind == "cluster" and (path.strip("/") not in ("", "0") or parse_url(urls[0]).get("db")):
        raise ValueError(f"a cluster has no databases: {scheme}://{hosts}")
    name = f"{hosts} ({unquote(master)})" if master and kind == "sentinel" else hosts
    return Address("sentinel" if kind == "sentinel" else "cluster", urls, name, unquote(master))


def _without_password(scheme: str, rest: str) -> str:
    where = rest.partition("?")[0]
    return f"{scheme}://{where.rpartition('@')[2]}"
