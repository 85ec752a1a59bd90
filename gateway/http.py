"""The door to httpx for what is cold: probes of engines that are no backend yet, one short-lived client a use.

Law: nothing of a call passes here; calls go through `upstream/transport.py`.
"""

import ssl
from functools import cache
from pathlib import Path

import httpx

TIMEOUT = 2.0
"""Seconds for a probe of an engine on the same machine or network."""


def cold_client(timeout: float = TIMEOUT) -> httpx.AsyncClient:
    """Return a client for a few cold requests; use it as an async context manager."""
    return httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False, verify=trusting(None))


@cache
def trusting(ca: Path | None) -> ssl.SSLContext:
    """Return the one TLS context that trusts the authorities in the PEM file `ca` alone, or else (None) the usual ones.

    The usual ones are those of SSL_CERT_FILE or SSL_CERT_DIR, else certifi's. Made once: it takes 10 ms.
    """
    return httpx.create_ssl_context() if ca is None else ssl.create_default_context(cafile=ca)
