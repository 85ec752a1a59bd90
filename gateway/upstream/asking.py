"""A free question to a backend: a GET over the transport that its calls take, with its credential.

Law: bounded in time and in bytes. A probe thus finds what a call would find: the same TLS, proxy, address and bound of
connections.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import httpx

from gateway.upstream.fleet import Home
from policies.probing import LONGEST


class Answered(NamedTuple):
    """An answer: its status, headers and body; `body` is empty where it was longer than anything worth reading."""

    status: int
    headers: httpx.Headers
    body: bytes


async def ask(home: Home, url: str, within: float) -> Answered:
    """Return the answer to a GET of `url` at `home`. Raises httpx.HTTPError, and TimeoutError after so many seconds."""
    headers = [(name, value) for name, value in home.headers if name != b"content-type"]
    client = httpx.AsyncClient(transport=home.transport, trust_env=False)  # not closed: that would close the transport
    return await asked(client, url, headers, within)


async def asked(client: httpx.AsyncClient, url: str, headers: Sequence[tuple[bytes, bytes]], within: float) -> Answered:
    """Return the answer to a GET of `url`, whoever it is that answers. Raises httpx.HTTPError and TimeoutError."""
    sooner = httpx.Timeout(within, connect=within / 2, pool=within / 2)  # to know what it was that took so long
    async with asyncio.timeout(within), client.stream("GET", url, headers=headers, timeout=sooner) as answer:
        body = bytearray()
        async for part in answer.aiter_raw():
            body += part
            if len(body) > LONGEST:
                body.clear()
                break
        return Answered(answer.status_code, answer.headers, bytes(body))
