"""A ledger in plain Python over `policies.buckets`: what the script must answer and leave behind, number by number."""

from gateway.ledger.wire import DONE, REFUSED, TOO_LARGE
from policies.buckets import MEASURES, Measure, charged, decayed, slot_wait_us, standing, wait_us


class Books:
    """One organization's books; operations as the script takes them, with levels instead of a packed plan."""

    def __init__(self):
        self.now = 0
        self.used = {}  # (level id, kind) -> (used, at) of rates, in use of slots
        self.open = {}  # reservation id -> [levels, key, model, tokens, prompt tokens, step]
        self.usage = {}

    def rates(self):
        return {place: value for place, value in self.used.items() if isinstance(value, tuple)}

    def elapse(self, us):
        """Let time pass where nobody sees it: what was used was used earlier."""
        for place, (used, at) in self.rates().items():
            self.used[place] = (used, at - us)

    def admit(self, id_, tokens, prompt, account, levels):
        if id_ in self.open:
            return self._admission(DONE, levels)
        waits = [
            (self._wait(level, meter, tokens), i, j)
            for i, level in enumerate(levels, 1)
            for j, meter in enumerate(level.meters, 1)
        ]
        for wait, i, j in waits:
            if wait is None:
                return self._admission(TOO_LARGE, levels, i, j)
        wait, i, j = max(waits, key=lambda each: each[0], default=(0, 0, 0))
        if wait:
            return self._admission(REFUSED, levels, i, j, wait)
        for level in levels:
            for meter in level.meters:
                self._charge(level, meter, tokens, 1)
        self.open[id_] = [levels, *account, tokens, prompt, 0]
        return self._admission(DONE, levels)

    def settle(self, id_, booked, prompt, completion, estimated):
        if id_ not in self.open:
            return [REFUSED]
        levels, key, model, tokens, _, _ = self.open.pop(id_)
        for level in levels:
            for meter in level.meters:
                if MEASURES[meter.kind] is not Measure.REQUESTS:
                    self._charge(level, meter, prompt + completion - tokens, -1)
        if booked:
            total = prompt + completion
            counts = (1, prompt, completion, total if estimated else 0)
            for what, amount in zip(
                ("requests", "prompt_tokens", "completion_tokens", "estimated_tokens"), counts, strict=True
            ):
                if amount:
                    field = f"{key}|{model}|{what}"
                    self.usage[field] = self.usage.get(field, 0) + amount
        return [DONE]

    def grow(self, id_, step, tokens):
        if id_ not in self.open:
            return [REFUSED]
        one = self.open[id_]
        if step <= one[5]:
            return [DONE]
        meters = [(level, meter) for level in one[0] for meter in level.meters]
        meters = [(level, meter) for level, meter in meters if MEASURES[meter.kind] is Measure.TOKENS]
        if any(self._wait(level, meter, tokens) != 0 for level, meter in meters):
            return [REFUSED]
        for level, meter in meters:
            self._charge(level, meter, tokens, 0)
        one[3], one[5] = one[3] + tokens, step
        return [DONE]

    def _now(self, level, meter):
        used, at = self.used.get((level.id, meter.kind), (0, self.now))
        return decayed(used, at, self.now, meter.limit)

    def _wait(self, level, meter, tokens):
        if MEASURES[meter.kind] is Measure.SLOTS:
            return slot_wait_us(self.used.get((level.id, meter.kind), 0), meter)
        return wait_us(self._now(level, meter), tokens if MEASURES[meter.kind] is Measure.TOKENS else 1, meter)

    def _charge(self, level, meter, tokens, slots):
        place = (level.id, meter.kind)
        measure = MEASURES[meter.kind]
        if measure is Measure.SLOTS:
            self.used[place] = max(0, self.used.get(place, 0) + slots)
        else:
            amount = tokens if measure is Measure.TOKENS else 1
            self.used[place] = (charged(self._now(level, meter), amount, meter), self.now)

    def _admission(self, outcome, levels, level=0, meter=0, wait=0):
        return [
            outcome,
            level,
            meter,
            wait,
            *self._tightest(levels, Measure.REQUESTS),
            *self._tightest(levels, Measure.TOKENS),
        ]

    def _tightest(self, levels, measure):
        found = [
            (standing(self._now(level, meter), meter).remaining, i, j, self._now(level, meter))
            for i, level in enumerate(levels, 1)
            for j, meter in enumerate(level.meters, 1)
            if MEASURES[meter.kind] is measure
        ]
        return min(found, default=(0, 0, 0, 0))[1:]
