"""One replica of an engine with continuous batching, as vLLM's scheduler is: step by step, but not step by step.

Law: exact, yet paid for by change. A step takes the time of `hardware.py`; steps between two changes of the batch are
an arithmetic series, since each call's context grows by one token a step, and are done at once.

What a step does: every call that decodes makes a token; what is left of `chunk` goes to prompts, those begun first,
then to those that wait, first come first served: whoever does not fit holds up all behind it. A call is let in with
room for its whole prompt and a hundredth of all room to spare; where answers then outgrow the room, the call let in
last gives its room back and waits in front, to be computed again (vLLM's recomputation). The first token comes at the
end of the prefill. Whole blocks of prompts stay cached when their call is over until their room is needed, those
longest unused first, and of one call its end first; running calls share them. Answers are not cached: their ids are
not known.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterable

from policies.simulation.calls import BLOCK, Call, Event
from policies.simulation.hardware import Hardware

SPARE = 0.01
"""Share of the room that must be left when a call is let in beside others (vLLM's `watermark`)."""

NEVER = math.inf


class Cache:
    """The KV room of one replica: blocks of prompts, and tokens that belong to one call alone."""

    __slots__ = ("_free", "_pins", "_room", "private")

    def __init__(self, room: int) -> None:
        self._room = room
        self._pins: dict[int, int] = {}
        self._free: dict[int, None] = {}
        self.private = 0

    @property
    def held(self) -> int:
        """Tokens of room that running calls hold."""
        return BLOCK * (len(self._pins) - len(self._free)) + self.private

    def hit(self, blocks: tuple[int, ...]) -> int:
        """Return how many blocks from the first on are cached."""
        pins = self._pins
        for count, block in enumerate(blocks):
            if block not in pins:
                return count
        return len(blocks)

    def cost(self, blocks: tuple[int, ...]) -> int:
        """Return the tokens by which more is held when these cached blocks are used."""
        return BLOCK * sum(block in self._free for block in blocks)

    def use(self, blocks: tuple[int, ...]) -> None:
        """Hold blocks, cached ones or new ones."""
        pins, free = self._pins, self._free
        for block in blocks:
            pins[block] = pins.get(block, 0) + 1
            free.pop(block, None)

    def release(self, blocks: tuple[int, ...]) -> None:
        """Hold them no longer: whoever needs room may take it, from the last one on."""
        pins, free = self._pins, self._free
        for block in reversed(blocks):
            pins[block] -= 1
            if not pins[block]:
                free[block] = None

    def evict(self) -> None:
        """Forget blocks that nobody holds until all fits."""
        pins, free = self._pins, self._free
        over = BLOCK * len(pins) + self.private - self._room
        for block in list(itertools.islice(free, max(0, -(-over // BLOCK)))):
            del free[block], pins[block]

    def clear(self) -> None:
        """Forget all blocks that nobody holds."""
        for block in self._free:
            del self._pins[block]
        self._free.clear()


class Sequence:
    """A call at a replica. `goal`: tokens to compute before it decodes; `ends`: the step at which it is over.

    `work`: seconds that its prefill was expected to take when it queued.
    """

    __slots__ = ("cached", "call", "computed", "ends", "goal", "made", "pinned", "since", "told", "work")

    def __init__(self, call: Call, work: float) -> None:
        self.call = call
        self.work = work
        self.goal = call.prompt
        self.computed = self.cached = self.pinned = self.made = self.since = 0
        self.ends = -1
        self.told = False


class Replica:
    """One replica: an `Engine` of `calls.py`, with its truth open to an oracle (`ahead`, `cached`, `speed`)."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self.speed = 1.0
        self.next_at = NEVER
        self._cache = Cache(hardware.room)
        self._queue: deque[Sequence] = deque()
        self._batch: dict[int, Sequence] = {}
        self._prefilling: list[Sequence] = []
        self._ends: list[tuple[int, int, Sequence]] = []
        self._ticks = itertools.count()
        self._decoding = self._context = self._steps = 0
        self._leaving: set[int] = set()
        self._held_until = 0.0
        # The steps under way: when they began, how many, what the first takes, and each next one more.
        self._began = self._first = self._more = 0.0
        self._run = 0
        self._takes: list[tuple[Sequence, int]] = []

    @property
    def running(self) -> int:
        """Calls in the batch."""
        return len(self._batch)

    @property
    def answers(self) -> Iterable[int]:
        """Output tokens of each call in the batch, those to come with those made."""
        return (one.call.answer for one in self._batch.values())

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return len(self._queue)

    @property
    def kv_use(self) -> float:
        """The share of KV room that the batch holds."""
        return self._cache.held / self.hardware.room

    def cached(self, call: Call) -> int:
        """Return the tokens of a call's prompt that need no prefill here, now."""
        return BLOCK * self._cache.hit(call.blocks[: (call.prompt - 1) // BLOCK])

    def ahead(self, now: float) -> float:
        """Return the seconds of prefill, at its present speed, before a call that comes now would be prefilled."""
        left = sum(self.hardware.prefill(one.computed, one.goal - one.computed) for one in self._prefilling)
        left += sum(one.work for one in self._queue)
        return left / self.speed + max(0.0, self._held_until - now)

    def arrive(self, call: Call, now: float) -> int | None:
        """Take in a call; one that could never fit is refused with 400."""
        if call.prompt + call.answer > self.hardware.room:
            return 400
        blocked = bool(self._queue)
        spared = self.cached(call)
        self._queue.append(Sequence(call, self.hardware.prefill(spared, call.prompt - spared)))
        if self.next_at == NEVER:
            self._begin(now)
        elif not blocked:
            self._cut(now)
        return None

    def cancel(self, number: int, now: float) -> None:
        """Forget a call: at once if it waits, else at the end of the step."""
        self._cut(now)
        if number in self._batch and number not in self._leaving:
            self._leaving.add(number)
            return
        for one in self._queue:
            if one.call.number == number:
                self._queue.remove(one)
                return

    def advance(self, now: float) -> list[Event]:
        """Do all steps that end by `now`; return first tokens and ends."""
        events: list[Event] = []
        while self.next_at <= now:
            self._finish(events)
            self._begin(self.next_at)
        return events

    def slow(self, speed: float, now: float) -> None:
        """Go on at this share of the usual speed from the next step on."""
        self.speed = speed
        self._cut(now)

    def stall(self, until: float, now: float) -> None:
        """Begin no step before `until`."""
        self._held_until = max(self._held_until, until)
        self._cut(now)

    def crash(self, now: float) -> list[Event]:
        """Lose all calls and all that was cached; a stall is over with it."""
        steps = 0 if self._takes else self._passed(now)
        lost = [one for number, one in self._batch.items() if number not in self._leaving]
        failed = [Event(now, one.call.number, "failed", self._made(one, steps), one.cached) for one in lost]
        failed += [Event(now, one.call.number, "failed", one.made) for one in self._queue]
        for one in list(self._batch.values()):
            self._drop(one)
        for there in (self._queue, self._ends, self._leaving):
            there.clear()
        self.cold()
        self._held_until = 0.0
        self._begin(now)
        return failed

    def cold(self) -> None:
        """Lose what is cached of calls that are over."""
        self._cache.clear()

    def _begin(self, now: float) -> None:
        """Plan the steps from `now` to the next change of the batch."""
        self._began, self._run, self._takes = now, 0, []
        if not self._batch and not self._queue:
            self.next_at = NEVER
            return
        if now < self._held_until:
            self.next_at = self._held_until
            return
        self._make_room()
        self._takes = self._schedule()
        machine, decoding = self.hardware, self._decoding
        prefill = sum(machine.prefill(one.computed, tokens) for one, tokens in self._takes)
        seconds = max(machine.step, prefill) + machine.per_sequence * decoding + machine.per_context * self._context
        self._first, self._more = seconds / self.speed, machine.per_context * decoding / self.speed
        self._run = 1
        if not self._takes:
            ends = self._ends
            while ends[0][2].ends != ends[0][0]:
                heapq.heappop(ends)
            self._run = min(ends[0][0] - self._steps, (machine.room - self._cache.held) // decoding)
        self.next_at = now + self._seconds(self._run)

    def _seconds(self, steps: int) -> float:
        return steps * self._first + self._more * steps * (steps - 1) / 2

    def _passed(self, now: float) -> int:
        """Return how many of the steps under way are over at `now`."""
        past, half = now - self._began, self._more / 2
        if self._run == 0 or past < self._first:
            return 0
        rest = self._first - half
        steps = int(past / rest) if half == 0.0 else int((math.sqrt(rest * rest + 4 * half * past) - rest) / (2 * half))
        return min(self._run, steps)

    def _cut(self, now: float) -> None:
        """Let the steps under way end with the one that is being done at `now`."""
        if self._run > 1:
            self._run = min(self._run, self._passed(now) + 1)
            self.next_at = max(now, self._began + self._seconds(self._run))

    def _make_room(self) -> None:
        """See that every call that decodes can grow by a token: the last let in gives way."""
        while self._cache.held + self._decoding > self.hardware.room:
            one = next(reversed(self._batch.values()))
            one.made = self._made(one, 0)
            self._drop(one)
            one.goal, one.computed = one.call.prompt + one.made, 0
            one.work = self.hardware.prefill(0, one.goal)
            self._queue.appendleft(one)

    def _schedule(self) -> list[tuple[Sequence, int]]:
        """Return what of which prompts the next step computes; let in those that fit."""
        left = self.hardware.chunk - self._decoding
        takes: list[tuple[Sequence, int]] = []
        for one in self._prefilling:
            tokens = min(left, one.goal - one.computed)
            if tokens <= 0:
                return takes
            takes.append((one, tokens))
            left -= tokens
        while left > 0 and self._queue and len(self._batch) < self.hardware.sequences and self._enter(self._queue[0]):
            one = self._queue.popleft()
            tokens = min(left, one.goal - one.computed)
            takes.append((one, tokens))
            left -= tokens
        self._cache.evict()
        return takes

    def _enter(self, one: Sequence) -> bool:
        cache, call = self._cache, one.call
        hit = min(cache.hit(call.blocks), (one.goal - 1) // BLOCK, call.prompt // BLOCK)
        blocks = call.blocks[:hit]
        own = one.goal - BLOCK * hit
        spare = SPARE * self.hardware.room + self._decoding if self._batch else 0
        if cache.held + cache.cost(blocks) + own + spare > self.hardware.room:
            return False
        cache.use(blocks)
        cache.private += own
        one.computed, one.pinned = BLOCK * hit, hit
        if not one.told:
            one.cached = one.computed
        self._batch[call.number] = one
        self._prefilling.append(one)
        return True

    def _finish(self, events: list[Event]) -> None:
        """Do the steps that were planned."""
        steps, grown = self._run, self._run * self._decoding
        self._steps += steps
        self._context += grown
        self._cache.private += grown
        # Before calls end, or blocks would outlive steps that had no room for them.
        self._cache.evict()
        for one, tokens in self._takes:
            self._compute(one, tokens, events)
        ends = self._ends
        while ends and ends[0][0] <= self._steps:
            ended, _, one = heapq.heappop(ends)
            if one.ends == ended:
                self._drop(one)
                if one.call.number not in self._leaving:
                    events.append(Event(self.next_at, one.call.number, "done", one.call.answer, one.cached))
        for number in self._leaving:
            if number in self._batch:
                self._drop(self._batch[number])
        self._leaving.clear()

    def _compute(self, one: Sequence, tokens: int, events: list[Event]) -> None:
        """Add `tokens` to what is computed of a prompt, cache its whole blocks, and let it decode at the end."""
        one.computed += tokens
        whole = min(one.computed, one.call.prompt) // BLOCK
        self._cache.use(one.call.blocks[one.pinned : whole])
        self._cache.private -= BLOCK * (whole - one.pinned)
        one.pinned = whole
        if one.computed < one.goal:
            return
        self._prefilling.remove(one)
        self._decoding += 1
        self._context += one.goal
        one.since = self._steps
        one.ends = self._steps + one.call.answer - one.made - 1
        heapq.heappush(self._ends, (one.ends, next(self._ticks), one))
        if not one.told:
            one.told = True
            if one.call.number not in self._leaving:
                events.append(Event(self.next_at, one.call.number, "first", 1, one.cached))

    def _made(self, one: Sequence, steps: int) -> int:
        """Return the tokens of its answer that a call in the batch has, `steps` after the last that were done."""
        return one.made if one.ends < 0 else one.call.answer - max(0, one.ends - self._steps - steps)

    def _drop(self, one: Sequence) -> None:
        """Take a call out of the batch and give its room back."""
        del self._batch[one.call.number]
        own = one.goal - BLOCK * one.pinned
        if one.ends < 0:
            self._prefilling.remove(one)
        else:
            grown = self._steps - one.since
            own += grown
            self._decoding -= 1
            self._context -= one.goal + grown
            one.ends = -1
        self._cache.private -= own
        self._cache.release(one.call.blocks[: one.pinned])
        one.pinned = 0
