"""The door to httpx for what is cold: probes of engines that are no backend yet, keys of issuers; a client a use.

Law: nothing of a call passes here; calls go through `upstream/transport.py`.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from functools import cache
from pathlib import Path

import httpx
from msgspec import Struct

from gateway.files import opening

TIMEOUT = 2.0
"""Seconds for a probe of an engine on the same machine or network."""

_AS_IT_IS = {"accept": "application/json", "accept-encoding": "identity"}


class Undelivered(Exception):  # noqa: N818 - a state of the world, not a programming error
    """What was asked for did not come; the text says why."""


class Unreached(Undelivered):
    """Nobody is there to ask: whatever was to be asked has not been."""


class Late(Undelivered):
    """It did not come in time."""


class Answer(Struct, frozen=True):
    """An answer, whole; header names in lower case."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class Coming(Struct, frozen=True):
    """An answer whose body is still to come, in `parts`; header names in lower case."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    parts: AsyncIterator[bytes]


def cold_client(timeout: float = TIMEOUT, ca: Path | None = None, ca_digest: str = "") -> httpx.AsyncClient:
    """Return a client for a few cold requests; use it as an async context manager.

    `ca`, `ca_digest`: as of `trusting`. Raises OSError where that file cannot be read.
    """
    verify = trusting(ca, ca_digest)
    return httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False, verify=verify)


async def download(url: str, *, within: float, longest: int, ca: Path | None = None, ca_digest: str = "") -> bytes:
    """Return the body of the answer to a GET, which has to be a 200, whole in `within` seconds, of `longest` bytes.

    Raises `Undelivered`, which shows no query: that may hold a credential.
    """
    try:
        async with asyncio.timeout(within), cold_client(within, ca, ca_digest) as client:
            return await _body(client, url, longest)
    except TimeoutError as error:
        raise Undelivered(f"{_shown(url)} did not answer within {within:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
        raise Undelivered(f"{_shown(url)}: {type(error).__name__}: {error}") from error


def _shown(url: str) -> str:
    return url.partition("?")[0]


async def _body(client: httpx.AsyncClient, url: str, longest: int) -> bytes:
    async with client.stream("GET", url, headers=_AS_IT_IS) as answer:
        if answer.status_code != 200:
            raise Undelivered(f"{_shown(url)} answered {answer.status_code}")
        return await _whole(answer.aiter_raw(), url, longest)


async def _whole(parts: AsyncIterator[bytes], url: str, longest: int) -> bytes:
    body = bytearray()
    async for part in parts:
        body += part
        if len(body) > longest:
            raise Undelivered(f"{_shown(url)} answered more than {longest} bytes")
    return bytes(body)


async def pass_on(
    method: str,
    url: str,
    headers: Sequence[tuple[bytes, bytes]] = (),
    body: bytes = b"",
    *,
    within: float,
    longest: int,
) -> Answer:
    """Send a request as it is to this machine and return its answer as it is: in `within` seconds, of `longest` bytes.

    Raises `Undelivered`: `Unreached` where it did not even get there, `Late` where the answer took longer.
    """
    async with passing(method, url, headers, body, within=within) as coming:
        return Answer(coming.status, coming.headers, await _whole(coming.parts, url, longest))


@contextlib.asynccontextmanager
async def passing(
    method: str, url: str, headers: Sequence[tuple[bytes, bytes]] = (), body: bytes = b"", *, within: float
) -> AsyncIterator[Coming]:
    """Send a request as it is to this machine and have its answer as it comes, all of it in `within` seconds.

    Raises `Undelivered` as `pass_on` does, at the start or while the body comes.
    """
    try:
        request = httpx.Request(method, url, headers=list(headers), content=body)
        async with asyncio.timeout(within), httpx.AsyncHTTPTransport(verify=trusting(None)) as transport:
            answer = await transport.handle_async_request(request)
            told = tuple((name.lower(), value) for name, value in answer.headers.raw)
            yield Coming(answer.status_code, told, answer.aiter_raw())
    except httpx.ConnectError as error:
        raise Unreached(f"{_shown(url)}: {error}") from error
    except TimeoutError as error:
        raise Late(f"{_shown(url)} did not answer within {within:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
        raise Undelivered(f"{_shown(url)}: {type(error).__name__}: {error}") from error


@cache
def trusting(ca: Path | None, ca_digest: str = "") -> ssl.SSLContext:  # noqa: ARG001 - it tells others of one name apart
    """Return the one TLS context that trusts the authorities in the PEM file `ca` alone, or else (None) the usual ones.

    The usual ones are those of SSL_CERT_FILE or SSL_CERT_DIR, else certifi's. Made once for what the file holds
    (`ca_digest`): it takes 10 ms.
    """
    return httpx.create_ssl_context() if ca is None else ssl.create_default_context(cafile=opening(ca))
