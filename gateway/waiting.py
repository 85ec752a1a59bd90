"""Where calls wait while every deployment that could serve them is full.

Law: `policies/queueing.py` says who goes first; here they wait. Places that may be free are offered at the end of the
loop's turn in which that is told, once a line however often it was told; a waiting call's `attempt` routes it anew and
takes its place before anybody else runs. Whoever comes while others wait tries only right after a round, else it joins;
if the last was a moment ago, the next comes a moment later. A place that somebody else has to be asked for (a limit
that all gateways share) is had once he has said yes: until then its call keeps its turn, its patience and its tenant's
account, and if he says no it waits on. Who goes first may need what is not free, so that others are asked too; but one
that finds no place speaks for all whose needs are the same, so that a round asks no more in vain than there are kinds
of needs, and leaves nothing free that anybody in line could use; of very many kinds it asks some in order and of the
others by chance so many that the next rounds find what it left. By another catalog those that wait are asked what they
need, for a moment in each turn of the loop; once all of a line have said so, a round goes by it. Places become free by
things that nobody tells (a freeze ends, calls of another gateway do), so that a tick offers too while anybody waits. A
call leaves its line in the moment in which it has a place, is refused, fails or is cancelled; what it was given while
it was being cancelled is given back.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Any, Protocol, TypeVar

from gateway import clock
from policies.needs import ALIKE, Needs
from policies.queueing import Queue, Waiter
from policies.rejections import Rejection
from policies.terms import Priority

TICK = 0.1
"""Seconds between two rounds that nobody asked for, a half more or less, by chance: of gateways whose rounds kept their
order, one would find every place first that calls of all of them wait for."""

PAUSE = 0.01
"""Seconds after a round in which a new call begins no other: under overload a refusal must be cheap. After a place was
refused that a round gave, nobody does: else giving it back would have it given again, over and over."""

BUSY = 5.0
"""How many times what a round took is paused after it: of very many deployments a round may take milliseconds, and
waiting may take no more than a sixth of a core."""

MOST_IN_VAIN = 32
"""Kinds that a round asks in vain, in order, before it asks by chance, and about how many it asks then: callers have as
many kinds as there are prompts, where what is cached decides what they may pay."""

MOMENT = 0.002
"""Seconds of one turn of the loop in which calls are asked what they need of another catalog."""


class Place(Protocol):
    """What an attempt takes."""

    @property
    def where(self) -> str:
        """The id of its deployment."""

    def certain(self) -> bool:
        """Say whether nobody has to be asked for it; True: it is had."""

    async def asked(self) -> bool:
        """Ask for it; False, or an error: it cannot be had, and was given back."""

    def drop(self) -> None:
        """Give it back; the second time nothing happens."""


T = TypeVar("T", bound=Place)
Attempt = Callable[[], T | Rejection | None]


class _Call:
    """A call that waits: how it tries, what comes of that, and the timer of its patience.

    `anew`: says what it needs now, None: what it always did. `asks`: it has taken a place and asks for it, which those
    with `barren` needs could not use; `late`: its patience has ended meanwhile.
    """

    __slots__ = ("anew", "asks", "attempt", "barren", "future", "late", "timer")

    def __init__(
        self,
        attempt: Attempt[Any],
        anew: Callable[[], Needs] | None,
        future: asyncio.Future[Any],
        timer: asyncio.TimerHandle,
    ) -> None:
        self.attempt = attempt
        self.anew = anew
        self.future = future
        self.timer = timer
        self.barren: frozenset[Needs] = frozenset()
        self.asks = self.late = False


class _Round:
    """The last round that offered places to one model's line, and when it was.

    `where`: ids of the deployments whose places the line's calls may want; `next`: the timer of a round to come;
    `pause`: seconds until then, some times what the last one took. `denied`: a place that it gave was refused, which
    counts as a round: only a pause later is there another.
    """

    __slots__ = ("at", "denied", "next", "pause", "where")

    def __init__(self, where: frozenset[str]) -> None:
        self.at = 0.0
        self.pause = PAUSE
        self.denied = False
        self.where = where
        self.next: asyncio.TimerHandle | None = None


class WaitingRoom:
    """The calls that wait at this gateway; `most`: how many there may be, of all models."""

    def __init__(self, most: int) -> None:
        self._queue = Queue(most)
        self._lines = self._queue.lines
        self._calls: dict[Waiter, _Call] = {}
        self._rounds: dict[str, _Round] = {}
        self._due: set[str] = set()
        self._changes: dict[str, Iterator[None]] = {}
        self._ticking: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._queue)

    def bound(self, most: int) -> None:
        """Let so many wait from now on; whoever waits goes on waiting."""
        self._queue.most = most

    def busy(self, model: str) -> bool:
        """Say whether calls wait for `model`, so that a new one has to join them even if a place is free."""
        return model in self._lines

    def freed(self, deployment: str | None = None) -> None:
        """Have places offered soon, of which one of this deployment may be free (None: one of any)."""
        if self._lines:
            self._offer_to([m for m, line in self._rounds.items() if deployment is None or deployment in line.where])

    @property
    def models(self) -> list[str]:
        """The models for which calls wait."""
        return [*self._lines]

    def lists(self, model: str, where: Iterable[str]) -> None:
        """Take in the deployments whose places a line's calls may want from now on, and offer those there may be.

        Calls whose needs were the same may differ in what they need of these: first, over some turns of the loop, each
        is asked.
        """
        line = self._rounds.get(model)
        if line is not None:
            line.where = frozenset(where)
            if not self._changes:
                asyncio.get_running_loop().call_soon(self._change)
            self._changes[model] = self._asked_anew(model)

    def _change(self) -> None:
        """Have calls asked what they need now, of one line, for a moment; the others are in later turns of the loop."""
        until = clock.monotonic() + MOMENT
        model, steps = self._changes.popitem()
        try:
            for _ in steps:
                if clock.monotonic() >= until:
                    self._changes[model] = steps
                    break
        finally:
            if self._changes:
                asyncio.get_running_loop().call_soon(self._change)

    def _asked_anew(self, model: str) -> Iterator[None]:
        """Ask each that waits for `model` what it needs now, one a step, then have all of them wait for that.

        Whoever comes meanwhile needs what it has said.
        """
        found: dict[Waiter, Needs] = {}
        for waiter, call in self._in_line(model):
            if waiter in self._calls:  # it waits still
                found[waiter] = call.anew() if call.anew else waiter.needs
            yield
        there = {waiter: found.get(waiter, waiter.needs) for waiter, _ in self._in_line(model)}
        self._queue.change(there, clock.monotonic())
        self._offer_to([model])

    def _in_line(self, model: str) -> list[tuple[Waiter, _Call]]:
        return [(waiter, call) for waiter, call in self._calls.items() if waiter.model == model]

    async def at_once(self, model: str, attempt: Attempt[T]) -> T | Rejection | None:
        """Return what `attempt` returns for a call that has just come; None: it has to wait.

        `attempt` takes a place at once, None: there is none; what it raises is raised here.
        """
        line = self._rounds.get(model)
        if line is not None:
            if self._pauses(line, model):
                return None
            self._round(model)
        taken = attempt()
        if taken is None or isinstance(taken, Rejection) or taken.certain() or await taken.asked():
            return taken
        return None

    def join(
        self,
        model: str,
        attempt: Attempt[Any],
        *,
        tenant: str,
        priority: Priority,
        work: float,
        pace: float,
        max_wait: float,
        due: bool = False,
        free: bool = False,
        where: Iterable[str] = (),
        needs: Needs = ALIKE,
        anew: Callable[[], Needs] | None = None,
        waited: float = 0.0,
    ) -> Waiter | Rejection:
        """Let a call wait, which then awaits `wait`; a Rejection where that would be too long.

        `attempt` may be called by any task until `wait` returns; where it finds no place, none with the same `needs`
        does. `work`, `pace`, `due`, `free`: as of `policies/queueing.py`; `max_wait`: seconds, after those that it has
        `waited` before. `where`: ids of the deployments whose places it may want; those of a line's first call hold for
        all, until `lists` tells of others; `anew` says what it needs then.
        """
        now = clock.monotonic()
        waiter = self._queue.join(
            model,
            tenant=tenant,
            priority=priority,
            work=work,
            pace=pace,
            max_wait=max_wait,
            now=now,
            due=due,
            free=free,
            needs=needs,
            waited=waited,
        )
        if isinstance(waiter, Rejection):
            return waiter
        loop = asyncio.get_running_loop()
        if model not in self._rounds:
            self._rounds[model] = _Round(frozenset(where))
        if free and not due:  # a round that was put off must not cost it the place that is there
            max_wait = max(max_wait, 2 * self._rounds[model].pause)
        timer = loop.call_later(max_wait, self._give_up, waiter)
        self._calls[waiter] = _Call(attempt, anew, loop.create_future(), timer)
        if self._ticking is None:
            self._tick_later()
        return waiter

    async def wait(self, waiter: Waiter) -> Any:  # noqa: ANN401 - what its attempt takes
        """Wait until a call that has joined has a place, and return that; a Rejection where that was in vain.

        What its attempt raises is raised here.
        """
        call = self._calls[waiter]
        try:
            while True:
                taken = await call.future
                if not call.asks:
                    return taken
                if await taken.asked():
                    self._queue.served(waiter, clock.monotonic(), call.barren)
                    self._end(waiter)
                    self._offer_to([waiter.model])  # there may be room for one more
                    return taken
                call.asks, call.future = False, asyncio.get_running_loop().create_future()
                line = self._rounds[waiter.model]
                line.at, line.denied = clock.monotonic(), True
                if call.late:
                    self._give_up(waiter)
        except BaseException:
            if waiter in self._calls:
                self._queue.leave(waiter, clock.monotonic())
                self._end(waiter)
            self._give_back(waiter.model, call.future)
            raise

    def _give_back(self, model: str, future: asyncio.Future[Any]) -> None:
        """Give back what a call was given that ends otherwise."""
        if not future.done() or future.cancelled() or future.exception() is not None:
            return
        taken = future.result()
        if not isinstance(taken, Rejection):
            taken.drop()
            self._offer_to([model])

    def _tick_later(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(TICK * clock.dice.uniform(0.5, 1.5), self._tick)

    def _tick(self) -> None:
        self._tick_later()
        self.freed()

    def _pauses(self, line: _Round, model: str) -> bool:
        """Say whether the last round was a moment ago; if so, the next comes a moment later."""
        pause = line.at + line.pause - clock.monotonic()
        if pause <= 0:
            return False
        if line.next is None:
            line.next = asyncio.get_running_loop().call_later(pause, self._next, line, model)
        return True

    def _next(self, line: _Round, model: str) -> None:
        """Begin the round that had to wait for a pause."""
        line.next = None
        self._round(model)

    def _offer_to(self, models: Iterable[str]) -> None:
        """Have a round begun for each of these lines at the end of the loop's turn, one however often this is asked."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._offer)
        self._due.update(models)

    def _offer(self) -> None:
        due, self._due = self._due, set()
        for model in [*self._lines]:
            line = self._rounds[model]
            if model in due and not (line.denied and self._pauses(line, model)):
                self._round(model)

    def _round(self, model: str) -> None:
        """Ask those that wait for `model`, in order, and have the next round wait by how long this took."""
        now, this = clock.monotonic(), self._rounds[model]
        this.denied = False
        barren: set[Needs] = set()
        chance = MOST_IN_VAIN / len(self._lines[model].kinds)
        try:
            for waiter in self._queue.order(model, now, barren):
                call = self._calls[waiter]
                if call.future.done():  # it asks for its place, or is being cancelled
                    continue
                passed_over = len(barren) >= MOST_IN_VAIN and clock.dice.random() >= chance
                if passed_over or not self._finds(waiter, call, barren, now):
                    barren.add(waiter.needs)
        finally:
            this.at = clock.monotonic()
            this.pause = max(PAUSE, BUSY * (this.at - now))

    def _finds(self, waiter: Waiter, call: _Call, barren: AbstractSet[Needs], now: float) -> bool:
        """Let `waiter` try for a place, and say whether it has one, asks for one, or waits no more."""
        try:
            taken = call.attempt()
        except Exception as error:  # noqa: BLE001 - its own task raises it
            self._queue.leave(waiter, now)
            self._end(waiter)
            call.future.set_exception(error)
            return True
        if taken is None:
            return False
        call.future.set_result(taken)
        if isinstance(taken, Rejection):
            self._queue.leave(waiter, now)
            self._end(waiter)
        elif taken.certain():
            self._queue.served(waiter, now, self._unmet(waiter.model, taken, barren))
            self._end(waiter)
        else:
            call.asks, call.barren = True, self._unmet(waiter.model, taken, barren)
        return True

    def _unmet(self, model: str, taken: Place, barren: AbstractSet[Needs]) -> frozenset[Needs]:
        """Return the needs in a line that a place does not meet, whether or not they were asked for in this round."""
        there, where = self._lines[model].kinds, taken.where
        return frozenset(barren) | {
            one for one in there if one != ALIKE and where not in one[1] and where not in one[2]
        }

    def _give_up(self, waiter: Waiter) -> None:
        call = self._calls[waiter]
        if call.asks:
            call.late = True
        elif not call.future.done():
            refusal = self._queue.give_up(waiter, clock.monotonic())
            self._end(waiter)
            call.future.set_result(refusal)

    def _end(self, waiter: Waiter) -> None:
        """Forget a call that is no longer in the queue."""
        self._calls.pop(waiter).timer.cancel()
        if waiter.model not in self._lines:
            line = self._rounds.pop(waiter.model)
            if line.next is not None:
                line.next.cancel()
        if not self._lines and self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
