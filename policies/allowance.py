"""How many calls a minute an upstream takes that tells its limit only by refusing.

Law: a limit that was told is kept before it is met: no span of a minute, wherever it begins, holds more calls than it.
A limit that nobody told is looked for only once a call was refused, from what was sent there then. Refusals lower what
is believed, at most once a minute; a minute without one that used it up raises it. `take` and `refused` are the twins
of `gateway/upstream/allowance.lua`: change both. Whole numbers below 2^53; times are microseconds of one clock.

Calls are spaced as by GCRA (ITU-T I.371): each pays for `every`, and one is let through that finds less than a burst
paid ahead. A minute, ends included, then holds at most a burst and a minute's spaces, which together are the limit. An
upstream counts them as they arrive: one limit's space of jitter between two of them is free, since its windows are half
open.
"""

from msgspec import Struct
from msgspec.structs import replace

SECOND = 1_000_000
MINUTE = 60 * SECOND

HOLD = 10 * MINUTE
"""For how long nothing was refused before a limit is tried again at which it was: each trial may cost a refusal."""

KEPT = 60 * MINUTE
"""For how long after it was last lowered a limit is kept: a used one has grown back by then, another says nothing."""

LEAST = 2
"""Calls a minute that are tried whatever is refused: without any nobody would find out that there is room again."""

UNTOLD = 10
"""Calls a minute that a limit nobody told is believed to allow at least, at its first refusal: whoever sends one a
minute and is refused once has met something else."""

FIRST_PAUSE, LONGEST_PAUSE = 5 * SECOND, MINUTE
"""How long nothing is sent after a refusal that names no time; doubled with each further one that no clean minute
parts from it. The longest is the hosted endpoint's window."""

MOST_IN_A_ROW = 4
"""Doublings after which the pause is the longest."""

RISE, FALL, MOST_RISEN = 0.05, 0.98, 10.0
"""Of the shadow price: what a call that found no room adds, in typical prices; what is left of it after a call that
did; and the most that it becomes, in typical prices, however many calls are turned away."""

HALF = 30.0
"""Seconds with room in which the shadow price falls by half."""

TYPICAL = 0.05
"""Weight of one call in what is held for a typical price."""


class Shared(Struct, frozen=True):
    """What all gateways know of one account's limit for one model.

    `limit`: calls a minute believed to be taken (0: as told). `paid_until`: how far calls have paid ahead.
    `frozen_until`: nothing is sent before. `since`: when it last grew, or a call was refused; `lowered`: when it was
    last lowered. `ceiling`: the limit at which a call was refused (0: none stands in the way). `in_a_row`: refusals
    that lengthened the pause.
    """

    limit: int = 0
    paid_until: int = 0
    frozen_until: int = 0
    since: int = 0
    lowered: int = 0
    ceiling: int = 0
    in_a_row: int = 0


class Answer(Struct, frozen=True):
    """What came of asking. `wait`: microseconds until it may be asked again, 0: granted.

    `limit`: calls a minute that are now believed (0: no limit is known). `room`: microseconds until the next call; less
    than 0 where so much is left of a burst.
    """

    wait: int
    limit: int
    room: int


def spacing(limit: int) -> tuple[int, int]:
    """Return how many calls may come at once under a limit, and the microseconds that each pays for.

    A tenth may, so that 40 a minute are 36 spaced ones and a burst of 4.
    """
    burst = max(1, limit // 10)
    return burst, -(-MINUTE // max(1, limit - burst))


def believed(shared: Shared, told: int) -> int:
    """Return the calls a minute that are believed to be taken, where `told` is said to be (0: nothing)."""
    return min(shared.limit, told) if shared.limit and told else shared.limit or told


def take(shared: Shared, told: int, now: int) -> tuple[Shared, Answer]:
    """Ask for one call; return what is known after it, unchanged where it is not granted."""
    limit = believed(shared, told)
    if not limit:
        return shared, Answer(0, 0, 0)
    known = _sane(shared, limit, now)
    burst, every = spacing(limit)
    ahead = (burst - 1) * every
    wait = max(known.frozen_until, known.paid_until - ahead) - now
    if wait > 0:
        return shared, Answer(wait, limit, wait)
    paid_until = max(known.paid_until, now) + every
    room = paid_until - ahead - now
    after = replace(known, paid_until=paid_until)
    if known.limit and room > 0:
        after = _grown(after, told, now)
    return after, Answer(0, limit, room)


def refused(shared: Shared, told: int, now: int, *, pause: int, sent: int, knew: bool) -> tuple[Shared, Answer]:
    """Take in that the upstream refused a call.

    `pause`: microseconds for which it asked to be left alone, -1 where it did not. `sent`: calls that the gateway has
    sent there in the last minute; `knew`: whether it kept to a limit.
    """
    before = believed(shared, told)
    known = _lowered(_sane(shared, before, now), told, now, sent, knew=knew)
    frozen_until, in_a_row = known.frozen_until, known.in_a_row
    if now < frozen_until:  # sent before the others knew
        frozen_until = max(frozen_until, now + pause)
    else:
        in_a_row = min(in_a_row + 1, MOST_IN_A_ROW) if now - frozen_until < MINUTE else 0
        frozen_until = now + (pause if pause >= 0 else min(LONGEST_PAUSE, FIRST_PAUSE * 2**in_a_row))
    limit = believed(known, told)
    burst, every = spacing(limit)
    # The window that refused may not have ended: one call finds out, not a burst.
    paid_until = max(known.paid_until, frozen_until + (burst - 1) * every)
    after = replace(known, paid_until=paid_until, frozen_until=frozen_until, in_a_row=in_a_row, since=now)
    wait = paid_until - (burst - 1) * every - now
    return after, Answer(wait, limit, wait)


def kept_until(shared: Shared) -> int:
    """Return the time from which what is known says no more than nothing does."""
    learned = shared.lowered + KEPT if shared.lowered else 0
    return max(shared.paid_until, shared.frozen_until + MINUTE, learned)


def _sane(shared: Shared, limit: int, now: int) -> Shared:
    """Return what is known, with nothing left to wait for where the clock has stepped back by more than a minute.

    Nobody pays further ahead than that, and no refusal is of the future.
    """
    if shared.since - now <= MINUTE and shared.paid_until - max(now, shared.frozen_until) <= MINUTE:
        return shared
    burst, every = spacing(limit)
    return replace(
        shared,
        paid_until=now + (burst - 1) * every,
        frozen_until=min(shared.frozen_until, now),
        since=now,
        lowered=min(shared.lowered, now),
    )


def _lowered(known: Shared, told: int, now: int, sent: int, *, knew: bool) -> Shared:
    limit = believed(known, told)
    if not limit:
        limit = max(UNTOLD, sent * 4 // 5)
        return replace(known, limit=limit, ceiling=max(limit + 1, sent), lowered=now)
    if not told and not knew:  # what this gateway sent is no part of the limit yet
        return replace(known, limit=limit + sent * 4 // 5, ceiling=known.ceiling + sent if known.ceiling else 0)
    if now - known.lowered < MINUTE:
        return known
    least = max(LEAST, told // 4)
    return replace(known, limit=min(limit, max(least, limit * 4 // 5)), ceiling=limit, lowered=now)


def _grown(known: Shared, told: int, now: int) -> Shared:
    """Return what is known after a clean minute, if there was one.

    A told limit is come back to by one call a minute. One that was never told grows by a tenth: it may be far away.
    """
    clean = now - max(known.since, known.frozen_until)
    if clean < MINUTE:
        return known
    limit, ceiling = known.limit + (1 if told else max(1, known.limit // 10)), known.ceiling
    if ceiling and limit >= ceiling:
        if known.limit < ceiling - 1:
            limit = ceiling - 1
        elif clean < HOLD:
            return known
        else:
            ceiling = 0
    if told and limit >= told:
        limit = ceiling = 0
    return replace(known, limit=limit, ceiling=ceiling, since=now)


class Allowance:
    """What one gateway believes of one upstream model's limit; times are monotonic seconds.

    `per_minute`: what is told of it (0: nothing). `limit`: what is believed (0: no limit is known). `held`: calls that
    want to be sent and have not asked yet, or have no answer: each is counted as if it were sent, so that no more ask
    than there is room for.
    """

    __slots__ = (
        "_alone", "_before", "_count", "_minute", "_price", "_room_at", "_shadow", "_shadow_at", "held", "limit",
        "per_minute",
    )  # fmt: skip

    def __init__(self, per_minute: int | None = None) -> None:
        self.per_minute = self.limit = per_minute or 0
        self.held = 0
        self._room_at = 0.0
        self._alone: Shared | None = None
        self._minute = self._count = self._before = 0
        self._price = self._shadow = self._shadow_at = 0.0

    def says(self, per_minute: int | None) -> None:
        """Take in that something else is said of it; the next answer of the store tells what to believe of that."""
        self.per_minute = per_minute or 0
        self.limit = self.per_minute or self.limit

    def wait(self, now: float) -> float:
        """Return the seconds until there is room, as far as was last heard; 0.0: there is, or no limit is known."""
        room_at = self._room_at
        if self.held and self.limit:
            burst, every = spacing(self.limit)
            room_at = max(room_at, now - (burst - 1) * every / SECOND) + self.held * every / SECOND
        left = room_at - now
        return max(0.0, left)

    def shadow(self, now: float) -> int:
        """Return the nano-dollars that a place is worth to the others who want it, 0 where there are enough.

        Dual ascent: it rises while calls are turned away and falls while they are not, so that scarce places go to
        the calls with most to gain.
        """
        if not self._shadow:
            return 0
        left = self._shadow
        idle = now - max(self._shadow_at, self._room_at)
        return int(left * 0.5 ** (idle / HALF)) if idle > 0.0 else int(left)

    def granted(self, price: int, now: float) -> None:
        """Take in that a call of about this price (nano-dollars; 0: unknown) was let through."""
        self.sent(now)
        self._typical(price)
        self._shadow, self._shadow_at = self.shadow(now) * FALL, now

    def missed(self, price: int, now: float) -> None:
        """Take in that a call of about this price would have gone there, at what it costs now, and found no room."""
        if not self.limit:
            return
        self._typical(price)
        most = self._price * MOST_RISEN
        self._shadow, self._shadow_at = min(most, self.shadow(now) + self._price * RISE), now

    def sent(self, now: float) -> None:
        """Count a call that is being sent."""
        self._turn(now)
        self._count += 1

    def in_a_minute(self, now: float) -> int:
        """Return about how many calls were sent in the minute before `now`."""
        self._turn(now)
        return self._count + int(self._before * (1.0 - now % 60.0 / 60.0))

    def told(self, answer: Answer, now: float) -> None:
        """Take the answer that holds for all gateways."""
        self._alone = None
        self._note(answer, now)

    def alone(self, now: float) -> Answer:
        """Ask for one call of this gateway's own share, half of what is believed, while there is nobody to ask."""
        self._alone, answer = take(self._own(now), self._half, _us(now))
        self._note(replace(answer, limit=self.limit), now)
        return answer

    def refused_alone(self, pause: int, now: float) -> Answer:
        """Take in a refusal that nobody can be told of; `pause` as `refused` has it, which see."""
        sent, knew = self.in_a_minute(now), bool(self.limit)
        self._alone, answer = refused(self._own(now), self._half, _us(now), pause=pause, sent=sent, knew=knew)
        self._note(replace(answer, limit=self.limit or answer.limit), now)
        return answer

    @property
    def _half(self) -> int:
        return max(1, self.limit // 2) if self.limit else 0

    def _own(self, now: float) -> Shared:
        """Return the state of this gateway's own share, at first without a burst: what others sent is not known."""
        if self._alone is not None:
            return self._alone
        burst, every = spacing(self._half)
        return Shared(paid_until=_us(now) + (burst - 1) * every)

    def _note(self, answer: Answer, now: float) -> None:
        self.limit = answer.limit
        self._room_at = now + answer.room / SECOND

    def _typical(self, price: int) -> None:
        if price:
            self._price += (price - self._price) * (TYPICAL if self._price else 1.0)

    def _turn(self, now: float) -> None:
        minute = int(now // 60.0)
        if minute != self._minute:
            self._before = self._count if minute == self._minute + 1 else 0
            self._minute, self._count = minute, 0


def _us(now: float) -> int:
    return int(now * SECOND)
