"""A store that answers as told, and operations that tell what became of them."""

import asyncio

import msgspec

from gateway.ledger import wire
from gateway.ledger.batches import Operation
from gateway.store.door import NoScriptError, StoreDown


class ScriptedStore:
    """Notes what it is sent, waits unless `held` is set, and answers with `answer`, but first with its `failures`."""

    def __init__(self):
        self.flushes = []  # of each: [(stem, operations), ...]
        self.loaded = 0
        self.organizations = []
        self.failures = []
        self.held = asyncio.Event()
        self.held.set()

    def answer(self, body):
        return [wire.DONE]

    async def send(self, *commands):
        if commands[0][0] == "SCRIPT":
            self.loaded += 1
            return [b"sha"]
        if commands[0][0] == "SMEMBERS":
            return [set(self.organizations)]
        if commands[0][0] == "SADD":
            self.organizations.append(commands[0][2].encode())
            return [1]
        await self.held.wait()
        calls = [(command[3], msgspec.msgpack.decode(command[5])) for command in commands]
        self.flushes.append(calls)
        if self.failures:
            raise self.failures.pop(0)
        return [msgspec.msgpack.encode([1, [self.answer(body) for body in bodies]]) for _, bodies in calls]

    def sent(self):
        """Return the names in every flush, by organization."""
        return [{stem: [body[1] for body in bodies] for stem, bodies in calls} for calls in self.flushes]


class Noted(Operation):
    """An operation whose outcome a test looks at."""

    def __init__(self, name, organization="o", *, urgent=True, wanted=True, again=False):
        super().__init__(organization)
        self.name = name
        self.urgent = urgent
        self.is_wanted = wanted
        self.again = again
        self.outcome = None

    def wanted(self):
        return self.is_wanted

    def body(self, arguments):
        return (wire.SETTLE, self.name)

    def answered(self, answer):
        self.outcome = answer

    def failed(self, error):
        self.outcome = error
        return self.again


DOWN = StoreDown("away")
FORGOTTEN = NoScriptError("NOSCRIPT")
