"""Free probes: whether each backend serves, how loaded its engine says it is, what it says of its models.

Law: nothing that costs a token is ever asked, and no probe overlaps another of the same backend. A probe never ejects
and never closes a breaker; one that finds a backend back lets the next call find out. Where it finds a gateway, no call
goes, not even as the last resort: it could go round for ever.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import reduce
from socket import gaierror

import httpx
import structlog

from gateway import clock
from gateway.errors import CONFIG
from gateway.upstream.asking import Answered, ask
from gateway.upstream.fleet import Fleet, Home
from gateway.upstream.listing import GATEWAY
from policies.probing import (
    Finding,
    Load,
    Told,
    Trouble,
    doubted,
    down,
    joined,
    read_load,
    read_models,
    read_told,
    refused,
)

log = structlog.get_logger("sluiceway.probes")

PATIENCE = 5.0
"""Seconds that a backend gets to say whether it serves, and then for everything else."""

AGAIN = 5.0
"""Seconds after which a backend that failed is asked again, if that is sooner than its own pause."""

DESCRIBED_EVERY = 30.0
"""Seconds between two questions about a backend's models: windows change with restarts, which a probe also sees."""

LEAST_DUE = 1.0
"""Seconds after which a probe is late, where its backend's own pause is less, and its engine's last figures are old."""

JITTER = 0.2
"""Share by which a pause is longer or shorter, so that many gateways do not ask in step."""

AT_ONCE = 32
"""Probes under way at once, over all backends."""


async def probe(home: Home, *, thorough: bool) -> Finding:
    """Ask a backend whether it serves, its load and, if `thorough`, about its models. Raises httpx.PoolTimeout."""
    dialect, listing = home.dialect, f"{home.backend.base_url}/models"
    answer = await _asked(home, listing if dialect.health is None else home.root + dialect.health)
    if isinstance(answer, Trouble):
        return Finding(answer)
    if CONFIG in answer.headers:
        return Finding(Trouble(GATEWAY, certain=True, barred=True))
    trouble = refused(answer.status, answer.body)
    if trouble is not None:
        return Finding(trouble)
    load, told, models = Load(), None, answer if dialect.health is None else None
    # What it does not tell in time is unknown; llama.cpp tells no load during a prefill.
    with suppress(TimeoutError, httpx.PoolTimeout):
        async with asyncio.timeout(PATIENCE):
            if thorough:
                models = models or await _answer(home, listing)
                told = await _told(home, _page_of(models))
            if dialect.scrape is not None:
                load = read_load(await _page(home, home.root + dialect.scrape.path), dialect.scrape)
    return Finding(None, load, told, None if models is None else models.status)


async def _told(home: Home, listing: bytes) -> Told | None:
    """Return what a backend says of its models in its list and beside it; None where it does not say all of it."""
    pages = [await _page(home, home.root + path) for path in home.dialect.describes]
    told = read_models(listing)
    if told is None or not all(pages):
        return None
    return reduce(joined, map(read_told, pages), told)


class Probes:
    """The probes of every backend of `fleet`; `described` is called when one says something new of its models."""

    def __init__(self, fleet: Fleet, described: Callable[[], None]) -> None:
        self._fleet = fleet
        self._described = described
        self._places = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[tuple[Home, float], asyncio.Task[None]] = {}

    def follow(self) -> None:
        """Probe the backends that are there now, each at its own pace, and no others."""
        wanted = {(home, home.backend.pause): None for home in self._fleet.present if home.backend.pause}
        for one in self._tasks.keys() - wanted:
            self._tasks.pop(one).cancel()
        for one in wanted:
            if one not in self._tasks:
                self._tasks[one] = clock.spawn(self._keep_probing(one[0]), f"probe-{one[0].backend.name}")

    def close(self) -> None:
        """Probe nothing any more."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def _keep_probing(self, home: Home) -> None:
        condition, pause, described_at = home.condition, home.backend.pause, None
        while True:
            now = clock.monotonic()
            due = described_at is None or now - described_at >= DESCRIBED_EVERY
            thorough = due or condition.failures > 0 or "loading" in condition.told.states.values()
            late = asyncio.get_running_loop().call_later(max(pause, LEAST_DUE), self._unheard, home)
            try:
                async with self._places:
                    calls = self._fleet.calls(home)
                    finding = await probe(home, thorough=thorough)
                described_at = now if finding.told is not None else described_at
                self.found(home, finding, calls)
            except httpx.PoolTimeout:  # calls hold every connection that we may have there, which is not against it
                self._unheard(home)
            except Exception:
                log.exception("a probe broke; it is tried again", backend=home.backend.name)
                self._unheard(home)
            finally:
                late.cancel()
            wait = min(pause, AGAIN) if condition.failures else pause
            await asyncio.sleep(wait * clock.dice.uniform(1 - JITTER, 1 + JITTER))

    def _unheard(self, home: Home) -> None:
        """Forget what an engine told of its load: by now it is another."""
        self._fleet.measured(home, Load(), 0)

    def found(self, home: Home, finding: Finding, calls: int = 0) -> None:
        """Take in what a probe found, and draw its consequences; `calls`: the gateways' there when it began."""
        condition, before = home.condition, home.condition.down
        condition.probed = True
        condition.failures = 0 if finding.trouble is None else condition.failures + 1
        condition.down = down(finding.trouble, condition.failures)
        condition.absent = condition.down if finding.trouble is not None and finding.trouble.barred else None
        self._fleet.measured(home, finding.load, calls)
        if condition.down is not None:
            condition.unreached()
            if condition.down != before:
                asked = home.dialect.health or "its list of models"
                log.warning("a backend is down", backend=home.backend.name, why=condition.down, asked=asked)
        elif before is not None:
            log.info("a backend is up again", backend=home.backend.name)
            self._fleet.back(home, clock.monotonic())
        if finding.listing is not None:
            self._listed(home, finding.listing)
        if finding.told is not None and finding.told != condition.told:
            condition.told = finding.told
            self._described()

    @staticmethod
    def _listed(home: Home, status: int) -> None:
        """Take in with which HTTP status a backend's list was answered; what that says against it is logged once."""
        before, home.condition.doubt = home.condition.doubt, doubted(status)
        if home.condition.doubt not in {None, before}:
            log.warning("a backend refuses its list of models", backend=home.backend.name, why=home.condition.doubt)


async def _asked(home: Home, url: str) -> Answered | Trouble:
    """Return the answer to a question, or why there is none. Raises httpx.PoolTimeout."""
    try:
        return await ask(home, url, PATIENCE)
    except httpx.PoolTimeout:
        raise
    except TimeoutError:
        return Trouble(f"no answer to its probe within {PATIENCE:g} s", certain=False)
    except httpx.HTTPError as error:
        # A connection that cannot be made fails every call as well; a name that is not found just now may be our own
        # resolver's trouble, and everything else may be a hiccup.
        certain = isinstance(error, httpx.ConnectError) and not _nameless(error)
        return Trouble(f"{type(error).__name__}: {error}", certain)


async def _answer(home: Home, url: str) -> Answered | None:
    """Return the answer to a question that may have none, None where it has none. Raises httpx.PoolTimeout."""
    answer = await _asked(home, url)
    return answer if isinstance(answer, Answered) else None


async def _page(home: Home, url: str) -> bytes:
    """Return a page that a backend may have, empty where it has none."""
    return _page_of(await _answer(home, url))


def _page_of(answer: Answered | None) -> bytes:
    return answer.body if answer is not None and answer.status == 200 else b""


def _nameless(error: BaseException | None) -> bool:
    """Say whether an error began with a name that no resolver knew."""
    while error is not None and not isinstance(error, gaierror):
        error = error.__cause__ or error.__context__
    return error is not None
