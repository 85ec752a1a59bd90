"""The beat by which gateways tell one another their load, cached beginnings and the state of their breakers.

Law: only what has changed is sent, and only what others have changed is read, in one round trip a beat. No gateway is
counted with after `LOST` of its own beats in silence and no less than `PATIENCE`, by the store's clock; one without the
store for as long counts with nobody. What is told is a view and no book: it may be lost, and nothing is owed by a
gateway that has died. Beats become rarer as gateways become more. One that is alone says that it lives, and nothing
else. An engine that each host reaches by its own loopback is, of all gateways, that host's only (`names.py`).
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha1
from importlib.resources import files
from typing import Any, Protocol

import structlog
from msgspec import msgpack

from gateway import clock
from gateway.peers.marks import Telling, unpack
from gateway.peers.names import Names
from gateway.peers.rows import Rows, Value, changes, own
from gateway.store.door import NoScriptError, Store, StoreDown
from gateway.upstream.fleet import Home
from policies.breaker import Breaker, State
from policies.live import Elsewhere, Fresh

log = structlog.get_logger("sluiceway.peers")

PREFIX = "sw:{~peers}:"
"""Of all keys here; they share a slot, and no organization can have this name.

    sw:{~peers}:alive            sorted set   gateways, by the moment (ms) after which they are lost
    sw:{~peers}:changes          stream       what changed in whose row, the last thousand times
    sw:{~peers}:marks            stream       beginnings of prompts that were prefilled lately
    sw:{~peers}:row:<instance>   hash         a gateway's values by deployment
"""

BEAT, STEP = 0.1, 0.01
"""Seconds between two beats of one gateway, and for each gateway that there is, whichever is longer: so all together
beat a hundred times a second at most. A view of 100 ms ago is worth much, one of two seconds ago less than none."""

ALONE = 1.0
"""Seconds between two beats of a gateway that knows of no other."""

LOST = 3
"""Beats without a word after which a gateway is not counted with, nor are the others where the store is silent."""

PATIENCE = 2.0
"""Seconds of that at least: a large body or a slow store holds a beat up for longer than 0.3 s, and then calls that are
still there would be forgotten; of a gateway that has died they are counted with for so long."""

MET = 1000
"""Gateways that are remembered as having been told; those met longest ago go first."""

TURN = 5
"""Beats between two gateways' turns to probe: word of an opening, and then of a probe, takes up to two each."""

MOST_TURN = 30.0
"""Seconds that a probe waits for the turn of others at most: where nobody of many has a call to probe with."""

SCRIPT = (files(__package__) / "beat.lua").read_bytes()

_SHA = sha1(SCRIPT, usedforsecurity=False).hexdigest()
_ALIVE, _CHANGES, _MARKS = f"{PREFIX}alive", f"{PREFIX}changes", f"{PREFIX}marks"


class Shared(Protocol):
    """What of a fleet is shared. `fresh`: beginnings that were prefilled here and that nobody was told of yet.

    `homes`: its backends as they are reached, by their names.
    """

    fresh: Fresh
    homes: dict[str, Home]

    def loads(self) -> dict[str, tuple[int, int]]:
        """Return this gateway's own load by deployment: calls, and prefill work without a first token."""

    def more(self) -> dict[str, int]:
        """Return what engines count of this gateway's own calls beyond one a call, by deployment."""

    def others(self, elsewhere: Mapping[str, Elsewhere]) -> None:
        """Take in the load of all other gateways together, by deployment."""

    def heard(self, deployment: str, marks: tuple[int, ...], now: float) -> None:
        """Take in a beginning that another gateway's call had prefilled."""

    def breakers(self) -> dict[str, Breaker]:
        """Return the breaker of each deployment."""


class Peers:
    """This gateway among the others."""

    def __init__(self, store: Store, fleet: Shared, instance: str, *, beat: float = BEAT) -> None:
        """`instance`: this gateway's name; `beat`: the least seconds between two beats."""
        self._store = store
        self._fleet = fleet
        self._instance = instance
        self._beat = beat
        self._names = Names(fleet.homes)
        self._rows = Rows()
        self._telling = Telling(self._names.told)
        self._sent: dict[str, str] = {}
        self._since = self._heard = b""
        self._answered = clock.monotonic()
        self._met: dict[str, None] = {}
        self._fault = ""
        self._task: asyncio.Task[None] | None = None

    @property
    def count(self) -> int:
        """The gateways that live, as far as is known; this one is one of them."""
        return len(self._rows) + 1

    @property
    def every(self) -> float:
        """Seconds between this beat and the next."""
        return max(self._beat, STEP * (len(self._rows) + 1) if self._rows else ALONE)

    @property
    def silence(self) -> float:
        """Seconds without a word after which whoever beats like this is lost."""
        return max(LOST * self.every, PATIENCE)

    def start(self) -> None:
        """Begin to beat."""
        self._task = clock.spawn(self._run(), "tell the other gateways")

    async def close(self) -> None:
        """End, and say so: the others count with this gateway no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        gone = ("gateway", self._instance, "kind", "gone", "values", "")
        with suppress(StoreDown):  # they will miss it
            await self._store.send(
                ("ZREM", _ALIVE, self._instance), ("DEL", _row(self._instance)), ("XADD", _CHANGES, "*", *gone)
            )

    async def beat(self, now: float) -> None:
        """Tell what is new here and take in what is new elsewhere."""
        values: dict[str, str] = {}
        marks = b""
        if self._rows:
            here = own(self._fleet.loads(), self._fleet.more(), self._fleet.breakers())
            values = {self._names.told(deployment): value for deployment, value in here.items()}
            marks = self._telling.pack(self._fleet.fresh, len(self._rows) + 1, now)
        else:
            self._fleet.fresh.clear()
        try:
            reply = await self._exchange(values, marks)
        except StoreDown:  # the door has logged it
            self._unanswered(now)
        else:
            self._answered = now
            self._sent = values
            self._take(reply, now)
        self._steer(now)

    async def _run(self) -> None:
        while True:
            now = clock.monotonic()
            pause = 0.0
            try:
                await self.beat(now)
                self._fault = ""
            except Exception as error:  # noqa: BLE001 - else this gateway would for good count with what it knew last
                self._tell(error)
                self._unanswered(now)
                pause = ALONE
            await asyncio.sleep(max(pause, self.every))

    def _tell(self, error: Exception) -> None:
        """Log why a beat failed, unless the one before failed for the same reason."""
        fault = repr(error)
        if fault != self._fault:
            self._fault = fault
            log.error("a beat failed", exc_info=error)

    def _unanswered(self, now: float) -> None:
        """Note that there was no answer: what was sent may have arrived or not, and what is known gets old."""
        self._since = b""
        if now - self._answered >= self.silence and self._rows:
            self._rows = Rows()
            self._fleet.others({})

    async def _exchange(self, values: dict[str, str], marks: bytes) -> list[Any]:
        """Make one round trip, and a second one where the store does not know what we have told and read."""
        if self._since:
            if reply := await self._call(changes(self._sent, values), marks):
                return reply
            self._since = b""
        return await self._call(values, marks)

    async def _call(self, values: dict[str, str], marks: bytes) -> list[Any]:
        keys = (_ALIVE, _CHANGES, _MARKS, _row(self._instance))
        silence = str(round(self.silence * 1000))
        packed = msgpack.encode(values) if values else b""
        command = ("EVALSHA", _SHA, 4, *keys, self._instance, silence, self._since, self._heard, packed, marks)
        try:
            (reply,) = await self._store.send(command)
        except NoScriptError:
            await self._store.load(SCRIPT)
            (reply,) = await self._store.send(command)
        return list(reply)

    def _take(self, reply: list[Any], now: float) -> None:
        """Take in what the store has told."""
        whole = not self._since
        self._since, self._heard, alive, lost, news, unheard = reply
        told = [(name.decode(), kind, packed) for name, kind, packed in zip(*[iter(news)] * 3, strict=True)]
        if whole:
            self._rows.keep(name for name, _, _ in told)
        turned: list[tuple[str, tuple[Value, Value]]] = []
        for name, kind, packed in told:
            if kind == b"gone":
                self._rows.drop(name)
                continue
            self._meet(name)
            changed = self._rows.take(name, packed, whole=kind == b"whole")
            turned += [(called, (before, after)) for called, before, after in changed if before.turns != after.turns]
        if turned:
            breakers = self._fleet.breakers()
            for deployment, (before, after) in self._names.here(turned):
                _learn(breakers.get(deployment), before, after, now)
        dropped = [self._rows.drop(name.decode()) for name in lost]
        if alive != len(self._rows) + 1:
            self._since = b""  # somebody lives who is not known here, or the other way round: all is read again
        if whole or told or any(dropped):
            self._fleet.others(dict(self._names.here(self._rows.elsewhere().items())))
        for packed in reversed(unheard):
            for deployment, marks in self._names.here(unpack(packed)):
                self._fleet.heard(deployment, marks, now)

    def _meet(self, name: str) -> None:
        """Tell all beginnings anew where there is a gateway that was never here; one that is back has heard them."""
        if name not in self._met:
            self._telling.forget()
            self._met[name] = None
            if len(self._met) > MET:
                del self._met[next(iter(self._met))]

    def _steer(self, now: float) -> None:
        """Tell each breaker that keeps calls out whose turn it is to probe, and whether somebody does.

        Where a deployment is of one host alone, gateways of other hosts have no turn there.
        """
        ill = {name: one for name, one in self._fleet.breakers().items() if one.state is not State.CLOSED}
        probing = self._rows.probing() if ill else set()
        for deployment, breaker in ill.items():
            name, alone = self._names.told(deployment), self._names.alone(deployment)
            breaker.turn = min(MOST_TURN, self._rows.rank(name, self._instance, told=alone) * TURN * self.every)
            if name in probing:
                breaker.elsewhere(now + self.silence)


def _learn(breaker: Breaker | None, before: Value, after: Value, now: float) -> None:
    """Take in what became of another gateway's breaker, of which there is one here or not."""
    if breaker is None:
        return
    if after.closings > before.closings:
        breaker.well_elsewhere()
    elif after.reopenings > before.reopenings:
        breaker.ill_elsewhere(now, probe=True)
    elif after.openings > before.openings:
        breaker.ill_elsewhere(now, probe=False)


def _row(instance: str) -> str:
    return f"{PREFIX}row:{instance}"
