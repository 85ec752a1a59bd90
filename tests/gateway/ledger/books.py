"""A ledger in plain Python over `policies.buckets`: what the script must answer and leave behind, number by number."""

from collections import Counter

from msgspec.structs import replace

from gateway.ledger.wire import DONE, REFUSED, SPENT, STALE, TOO_LARGE, UNKNOWN
from policies.buckets import (
    MOST_ENDS,
    NEVER,
    Stock,
    charged,
    decayed,
    is_current,
    rate_wait_us,
    rolled,
    slot_wait_us,
    standing,
    stock_wait_us,
    stocked,
)
from policies.meters import MOST, SORTS, Keeping, Measure, field

HOUR = 3_600_000_000
SETTLED, CORRECTED, PLATFORM = 0, 2, 3


def amounts(prompt, completion, money, calls=1):
    return {
        Measure.REQUESTS: calls,
        Measure.SLOTS: calls,
        Measure.INPUT: prompt,
        Measure.OUTPUT: completion,
        Measure.TOKENS: prompt + completion,
        Measure.MONEY: money,
    }


class Books:
    """One organization's books of one gateway; operations as the script takes them, with `Packed` plans."""

    def __init__(self, now):
        self.now = now
        self.states = {}  # (level id, field) -> [used, at] of rates, [in use, ends], Stock, [used, begun, last]
        self.open = {}  # id -> [packed, account, [input, output, money, step, admitted, stop]]
        self.asked = 0
        self.hours = Counter()  # (hour, account, deployment, letter)
        self.records = []

    def begin(self):
        self.asked_before = self.asked

    # -- one meter ------------------------------------------------------------------------------------------------

    def state(self, packed, level, meter):
        place = level.id, field(meter)
        if place in self.states:
            return self.states[place]
        sort = SORTS[meter.kind]
        return {
            Keeping.RATE: lambda: [0, self.now // sort.tick_us],
            Keeping.SLOTS: lambda: [0, []],
            Keeping.TOTAL: lambda: [0, self.now, self.now],
            Keeping.CALENDAR: lambda: Stock(0, packed.period(meter, self.now).ordinal, self.now, self.now),
        }[sort.keeping]()

    def used(self, packed, level, meter):
        state, sort = self.state(packed, level, meter), SORTS[meter.kind]
        if sort.keeping is Keeping.RATE:
            return decayed(*state, self.now // sort.tick_us, meter.limit)
        return state.used if isinstance(state, Stock) else state[0]

    def wait(self, packed, level, meter, amount, admitted):
        state, keeping = self.state(packed, level, meter), SORTS[meter.kind].keeping
        if keeping is Keeping.RATE:
            return rate_wait_us(self.used(packed, level, meter), amount, meter, self.now)
        if keeping is Keeping.SLOTS:
            return slot_wait_us(*state, meter, self.now)
        if keeping is Keeping.TOTAL:
            return NEVER if state[0] + amount > meter.limit else 0
        period = packed.period(meter, admitted)
        used = state.used if is_current(state, period, admitted) else state.before
        return stock_wait_us(used, amount, meter, period, self.now)

    def charge(self, packed, level, meter, amount, admitted):
        place, state, sort = (level.id, field(meter)), self.state(packed, level, meter), SORTS[meter.kind]
        if sort.keeping is Keeping.RATE:
            used = charged(self.used(packed, level, meter), amount, meter)
            self.states[place] = [used, self.now // sort.tick_us]
        elif sort.keeping is Keeping.TOTAL:
            self.states[place] = [min(MOST, max(0, state[0] + amount)), *state[1:]]
        else:
            self.states[place] = stocked(state, amount, meter, packed.period(meter, admitted), admitted)

    def standing(self, outcome, packed, refusing=0, wait=0, shadows=()):
        found = {"requests": (NEVER, 0, 0), "tokens": (NEVER, 0, 0), "tightest": (2.0, 0, 0)}
        for place, (level, meter) in enumerate(packed.meters, 1):
            if not meter.enforce:
                continue
            used = self.used(packed, level, meter)
            told = standing(level.kind, meter, used, self.now, packed.period(meter, self.now))
            names = {Measure.REQUESTS: "requests", Measure.TOKENS: "tokens"}
            for name, left in (
                ("tightest", told.remaining / meter.burst),
                (names.get(SORTS[meter.kind].measure), told.remaining),
            ):
                if name is not None and left < found[name][0]:
                    found[name] = left, place, used
        return [outcome, refusing, wait, *(one for _, *told in found.values() for one in told), list(shadows)]

    def verdict(self, packed, asked, admitted):
        outcome, refusing, longest, shadows = DONE, 0, 0, []
        for place, (level, meter) in enumerate(packed.meters, 1):
            amount = asked[SORTS[meter.kind].measure]
            wait = self.wait(packed, level, meter, amount, admitted) if amount else 0
            if not wait:
                continue
            large = SORTS[meter.kind].keeping is not Keeping.SLOTS and amount > meter.burst
            never = TOO_LARGE if large else SPENT
            if not meter.enforce:
                shadows.append(place)
            elif wait > longest or (wait == NEVER and never == TOO_LARGE and outcome == SPENT):
                outcome, refusing, longest = never if wait == NEVER else REFUSED, place, wait
        return outcome, refusing, longest if longest < NEVER else 0, shadows

    # -- operations -----------------------------------------------------------------------------------------------

    def admit(self, id_, forced, prompt, completion, money, takes, packed, account):  # noqa: PLR0917 - as on the wire
        self.asked = max(self.asked, int(id_, 16))
        if id_ in self.open or (forced and int(id_, 16) <= self.asked_before):
            return self.standing(DONE, packed)
        if not forced and not packed.since_us <= self.now < self.last(packed):
            return [STALE]
        for level, meter in packed.meters:
            stock = self.states.get((level.id, field(meter)))
            if isinstance(stock, Stock):
                self.states[level.id, field(meter)] = rolled(stock, packed.period(meter, self.now), meter)
        admitted = min(forced, self.now) if forced else self.now
        asked, shadows = amounts(prompt, completion, money), []
        if not forced:
            outcome, refusing, wait, shadows = self.verdict(packed, asked, admitted)
            if outcome != DONE:
                return self.standing(outcome, packed, refusing, wait)
        for place, (level, meter) in enumerate(packed.meters, 1):
            measure = SORTS[meter.kind].measure
            if place not in shadows or measure is not Measure.REQUESTS:
                self.enter(packed, level, meter, asked[measure], admitted, takes)
        self.open[id_] = [packed, account, [prompt, completion, money, 0, admitted, admitted + takes]]
        return self.standing(DONE, packed, shadows=shadows)

    def enter(self, packed, level, meter, amount, admitted, takes):  # noqa: PLR0917 - as on the wire
        place, state, keeping = (level.id, field(meter)), self.state(packed, level, meter), SORTS[meter.kind].keeping
        if keeping is Keeping.SLOTS:
            ends = [*state[1], admitted + takes][:MOST_ENDS]
            self.states[place] = [state[0] + 1, ends]
            return
        self.charge(packed, level, meter, amount, admitted)
        state = self.states[place]
        if keeping is Keeping.TOTAL:
            state[1:] = [min(state[1], admitted), max(state[2], admitted)]
        elif keeping is Keeping.CALENDAR and is_current(state, packed.period(meter, admitted), admitted):
            self.states[place] = replace(state, begun=min(state.begun, admitted), last=max(state.last, admitted))

    def last(self, packed):
        return min((following.end_us for _, following in packed.periods.values()), default=NEVER)

    def settle(self, id_, booked, prompt, completion, cached, reasoning, money, estimated, deployment, ending, wasted):  # noqa: PLR0917 - as on the wire
        if id_ not in self.open:
            return [REFUSED if int(id_, 16) <= self.asked_before else UNKNOWN]
        packed, account, head = self.open.pop(id_)
        asked = amounts(prompt - head[0], completion - head[1], money - head[2], 0)
        self.replace(packed, asked, head)
        if booked:
            used = (prompt, completion, cached, reasoning, money)
            self.book(id_, SETTLED, head[4], used, estimated, account, deployment, ending)
        if wasted:
            used = (wasted[0], wasted[1], 0, 0, wasted[2])
            self.book(id_, PLATFORM, head[4], used, True, ["", "platform", account[2]], "", ending)
        return [DONE]

    def replace(self, packed, asked, head):
        for level, meter in packed.meters:
            sort = SORTS[meter.kind]
            if sort.keeping is Keeping.SLOTS:
                in_use, ends = self.state(packed, level, meter)
                if head[5] in ends:
                    ends.remove(head[5])
                self.states[level.id, field(meter)] = [max(0, in_use - 1), ends]
            elif asked[sort.measure]:
                self.charge(packed, level, meter, asked[sort.measure], head[4])

    def book(self, id_, what, admitted, used, estimated, account, deployment, ending):  # noqa: PLR0917 - as on the wire
        outcome, request, replica = ending
        family, slash, model = deployment.partition("/")
        name = f"{family}@{replica}/{model}" if slash and replica else deployment
        self.records.append([f"g1-{id_}", what, admitted, self.now, *used, estimated, account, name, outcome, request])
        hour = admitted // HOUR
        told = dict(zip("iocrm", used, strict=True))
        told |= {"n": int(what == SETTLED), "e": used[0] + used[1] if estimated else 0}
        for letter, amount in told.items():
            if amount:
                self.hours[hour, *account, deployment, letter] += amount

    def grow(self, id_, step, output, money):
        if id_ not in self.open:
            return [REFUSED, 0]
        packed, _, head = self.open[id_]
        if step <= head[3]:
            return self.standing(DONE, packed)
        asked = amounts(0, output, money, 0)
        outcome, refusing, wait, _ = self.verdict(packed, asked, head[4])
        if outcome != DONE:
            return self.standing(outcome, packed, refusing, wait)
        for level, meter in packed.meters:
            if asked[SORTS[meter.kind].measure]:
                self.charge(packed, level, meter, asked[SORTS[meter.kind].measure], head[4])
        head[1], head[2], head[3] = head[1] + output, head[2] + money, step
        return self.standing(DONE, packed)
