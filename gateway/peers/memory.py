"""What the gateways have learned of deployments, kept in the store for whoever starts, and for after a restart.

Law: off the calls' way. What calls have taught is told now and then, and at the end; what others have told is read
once, before the first call where that can be, and is where learning begins. Nothing is owed: of what two tell in the
same moment one stays, and a row that cannot be read is not there.

With every deployment called all the time a telling costs some 370 bytes a deployment, to and fro (its key of 52 bytes
three times, its value of some 55 twice, the commands around them). All gateways together tell once a second at most,
one that is alone every ten: of 200 deployments that is 75 KB/s and 400 commands a second at the store, of a hundred
gateways no more than of ten; and 22 KB that are kept, keys with them.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec
import structlog

from gateway import clock
from gateway.store.door import Store, StoreDown
from gateway.upstream.hosts import loops_back, this_host
from policies.lessons import Lessons, merged

log = structlog.get_logger("sluiceway.peers")

PREFIX = "sw:{~peers}:learned:"
"""Of all keys here, one for each pool and each deployment at its place. Numbers of another meaning need another one."""

EVERY, STEP = 10.0, 1.0
"""Seconds between two tellings of one gateway, and for each gateway that there is, whichever is longer."""

JITTER = 0.5
"""Share by which these differ from one time to the next: gateways that start together do not tell together."""

KEPT = 24 * 3600
"""Seconds after which what was told is forgotten. It is doubted ever more until then: see `policies/latency.py`."""

AT_ONCE = 500
"""Keys of one round trip."""

Name = tuple[str, ...]
"""What every gateway calls a pool (kind, model), or a deployment at its place (id, kind, URL, address)."""


class Learner(Protocol):
    """A pool or a deployment."""

    @property
    def samples(self) -> tuple[int, int]:
        """First tokens and paces that it has learned from."""

    def lessons(self) -> Lessons:
        """Return what was learned."""

    def begin(self, lessons: Lessons, age: float, now: float) -> None:
        """Begin with what others had learned `age` seconds ago."""


class _Entry:
    """What one learner has told and heard. `seen`: its row as we last found or left it."""

    __slots__ = ("_told", "key", "learner", "name", "seen")

    def __init__(self, name: Name, learner: Learner) -> None:
        self.name = name
        self.learner = learner
        self.key = _key(name)
        self.seen: bytes | None = None
        self._told = (0, 0)

    @property
    def news(self) -> tuple[int, int]:
        """Samples since it last told."""
        (first, tokens), (told, paces) = self.learner.samples, self._told
        return first - told, tokens - paces

    def begin(self, row: bytes | None, age: float, now: float) -> None:
        """Begin with a row, if it can be read."""
        before, there = self.news, _read(row)
        if there is not None:
            self.learner.begin(there, age, now)
        self.seen = row
        first, tokens = self.news
        self._told = first - before[0], tokens - before[1]  # what others had is no news

    def tell(self, row: bytes | None, age: float) -> bytes:
        """Return the row that is to be there, where `row` is now."""
        lessons, there = self.learner.lessons(), _read(row)
        if there is not None and row != self.seen:
            lessons = merged(there, lessons, self.news, age)
        self._told = self.learner.samples
        self.seen = msgspec.json.encode(lessons)
        return self.seen


class Memory:
    """What one gateway tells of what it has learned, and begins with.

    `learners`: returns those that there are, a pool before its deployments; `gateways`: how many gateways live.
    """

    def __init__(
        self,
        store: Store,
        learners: Callable[[], Mapping[Name, Learner]],
        gateways: Callable[[], int],
        *,
        every: float = EVERY,
    ) -> None:
        self._store = store
        self._learners = learners
        self._gateways = gateways
        self._every = every
        self._entries: dict[Name, _Entry] = {}
        self._appeared = asyncio.Event()
        self._unread = True
        self._refused = ""
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tell, and to read of whatever appears, or is there and could not be read so far."""
        if self._unread:
            self._appeared.set()
        self._task = clock.spawn(self._run(), "tell what was learned")

    def appeared(self) -> None:
        """Note that there may be others to learn of."""
        self._appeared.set()

    async def close(self) -> None:
        """Tell for the last time."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        with suppress(StoreDown):  # the door has logged it
            await self.tell()

    async def read(self) -> None:
        """Have all that have appeared begin with what is known of them. Raises StoreDown."""
        async with self._reading:  # what two begin with at once would be news to the second
            await self._read_new()

    async def _read_new(self) -> None:
        self._appeared.clear()
        self._unread = True
        entries, learners = self._entries, self._learners()
        for name in entries.keys() - learners.keys():
            del entries[name]
        known = {name: entry.learner for name, entry in entries.items()}
        new = [_Entry(name, learner) for name, learner in learners.items() if known.get(name) is not learner]
        for some in _batches(new):
            rows = await self._rows(some)
            now = clock.monotonic()
            for entry, (row, age) in zip(some, rows, strict=True):
                entry.begin(row, age, now)
                entries[entry.name] = entry
        self._unread = False

    async def tell(self) -> None:
        """Tell what was learned since the last time. Raises StoreDown."""
        if self._unread:
            await self.read()
        for some in _batches([entry for entry in self._entries.values() if any(entry.news)]):
            rows = await self._rows(some)
            told = [(entry.key, entry.tell(*row)) for entry, row in zip(some, rows, strict=True)]
            await self._store.send(*(("SET", key, row, "EX", KEPT) for key, row in told))

    async def _run(self) -> None:
        due = clock.monotonic() + self._pause()
        while True:
            try:
                async with asyncio.timeout(due - clock.monotonic()):
                    await self._appeared.wait()
                work = self.read
            except TimeoutError:
                work, due = self.tell, clock.monotonic() + self._pause()
            try:
                await work()
            except StoreDown as error:
                self._tell_refusal(str(error))
            except Exception:
                log.exception("what was learned cannot be shared; it is tried again")

    def _tell_refusal(self, why: str) -> None:
        """Log, once, that the store is there and refuses what is asked; that it is away its door logs."""
        if self._store.down is None and why != self._refused:
            self._refused = why
            log.warning("what was learned cannot be shared", why=why)

    def _pause(self) -> float:
        """Return the seconds until the next telling."""
        return max(self._every, STEP * self._gateways()) * clock.dice.uniform(1 - JITTER, 1 + JITTER)

    async def _rows(self, entries: Sequence[_Entry]) -> list[tuple[bytes | None, float]]:
        """Return the row of each, and how many seconds ago it was told."""
        keys = [entry.key for entry in entries]
        rows, *left = await self._store.send(("MGET", *keys), *(("PTTL", key) for key in keys))
        return [(row, max(0.0, KEPT - max(0, ms) / 1000)) for row, ms in zip(rows, left, strict=True)]


def _key(name: Name) -> str:
    """Return the key of a row; what is reached by a loopback is another one on each host, and so is the way there."""
    match name:
        case (_, _, url, address) if loops_back(url, address or None):
            name = (*name, this_host())
    return PREFIX + hashlib.sha256("\0".join(name).encode()).hexdigest()[:32]


def _batches(entries: Sequence[_Entry]) -> Iterator[Sequence[_Entry]]:
    return (entries[first : first + AT_ONCE] for first in range(0, len(entries), AT_ONCE))


def _read(row: bytes | None) -> Lessons | None:
    """Return what a row says; None where it says nothing, or what no gateway can have learned."""
    try:
        return None if row is None else msgspec.json.decode(row, type=Lessons)
    except (msgspec.DecodeError, RecursionError):  # lists in lists in lists: not even read past
        return None
