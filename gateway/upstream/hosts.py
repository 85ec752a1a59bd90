"""Which backends are of this host alone, and what this host is called among the gateways.

Law: an address that loops back is another place on every host, so what is known of an engine there is known on that
host only, by whoever reaches it so. A host is here what has a loopback of its own: one network namespace of one kernel
that runs. All containers of a pod share that, as do all processes of a machine; two pods of one node do not, nor do two
machines that were given one name. A hosted endpoint is the same one, with the same limit, behind whichever host's proxy
it is called.
"""

import socket
from contextlib import suppress
from functools import cache, lru_cache
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config.settings import Backend

BOOT, NETWORK = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/net")
"""Where Linux says which kernel runs, by a number drawn when it began, and in which of its networks we are."""


@cache
def this_host() -> str:
    """Return what this host is called, in 16 letters; it goes by its own name where no kernel tells it from others."""
    known = socket.gethostname()
    with suppress(OSError):
        network = NETWORK.stat().st_ino
        if boot := BOOT.read_text().strip():  # a sandbox may show an empty one
            known = f"{boot} {network}"
    return blake2b(known.encode(), digest_size=8).hexdigest()


@lru_cache(maxsize=4096)
def loops_back(base_url: str, address: str | None) -> bool:
    """Say whether a URL, or the address in place of its name, leads to the host that asks."""
    host = address or urlsplit(base_url).hostname or ""
    try:
        found = ip_address(host)
    except ValueError:
        name = host.removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found.is_loopback or found.is_unspecified  # whoever calls no address at all calls himself


def is_alone(backend: Backend) -> bool:
    """Say whether a backend is of the host that asks alone, so that one of its name on another host is another."""
    return not backend.hosted and loops_back(backend.base_url, backend.address)
