"""The limits of upstreams, kept by all gateways together.

Law: where no limit is known nothing is asked and nobody waits; where one is, a call costs one round trip, and none
while there is no room; no more ask at once than there is room for, as far as is known. A refusal is told in the
background, once for all calls that were refused together. While the store is away each gateway keeps to half of what is
believed. No key of the store holds a credential, or lets one be guessed cheaply.
"""

import hashlib
from importlib.resources import files
from typing import Protocol

import structlog

from gateway import clock
from gateway.store.door import Command, NoScriptError, Store, StoreDown
from gateway.upstream.fleet import Home
from gateway.upstream.hosts import is_alone, this_host
from policies.allowance import SECOND, Allowance, Answer
from policies.failures import Failure

log = structlog.get_logger("sluiceway.allowances")

PREFIX = "sw:{~peers}:allowance:"
"""Of every key: one slot of a cluster, with all that gateways tell one another."""

SCRIPT = (files(__package__) / "allowance.lua").read_bytes()
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()

ROUNDS = 50_000
"""Rounds of PBKDF2 by which a credential becomes part of a key, once for each of a gateway's backends: some 10 ms. The
credentials of hosted endpoints are too long to be guessed; this is for those that somebody chose."""


class Limited(Protocol):
    """A deployment that may have a limit: its id, and what this gateway believes of it."""

    name: str
    allowance: Allowance


class Allowances:
    """Asks for calls of limits in `store`. `telling`: deployments of which a refusal is being told."""

    def __init__(self, store: Store) -> None:
        self.telling: set[str] = set()
        self._store = store
        self._accounts: dict[tuple[bytes, str | None, str | None, str | None], bytes] = {}

    async def take(self, live: Limited, home: Home, price: int = 0) -> float:
        """Ask for one call of `live` at `home`; return 0.0 where it is granted, else the seconds until there is room.

        `price`: nano-dollars that it is expected to cost there (0: unknown). Returns at once where no limit is known.
        """
        allowance, now = live.allowance, clock.monotonic()
        if not allowance.limit:
            allowance.sent(now)
            return 0.0
        wait = allowance.wait(now)
        if wait:
            return wait
        allowance.held += 1
        try:
            answer = await self._ask(live, home)
        finally:
            allowance.held -= 1
        if not answer.wait:
            allowance.granted(price, clock.monotonic())
        return answer.wait / SECOND

    def refused(self, live: Limited, home: Home, failure: Failure, now: float) -> None:
        """Take in that an upstream refused a call (429), and have it told; never waits."""
        if live.name in self.telling:
            return
        self.telling.add(live.name)
        allowance = live.allowance
        told = [str(allowance.in_a_minute(now)), "1" if allowance.limit else "0"]
        pause = -1 if failure.retry_after is None else int(failure.retry_after * SECOND)
        clock.spawn(self._tell(live, home, pause, told), f"tell that {live.name} refused a call")

    async def _ask(self, live: Limited, home: Home) -> Answer:
        allowance = live.allowance
        try:
            answer = await self._run(live, home, "take")
        except (StoreDown, NoScriptError):  # the door has logged it
            return allowance.alone(clock.monotonic())
        allowance.told(answer, clock.monotonic())
        return answer

    async def _tell(self, live: Limited, home: Home, pause: int, told: list[str]) -> None:
        allowance = live.allowance
        try:
            answer = await self._run(live, home, "refused", str(pause), *told)
        except (StoreDown, NoScriptError):  # the door has logged it
            answer = allowance.refused_alone(pause, clock.monotonic())
        except Exception:
            log.exception("a refusal cannot be told", deployment=live.name)
            return
        else:
            allowance.told(answer, clock.monotonic())
        finally:
            self.telling.discard(live.name)
        log.warning(
            "refused by its limit: fewer calls are sent there",
            deployment=live.name,
            per_minute=answer.limit,
            pause=round(answer.wait / SECOND, 1),
        )

    async def _run(self, live: Limited, home: Home, what: str, *told: str) -> Answer:
        """Run the script, and once more if the store had forgotten it. Raises StoreDown, and NoScriptError."""
        command: Command = ("EVALSHA", SHA, 1, self._key(live, home), what, str(live.allowance.per_minute), *told)
        try:
            (reply,) = await self._store.send(command)
        except NoScriptError:
            await self._store.load(SCRIPT)
            (reply,) = await self._store.send(command)
        return Answer(*reply)

    def _key(self, live: Limited, home: Home) -> str:
        backend = home.backend
        # A replica that was found behind a name is a place of its own, and so is an engine of one host alone; hosted
        # endpoints are one account's behind any host's proxy.
        host = this_host() if is_alone(backend) else None
        who = (home.urls["chat"].netloc, backend.address, backend.api_key, host)
        account = self._accounts.get(who)
        if account is None:
            account = self._accounts[who] = _account(*who)
        model = live.name.removeprefix(f"{backend.name}/")
        return PREFIX + hashlib.sha256(account + model.encode()).hexdigest()[:32]


def _account(place: bytes, address: str | None, api_key: str | None, host: str | None) -> bytes:
    salt = b"sluiceway allowance\0" + place + b"\0" + (address or "").encode()
    if host is not None:
        salt += b"\0" + host.encode()
    return hashlib.pbkdf2_hmac("sha256", (api_key or "").encode(), salt, ROUNDS)
