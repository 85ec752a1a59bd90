"""The ledger while the store is away: this gateway's share of what was left, by itself.

Law: only what the store has told of a meter is shared out, frozen with the number of gateways at the moment it went;
what was never touched, or belongs to a plan that says `deny`, is not served. Whatever is admitted and spent meanwhile
waits for the store in memory and lies on disk as well, so that neither its return nor our end loses any of it.
"""

import asyncio
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import structlog
from msgspec import msgpack

from gateway import clock
from gateway.files import apart
from gateway.ledger import wire
from gateway.ledger.holdings import Holding, Open
from gateway.ledger.journal import Journal, forget, read_all
from gateway.ledger.plans import Packed
from gateway.ledger.queues import Operation, Patient
from gateway.ledger.ring import TOGETHER, Call
from gateway.store.door import Store, StoreDown
from policies.domain import Bill, Claim
from policies.limits import refusal
from policies.meters import SECOND_US, SORTS, Keeping, field
from policies.rejections import Rejection
from policies.shares import Known, Outcome, Shares, Verdict, stance

log = structlog.get_logger("sluiceway.ledger")

FRESH = 60.0
"""Seconds before the store went within which a meter must have been told of to be known: others use it, too."""

FORGOTTEN_US = round(2 * FRESH * SECOND_US)
"""Microseconds after which what was told of a meter is dropped: it would not be shared out any more."""

LAST = 5.0
"""Seconds that a stop gives to a disk: one that works takes milliseconds."""

Place = tuple[str, str]
"""A level's id and a meter's field."""


class Told(Patient):
    """Tells the store of an admission that was made without it; nobody waits."""

    ordered = True

    def __init__(self, id_: str, claim: Claim, packed: Packed, admitted_us: int) -> None:
        super().__init__(claim.organization)
        self._id = id_
        self._claim = claim
        self._packed = packed
        self._admitted_us = admitted_us

    def body(self, arguments: wire.Arguments) -> wire.Body:
        """Return what the script reads."""
        return wire.admission(self._id, self._claim, arguments.place(self._packed.blob), forced=self._admitted_us)

    def answered(self, answer: wire.Answer, now_us: int) -> None:
        """Do nothing: it is in the books now."""


class ToldGrowth(Patient):
    """Tells the store of more that was set aside without it, by the step at which it was asked for in vain."""

    def __init__(self, organization: str, body: wire.Body) -> None:
        super().__init__(organization)
        self._body = (*body, True)

    def body(self, arguments: wire.Arguments) -> wire.Body:  # noqa: ARG002 - it needs none
        """Return what the script reads."""
        return self._body

    def answered(self, answer: wire.Answer, now_us: int) -> None:
        """Do nothing: it is in the books now, or its call was settled first."""


class Frozen:
    """One organization's meters as its last answer told them, and its shares while the store is away.

    `shares` outlive the outage until the store has been told what was taken from them: until then it knows less than
    we do, and would have us give that out again. `at`: when the last answer came (monotonic seconds); `live`: gateways
    that lived then.
    """

    def __init__(self) -> None:
        self.shares: Shares | None = None
        self._told: dict[Place, tuple[int, int]] = {}
        self._now_us = 0
        self.at = 0.0
        self.live = 0

    def heard(self, reply: wire.Reply) -> None:
        """Remember what is used of each meter that was touched, and how many gateways live."""
        self._now_us, self.at, self.live = reply.now_us, clock.monotonic(), reply.live
        told, touched = self._told, reply.touched
        for i in range(0, len(touched), 3):
            place = touched[i], touched[i + 1]
            told.pop(place, None)  # so that the first is the one told of longest ago
            told[place] = touched[i + 2], reply.now_us
        oldest = reply.now_us - FORGOTTEN_US
        while told and next(iter(told.values()))[1] < oldest:
            del told[next(iter(told))]

    def now_us(self) -> int:
        """Return the store's clock, as it would go on."""
        return self._now_us + round((clock.monotonic() - self.at) * SECOND_US)

    def shared(self, holding: Holding, zone: str) -> Shares:
        """Return the shares of this outage, made at its first question."""
        if self.shares is None:
            held = _slots_held(holding)
            oldest = self._now_us - round(FRESH * SECOND_US)
            known = {
                place: Known(used, at_us, held.get(place, 0))
                for place, (used, at_us) in self._told.items()
                if at_us >= oldest
            }
            self.shares = Shares(known, self.live, ZoneInfo(zone))
        return self.shares


def _slots_held(holding: Holding) -> dict[Place, int]:
    held: dict[Place, int] = {}
    for one in holding.open.values():
        for level, meter in one.packed.meters:
            if SORTS[meter.kind].keeping is Keeping.SLOTS:
                place = (level.id, field(meter))
                held[place] = held.get(place, 0) + 1
    return held


class Local:
    """The local books of one gateway. `admissions` counts what it has let in by itself, `fault` is its journal's."""

    def __init__(self, folder: Path, gateway: str, store: Store) -> None:
        self.admissions = 0
        self._folder = folder
        self._gateway = gateway
        self._store = store
        self._journal = Journal(folder, gateway)
        self._written = False
        self._dropping: asyncio.Task[None] | None = None
        self._frozen: dict[str, Frozen] = {}

    @property
    def fault(self) -> str | None:
        """Why the journal is not on disk, None while it is."""
        return self._journal.fault

    def heard(self, organization: str, reply: wire.Reply) -> None:
        """Take what the store told of an organization's meters, and of its gateways."""
        frozen = self._frozen.get(organization)
        if frozen is None:
            frozen = self._frozen[organization] = Frozen()
        frozen.heard(reply)
        if not self._written:
            frozen.shares = None

    def ask(self, holding: Holding, claim: Claim) -> int | Rejection | None:
        """Return when `claim` was admitted (the store's clock, microseconds), or who refuses it.

        None where it is not for us to say: a plan says `deny`, or a meter is not known.
        """
        frozen = self._known(claim)
        if frozen is None:
            return None
        now_us = frozen.now_us()
        outcome = frozen.shared(holding, claim.time_zone).admit(claim, now_us)
        if not outcome.granted:
            return _refused(claim, outcome)
        self.admissions += 1
        return now_us

    def grow(self, holding: Holding, claim: Claim, one: Open, output_tokens: int, money: int) -> Rejection | None:
        """Take more for an open reservation; None where it is granted. Raises `StoreDown` where we cannot say."""
        frozen = self._known(claim)
        if frozen is not None:
            shares = frozen.shared(holding, claim.time_zone)
            when = {"admitted_us": one.admitted_us, "now_us": frozen.now_us()}
            outcome = shares.grow(claim, output_tokens, money, **when)
            refused = _refused(claim, outcome)
            if outcome.granted or refused is not None:
                return refused
        raise StoreDown("the store is away, and what is left is not known here")

    def _known(self, claim: Claim) -> Frozen | None:
        """Return what is known of the claim's organization; None if a plan says `deny`, or it is too long ago."""
        frozen = self._frozen.get(claim.organization)
        if frozen is None or not frozen.live or stance(claim.levels) == "deny":
            return None
        lost_at = clock.monotonic() if self._store.down_since is None else self._store.down_since
        return None if frozen.shares is None and lost_at - frozen.at > FRESH else frozen

    def settled(self, claim: Claim, one: Open, bill: Bill) -> None:
        """Give back to our share what a call did not use, or take what it used beyond."""
        frozen = self._frozen.get(claim.organization)
        if frozen is None or frozen.shares is None:
            return
        usage = bill.usage
        frozen.shares.settle(
            claim,
            usage.prompt_tokens - claim.input_tokens,
            usage.completion_tokens - claim.output_tokens - one.grown_tokens,
            bill.money - claim.money - one.grown_money,
            admitted_us=one.admitted_us,
            now_us=frozen.now_us(),
        )

    def write(self, operation: Operation) -> None:
        """Put an operation that the store must learn of on disk."""
        arguments = wire.Arguments()
        body = operation.body(arguments)
        self._journal.append(wire.pack((operation.organization, wire.pack([body]), arguments.values)))
        self._written = True

    def caught_up(self) -> None:
        """Drop the shares and the journal: the store has been told everything that is in them."""
        if self._written:
            self._written = False
            for frozen in self._frozen.values():
                frozen.shares = None
            self._dropping = clock.spawn(self._drop(), "drop the journal")

    async def _drop(self) -> None:
        """Drop the journal, unless the store is away again and something was written since."""
        if not self._written:
            await self._journal.drop()

    async def start(self, store: Store) -> None:
        """Tell `store` what former gateways of this folder had no time to tell. Raises `StoreDown`.

        A journal that the script cannot take whole stays for the next start: twice told, the rest of it counts once.
        """
        journals = read_all(self._folder)
        while (journal := await apart(partial(next, journals, None))) is not None:
            gateway, entries = journal
            faults: set[str] = set()
            for first in range(0, len(entries), TOGETHER):
                calls = [Call(*msgpack.decode(entry)) for entry in entries[first : first + TOGETHER]]
                for reply in await store.send(*(call.command(gateway) for call in calls)):
                    faults.update(_faults(reply))
            if faults:
                log.error("a journal cannot be told to the store, and is kept", gateway=gateway, why=sorted(faults))
            else:
                await apart(partial(forget, self._folder, gateway))

    async def close(self) -> None:
        """Write down what is not on disk yet, and leave nothing there that the store has been told.

        A disk that hangs is given `LAST` seconds.
        """
        try:
            async with asyncio.timeout(LAST):
                if self._dropping is not None:
                    await self._dropping
                await self._journal.close()
        except TimeoutError:
            told = "the journal's disk does not answer, and is no longer waited for: what is not on it is lost"
            log.error(told, folder=str(self._folder), waited=LAST)  # noqa: TRY400 - no traceback: a disk is at fault


def _faults(reply: bytes) -> list[str]:
    """Return what the script says it could not do."""
    try:
        return [answer[1] for answer in wire.read(reply).answers if answer[0] == wire.FAILED]
    except wire.ScriptFailed as error:
        return [str(error)]


def _refused(claim: Claim, outcome: Outcome) -> Rejection | None:
    """Return the refusal, None where nothing refuses and where the meter that would is not known."""
    level, meter = outcome.level, outcome.meter
    if outcome.verdict is Verdict.UNKNOWN or level is None or meter is None:
        return None
    return refusal(
        claim,
        level,
        meter,
        retry_after_us=outcome.wait_us if outcome.verdict is Verdict.WAIT else None,
        too_large=outcome.verdict is Verdict.TOO_LARGE,
        requests=None,
        tokens=None,
        tightest=None,
    )
