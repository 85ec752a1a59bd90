"""Micro-batching: while one flush is in flight, later operations queue and go together in the next one.

Law: one flush at a time, one round trip a flush, one call of the script per organization in it. Who waits for an
answer waits for no timer: it goes at once where the store is idle, else with the next flush, and gets its answer or
`StoreDown`. What nobody waits for (settlements) gives others `LINGER` to come along, and is repeated until it is done;
it goes before whatever came after it, so that this gateway's next call finds the room that it makes.
"""

import asyncio
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import Protocol

import structlog

from gateway import clock
from gateway.ledger import wire
from gateway.ledger.contact import Contact
from gateway.ledger.queues import MOST_OPERATIONS, BooksBroken, NotToldError, Operation, Queue
from gateway.ledger.ring import Call, Ring
from gateway.store.door import NoScriptError, Store, StoreDown

log = structlog.get_logger("sluiceway.ledger")

MOST_ORGANIZATIONS = 64
"""Organizations in one flush."""

MOST_BYTES = 64 * 1024
"""Bytes of one call; what is longer is cut in two, as long as it has more than one operation."""

LINGER = 0.01
"""Seconds that a settlement waits for company where the store is idle."""

FIRST_RETRY, LAST_RETRY = 0.05, 1.0
"""Seconds after which what was lost is sent again; doubled each time."""


class Watch(Protocol):
    """Whoever must know how the store fares, to decide without it."""

    def heard(self, organization: str, reply: wire.Reply) -> None:
        """Take what the store told of an organization's meters, and of its gateways."""

    def write(self, operation: Operation) -> None:
        """Put an operation on disk that the store has not been told of."""

    def caught_up(self) -> None:
        """Learn that the store has been told everything."""


class Batches:
    """The one way of the ledger's operations to the store; `watch`: who decides without it, None where nobody does."""

    def __init__(self, store: Store, gateway: str, contact: Contact, watch: Watch | None = None) -> None:
        self.ring = Ring(store, gateway)
        self._store = store
        self._gateway = gateway
        self._contact = contact
        self._queues: dict[str, Queue] = {}
        self._asked: dict[str, int] = {}
        self._lost: deque[Operation] = deque()
        self._retry: asyncio.TimerHandle | None = None
        self._retry_after = FIRST_RETRY
        self._flushing: asyncio.Task[None] | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._watch = watch
        self._idle = asyncio.Event()
        self._idle.set()
        store.on_return(self._try_again)

    async def load(self) -> None:
        """Give the script to the store. Raises `StoreDown`."""
        await self._store.load(wire.SCRIPT)

    def submit(self, operation: Operation) -> None:
        """Send `operation` with the next flush: at once if none is in flight and somebody waits for it."""
        if self._store.down is not None:
            self._fail([operation], StoreDown(self._store.down))
            return
        queue = self._queues.get(operation.organization)
        if queue is None:
            queue = self._queues[operation.organization] = Queue()
        (queue.urgent if operation.urgent else queue.patient).append(operation)
        self._idle.clear()
        if self._flushing is not None:
            return
        if operation.urgent:
            self._begin()
        elif self._lingering is None:
            self._lingering = asyncio.get_running_loop().call_later(LINGER, self._begin)

    def tell(self, operation: Operation) -> None:
        """Send `operation` before anything that is submitted later, as soon as the store can take it."""
        self._kept([operation])
        self._lost.append(operation)
        self._idle.clear()
        if self._store.down is None:
            self._begin()

    def forget(self, organization: str) -> None:
        """Forget how far an organization's books had come: nothing of this gateway is open there."""
        self._asked.pop(organization, None)

    async def drain(self, seconds: float) -> None:
        """Wait until everything is done, `seconds` at most; then stop repeating what was lost."""
        if self._lingering is not None:
            self._begin()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _begin(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if self._flushing is None:
            self._flushing = clock.spawn(self._flush(), "ledger flush")

    async def _flush(self) -> None:
        try:
            while self._queues or self._due:
                if self.ring.due:
                    await self._look()
                elif self._due:
                    await self._send(self._take_lost(), again=True)
                elif behind := {one.organization for one in self._lost if one.ordered} & self._queues.keys():
                    for organization in behind:
                        queue = self._queues.pop(organization)
                        error = NotToldError("what was admitted without the store is not told yet")
                        self._fail([*queue.patient, *queue.urgent], error)
                else:
                    await self._send(self._take())
        finally:
            self._flushing = None
            if not self._lost:
                self._idle.set()
                if self._watch is not None:
                    self._watch.caught_up()

    @property
    def _due(self) -> bool:
        """Whether what was lost is to be sent now: before anything new, since it has the lower numbers."""
        return bool(self._lost) and self._retry is None

    async def _look(self) -> None:
        """See who is behind the store's address, and tell it again what it may have lost."""
        try:
            await self.ring.tell_again()
        except Exception as error:
            if not isinstance(error, StoreDown | NoScriptError):
                log.exception("what the store may have lost cannot be told again")
            self._store_down([], StoreDown(str(error)), again=False)

    def _take(self) -> list[list[Operation]]:
        """Take the next operations of each organization; one with more to do goes to the end of the line."""
        taken = []
        for organization in list(islice(self._queues, MOST_ORGANIZATIONS)):
            queue = self._queues.pop(organization)
            if operations := queue.take():
                taken.append(operations)
            if queue.urgent or queue.patient:
                self._queues[organization] = queue
        return taken

    def _take_lost(self) -> list[list[Operation]]:
        """Take the first of what was lost, in order; an organization may have several calls in one flush."""
        taken: list[list[Operation]] = []
        last: dict[str, list[Operation]] = {}
        while self._lost:
            batch = last.get(self._lost[0].organization)
            if batch is None or len(batch) >= MOST_OPERATIONS:
                if len(taken) >= MOST_ORGANIZATIONS:
                    break
                batch = last[self._lost[0].organization] = []
                taken.append(batch)
            batch.append(self._lost.popleft())
        return taken

    async def _send(self, batches: list[list[Operation]], *, again: bool = False) -> None:
        """Send what was taken; `again`: from what was lost, to whose front it returns if it is lost once more."""
        ready = [one for operations in batches for one in self._written(operations)]
        if not ready:
            return
        touched = self._watch is not None
        try:
            asked = self._asked
            commands = [
                call.command(self._gateway, touched=touched, asked=asked.get(call.organization, 0)) for _, call in ready
            ]
            replies = await self._evaluate(commands)
        except Exception as error:
            if not isinstance(error, StoreDown | NoScriptError):
                log.exception("a flush failed; whoever waits for it is told")
            self._store_down([operations for operations, _ in ready], StoreDown(str(error)), again=again)
            return
        now = clock.monotonic()
        self._contact.made(now)
        if not self._lost:
            self._retry_after = FIRST_RETRY
        undone: list[Operation] = []
        for (operations, call), reply in zip(ready, replies, strict=True):
            if not self._deliver(operations, call, reply, now):
                undone += operations
        self._lost.extendleft(reversed(undone))

    def _written(self, operations: list[Operation]) -> list[tuple[list[Operation], Call]]:
        """Write a call of the script, or more where it is too long; what cannot be written fails alone and for good."""
        arguments, half = wire.Arguments(), len(operations) // 2
        try:
            bodies = wire.pack([operation.body(arguments) for operation in operations])
        except Exception as error:
            if half:
                return self._written(operations[:half]) + self._written(operations[half:])
            log.exception("an operation that cannot be written is given up", organization=operations[0].organization)
            operations[0].failed(StoreDown(f"the ledger cannot write this: {error}"))
            return []
        if half and len(bodies) + sum(map(len, arguments.values)) > MOST_BYTES:
            return self._written(operations[:half]) + self._written(operations[half:])
        for operation in operations:
            operation.sent = True
        return [(operations, Call(operations[0].organization, bodies, arguments.values))]

    async def _evaluate(self, commands: list[wire.Words]) -> list[bytes]:
        """Run the script, and once more if the store had forgotten it: whatever had run counts once."""
        try:
            return await self._store.send(*commands)
        except NoScriptError:
            await self.load()
            return await self._store.send(*commands)

    def _deliver(self, operations: list[Operation], call: Call, packed: bytes, now: float) -> bool:
        """Give everybody their answers; False where the store did nothing, since it is behind."""
        try:
            reply = wire.read(packed)
        except wire.StoreBehindError:
            log.warning("the store has lost what it acknowledged: it is told again", organization=call.organization)
            self._asked[call.organization] = 0
            self.ring.suspect(call.organization)
            return False
        except wire.ScriptFailed as error:
            self._fail(operations, BooksBroken(f"the ledger's script failed: {error}"))
            return True
        self._asked[call.organization] = reply.asked
        self.ring.keep(now, call, packed)
        if self._watch is not None:
            self._watch.heard(call.organization, reply)
        for operation, answer in zip(operations, reply.answers, strict=True):
            if answer[0] == wire.FAILED:
                self._fail([operation], BooksBroken(f"the ledger's script failed: {answer[1]}"))
                continue
            try:
                operation.answered(answer, reply.now_us)
            except Exception:  # the others wait for theirs
                log.exception("an answer of the store could not be taken", organization=call.organization)
        return True

    def _store_down(self, batches: list[list[Operation]], error: StoreDown, *, again: bool) -> None:
        """Fail what was in flight and whoever waits behind it: they would only wait for the same silence."""
        self._contact.lost()
        for operations in reversed(batches) if again else batches:
            self._fail(operations, error, first=again)
        waiting, self._queues = self._queues, {}
        for queue in waiting.values():
            self._fail([*queue.patient, *queue.urgent], error)
        if any(operation.urgent for operation in self._lost):  # the store did nothing of them, for it was behind
            kept, self._lost = self._lost, deque(one for one in self._lost if not one.urgent)
            self._fail([one for one in kept if one.urgent], error)
        if self._lost:
            self._later()

    def _fail(self, operations: list[Operation], error: StoreDown, *, first: bool = False) -> None:
        """Tell whoever waits, and keep what is to be sent again, `first` or last of what was lost."""
        lost = [operation for operation in operations if operation.failed(error)]
        if not lost:
            return
        self._kept(lost)
        if first:
            self._lost.extendleft(reversed(lost))
        else:
            self._lost.extend(lost)
        self._idle.clear()
        self._later()

    def _kept(self, operations: list[Operation]) -> None:
        """Have what is lost for now on disk, once."""
        for operation in operations:
            if self._watch is not None and not operation.kept:
                operation.kept = True
                self._watch.write(operation)

    def _later(self) -> None:
        """Send what was lost again after a while, unless that is to be done already."""
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(self._retry_after, self._try_again)
            self._retry_after = min(LAST_RETRY, self._retry_after * 2)

    def _try_again(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._begin()
