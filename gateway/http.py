"""The door to httpx for what is cold: probes and listings, one short-lived client a use.

Law: nothing of a call passes here; calls go through `upstream/transport.py`.
"""

import ssl
from functools import cache

import httpx

TIMEOUT = 2.0
"""Seconds for a probe of an engine on the same machine or network."""


def cold_client(timeout: float = TIMEOUT) -> httpx.AsyncClient:
    """Return a client for a few cold requests; use it as an async context manager."""
    return httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False, verify=_tls())


@cache
def _tls() -> ssl.SSLContext:
    """Return the one TLS context: making it reads every trusted certificate, 10 ms each time."""
    return httpx.create_ssl_context(trust_env=False)
