"""What the store's books say after all scenes, held against what engines told and what callers had.

Law: a reservation that another gateway gave up for lost and that was settled after all is the sum of its records. A
call that was told whole is booked as told; one that broke off, between what its caller had and what its engine wrote.
"""

import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field

from gateway.ledger.records import What
from tests.faults.books import ORGANIZATION, settled
from tests.parts.gateway import ADMIN_KEY

PLATFORM = "(platform)"
"""The account of what failed attempts cost."""


@dataclass
class Sums:
    """What is booked of one reservation, over all of its records."""

    input: int = 0
    output: int = 0
    estimated: bool = False


@dataclass
class Books:
    """What was found. Lists name calls and must be empty; `lost`: settlements that the store had acknowledged and lost.

    `told`, `booked`: tokens of calls that were told whole; `recorded`, `reported`: all tokens, by the records and by
    the usage report; `corrected`: calls that were given up for lost and settled.
    """

    calls: int = 0
    told: int = 0
    booked: int = 0
    recorded: int = 0
    reported: int = 0
    cut: int = 0
    corrected: int = 0
    reaped: float = 0.0
    served_alone: float = 0.0
    lost: float = 0.0
    repeated: float = 0.0
    unbooked: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    open: dict[str, int] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    differences: list[dict] = field(default_factory=list)
    check: int = -1

    def promises(self):
        """Return what must hold, and whether it does."""
        return {
            "every call is booked": not self.unbooked,
            "no call is booked twice": not self.twice,
            "booked as told": not self.wrong and self.told == self.booked,
            "nothing else is booked": not self.strays and self.recorded == self.reported,
            "no reservation is open": not any(self.open.values()),
            "no slot is held": not any(self.slots.values()),
            "the audit is clean": not self.differences and self.check == 0,
        }


async def audited(site, answers):
    """Wait until nothing is open, and read the books."""
    seen = Books()
    await settled(site.gateways, 60.0)
    _hold(await site.books.records(), site, answers, seen)
    for gateway in site.gateways:
        metrics = await gateway.metrics()
        seen.reaped += metrics.total("sluiceway_ledger_reaped")
        seen.served_alone += metrics.total("sluiceway_ledger_local")
        seen.lost += metrics.total("sluiceway_ledger_lost")
        seen.repeated += metrics.total("sluiceway_ledger_repeated")
    rows = [row for row in await site.gateways[1].usage(ORGANIZATION) if row["key"] != PLATFORM]
    seen.reported = sum(row["input_tokens"] + row["output_tokens"] for row in rows)
    seen.open, seen.slots = await site.books.reservations(), await site.books.slots()
    seen.differences = (await site.gateways[0].admin("GET", "/ledger/check"))["differences"]
    command = [sys.executable, "-c", "from gateway.cli import main; main()", "ledger", "check"]
    env = {**os.environ, "SLUICEWAY_ADMIN_KEY": ADMIN_KEY}
    url = site.gateways[0].url
    seen.check = subprocess.run([*command, "--url", url], env=env, capture_output=True, check=False).returncode  # noqa: ASYNC221 - nothing else goes on
    return seen


def _hold(records, site, answers, seen):
    sums, reservations = defaultdict(Sums), defaultdict(set)
    for record in records:
        if record.head.what is What.PLATFORM:
            continue
        sum_ = sums[record.head.id]
        sum_.input += record.head.input
        sum_.output += record.head.output
        sum_.estimated = record.head.estimated
        seen.corrected += record.head.what is What.CORRECTED
        if record.request_id:
            reservations[record.request_id].add(record.head.id)
    written = defaultdict(int)
    for engine in site.engines:
        for call in engine.calls:
            id_ = call.request.header("x-request-id")
            written[id_] = max(written[id_], call.tokens)
    for answer in answers:
        if answer.status == 200:
            _hold_one(answer, [sums[one] for one in reservations.pop(answer.id, ())], written[answer.id], seen)
    seen.recorded = sum(sum_.input + sum_.output for sum_ in sums.values())
    seen.strays = [*reservations]


def _hold_one(answer, found, written, seen):
    seen.calls += 1
    if len(found) != 1:
        (seen.twice if found else seen.unbooked).append(answer.id)
        return
    (sum_,) = found
    if not answer.is_good:
        seen.cut += 1
        if not answer.words <= sum_.output <= written:
            seen.wrong.append(f"{answer.id}: {answer.words} <= {sum_} <= {written}")
        return
    counted = answer.usage
    seen.told += counted["total_tokens"]
    seen.booked += sum_.input + sum_.output
    if (sum_.input, sum_.output, sum_.estimated) != (counted["prompt_tokens"], counted["completion_tokens"], False):
        seen.wrong.append(f"{answer.id} ({answer.backend}): {sum_}, told {counted}")
