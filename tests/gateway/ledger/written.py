"""Books of one organization, written as the script writes them, for tests of whoever reads them."""

from itertools import count

from msgspec import msgpack

from gateway.ledger import wire
from policies.domain import MeterKind
from policies.meters import SORTS

HOUR_US = 3_600_000_000
NOW_US = 500_000 * HOUR_US + 1_234_567
"""A moment in January 2027, early in an hour."""

LETTERS = {"n": "calls", "i": "input", "c": "cached", "o": "output", "r": "reasoning", "m": "money", "e": "estimated"}

pack = msgpack.encode


def account(team="research", key="k1", model="m"):
    """Return a packed account."""
    return pack([team, key, model])


def entry(head, of, deployment="vllm/m", outcome="ok", request_id="req-1"):
    """Return a record as it stands in the stream."""
    return pack(head) + of + pack(deployment) + pack(outcome) + pack(request_id)


class Written:
    """The books of one organization in a store."""

    def __init__(self, store, organization):
        self.organization = organization
        self.stem = wire.stem(organization)
        self._store = store
        self._ids = count(1)
        self._moments = count(1)
        self._latest = 0

    async def begin(self, now_us=NOW_US, gateways=("g1",)):
        """Write what every call writes."""
        names = [part for gateway in gateways for part in (gateway, now_us, f"{gateway}#", 99)]
        await self._store.send(
            ["SET", f"{self.stem}:clock", now_us],
            ["HSET", f"{self.stem}:gateways", *names],
            ["SADD", "sw:organizations", self.organization],
        )

    async def settle(self, admitted_us, *, of=None, deployment="vllm/m", what=0, kept=True, estimated=False, **used):
        """Record a call and add it to its hour; `kept` False: its record is gone already."""
        of = account() if of is None else of
        told = [used.get(name, 0) for name in ("input", "output", "cached", "reasoning", "money")]
        head = [f"g1-{next(self._ids):x}", what, admitted_us, admitted_us + 1000, *told, estimated]
        sums = {
            "n": int(what < 2),
            "i": told[0],
            "o": told[1],
            "c": told[2],
            "r": told[3],
            "m": told[4],
            "e": (told[0] + told[1]) * estimated,
        }
        hour = f"{self.stem}:hour:{admitted_us // HOUR_US}"
        field = of + pack(deployment)
        await self._store.send(
            *(["HINCRBY", hour, field + letter.encode(), amount] for letter, amount in sums.items() if amount)
        )
        if kept:
            self._latest = max(self._latest, admitted_us // 1000 + 1)
            at = f"{self._latest}-{next(self._moments)}"
            await self._store.send(["XADD", f"{self.stem}:records", at, "r", entry(head, of, deployment)])

    async def level(self, level, states):
        """Write the meters of a level: `{field: state}`."""
        fields = [part for field, state in states.items() for part in (field, pack(state))]
        await self._store.send(["HSET", f"{self.stem}:level:{level}", *fields, "expires", NOW_US])

    async def open(self, admitted_us, levels, *, gateway="g1", of=None, tokens_in=0, tokens_out=0, money=0):
        """Write an open reservation that is charged to `levels`: `{level: [field]}`."""
        plan = [
            account() if of is None else of,
            [[id_, [meter(name) for name in names]] for id_, names in levels.items()],
        ]
        head = [tokens_in, tokens_out, money, 0, admitted_us, admitted_us + 5_000_000]
        id_ = f"{next(self._ids):x}"
        await self._store.send(["HSET", f"{self.stem}:reservations:{gateway}", id_, pack(head) + pack(plan)])
        return id_


def meter(field):
    """Return a meter as a plan tells it."""
    sort = SORTS[MeterKind(field.partition("|")[0])]
    return [sort.measure, sort.keeping, field, 100, 100, sort.ticks, sort.tick_us, True, 0]
