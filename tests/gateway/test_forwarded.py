from ipaddress import ip_network

import pytest

from gateway.connections import Connections
from gateway.forwarded import origin, trusts
from tests.gateway.wires import post

PROXIES = tuple(map(ip_network, ("10.0.0.0/8", "192.0.2.7", "fd00::/8")))
PEER = ("10.0.0.1", 4711)


def told(*values, proto=None):
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in values]
    headers += [(b"x-forwarded-proto", proto.encode())] if proto else []
    return origin(PEER, "http", [(b"host", b"x"), *headers], PROXIES)


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([], PEER),
        (["203.0.113.9"], ("203.0.113.9", 0)),
        (["203.0.113.9:5000"], ("203.0.113.9", 5000)),
        (["2001:db8::9"], ("2001:db8::9", 0)),
        (["2001:DB8:0::9"], ("2001:db8::9", 0)),
        (["[2001:db8::9]"], ("2001:db8::9", 0)),
        (['"[2001:db8::9]:443"'], ("2001:db8::9", 443)),
        (["::ffff:203.0.113.9"], ("203.0.113.9", 0)),
        (["1.1.1.1, 203.0.113.9"], ("203.0.113.9", 0)),
        (["10.9.9.9, 203.0.113.9"], ("203.0.113.9", 0)),
        (["1.1.1.1, 203.0.113.9 , 10.2.2.2,192.0.2.7"], ("203.0.113.9", 0)),
        (["1.1.1.1", "203.0.113.9", "10.2.2.2"], ("203.0.113.9", 0)),
        (["203.0.113.9, fd00::2"], ("203.0.113.9", 0)),
        (["10.3.3.3, 10.2.2.2"], ("10.3.3.3", 0)),
        (["203.0.113.9:99999"], ("203.0.113.9", 0)),
        (["203.0.113.9:x"], ("203.0.113.9", 0)),
    ],
)
def test_the_caller_is_the_rightmost_whom_nobody_trusts(values, client):
    """What stands left of it is that caller's own claim."""
    assert told(*values)[0] == client


@pytest.mark.parametrize(
    "garbage", ["", "unknown", "_hidden", "1.2.3", "[::1", "[::1]x", "\xff", ",,", "example.org", "1.1.1.1 1.1.1.1"]
)
def test_what_is_no_address_ends_the_walk_at_the_proxy_that_wrote_it(garbage):
    """Nothing behind it is believed either."""
    assert told(f"203.0.113.9, {garbage}")[0] == PEER
    assert told(f"203.0.113.9, {garbage}, 10.2.2.2")[0] == ("10.2.2.2", 0)


@pytest.mark.parametrize(
    ("proto", "scheme"), [("https", "https"), ("http, HTTPS", "https"), ("https, http", "http"), ("gopher", "http")]
)
def test_the_scheme_is_the_nearest_proxy_s(proto, scheme):
    """And one of the two there are."""
    assert told(proto=proto)[1] == scheme


@pytest.mark.parametrize(
    ("address", "trusted"),
    [("10.1.2.3", True), ("11.1.2.3", False), ("::ffff:10.1.2.3", True), ("fd00::1", True), ("", False), ("x", False)],
)
def test_only_the_named_networks_are_trusted(address, trusted):
    """An IPv4 address is the same one in an IPv6 socket's spelling."""
    assert trusts(PROXIES, address) is trusted


@pytest.mark.parametrize(("network", "expected"), [("127.0.0.0/8", "203.0.113.9"), ("10.0.0.0/8", "127.0.0.1")])
def test_a_trusted_proxy_s_word_counts_and_another_s_does_not(play, network, expected):
    """Over the wire, for every request of a connection anew."""
    proxies = (ip_network(network),)

    async def scene(it, caller):
        for told in (b"x-forwarded-for: 203.0.113.9", b"x: y"):
            await caller.send(post(b"/", b"", told, b"x-forwarded-proto: https"))
            assert await caller.answer() == (200, b"")
        scheme = "https" if expected == "203.0.113.9" else "http"
        assert it.app.origins == [(expected, scheme), ("127.0.0.1", scheme)]

    play(scene, proxies=proxies, house=Connections(10, 1, proxies))
