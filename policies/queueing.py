"""Who goes first where calls wait for a place, how long that takes, and who may wait at all.

Law: each model has one line. In it the better class goes first; within a class the tenant that has been served least
there, by a virtual token counter (VTC, arXiv 2401.00588), so that tenants which keep waiting are served the same work;
within a tenant the older call. A tenant's calls of one class are lifted a class for every `AGE` seconds that they wait
while none of them is served, without end: nobody starves, and who sends many gains nothing by the age of the last.
Calls of a line may need different things (`policies/needs.py`). Whose needs are met by nothing that is free stands in
nobody's way: he is passed over, is counted as neither served nor gone, and goes on ageing while others of his tenant
are served. How fast places become free is learned of each kind of needs, and of the line as a whole for kinds of which
nothing has been seen. A call has one patience for all its waits, in whichever attempt.
The room is one for all models. A tenant may have no more calls there than there are places left (dynamic thresholds,
Choudhury and Hahne 1998): one alone fills half of it, two a third each. Whoever waits is never sent away for another,
and a tenant without a call there is refused only when it is full. A call whose turn would come later than it may wait
is refused at once. Memory is bounded: what idle tenants and idle lines were served is forgotten, longest idle first.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Container, Iterator, Mapping
from collections.abc import Set as AbstractSet
from heapq import heapify, heappop, heapreplace

from msgspec import Struct

from policies.departures import LONGEST, Kind, Pace
from policies.domain import Estimate
from policies.needs import ALIKE, Needs
from policies.rejections import Reason, Rejection
from policies.terms import Priority

CLASSES: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}
"""The place of each class; less goes first."""

OUTPUT_WEIGHT = 2.0
"""What a token of output weighs in input tokens (as VTC's authors have it)."""

AGE = 5.0
"""Seconds unserved that lift a class: after three of them, half the default `max_wait`, a low call precedes a high."""

IDLE_TENANTS, IDLE_KINDS, IDLE_LINES = 1_000, 100, 1_000
"""How many tenants and kinds of needs of a line, and how many lines, are remembered that have no call waiting."""


class Waits(Struct):
    """One call's waits for places, which its `max_wait` bounds together. `spent`: seconds of those that are over."""

    spent: float = 0.0

    def left(self, max_wait: float, deadline: float) -> tuple[float, bool]:
        """Return how many seconds it may wait now, and whether they end with its `deadline`, so many seconds off."""
        own = max(0.0, max_wait - self.spent)
        return max(0.0, min(own, deadline)), deadline < own


class Waiter(Struct, eq=False):
    """A call that waits, or would; only its `needs` may change.

    `number`: of its arrival, unique in its queue. `work`: as of `work_of`; `pace`: as of `pace_of`. `max_wait`: seconds
    that it may wait, after those that it has `waited` before. `since`: when it came. `due`: its patience ends with the
    call's own deadline.
    """

    number: int
    model: str
    tenant: str
    priority: Priority
    work: float
    pace: float
    max_wait: float
    since: float
    due: bool = False
    needs: Needs = ALIKE
    waited: float = 0.0

    @property
    def place(self) -> int:
        """The place of its class."""
        return CLASSES[self.priority]


def work_of(estimate: Estimate) -> float:
    """Return what a call of this estimate costs its tenant: tokens, each of output as `OUTPUT_WEIGHT` of input."""
    return estimate.prompt_tokens + OUTPUT_WEIGHT * estimate.output_tokens


class _Lane:
    """The calls of one tenant, class and kind of needs in a line, oldest first; `work`: of all of them."""

    __slots__ = ("served_at", "waiters", "work")

    def __init__(self) -> None:
        self.waiters: dict[int, Waiter] = {}
        self.work = 0.0
        self.served_at = -math.inf

    def lifts(self, now: float) -> int:
        """Return the classes by which its oldest call is lifted."""
        oldest = next(iter(self.waiters.values()))
        return int((now - max(oldest.since, self.served_at)) / AGE)

    def before(self, counter: float, start: float) -> int:
        """Return about how many of its calls go before one whose tenant's counter is then `start`, by their mean."""
        waiting = len(self.waiters)
        if counter > start or self.work <= 0:
            return waiting if counter <= start else 0
        return min(waiting, int((start - counter) / (self.work / waiting)) + 1)


class _Tenant:
    """One tenant in a line: its counter, and its lanes by the place of their class and their needs."""

    __slots__ = ("counter", "lanes")

    def __init__(self, counter: float) -> None:
        self.counter = counter
        self.lanes: dict[tuple[int, Needs], _Lane] = {}


class _Line:
    """The calls that wait for one model; `tenants`, `kinds`: those that have any there."""

    __slots__ = ("_floor", "_idle", "_rested", "kinds", "pace", "tenants")

    def __init__(self) -> None:
        self.pace = Pace()
        self.tenants: dict[str, _Tenant] = {}
        self.kinds: dict[Needs, Kind] = {}
        self._rested: OrderedDict[Needs, Kind] = OrderedDict()
        self._idle: OrderedDict[str, float] = OrderedDict()
        self._floor = 0.0

    def enters(self, waiter: Waiter) -> None:
        """Take in a call, at the end of its lane."""
        tenant = self.tenants.get(waiter.tenant)
        if tenant is None:
            tenant = self.tenants[waiter.tenant] = _Tenant(self._counter(waiter.tenant))
            self._idle.pop(waiter.tenant, None)
        self._stands(waiter, tenant, waiter.since)

    def _stands(self, waiter: Waiter, tenant: _Tenant, now: float) -> _Lane:
        lane = tenant.lanes.setdefault((waiter.place, waiter.needs), _Lane())
        lane.waiters[waiter.number] = waiter
        lane.work += waiter.work
        kind = self.kinds.get(waiter.needs)
        if kind is None:
            kind = self.kinds[waiter.needs] = self._rested.pop(waiter.needs, Kind())
            kind.pace.begins(now)
        kind.waiting += 1
        return lane

    def moves(self, waiter: Waiter, needs: Needs, now: float) -> None:
        """Have a call go to the end of the lane of other needs, as old as it is."""
        tenant = self.tenants[waiter.tenant]
        served_at = self._goes(waiter, tenant, now).served_at
        waiter.needs = needs
        lane = self._stands(waiter, tenant, now)
        lane.served_at = max(lane.served_at, served_at)

    def serves(self, waiter: Waiter, barren: AbstractSet[Needs], now: float) -> None:
        """Take in that a call has been given a place, which those with `barren` needs could not use; it leaves next."""
        tenant = self.tenants[waiter.tenant]
        tenant.counter += waiter.work
        for (place, needs), lane in tenant.lanes.items():
            if place == waiter.place and needs not in barren:
                lane.served_at = now
        self.pace.departs(waiter.pace, now)
        self.kinds[waiter.needs].pace.departs(waiter.pace, now)

    def leaves(self, waiter: Waiter, now: float) -> None:
        """Take in that a call waits no more, whatever the reason."""
        tenant = self.tenants[waiter.tenant]
        self._goes(waiter, tenant, now)
        if tenant.lanes:
            return
        del self.tenants[waiter.tenant]
        self._idle[waiter.tenant] = tenant.counter
        if len(self._idle) > IDLE_TENANTS:
            self._idle.popitem(last=False)
        if not self.tenants:
            self._floor = tenant.counter
            self.pace.passes(waiter.pace, now)

    def _goes(self, waiter: Waiter, tenant: _Tenant, now: float) -> _Lane:
        own, kind = (waiter.place, waiter.needs), self.kinds[waiter.needs]
        lane = tenant.lanes[own]
        del lane.waiters[waiter.number]
        lane.work -= waiter.work
        if not lane.waiters:
            del tenant.lanes[own]
        kind.waiting -= 1
        if not kind.waiting:
            kind.pace.passes(waiter.pace, now)
            self._rested[waiter.needs] = self.kinds.pop(waiter.needs)
            if len(self._rested) > IDLE_KINDS:
                self._rested.popitem(last=False)
        return lane

    def turn(self, waiter: Waiter, now: float) -> tuple[int, float]:
        """Return about how many would go before a new call, and after how many seconds it has its turn."""
        before = self._ahead(waiter, self.kinds, now)
        seconds = (before + 1) * self.pace.interval(waiter.pace, now)
        kind = self.kinds.get(waiter.needs)
        if kind is None:
            kind = self._rested.get(waiter.needs) or Kind()
            kind.pace.begins(now)
        # Whose kind has been seen to find places waits by its pace; before, it is at least as slow as the line.
        alike = before if kind.waiting and len(self.kinds) == 1 else self._ahead(waiter, (waiter.needs,), now)
        return before, max((alike + 1) * kind.pace.interval(waiter.pace, now), kind.pace.doubt * seconds)

    def _ahead(self, waiter: Waiter, kinds: Container[Needs], now: float) -> int:
        """Return about how many calls of these `kinds` would go before a new one."""
        own, start = self.tenants.get(waiter.tenant), self._counter(waiter.tenant)
        if own is not None:
            start += sum(
                lane.work for (place, needs), lane in own.lanes.items() if place <= waiter.place and needs in kinds
            )
        before = 0
        for tenant in self.tenants.values():
            counter = tenant.counter
            lanes = tenant.lanes.items()
            for (place, needs), lane in lanes if len(lanes) == 1 else sorted(lanes, key=lambda lane: lane[0][0]):
                if needs not in kinds:
                    continue
                if place < waiter.place:
                    before += len(lane.waiters)
                else:
                    by_age = lane.lifts(now) >= max(1, place - waiter.place)
                    before += max(by_age, lane.before(counter, start) if place == waiter.place else 0)
                counter += lane.work
        return before

    def _counter(self, name: str) -> float:
        """Return the counter of a tenant; if it does not wait, lifted to the least of those that do."""
        tenant = self.tenants.get(name)
        if tenant is not None:
            return tenant.counter
        least = min((active.counter for active in self.tenants.values()), default=self._floor)
        return max(self._idle.get(name, 0.0), least)


class Queue:
    """All calls that wait at one gateway; `most`: how many there may be. Times are monotonic seconds.

    `lines`: the models for which somebody waits; the one from which a call was served longest ago is the first.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._arrivals = 0
        self._total = 0
        self._waiting: Counter[str] = Counter()
        self._resting: OrderedDict[str, _Line] = OrderedDict()
        self.lines: dict[str, _Line] = {}

    def __len__(self) -> int:
        """Return how many wait."""
        return self._total

    def join(
        self,
        model: str,
        *,
        tenant: str,
        priority: Priority,
        work: float,
        pace: float,
        max_wait: float,
        now: float,
        due: bool = False,
        free: bool = False,
        needs: Needs = ALIKE,
        waited: float = 0.0,
    ) -> Waiter | Rejection:
        """Let a call wait, unless there is no room for it or its patience is too short; units as of `Waiter`.

        `due`: its patience is what is left until its own deadline. `free`: there is a place that it can have, so that
        how long the others wait for theirs is not held against it.
        """
        if due and max_wait <= 0:
            return _past(model)
        self._arrivals += 1
        waiter = Waiter(self._arrivals, model, tenant, priority, work, pace, max_wait, now, due, needs, waited)
        before, seconds = self._predicted(waiter, now)
        why = self._lacks_room(tenant)
        if why is None and seconds > max_wait and not free:
            bound = "its deadline" if due else "what is left of routing.max_wait" if waited else "routing.max_wait"
            why = (
                f"this call, as number {before + 1} in line, would have its turn in about {math.ceil(seconds)} s, "
                f"but may wait {max_wait:.3g} s ({bound})"
            )
        if why is not None:
            return _refusal(model, why, seconds)
        if model not in self.lines:
            line = self.lines[model] = self._resting.pop(model) if model in self._resting else _Line()
            line.pace.begins(now)
        self.lines[model].enters(waiter)
        self._waiting[tenant] += 1
        self._total += 1
        return waiter

    def order(self, model: str, now: float, barren: AbstractSet[Needs] = frozenset()) -> Iterator[Waiter]:
        """Yield those that wait for `model` in the order in which they go, if each that was yielded has gone.

        Whoever was yielded may be taken out meanwhile, and nobody else. Whose needs are `barren`, which may grow
        meanwhile, is passed over and has not gone.
        """
        line = self.lines.get(model)
        if line is None:
            return
        counters = {name: tenant.counter for name, tenant in line.tenants.items()}
        heap = []
        for name, tenant in line.tenants.items():
            for (place, _), lane in tenant.lanes.items():
                rest = iter(tuple(lane.waiters.values()))
                first = next(rest)
                heap.append((place - lane.lifts(now), counters[name], first.number, first, rest))
        heapify(heap)
        while heap and not line.kinds.keys() <= barren:
            place, counter, number, waiter, rest = heap[0]
            if waiter.needs in barren:
                heappop(heap)
                continue
            if counter < counters[waiter.tenant]:  # another lane of its tenant has moved it
                heapreplace(heap, (place, counters[waiter.tenant], number, waiter, rest))
                continue
            yield waiter
            if waiter.needs in barren:
                continue
            counters[waiter.tenant] += waiter.work
            after = next(rest, None)
            if after is None:
                heappop(heap)
            else:
                heapreplace(heap, (after.place, counters[after.tenant], after.number, after, rest))

    def served(self, waiter: Waiter, now: float, barren: AbstractSet[Needs] = frozenset()) -> None:
        """Take out one that has been given a place, which those with `barren` needs could not use."""
        line = self.lines[waiter.model] = self.lines.pop(waiter.model)
        line.serves(waiter, barren, now)
        self.leave(waiter, now)

    def leave(self, waiter: Waiter, now: float) -> None:
        """Take out one that waits no more, without a place."""
        line = self.lines[waiter.model]
        line.leaves(waiter, now)
        self._total -= 1
        self._waiting[waiter.tenant] -= 1
        if not self._waiting[waiter.tenant]:
            del self._waiting[waiter.tenant]
        if not line.tenants:
            self._resting[waiter.model] = self.lines.pop(waiter.model)
            if len(self._resting) > IDLE_LINES:
                self._resting.popitem(last=False)

    def change(self, needs: Mapping[Waiter, Needs], now: float) -> None:
        """Let calls that wait, all that do for their models, need something else from now on."""
        for waiter in sorted(needs, key=lambda waiter: waiter.number):
            self.lines[waiter.model].moves(waiter, needs[waiter], now)

    def give_up(self, waiter: Waiter, now: float) -> Rejection:
        """Take out one that may wait no longer; a new call would wait as long as its refusal says."""
        self.leave(waiter, now)
        if waiter.due:
            return _past(waiter.model)
        most = waiter.waited + waiter.max_wait
        why = f"this call has waited for a place for the {most:.3g} s that it may (routing.max_wait)"
        return _refusal(waiter.model, why, self._predicted(waiter, now)[1])

    def _lacks_room(self, tenant: str) -> str | None:
        """Say why one more call of this tenant has no room, if so."""
        if self._total >= self.most:
            return f"no more than {self.most} calls may wait (limits.waiting_calls)"
        if self._waiting[tenant] >= self.most - self._total:
            return (
                f"{self._waiting[tenant]} calls of this tenant wait already, "
                f"as many as there are places left of {self.most} (limits.waiting_calls)"
            )
        return None

    def _predicted(self, waiter: Waiter, now: float) -> tuple[int, float]:
        """Return how many go before a new call, and after how many seconds it has its turn."""
        line = self.lines.get(waiter.model)
        if line is None:
            line = self._resting.get(waiter.model)
            if line is None:
                return 0, min(LONGEST, waiter.pace)
            line.pace.begins(now)
        before, seconds = line.turn(waiter, now)
        return before, min(LONGEST, seconds)


def _past(model: str) -> Rejection:
    message = f"The call's deadline has passed while every deployment that could serve model {model!r} was full."
    return Rejection(Reason.DEADLINE, message)


def _refusal(model: str, why: str, seconds: float) -> Rejection:
    message = f"Every deployment that could serve model {model!r} is full, and {why}."
    return Rejection(Reason.OVERLOADED, message, retry_after_us=math.ceil(seconds * 1_000_000))
