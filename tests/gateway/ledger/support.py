"""A store that answers as told, and operations that tell what became of them."""

import asyncio

import msgspec

from gateway.ledger import wire
from gateway.ledger.queues import Operation
from gateway.store.door import NoScriptError, StoreDown

GRANTED = [wire.DONE, *[0] * 8, []]
"""The answer to an admission or a growth that no meter had to be asked for."""


class ScriptedStore:
    """Notes what it is sent, waits unless `held` is set, and answers with `answer`, but first with its `failures`.

    `servers`: who is behind the address, by name; `looks` counts the questions for that. `touched`: what is told of the
    meters that were touched. `now_us`: its clock.
    """

    def __init__(self):
        self.flushes = []  # of each: [(stem, operations), ...]
        self.commands = []  # of each flush, as they came
        self.loaded = 0
        self.organizations = []
        self.failures = []
        self.held = asyncio.Event()
        self.held.set()
        self.down = None
        self.down_since = None
        self.connects = 1
        self.servers = {"store:6379": "first"}
        self.looks = 0
        self.touched = []
        self.now_us = 1
        self._callbacks = []

    def answer(self, body):
        return [wire.DONE]

    def on_return(self, callback):
        self._callbacks.append(callback)

    def come_back(self):
        """Be there again, by a new connection."""
        self.down = None
        self.down_since = None
        self.connects += 1
        for callback in self._callbacks:
            callback()

    def change(self, **servers):
        """Stand for other servers from now on, as a new connection tells."""
        self.servers = servers
        self.connects += 1

    async def load(self, script):
        self._must_be_up()
        self.loaded += 1

    async def everywhere(self, *commands):
        assert commands == (("INFO", "server"),)
        self.looks += 1
        await asyncio.sleep(0)
        self._must_be_up()
        return {name: [{"run_id": run_id}] for name, run_id in self.servers.items()}

    async def send(self, *commands):
        self._must_be_up()
        if commands[0][0] == "SMEMBERS":
            return [set(self.organizations)]
        if commands[0][0] == "SADD":
            self.organizations.append(commands[0][2].encode())
            return [1]
        await self.held.wait()
        calls = [(command[3], msgspec.msgpack.decode(command[5])) for command in commands]
        self.flushes.append(calls)
        self.commands.append(commands)
        if self.failures:
            raise self.failures.pop(0)
        return [
            msgspec.msgpack.encode([self.now_us, [self.answer(body) for body in bodies], self.touched, 0])
            for _, bodies in calls
        ]

    def sent(self):
        """Return the names in every flush, by organization."""
        return [{stem: [body[1] for body in bodies] for stem, bodies in calls} for calls in self.flushes]

    def _must_be_up(self):
        if self.down is not None:
            raise StoreDown(self.down)


class Noted(Operation):
    """An operation whose outcome a test looks at; `text`: what else is in its body, None for what cannot be written."""

    def __init__(self, name, organization="o", *, urgent=True, wanted=True, again=False, text=""):
        super().__init__(organization)
        self.name = name
        self.urgent = urgent
        self.is_wanted = wanted
        self.again = again
        self.text = text
        self.outcome = None
        self.now_us = None

    def wanted(self):
        return self.is_wanted

    def body(self, arguments):
        if self.text is None:
            raise OverflowError("too large")
        return (wire.SETTLE, self.name, self.text)

    def answered(self, answer, now_us):
        self.outcome = answer
        self.now_us = now_us

    def failed(self, error):
        self.outcome = error
        return self.again


DOWN = StoreDown("away")
FORGOTTEN = NoScriptError("NOSCRIPT")


O = "sw:{o}"  # noqa: E741 - the stem of an organization called o


class Watch:
    """Notes what it is told."""

    def __init__(self, store):
        self._store = store
        self.told = []
        self.written = []
        self.caught_up_after = []

    def heard(self, *told):
        self.told.append(told)

    def write(self, operation):
        self.written.append(operation)

    def caught_up(self):
        self.caught_up_after.append(len(self._store.flushes))


def submit(line, *names, **options):
    operations = [Noted(name, **options) for name in names]
    for operation in operations:
        line.submit(operation)
    return operations


def kept(line, *names, **options):
    """Submit what is sent until it is done."""
    return submit(line, *names, urgent=False, again=True, **options)
