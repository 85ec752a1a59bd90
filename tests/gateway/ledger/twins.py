"""Drives the script and its twin through one history, and compares every answer and every number."""

from itertools import count

import msgspec
from msgspec.structs import astuple

from gateway.ledger import plans, wire
from policies.buckets import Stock
from policies.domain import Claim
from tests.gateway.ledger.books import Books

START = 1_798_000_000_000_000
"""December 2026: the clock of an organization may stand ahead of the store's, and then only goes on when told to."""

_organizations = count()


def claim(levels, key="k0", model="m|1", zone="UTC"):
    return Claim("o", "t", key, model, levels, 0, 0, time_zone=zone)


class Driver:
    """`principals`: the levels of each; all histories are those of one organization."""

    def __init__(self, redis, principals, zone="UTC", start=START):
        self.redis = redis
        self.principals = principals
        self.zone = zone
        self.books = Books(start)
        self.stem = wire.stem(f"twin{next(_organizations)}")
        self.clock(0)

    def clock(self, us):
        """Let time pass, or (where `us` is negative) the clock step back, which nobody sees."""
        if us >= 0:
            self.books.now += us
            self.redis.set(f"{self.stem}:clock", self.books.now)

    def packed(self, principal, ahead=0):
        return plans.pack(claim(self.principals[principal], f"k{principal}", zone=self.zone), self.books.now + ahead)

    def batch(self, operations):
        """Run operations.

        Admissions are (ADMIT, id, forced, input, output, money, takes, principal[, ahead]), where the plan is one of a
        clock that is `ahead`; settlements and growths are as on the wire.
        """
        arguments, bodies, told = wire.Arguments(), [], []
        self.books.begin()
        for code, *rest in operations:
            if code == wire.ADMIT:
                packed = self.packed(rest[6], *rest[7:])
                bodies.append((code, *rest[:6], arguments.place(packed.blob)))
                told.append(lambda rest=rest, packed=packed: self.admit(packed, *rest))
            elif code == wire.SETTLE:
                bodies.append((code, *rest))
                told.append(lambda rest=rest: self.books.settle(*rest))
            else:
                bodies.append((code, *rest))
                told.append(lambda rest=rest: self.books.grow(*rest))
        answers = self.run(bodies, arguments)
        assert answers == [twin() for twin in told]
        return answers

    def admit(self, packed, *rest):
        return self.books.admit(*rest[:6], packed, ["t", f"k{rest[6]}", "m|1"])

    def run(self, bodies, arguments):
        words = wire.call("", "g1", wire.pack(bodies), arguments.values, touched=False)
        reply = wire.read(self.redis.evalsha(wire.SHA, 1, self.stem, *words[4:]))
        assert reply.now_us == self.books.now
        return reply.answers

    def compare(self):
        """Compare everything that is kept."""
        kept = {}
        for level in {level for level, _ in self.books.states}:
            for name, raw in self.redis.hgetall(self.key(level)).items():
                if name != b"expires":
                    kept[level, name.decode()] = msgspec.msgpack.decode(raw)
        states = self.books.states.items()
        assert kept == {place: list(astuple(state)) if isinstance(state, Stock) else state for place, state in states}
        reservations = self.redis.hgetall(f"{self.stem}:reservations:g1")
        assert {id_.decode(): head(raw) for id_, raw in reservations.items()} == {
            id_: one[2] for id_, one in self.books.open.items()
        }
        assert self.hours() == {name: amount for name, amount in self.books.hours.items() if amount}
        assert self.records() == self.books.records

    def hours(self):
        found = {}
        for key in self.redis.scan_iter(f"{self.stem}:hour:*", count=1000):
            for name, amount in self.redis.hgetall(key).items():
                account, deployment = several(name[:-1])
                found[int(key.rpartition(b":")[2]), *account, deployment, chr(name[-1])] = int(amount)
        return {name: amount for name, amount in found.items() if amount}

    def records(self):
        found = []
        for _, entry in self.redis.xrange(f"{self.stem}:records"):
            told = iter(several(entry[b"r"]))
            found += [[*record, *(next(told) for _ in range(4))] for record in told]
        return found

    def key(self, level):
        return f"{self.stem}:level:{level}"


def several(raw):
    """Read msgpack values that stand one after the other."""
    values, decoder = [], msgspec.msgpack.Decoder()
    while raw:
        length = size(raw)
        values.append(decoder.decode(raw[:length]))
        raw = raw[length:]
    return values


def size(raw):
    """Return the bytes of the first msgpack value: an array of numbers, flags and short texts, or a text."""
    code = raw[0]
    if code <= 0x7F or code >= 0xE0 or code in {0xC0, 0xC2, 0xC3}:
        return 1
    if 0xA0 <= code <= 0xBF:
        return 1 + code - 0xA0
    fixed = {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9, 0xCB: 9}
    if code in fixed:
        return fixed[code]
    if code == 0xD9:
        return 2 + raw[1]
    if 0x90 <= code <= 0x9F:
        at = 1
        for _ in range(code - 0x90):
            at += size(raw[at:])
        return at
    raise AssertionError(f"no array of numbers and texts: {code:#x}")


def head(raw):
    """Read the first of the two msgpack values of a reservation."""
    return msgspec.msgpack.decode(raw[: size(raw)])
