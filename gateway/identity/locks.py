"""What a key has to fit before its principal is anybody's: its secret, its end, the addresses it may be used from.

Law: the secret is compared first, in constant time, so whoever does not hold it learns nothing else of the key.
"""

import hmac
from ipaddress import IPv4Network, IPv6Network, ip_network

from msgspec import Struct, field

from gateway.forwarded import Network, lies_in
from gateway.identity import keys
from gateway.identity.records import KeyRecord
from policies.rejections import Reason, Rejection

UNKNOWN = Rejection(
    Reason.BAD_KEY,
    "No such API key. It is well formed, but was never given out here, or a rotation has replaced it. "
    "Ask your operator for the key that is good now.",
)
REVOKED = Rejection(Reason.BAD_KEY, "This API key was revoked. Ask your operator for another.")
EXPIRED = Rejection(Reason.BAD_KEY, "This API key has expired. Ask your operator for another.")

ADDRESSES_REMEMBERED = 64
"""Addresses that one key is used from at a time, about."""

_MAPPED = 96
"""Bits before an IPv4 address that is written as IPv6 (RFC 4291, 2.5.5.2)."""


class Lock(Struct, frozen=True):
    """A key's digests, until when the former one is taken (unix seconds), whether it was revoked, end and networks.

    `seen`: addresses and whether they lie in the networks, which may be many.
    """

    digest: bytes
    former: bytes | None
    former_until: float
    revoked: bool
    expires: float | None
    networks: tuple[Network, ...] | None
    seen: dict[str, bool] = field(default_factory=dict)

    def refusal(self, credential: bytes, address: str, wall: float) -> Rejection | None:
        """Return why a key is not taken from `address` at `wall` (unix seconds), None if it is."""
        digest = keys.digest(credential)
        if not hmac.compare_digest(digest, self.digest) and not self._fits_former(digest, wall):
            return UNKNOWN
        if self.revoked:
            return REVOKED
        if self.expires is not None and wall >= self.expires:
            return EXPIRED
        if self.networks is not None and not self._opens_from(self.networks, address):
            return Rejection(
                Reason.NOT_ALLOWED,
                f"This API key may not be used from the address {address or '(none)'}. "
                "Use it from the networks that it was given out for, or ask your operator to add this one.",
            )
        return None

    def _opens_from(self, networks: tuple[Network, ...], address: str) -> bool:
        known = self.seen.get(address)
        if known is None:
            if len(self.seen) >= ADDRESSES_REMEMBERED:
                self.seen.clear()
            known = self.seen[address] = lies_in(networks, address)
        return known

    def _fits_former(self, digest: bytes, wall: float) -> bool:
        return self.former is not None and hmac.compare_digest(digest, self.former) and wall < self.former_until


def lock_of(record: KeyRecord) -> Lock:
    """Return a key's lock; a digest or a network that nobody can read fits nothing."""
    former, networks = record.former, record.networks
    return Lock(
        digest=_bytes(record.digest),
        former=_bytes(former.digest) if former else None,
        former_until=former.until if former else 0,
        revoked=record.revoked,
        expires=record.expires,
        networks=None if networks is None else tuple(found for text in networks if (found := _network(text))),
    )


def _bytes(digest: str) -> bytes:
    try:
        return bytes.fromhex(digest)
    except ValueError:
        return b""


def _network(text: str) -> Network | None:
    """Read a CIDR; one of IPv4 addresses that are written as IPv6 is of IPv4 ones, as callers' addresses are."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= _MAPPED:
        return IPv4Network((int(mapped), network.prefixlen - _MAPPED))
    return network
