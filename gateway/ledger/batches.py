"""Micro-batching: while one flush is in flight, later operations queue and go together in the next one.

Law: one flush at a time, one round trip a flush, one call of the script per organization in it. Who waits for an
answer waits for no timer: it goes at once where the store is idle, else with the next flush, and gets its answer or
`StoreDown`. What nobody waits for (settlements) gives others `LINGER` to come along, and is repeated until it is done;
it goes before whatever came after it, so that this gateway's next call finds the room that it makes.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from itertools import islice

import structlog

from gateway import clock
from gateway.ledger import wire
from gateway.store.door import NoScriptError, Store, StoreDown

log = structlog.get_logger("sluiceway.ledger")

MOST_OPERATIONS = 32
"""Operations of one organization in one flush."""

PATIENT_SHARE = MOST_OPERATIONS // 2
"""Places of those that settlements may take when more wait than fit: fewer, and they would never catch up."""

MOST_ORGANIZATIONS = 64
"""Organizations in one flush."""

LINGER = 0.01
"""Seconds that a settlement waits for company where the store is idle."""

FIRST_RETRY, LAST_RETRY = 0.05, 1.0
"""Seconds after which what was lost is sent again; doubled each time."""


class Operation(ABC):
    """One operation on one organization's books, from its submission to its answer."""

    urgent = True
    """Whether somebody waits for the answer."""

    def __init__(self, organization: str) -> None:
        self.organization = organization
        self.sent = False

    def wanted(self) -> bool:
        """Tell whether it still makes sense to send it."""
        return True

    @abstractmethod
    def body(self, arguments: wire.Arguments) -> wire.Body:
        """Return what the script reads."""

    @abstractmethod
    def answered(self, answer: wire.Answer) -> None:
        """Take the script's answer."""

    @abstractmethod
    def failed(self, error: StoreDown) -> bool:
        """Learn that it was lost, if it was `sent` perhaps after it was done; return whether to send it again."""


class Contact:
    """For how long the store has answered without a break; a silence longer than `gap` seconds is one."""

    def __init__(self, gap: float) -> None:
        self._gap = gap
        self._began: float | None = None
        self._last = 0.0

    def since(self, now: float) -> float | None:
        """Return when the contact that is unbroken at `now` began (monotonic seconds), None if there is none."""
        return self._began if now - self._last <= self._gap else None

    def made(self, now: float) -> None:
        """Note an answer."""
        if self.since(now) is None:
            self._began = now
        self._last = now

    def lost(self) -> None:
        """Note that an answer did not come."""
        self._began = None


class _Queue:
    """What waits for one organization."""

    __slots__ = ("patient", "urgent")

    def __init__(self) -> None:
        self.urgent: deque[Operation] = deque()
        self.patient: deque[Operation] = deque()

    def take(self) -> list[Operation]:
        """Take what goes with the next flush: settlements first, since they make room."""
        share = min(len(self.patient), max(PATIENT_SHARE, MOST_OPERATIONS - len(self.urgent)))
        taken = [self.patient.popleft() for _ in range(min(share, MOST_OPERATIONS))]
        while self.urgent and len(taken) < MOST_OPERATIONS:
            operation = self.urgent.popleft()
            if operation.wanted():
                taken.append(operation)
        return taken


class Batches:
    """The one way of the ledger's operations to the store."""

    def __init__(self, store: Store, gateway: str, contact: Contact) -> None:
        self._store = store
        self._gateway = gateway
        self._contact = contact
        self._queues: dict[str, _Queue] = {}
        self._lost: list[Operation] = []
        self._retry: asyncio.TimerHandle | None = None
        self._retry_after = FIRST_RETRY
        self._flushing: asyncio.Task[None] | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._down = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def load(self) -> None:
        """Give the script to the store. Raises `StoreDown`."""
        await self._store.send(["SCRIPT", "LOAD", wire.SCRIPT])

    def submit(self, operation: Operation) -> None:
        """Send `operation` with the next flush: at once if none is in flight and somebody waits for it."""
        queue = self._queues.get(operation.organization)
        if queue is None:
            queue = self._queues[operation.organization] = _Queue()
        (queue.urgent if operation.urgent else queue.patient).append(operation)
        self._idle.clear()
        if self._flushing is not None:
            return
        if operation.urgent:
            self._begin()
        elif self._lingering is None:
            self._lingering = asyncio.get_running_loop().call_later(LINGER, self._begin)

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
            while self._queues:
                await self._send(self._take())
        finally:
            self._flushing = None
            if not self._lost:
                self._idle.set()

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

    async def _send(self, batches: list[list[Operation]]) -> None:
        ready = [(operations, command) for operations in batches if (command := self._written(operations))]
        if not ready:
            return
        batches = [operations for operations, _ in ready]
        try:
            replies = await self._evaluate([command for _, command in ready])
        except (StoreDown, NoScriptError) as error:
            self._store_down(batches, StoreDown(str(error)))
            return
        self._contact.made(clock.monotonic())
        if self._down:
            self._down = False
            log.info("the store answers again")
        if not self._lost:
            self._retry_after = FIRST_RETRY
        for operations, reply in zip(batches, replies, strict=True):
            self._deliver(operations, reply)

    def _written(self, operations: list[Operation]) -> list[str | bytes | int] | None:
        """Write a call of the script; one that cannot be written fails, and is not tried again."""
        try:
            return self._command(operations)
        except Exception as error:
            log.exception("operations that cannot be written are given up", organization=operations[0].organization)
            for operation in operations:
                operation.failed(StoreDown(f"the ledger cannot write this: {error}"))
            return None

    def _command(self, operations: list[Operation]) -> list[str | bytes | int]:
        arguments = wire.Arguments()
        bodies = [operation.body(arguments) for operation in operations]
        for operation in operations:
            operation.sent = True
        return wire.call(operations[0].organization, self._gateway, bodies, arguments)

    async def _evaluate(self, commands: list[list[str | bytes | int]]) -> list[bytes]:
        """Run the script, and once more if the store had forgotten it: whatever had run counts once."""
        try:
            return await self._store.send(*commands)
        except NoScriptError:
            await self.load()
            return await self._store.send(*commands)

    def _deliver(self, operations: list[Operation], reply: bytes) -> None:
        try:
            answers = wire.answers(reply)
        except wire.ScriptFailed as error:
            answers = [[wire.FAILED, str(error)]] * len(operations)
        for operation, answer in zip(operations, answers, strict=True):
            if answer[0] == wire.FAILED:
                self._fail(operation, StoreDown(f"the ledger's script failed: {answer[1]}"))
            else:
                operation.answered(answer)

    def _store_down(self, batches: list[list[Operation]], error: StoreDown) -> None:
        """Fail what was in flight and whoever waits behind it: they would only wait for the same silence."""
        self._contact.lost()
        if not self._down:
            self._down = True
            log.error("the store is down: every call is refused until it answers", why=str(error))
        for operations in batches:
            for operation in operations:
                self._fail(operation, error)
        waiting, self._queues = self._queues, {}
        for queue in waiting.values():
            for operation in (*queue.patient, *queue.urgent):
                self._fail(operation, error)

    def _fail(self, operation: Operation, error: StoreDown) -> None:
        if not operation.failed(error):
            return
        self._lost.append(operation)
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(self._retry_after, self._try_again)
            self._retry_after = min(LAST_RETRY, self._retry_after * 2)

    def _try_again(self) -> None:
        self._retry = None
        lost, self._lost = self._lost, []
        for operation in lost:
            self.submit(operation)
        self._begin()
