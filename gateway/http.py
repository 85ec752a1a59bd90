"""The door to httpx for what is cold: probes and listings, one short-lived client a use.

Law: nothing of a call passes here; calls go through `upstream/transport.py`.
"""

import httpx

TIMEOUT = 2.0
"""Seconds for a probe of an engine on the same machine or network."""


def cold_client(timeout: float = TIMEOUT) -> httpx.AsyncClient:
    """Return a client for a few cold requests; use it as an async context manager."""
    return httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False)
