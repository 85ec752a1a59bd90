"""The ledger under faults, with figures: `python -m tests.faults.ledger [NAME ...]` (soak).

Names: crowding, killing, failover, batching, widow, outage; all of them without any. Exits with 1 where a promise is
broken.
"""

import asyncio
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.batching import batching
from tests.faults.crowding import SLOTS, crowding
from tests.faults.failover import failover
from tests.faults.killing import BACK_WITHIN, STREAMS, killing
from tests.faults.outage import AWAY, PURSE, outage
from tests.faults.outage import SLOTS as SLOTS_AWAY
from tests.faults.widow import widow

ADDED_P99 = 0.3
"""Seconds that the store's absence may add to the 99th percentile of admitted calls."""

ROUNDING = 1
"""Calls by which a share may be exceeded: a gateway knows the store's clock, and what others took, as of its last
answer."""


def _crowding(seen):
    yield "rate", seen.beyond_rate <= 0
    yield "slots", max(seen.most_slots, seen.most_slots_sampled) <= SLOTS
    yield "told is booked", not (seen.told_wrong or seen.unbooked or seen.rows_wrong or seen.broken)
    yield "cuts within what was in flight", not seen.cut_outside
    yield "cuts unbiased", abs(seen.bias) < 1
    yield "audit", not (seen.differences or seen.differences_midway)


def _killing(seen):
    yield "back in time", max(seen.back_after, seen.admitted_after) <= BACK_WITHIN
    yield "all expired", seen.expired == seen.reaped == STREAMS
    yield "charged to the last heartbeat", not seen.outside
    yield "audit", not (seen.differences or seen.slots_left)


def _failover(seen):
    yield "service goes on", seen.gap <= 5
    yield "told is booked, or counted as lost", not seen.told_wrong and seen.unbooked <= seen.lost
    yield "rate", seen.beyond_rate <= seen.lost
    yield "audit", not seen.differences


def _batching(seen):
    yield "round trips", seen.round_trips_a_call <= 0.3


def _outage(seen):
    yield "no failure", not seen.failures
    yield "delay", seen.added_p99 <= ADDED_P99
    yield "share", seen.beyond_share <= ROUNDING
    yield "rate", seen.beyond_rate <= ROUNDING
    yield "what may be used in all", max(seen.purse_share, seen.purse / PURSE) <= 1
    yield "slots", seen.slots_away <= max(1, SLOTS_AWAY // seen.gateways)
    yield "cuts within what was in flight", not seen.cut_outside
    yield "no live stream reaped", not (seen.expired or seen.reaped)
    yield "told is booked", not (seen.told_wrong or seen.unbooked)
    yield "audit", not seen.differences


def _widow(seen):
    yield "told is booked", not (seen.told_wrong or seen.unbooked)
    yield "nothing held", not (seen.held or seen.slots)
    yield "audit", not seen.differences


FAULTS = {
    "crowding": (crowding, _crowding, [()]),
    "killing": (killing, _killing, [()]),
    "failover": (
        failover,
        _failover,
        [("cluster", 0.0), ("cluster", 0.4), ("sentinels", 0.0), ("sentinels", 0.4)],
    ),
    "batching": (batching, _batching, [(1,), (8,)]),
    "widow": (widow, _widow, [()]),
    "outage": (outage, _outage, [(kind, gateways) for kind in AWAY for gateways in (1, 2)]),
}
"""Each fault: what makes it, what must hold, and with which arguments."""


def _cell(value):
    if isinstance(value, list):
        return f"{len(value)}" + (f": {value[0]}" if value else "")
    return f"{value:,.4g}" if isinstance(value, float) else f"{value}"


def main(names):
    """Make each fault and print what was seen; return how many promises were broken."""
    console, broken = Console(width=140), 0
    for name in names or FAULTS:
        make, judge, cases = FAULTS[name]
        table = Table("figure", *(" ".join(map(str, case)) or name for case in cases), title=name)
        columns = []
        for case in cases:
            with tempfile.TemporaryDirectory() as folder:
                seen = asyncio.run(make(Path(folder), *case))
            promises = dict(judge(seen))
            broken += sum(not kept for kept in promises.values())
            columns.append(asdict(seen) | {promise: "kept" if kept else "BROKEN" for promise, kept in promises.items()})
        for row in columns[0]:
            table.add_row(row, *(_cell(column[row]) for column in columns))
        console.print(table)
    return broken


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
