"""What a fleet of gateways asks of its store, its network and its cores: arithmetic over what was measured.

Law: pure; every figure is a coefficient that `capacity.py` measures, a constant of the gateway's own, or follows from
those two and from what is assumed of the fleet. Times are microseconds of a core, sizes bytes, rates a second.
"""

import json
import math
from dataclasses import astuple, dataclass, field
from pathlib import Path

from gateway.identity.changes import BLOCK_MS
from gateway.identity.mirror import REMEMBERED
from gateway.ledger.hours import KEPT
from gateway.ledger.ledger import HEARTBEAT
from gateway.ledger.retention import DAYS, MOST_BYTES
from gateway.peers.marks import MOST as MARKS
from gateway.peers.peers import BEAT, STEP
from gateway.roll import BEAT as ROLL
from gateway.upkeep import EVERY

FILE = Path(__file__).with_name("capacity.json")
"""The coefficients as they were measured last."""

CHANGES = 1000
"""Changes of rows that the peers' stream holds (`beat.lua`): with as many gateways each beat reads all."""

FEW, TURN = 10, 1.0
"""Gateways among which every heartbeat looks at the others, and seconds between two that do in their turn where they
are more (`leases.lua`)."""

TWICE = 2
"""Looks of whoever did so in its turn (`leases.py`)."""

MARK = 5
"""Bytes of one mark of a beginning, packed (a number below 2^32)."""

CLIENTS = 10_000
"""Connections that a Redis or Valkey takes where nobody has said otherwise (`maxclients`)."""


@dataclass(frozen=True)
class Cost:
    """What one operation costs: microseconds of the store's core and of the gateway's, bytes to the store and from it.

    `commands`: how many of them the gateway sends.
    """

    us: float = 0.0
    ours: float = 0.0
    received: float = 0.0
    sent: float = 0.0
    commands: float = 0.0

    def __add__(self, other):
        return Cost(*(one + another for one, another in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times):
        return Cost(*(one * times for one in astuple(self)))


@dataclass(frozen=True)
class Figures:
    """All coefficients.

    `costs`: of the store's operations; a heartbeat's among as many others as go together. `slopes`: what is
    added to them by each gateway that is looked at (`..._gateway`), open reservation (`..._open`), value told or read
    (`..._told`, `..._read`). `sizes`: bytes in the store. `gateway`: microseconds, bytes and counts of one gateway.
    `yards`: microseconds of the yardsticks then. `held`: what `streams.py` found of very many streams. `machine`: what
    it was all measured on.
    """

    costs: dict[str, Cost]
    slopes: dict[str, Cost]
    sizes: dict[str, float]
    gateway: dict[str, float]
    yards: dict[str, float]
    held: dict[str, float] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)


def load(path=FILE):
    """Read the coefficients that were measured last."""
    told = json.loads(path.read_text())
    costs, slopes = ({name: Cost(*cost) for name, cost in told[part].items()} for part in ("costs", "slopes"))
    return Figures(costs, slopes, told["sizes"], told["gateway"], told["yards"], told["held"], told["machine"])


@dataclass(frozen=True)
class Fleet:
    """What is assumed. `seconds`: of a stream; `events`: a second of each; `active`: keys that call within an hour.

    `backends`: that the file names, whose replicas the deployments are. `spread`: those of them that the calls of one
    key go to within an hour, for one model each. `mean`: the load of an average hour as a share of this one: what is
    kept for days is written at that.
    """

    gateways: int = 100
    keys: int = 1_000_000
    organizations: int = 1_000
    deployments: int = 200
    backends: int = 20
    streams: int = 100_000
    seconds: float = 30.0
    events: float = 20.0
    active: int = 100_000
    spread: int = 2
    mean: float = 1 / 3

    @property
    def calls(self):
        """Calls a second."""
        return self.streams / self.seconds


@dataclass(frozen=True)
class Machine:
    """What one shard of the store, or one gateway, has: bytes of memory, bytes a second, file descriptors."""

    memory: float
    network: float = 1.25e9
    descriptors: int = 65_536


SHARD, POD = Machine(64e9), Machine(2e9)


@dataclass(frozen=True)
class Load:
    """One kind of work of the store: so many a second, and what they take of it a second. `where`: what spreads it."""

    name: str
    where: str
    rate: float
    cost: Cost

    @property
    def cores(self):
        """The share of a core."""
        return self.cost.us / 1e6


def load_of(name, where, rate, cost):
    """Return the load of `rate` operations a second."""
    return Load(name, where, rate, cost * rate)


def of_call(figures):
    """Return what admission and settlement of one call cost where each goes alone, however many gateways call."""
    return figures.costs["admission"] + figures.costs["settlement"]


def looks(gateways):
    """Return which share of the heartbeats for an organization look at all of its gateways."""
    return 1 if gateways <= FEW else min(1, TWICE * HEARTBEAT / (TURN * gateways))


def of_heartbeat(figures, gateways, opened):
    """Return what one heartbeat costs with so many gateways and reservations of its own."""
    slopes = figures.slopes
    looked = slopes["heartbeat_gateway"] * ((gateways - 1) * looks(gateways))
    return figures.costs["heartbeat"] + looked + slopes["heartbeat_open"] * opened


def beats(gateways):
    """Return how often a second one of so many gateways tells the others."""
    return 1 / max(BEAT, STEP * gateways)


def of_beat(figures, gateways, deployments):
    """Return what one beat costs where every deployment's load has changed at every gateway."""
    told, read = figures.slopes["beat_told"], figures.slopes["beat_read"]
    marks = MARK * MARKS * (gateways - 1) / gateways
    heard = Cost(0, MARK * MARKS / gateways, marks, 0)
    return figures.costs["beat"] + told * deployments + read * ((gateways - 1) * deployments) + heard


def unknown(fleet):
    """Return the share of calls whose key a gateway has to read, where all active keys call alike."""
    return max(0.0, 1 - REMEMBERED / max(fleet.active, 1))


def loads(figures, fleet):
    """Return what the fleet asks of the store, a row for each kind of work."""
    g, costs = fleet.gateways, figures.costs
    pairs = g * fleet.organizations
    opened = fleet.streams / pairs
    return [
        load_of("admission and settlement, each alone", "organization", fleet.calls, of_call(figures)),
        load_of("heartbeats", "organization", pairs / HEARTBEAT, of_heartbeat(figures, g, opened)),
        load_of("looking after records", "organization", pairs / EVERY, costs["upkeep"]),
        load_of(
            "keys that a gateway has forgotten", "the shard of keys", fleet.calls * unknown(fleet), costs["key_read"]
        ),
        load_of("waiting for changes", "the shard of keys", g * 1000 / BLOCK_MS, costs["poll"]),
        load_of("who lives", "the shard of keys", g / ROLL, costs["roll"]),
        load_of("old lines of the audit, uses of who is gone", "the shard of keys", g / EVERY, costs["forget"]),
        load_of(
            "when keys were used", "the shard of keys", min(fleet.active, fleet.calls * EVERY) * 1 / EVERY, costs["use"]
        ),
        load_of("peers' beats", "the shard of peers", g * beats(g), of_beat(figures, g, fleet.deployments)),
    ]


def together(rows, where=None):
    """Add up the costs of rows, of one place alone if it is named."""
    total = Cost(0, 0, 0, 0)
    for row in rows:
        if where is None or row.where == where:
            total += row.cost
    return total


def memory(figures, fleet):
    """Return the store's bytes by what holds them: name, how many, bytes of all."""
    sizes, mean = figures.sizes, fleet.mean
    records = min(fleet.calls * mean * DAYS * 86_400, fleet.organizations * MOST_BYTES / sizes["record"])
    sums = fleet.active * mean * fleet.spread * KEPT
    rows = [
        ("keys, their index and their line in the audit", fleet.keys, sizes["key"]),
        ("organizations and teams, likewise", fleet.organizations, sizes["organization"]),
        ("when keys were used last", fleet.keys, sizes["use"]),
        ("meters of keys", fleet.keys, sizes["level"]),
        ("open calls", fleet.streams, sizes["reservation"] + sizes["count"] + sizes["slot"]),
        (f"records of {DAYS} days", records, sizes["record"]),
        (f"an hour's sums, {KEPT // 24} days of hours", sums, sizes["sum"]),
    ]
    return [(name, count, count * size) for name, count, size in rows]


@dataclass(frozen=True)
class Bound:
    """What one shard's core runs for one organization: calls a second, and the seconds of a round of all gateways."""

    calls: float
    round: float


def one_organization(figures, gateways):
    """Return the `Bound` where each call goes alone, and where 16 go together."""
    kept = of_heartbeat(figures, gateways, 0) * (gateways / HEARTBEAT)
    left = 1e6 - kept.us
    batch = figures.costs["together"]
    whole = batch.us / batch.commands
    alone = of_call(figures).us
    return Bound(left / alone, gateways * alone / 2e6), Bound(left / (whole * batch.commands), gateways * whole / 1e6)


@dataclass(frozen=True)
class Limit:
    """Something that has an end. `need` and `has` are of one unit; `first`: what to do about it."""

    name: str
    need: float
    has: float
    unit: str
    remedy: str

    @property
    def headroom(self):
        """How many times the need there is."""
        return self.has / self.need


def gateway_core(figures, fleet):
    """Return the shares of a core that a gateway uses: for calls, for events, and for what it tells and is told."""
    of, share = figures.gateway, 1 / fleet.gateways
    kept = loads(figures, fleet)[1:]  # what it says of its calls is in the calls
    return (
        fleet.calls * share * of["call_us"] / 1e6,
        fleet.streams * fleet.events * share * of["event_us"] / 1e6,
        sum(row.cost.ours for row in kept) * share / 1e6,
    )


def whole_sums(figures, fleet):
    """Return the bytes of the hours' sums where the calls of each key go to every backend within an hour."""
    return fleet.active * fleet.mean * fleet.backends * KEPT * figures.sizes["sum"]


def shards(figures, fleet):
    """Return how many shards the memory and the core of a cluster ask for, whichever is more, half of each free."""
    held = sum(size for _, _, size in memory(figures, fleet))
    used = together(loads(figures, fleet), "organization").us / 1e6
    return math.ceil(2 * max(held / SHARD.memory, used))


def limits(figures, fleet):
    """Return every limit, the one that breaks first at the head."""
    rows, of = loads(figures, fleet), figures.gateway
    here = fleet.streams / fleet.gateways
    alone, _ = one_organization(figures, fleet.gateways)
    keys, peers = together(rows, "the shard of keys"), together(rows, "the shard of peers")
    kept = sum(size for _, _, size in memory(figures, fleet))
    held = of["idle"] + here * of["stream"] + min(fleet.active, REMEMBERED) * of["key"]
    files = of["descriptors"] + here * of["stream_descriptors"]
    found = [
        Limit("memory of one store server", kept, SHARD.memory, "B", "a cluster"),
        Limit("core of one store server", together(rows).us / 1e6, 1.0, "", "a cluster"),
        Limit("network of one store server", together(rows).sent, SHARD.network, "B/s", "a cluster"),
        Limit("core of the shard of keys", keys.us / 1e6, 1.0, "", "fewer gateways"),
        Limit("core of the shard of peers", peers.us / 1e6, 1.0, "", "fewer deployments a store"),
        Limit("network of the shard of peers", peers.sent, SHARD.network, "B/s", "fewer deployments a store"),
        Limit("gateways that tell one another", fleet.gateways, CHANGES, "", "larger gateways"),
        Limit(
            "one organization's calls/s", fleet.calls / fleet.organizations, alone.calls, "", "fewer gateways for it"
        ),
        Limit("keys that a gateway remembers", fleet.active, REMEMBERED, "", "a store read a call beyond"),
        Limit("connections to one store server", fleet.gateways * of["connections"], CLIENTS, "", "`maxclients`"),
        Limit("a gateway's core", sum(gateway_core(figures, fleet)), 1.0, "", "more gateways"),
        Limit("a gateway's memory", held, POD.memory, "B", "more gateways"),
        Limit("a gateway's descriptors", files, POD.descriptors, "", "more gateways"),
    ]
    return sorted(found, key=lambda limit: limit.headroom)
