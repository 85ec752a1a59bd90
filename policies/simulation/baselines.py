"""The policies that others route by, to be measured against.

Law: each knows what its real counterpart knows, and no more: its own gateway's counts, its own tree of beginnings, and
who failed. All retry on another place, and all leave a place alone for a while whose calls fail in a row, as any proxy
can be told to (nginx: max_fails, fail_timeout). All keep the bound of a place as ours do: a call waits while everywhere
it could go is full, and is given up as late as ours is (nginx: max_conns, in memory that all workers share; HAProxy:
maxconn, timeout queue). Otherwise the bound would be what is compared, not the choice.
"""

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence

from msgspec import Struct

from policies.deadlines import MOST_FIRST
from policies.failures import Failure
from policies.simulation.calls import BLOCK, Call
from policies.simulation.scenario import ASK_AGAIN, GIVE_UP, Next, Told
from policies.terms import RoutingTerms

ATTEMPTS = 3
"""Times that a call is sent at most, as ours are."""

FAILS, AWAY = 3, 10.0
"""Failures in a row after which a place is left alone, and for how many seconds."""

SILENCE = 60.0
"""Seconds that a first token is waited for where there is another place to try, by default (nginx: proxy_read_timeout).
The last place is waited for as long as ours is, `MOST_FIRST`: giving up there is losing the call."""

REMEMBERED = 20_000
"""Blocks of 512 tokens that a tree of beginnings holds for one place: ten million tokens, as much as ours."""


class Known:
    """What one gateway knows of one place: its calls there, their prompts that wait, the beginnings it sent there."""

    __slots__ = ("_fails", "_seen", "_until", "in_flight", "queued", "sent")

    def __init__(self) -> None:
        self.in_flight = 0
        self.queued = 0
        self.sent = 0
        self._fails = 0
        self._until = 0.0
        self._seen: OrderedDict[int, None] = OrderedDict()

    def cached(self, call: Call) -> int:
        """Return the blocks of a call's prompt that were sent here before."""
        seen, blocks = self._seen, call.blocks
        low, high = 0, len(blocks)
        while low < high:
            middle = (low + high + 1) // 2
            if blocks[middle - 1] in seen:
                low = middle
            else:
                high = middle - 1
        return low

    def note(self, call: Call) -> None:
        """Remember a prompt that is sent here; the blocks used longest ago go first."""
        for block in reversed(call.blocks):  # so that an end goes before its beginning
            self._seen[block] = None
            self._seen.move_to_end(block)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    def away(self, now: float) -> bool:
        """Say whether it is left alone at `now`."""
        return now < self._until

    def went(self, now: float, *, well: bool) -> None:
        """Take in how a call there went."""
        self._fails = 0 if well else self._fails + 1
        if self._fails >= FAILS:
            self._until = now + AWAY


Choose = Callable[[Call, Sequence[int], Sequence[Known], random.Random], int]
"""One of the places that are left, for a call."""


class _Sent(Struct):
    """A call on its way: where, the tokens it still has to prefill there, and where it was before."""

    call: Call
    place: int
    uncached: int
    tried: list[int]


class _Waits(Struct):
    """A call that waits for a place until a moment: where it was before."""

    call: Call
    tried: list[int]
    until: float


class Baseline:
    """One gateway that routes by `choose`; `room` says whether a place has any, `terms` how long a call may wait."""

    def __init__(
        self, choose: Choose, places: int, dice: random.Random, room: Callable[[int], bool], terms: RoutingTerms
    ) -> None:
        self._choose = choose
        self._known = [Known() for _ in range(places)]
        self._dice = dice
        self._room = room
        self._max_wait = terms.max_wait
        self._sent: dict[int, _Sent] = {}
        self._waiting: dict[int, _Waits] = {}

    def begin(self, call: Call, now: float) -> Next:
        """Send a call somewhere, once there is room."""
        return self._place(_Waits(call, [], now + self._max_wait), now)

    def again(self, number: int, now: float) -> Next:
        """Send a call that waited somewhere, if there is room by now."""
        return self._place(self._waiting.pop(number), now)

    def first(self, number: int, now: float) -> None:  # noqa: ARG002 - the protocol's
        """Note a first token."""
        self._leave_queue(self._sent[number])

    def done(self, number: int, now: float, cached: int) -> None:  # noqa: ARG002 - no baseline learns from it
        """Note the end of an answer."""
        self._close(number, now, well=True)

    def failed(self, number: int, failure: Failure, now: float) -> Next:
        """Note a failure; the call goes elsewhere if it may."""
        sent = self._close(number, now, well=not failure.ejects)
        tried = [*sent.tried, sent.place]
        if len(tried) >= min(ATTEMPTS, len(self._known)) or not failure.meaning.elsewhere:
            return GIVE_UP
        return self._place(_Waits(sent.call, tried, now + self._max_wait), now)

    def broke(self, number: int, failure: Failure, now: float) -> None:
        """Note an answer that broke off once its caller had seen some of it."""
        self._close(number, now, well=not failure.ejects)

    def told(self) -> Told:
        """Return nothing: no baseline tells the other gateways anything."""
        return Told()

    def hear(self, loads: object, fresh: object, now: float) -> None:
        """Take in nothing."""

    def _place(self, waits: _Waits, now: float) -> Next:
        left = [index for index in range(len(self._known)) if index not in waits.tried]
        well = [index for index in left if not self._known[index].away(now)]
        free = [index for index in well or left if self._room(index)]
        if free:
            return self._send(waits.call, self._choose(waits.call, free, self._known, self._dice), waits.tried)
        if now >= waits.until:
            return GIVE_UP
        self._waiting[waits.call.number] = waits
        return Next(again=ASK_AGAIN)

    def _send(self, call: Call, place: int, tried: list[int]) -> Next:
        known = self._known[place]
        sent = _Sent(call, place, uncached(call, known), tried)
        self._sent[call.number] = sent
        known.in_flight += 1
        known.sent += 1
        known.queued += sent.uncached
        known.note(call)
        last = len(tried) + 1 >= min(ATTEMPTS, len(self._known))
        return Next(place, patience=MOST_FIRST if last else SILENCE)

    def _close(self, number: int, now: float, *, well: bool) -> _Sent:
        sent = self._sent.pop(number)
        self._leave_queue(sent)
        known = self._known[sent.place]
        known.in_flight -= 1
        known.went(now, well=well)
        return sent

    def _leave_queue(self, sent: _Sent) -> None:
        self._known[sent.place].queued -= sent.uncached
        sent.uncached = 0


def uncached(call: Call, known: Known) -> int:
    """Return the tokens of a call's prompt that were not sent to a place before, one at least."""
    return max(1, call.prompt - known.cached(call) * BLOCK)


def randomly(call: Call, left: Sequence[int], known: Sequence[Known], dice: random.Random) -> int:  # noqa: ARG001
    """Return any place."""
    return dice.choice(left)


def round_robin(call: Call, left: Sequence[int], known: Sequence[Known], dice: random.Random) -> int:  # noqa: ARG001
    """Return the place that was sent to the fewest times, which is each in turn."""
    return min(left, key=lambda index: known[index].sent)


def least_outstanding(call: Call, left: Sequence[int], known: Sequence[Known], dice: random.Random) -> int:  # noqa: ARG001
    """Return the place with the fewest calls of this gateway; the dice decide between equals."""
    return min(left, key=lambda index: (known[index].in_flight, dice.random()))


MATCH, ABSOLUTE, RELATIVE = 0.3, 64, 1.5
"""SGLang's defaults: the share of a prompt that must match; the difference and the ratio of calls that are too much."""


def sglang(call: Call, left: Sequence[int], known: Sequence[Known], dice: random.Random) -> int:
    """Return a place as SGLang's cache-aware policy does, equal matches going to the least loaded.

    The longest match, if it is long enough; the least loaded where none is, or where the counts are out of balance
    (sgl-project/sglang, sgl-model-gateway/src/policies/cache_aware.rs).
    """
    return _cache_aware(call, left, known, lambda index: (known[index].in_flight, dice.random()))


def sglang_first(call: Call, left: Sequence[int], known: Sequence[Known], dice: random.Random) -> int:  # noqa: ARG001
    """Return a place as SGLang's policy does where equal matches go to whoever comes first, as its tree once did."""
    return _cache_aware(call, left, known, lambda index: (index, 0.0))


def _cache_aware(
    call: Call, left: Sequence[int], known: Sequence[Known], ties: Callable[[int], tuple[float, float]]
) -> int:
    counts = [known[index].in_flight for index in left]
    most, least = max(counts), min(counts)
    matches = {index: known[index].cached(call) for index in left}
    best = max(matches.values())
    unbalanced = most - least > ABSOLUTE and most > RELATIVE * least
    if unbalanced or best * BLOCK <= MATCH * call.prompt:
        return min(left, key=lambda index: (known[index].in_flight, *ties(index)))
    return min((index for index in left if matches[index] == best), key=ties)


def lmetric(call: Call, left: Sequence[int], known: Sequence[Known], dice: random.Random) -> int:
    """Return the place with the least (tokens to prefill, the queue's included) x (calls in its batch).

    arXiv 2603.15202; ours counts in both, so that an idle place is told from another by its cache.
    """
    return min(
        left,
        key=lambda index: (
            (known[index].queued + uncached(call, known[index])) * (known[index].in_flight + 1),
            dice.random(),
        ),
    )


BASELINES: dict[str, Choose] = {
    "random": randomly,
    "round_robin": round_robin,
    "least_outstanding": least_outstanding,
    "sglang": sglang,
    "sglang_first": sglang_first,
    "lmetric": lmetric,
}
