"""Who is trusted: the authorities of `ca` and no others, for the name that was asked for, by every way to a backend."""

import asyncio
import ssl

import pytest

from gateway.config.settings import Backend
from gateway.upstream.fleet import Home
from gateway.upstream.listing import Listed, models_of
from policies.failures import FailureKind
from tests.parts.transports import certified, fetch, opened

ANSWER = b'{"object": "list", "data": [{"id": "m", "max_model_len": 7}]}'


async def listing(backend):
    """Ask a backend for its models, as a gateway that has it does."""
    home = Home(backend)
    told = await models_of(home)
    await home.transport.aclose()
    return told


@pytest.fixture
async def secured(certificates):
    """Serve one answer for everything over TLS; yield the port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)

    async def serve(reader, writer):
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(ANSWER) + ANSWER)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield listener.sockets[0].getsockname()[1]
    listener.close()


@pytest.mark.parametrize("kind", ["pooled", "httpx"])
async def test_a_backend_is_reached_by_its_own_authorities_and_its_own_name(kind, secured, certificates, tmp_path):
    """The usual authorities do not know it, another's do not, and an address is not its name."""
    other = certified(tmp_path)
    expected = [("localhost", certificates.ca, True), ("localhost", None, False)]
    expected += [("localhost", other.ca, False), ("127.0.0.1", certificates.ca, False)]
    for host, ca, trusted in expected:
        url = f"https://{host}:{secured}"
        transport = opened(kind, url, ca=ca)
        read = await fetch(transport, url, b"")
        await transport.aclose()
        assert read[2] == ANSWER if trusted else read.kind is FailureKind.CONNECT


@pytest.mark.parametrize("kind", ["pooled", "httpx"])
async def test_a_backends_models_are_listed_by_the_same_trust(kind, secured, certificates):
    """What calls can reach, discovery can."""
    url = f"https://localhost:{secured}/v1"

    assert await listing(Backend("a", "vllm", url, transport=kind, ca=certificates.ca)) == [Listed("m", 7)]
    assert "CERTIFICATE_VERIFY_FAILED" in await listing(Backend("a", "vllm", url, transport=kind))
