"""The keys of one issuer as they are now: found, fetched again and again, and kept while the issuer is away.

Law: whatever is sent to us, an issuer is asked for its sake at most once in `EVERY` seconds; and nobody is refused for
what could not be looked up: until the issuer has been asked, the answer is "try again" (503), never "no" (401).
"""

import asyncio
import contextlib
import ipaddress
import math
from collections.abc import Callable
from urllib.parse import urlsplit

import structlog

from gateway import clock
from gateway.config.settings import Issuer
from gateway.http import Undelivered, download
from gateway.identity.tokens import UNKNOWN_KID, BadKeysError, KeySet, read_keys
from policies.rejections import Reason, Rejection
from policies.tokens import Refused, members

log = structlog.get_logger("sluiceway.issuers")

REFRESH = 300.0
"""Seconds between two fetches of keys that are there: so long a key may be withdrawn before its tokens end."""

RETRY = 5.0
"""Seconds until an issuer that failed is asked again."""

EVERY = 5.0
"""Seconds between two fetches for the sake of a key that was not there."""

PATIENCE = 5.0
"""Seconds for each of the two answers, all in all."""

LONGEST = 1 << 20
"""Bytes of an answer. Sets of ten keys with their certificates have 30 KB."""

KEPT = 86_400.0
"""Seconds for which keys are trusted that could not be fetched again: longer than an outage, and than most tokens."""

ABSENT_FOR = 30.0
"""Seconds for which a key that was not there is not looked for again."""

ABSENT_REMEMBERED = 1000
"""Names of such keys kept, the oldest goes first: 300 KB."""

WELL_KNOWN = "/.well-known/openid-configuration"
"""OpenID Connect Discovery 1.0, section 4."""


Known = tuple[KeySet | None, float]
"""Keys, and when they were asked for."""

NOTHING: Known = (None, -math.inf)


class IssuerKeys:
    """The keys of `issuer`. `now`: monotonic seconds.

    `known`: as they were found there by other authorities, and when (monotonic seconds). They are trusted for as long
    as they would have been: authorities are changed while an issuer is away, too.
    """

    def __init__(self, issuer: Issuer, now: Callable[[], float] = clock.monotonic, known: Known = NOTHING) -> None:
        self._issuer = issuer
        self._now = now
        self._keys, self._fetched = known
        self._asked = -math.inf
        self._asking: asyncio.Task[None] | None = None
        self._absent: dict[str, float] = {}
        self._failing = False
        self._running: asyncio.Task[None] | None = None

    @property
    def known(self) -> Known:
        """The keys as they are known now."""
        return self._keys, self._fetched

    def start(self) -> None:
        """Begin to fetch, and go on every now and then."""
        self._running = clock.spawn(self._run(), f"keys of {self._issuer.name}")

    def leave(self) -> None:
        """Fetch no more; a fetch that callers wait for ends by itself."""
        if self._running is not None:
            self._running.cancel()

    async def close(self) -> None:
        """End all fetching."""
        tasks = [task for task in (self._running, self._asking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def holds(self, fingerprint: bytes) -> bool:
        """Whether this key is still the issuer's, as far as we know."""
        return self._keys is not None and fingerprint in self._keys.fingerprints

    async def having(self, kid: str | None) -> KeySet:
        """Return the keys, with one of that name in them (None: any will do), fetched if need be. Raises Refused."""
        came = self._now()
        while self._keys is None or (kid is not None and kid not in self._keys.names):
            if kid is not None and self._keys is not None and came < self._absent.get(kid, -math.inf) + ABSENT_FOR:
                raise Refused(UNKNOWN_KID)
            if self._asking is None:
                wait = self._asked + EVERY - self._now()
                if wait > 0:
                    raise Refused(self._not_yet(wait))
                self._ask()
            await self._answer()
            if self._keys is None or self._fetched < self._asked:
                raise Refused(self._not_yet(RETRY))
            if kid is not None and kid not in self._keys.names and self._asked >= came:
                self._note_absent(kid)
        return self._keys

    def _note_absent(self, kid: str) -> None:
        """Remember that the last fetch did not bring `kid`, which was asked for, or known, before it began."""
        self._absent.pop(kid, None)
        self._absent[kid] = self._asked
        if len(self._absent) > ABSENT_REMEMBERED:
            del self._absent[next(iter(self._absent))]

    def _not_yet(self, seconds: float) -> Rejection:
        what = "no keys of its issuer are" if self._keys is None else "its key is not"
        return Rejection(
            Reason.ISSUER_DOWN,
            f"This token cannot be checked now: {what} known, and the issuer could not be asked yet. Try again soon.",
            retry_after_us=math.ceil(seconds * 1_000_000),
        )

    async def _run(self) -> None:
        while True:
            if self._asking is None:
                self._ask()
            await self._answer()
            pause = RETRY if self._failing else REFRESH
            await asyncio.sleep(pause * clock.dice.uniform(1.0, 1.1))  # so that gateways do not all ask at once

    def _ask(self) -> None:
        self._asked = self._now()
        self._asking = clock.spawn(self._fetch(), f"fetch keys of {self._issuer.name}")

    async def _answer(self) -> None:
        """Wait for the fetch that is on its way, which goes on whoever leaves."""
        if self._asking is not None:
            await asyncio.shield(self._asking)

    async def _fetch(self) -> None:
        try:
            keys = read_keys(await self._get(self._issuer.jwks_url or await self._discovered()))
        except (Undelivered, BadKeysError) as error:
            self._fail(str(error))
        except Exception:
            log.exception("keys of an issuer could not be read; it is tried again", issuer=self._issuer.name)
            self._fail("see above")
        else:
            if self._failing or self._keys is None:
                log.info("keys of an issuer are known", issuer=self._issuer.name, keys=len(keys.fingerprints))
            if not keys.fingerprints:
                log.warning("an issuer's set holds no key that can be used", issuer=self._issuer.name)
            for kid in () if self._keys is None else self._keys.names - keys.names:
                self._note_absent(kid)
            self._keys, self._fetched, self._failing = keys, self._asked, False
        finally:
            self._asking = None

    def _fail(self, why: str) -> None:
        if not self._failing:
            log.warning("keys of an issuer could not be fetched", issuer=self._issuer.name, why=why)
        self._failing = True
        if self._now() > self._fetched + KEPT:
            self._keys = None

    async def _discovered(self) -> str:
        """Return where the issuer says that its keys are. Raises Undelivered."""
        url = self._issuer.issuer.removesuffix("/") + WELL_KNOWN
        try:
            told = members(await self._get(url))
        except Refused as error:
            raise Undelivered(f"{url} answered what is no JSON object, or has a member twice") from error
        if told.get("issuer") != self._issuer.issuer:  # section 4.3: it could be another one's
            raise Undelivered(f"{url} is the configuration of another issuer: `issuer` has to be the same, exactly")
        place = told.get("jwks_uri")
        if not isinstance(place, str) or not is_safe(place, local=url.startswith("http:")):
            raise Undelivered(f"{url} does not say an https address of keys (jwks_uri)")
        return place

    async def _get(self, url: str) -> bytes:
        issuer = self._issuer
        return await download(url, within=PATIENCE, longest=LONGEST, ca=issuer.ca, ca_digest=issuer.ca_digest)


def is_safe(url: str, *, local: bool) -> bool:
    """Whether keys can be taken from there: over https, or from this very machine by an issuer that is `local` too.

    One from elsewhere could have us ask our own machine for something.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme == "https":
        return host != ""
    here = host == "localhost"
    with contextlib.suppress(ValueError):
        here = here or ipaddress.ip_address(host).is_loopback
    return parts.scheme == "http" and local and here
