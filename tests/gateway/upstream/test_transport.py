import ssl

import httpx
import pytest

from gateway.upstream.transport import failure_of
from policies.failures import FailureKind
from tests.parts.scripted import Close, Raw, Reset, ScriptedServer, Status
from tests.parts.transports import fetch, opened


async def fail(url):
    """Post to `url` over our transport and return the failure."""
    transport = opened("pooled", url)
    try:
        return await fetch(transport, url)
    finally:
        await transport.aclose()


async def test_a_closed_port_is_a_failed_connect():
    """Nobody listens."""
    assert (await fail("http://127.0.0.1:9/")).kind is FailureKind.CONNECT


async def test_a_plain_port_asked_for_tls_is_a_failed_connect():
    """As is a certificate that is not trusted."""
    async with ScriptedServer() as server:
        assert (await fail(f"https://127.0.0.1:{server.port}/")).kind is FailureKind.CONNECT


@pytest.mark.parametrize(
    ("script", "kinds"),
    [
        ([Reset()], {FailureKind.RESET}),
        ([Close()], {FailureKind.TRUNCATED}),
        ([Status(200, {"content-length": "9"}), Raw(b"x"), Close()], {FailureKind.TRUNCATED}),
        ([Raw(b"NONSENSE\r\n\r\n"), Close()], {FailureKind.TRUNCATED, FailureKind.PROTOCOL}),
    ],
)
async def test_what_breaks_on_the_wire_is_one_of_our_failures(script, kinds):
    """Over real sockets."""
    async with ScriptedServer() as server:
        server.enqueue(script)
        assert (await fail(server.url)).kind in kinds


@pytest.mark.parametrize("error", [httpx.ReadTimeout("x"), httpx.PoolTimeout("x"), ssl.SSLError("x"), OSError("x")])
def test_every_error_of_a_transport_has_a_meaning(error):
    """Most specific first."""
    assert failure_of(error).kind in FailureKind


def test_a_pool_without_a_free_connection_is_busy_and_not_ill():
    """It goes elsewhere and speaks against nobody's health."""
    failure = failure_of(httpx.PoolTimeout("x"))

    assert failure.kind is FailureKind.BUSY
    assert failure.meaning.elsewhere
    assert not failure.meaning.ejects


@pytest.mark.parametrize("value", ["a\r\nx-b: 1", "a\nx-b: 1", "a\rb", "a\0b"])
async def test_a_header_that_would_end_its_own_line_is_never_sent(value):
    """Whoever made it."""
    async with ScriptedServer() as server:
        transport = opened("pooled", server.url)
        with pytest.raises(httpx.LocalProtocolError):
            await transport.post(httpx.URL(server.url), [(b"x-a", value.encode())], b"{}", lambda: None)

        assert server.connections == set()
        assert transport.open == 0


async def test_a_name_that_no_resolver_takes_is_a_failed_connect():
    """Its label is too long to be looked up."""
    assert (await fail(f"http://{'a' * 70}.invalid/")).kind is FailureKind.CONNECT


@pytest.mark.parametrize(("passed_by", "through"), [("", True), ("127.0.0.1", False), ("*", False)])
async def test_the_stock_transport_goes_through_the_proxy_that_the_environment_names(monkeypatch, passed_by, through):
    """Unless the environment says that this host is reached without one; ours never looks for one."""
    async with ScriptedServer() as upstream, ScriptedServer() as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", passed_by)
        stock, ours = opened("httpx", upstream.url), opened("pooled", upstream.url)
        assert (await fetch(stock, upstream.url))[0] == 200
        assert len(proxy.calls) == through
        assert (await fetch(ours, upstream.url))[0] == 200
        assert len(upstream.calls) == 2 - through
        await stock.aclose()
        await ours.aclose()
