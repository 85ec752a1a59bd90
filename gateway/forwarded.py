"""For whom a proxy speaks: `x-forwarded-for` and `x-forwarded-proto`, read the one way that cannot be spoofed.

Law: every hop appends what it saw, so the list is believed from its right end, and only as far as trusted proxies
wrote it: what the first hop that nobody trusts claims about others is never looked at. Addresses only; no socket.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network
Client = tuple[str, int]
"""Address and port; port 0 where nobody told it."""

SCHEMES = frozenset({"http", "https"})


@lru_cache(4096)
def trusts(proxies: tuple[Network, ...], address: str) -> bool:
    """Say whether `address` is a proxy's."""
    return lies_in(proxies, address)


def lies_in(networks: tuple[Network, ...], address: str) -> bool:
    """Say whether `address` lies in one of the networks; what is no address lies in none."""
    found = _address(address)
    return found is not None and any(found in network for network in networks)


def origin(
    client: Client, scheme: str, headers: Iterable[tuple[bytes, bytes]], proxies: tuple[Network, ...]
) -> tuple[Client, str]:
    """Return the caller's address and scheme, as told by the trusted proxy `client`, which is connected over `scheme`.

    The address is the rightmost that is not a proxy's; all being proxies', the leftmost. An entry that is no address
    ends the walk at the proxy that wrote it. Header names are in lower case.
    """
    hops: list[bytes] = []
    for name, value in headers:
        if name == b"x-forwarded-for":
            hops += value.split(b",")
        elif name == b"x-forwarded-proto":
            told = value.rpartition(b",")[2].strip().lower().decode("latin-1")
            scheme = told if told in SCHEMES else scheme
    for hop in reversed(hops):
        read = _hop(hop.strip().decode("latin-1"))
        if read is None:
            break
        client = read
        if not trusts(proxies, client[0]):
            break
    return client, scheme


def _hop(text: str) -> Client | None:
    """Read `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]` or `[::1]:80`; None where it is none of them."""
    text = text.strip('"')
    host, port = text, ""
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            return None
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    address = _address(host)
    if address is None:
        return None
    known = port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) < 65536
    return str(address), int(port) if known else 0


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address, an IPv4 one that is written as IPv6 as what it is."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
