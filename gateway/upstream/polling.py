"""An answer that is not there yet: asked for until it is.

Law: only where the backend's dialect knows how (`polls`), by the very id that the answer of 202 gave; how long, is the
attempt's patience. NVIDIA Cloud Functions answer so what outlasts NVCF-POLL-SECONDS (docs.nvidia.com/cloud-functions,
"HTTP polling"; langchain-nvidia asks the same way).
"""

import asyncio
import re

import httpx

from gateway.upstream.connection import Headers
from gateway.upstream.fleet import Home
from gateway.upstream.transport import Answer

REQUEST_ID = b"nvcf-reqid"
"""The header that names a call at the hosted endpoint."""

HOSTS = {"integrate.api.nvidia.com": "api.nvcf.nvidia.com"}
"""Hosts at which nothing can be asked for, and those that answer for them (NVIDIA/nvcf, vanity gateway)."""

PAUSE, GROWTH, LONGEST_PAUSE = 1.0, 1.5, 10.0
"""Seconds before an answer is asked for, how they grow, and up to what: each time costs a request of the account's."""

_PLAIN = re.compile(rb"[A-Za-z0-9-]{1,64}")


def place_of(home: Home, request_id: bytes | None) -> httpx.URL | None:
    """Return where the answer to the call of that id will be, None where nobody can say."""
    if home.dialect.polls is None or request_id is None or not _PLAIN.fullmatch(request_id):
        return None
    url = home.urls["chat"]
    host = url.host if home.backend.address else HOSTS.get(url.host, url.host)
    return url.copy_with(host=host, raw_path=home.dialect.polls.encode() + request_id)


async def fetched(home: Home, place: httpx.URL, headers: Headers, first: Answer) -> Answer:
    """Return the answer that follows `first`, a 202, once it is no 202. Raises `ERRORS`."""
    answer, pause = first, PAUSE
    asked = [(b"host", place.netloc), *(header for header in headers if header[0] not in {b"host", b"content-type"})]
    while answer.status == 202:
        await _drop(answer)
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * GROWTH)
        answer = await home.transport.get(place, asked)
    return answer


async def _drop(answer: Answer) -> None:
    """Read what nobody needs, so that its connection can be used again. Raises `ERRORS`."""
    try:
        while await answer.read() is not None:
            pass
    except BaseException:  # an error, or whoever waits has gone
        answer.close()
        raise
