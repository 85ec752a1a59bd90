import ssl

import httpx
import pytest

from gateway.upstream.transport import ERRORS, failure_of, open_transport, timeouts
from policies.failures import FailureKind
from tests.parts.scripted import Close, Raw, Reset, ScriptedServer, Status


async def fail(url):
    """Post to `url` over our transport and return the error."""
    transport = open_transport()
    try:
        request = httpx.Request("POST", url, content=b"{}", extensions=timeouts())
        response = await transport.handle_async_request(request)
        [_ async for _ in response.stream]
    except ERRORS as error:
        return failure_of(error)
    finally:
        await transport.aclose()
    return None


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
