import httpx
import pytest

from gateway.http import cold_client
from tests.parts.scripted import Hang, ScriptedServer


async def test_a_cold_client_does_not_wait_for_ever():
    """Nor follow where it is sent."""
    async with ScriptedServer() as server, cold_client(timeout=0.1) as client:
        server.enqueue([Hang()])
        with pytest.raises(httpx.TimeoutException):
            await client.post(f"{server.url}/x")

        assert client.follow_redirects is False
