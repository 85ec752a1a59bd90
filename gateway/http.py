"""The door to httpx for what is cold: probes of engines that are no backend yet, keys of issuers; a client a use.

Law: nothing of a call passes here; calls go through `upstream/transport.py`.
"""

import asyncio
import ssl
from functools import cache
from pathlib import Path

import httpx

TIMEOUT = 2.0
"""Seconds for a probe of an engine on the same machine or network."""

_AS_IT_IS = {"accept": "application/json", "accept-encoding": "identity"}


class Undelivered(Exception):  # noqa: N818 - a state of the world, not a programming error
    """What was asked for did not come; the text says why."""


def cold_client(timeout: float = TIMEOUT, ca: Path | None = None) -> httpx.AsyncClient:
    """Return a client for a few cold requests; use it as an async context manager.

    `ca`: a PEM file of the only authorities to trust (None: the usual ones). Raises OSError where it cannot be read.
    """
    return httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False, verify=trusting(ca))


async def download(url: str, *, within: float, longest: int, ca: Path | None = None) -> bytes:
    """Return the body of the answer to a GET, which has to be a 200, whole in `within` seconds, of `longest` bytes.

    Raises `Undelivered`, which shows no query: that may hold a credential.
    """
    try:
        async with asyncio.timeout(within), cold_client(within, ca) as client:
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
        body = bytearray()
        async for part in answer.aiter_raw():
            body += part
            if len(body) > longest:
                raise Undelivered(f"{_shown(url)} answered more than {longest} bytes")
        return bytes(body)


@cache
def trusting(ca: Path | None) -> ssl.SSLContext:
    """Return the one TLS context that trusts the authorities in the PEM file `ca` alone, or else (None) the usual ones.

    The usual ones are those of SSL_CERT_FILE or SSL_CERT_DIR, else certifi's. Made once: it takes 10 ms.
    """
    return httpx.create_ssl_context() if ca is None else ssl.create_default_context(cafile=ca)
