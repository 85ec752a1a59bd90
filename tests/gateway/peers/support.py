"""Gateways that share, without their fleets: what each has to tell, and what it was told."""

from collections import deque

from gateway.peers import Peers
from gateway.store.door import Store
from policies.breaker import Breaker

SLOW = 60.0
"""Seconds of a beat that no test waits for: whoever is silent for three of them is made so in the store."""


class Part:
    """What of a fleet is shared."""

    def __init__(self):
        self.homes = {}
        self.here = {}
        self.elsewhere = None
        self.fresh = deque(maxlen=1000)
        self.told = []
        self.breaker = Breaker()
        self.looks = 0

    def loads(self):
        return dict(self.here)

    def more(self):
        return {}

    def others(self, elsewhere):
        self.elsewhere = {name: (there.in_flight, there.queued_tokens) for name, there in elsewhere.items()}

    def heard(self, deployment, marks, _):
        self.told.append((deployment, marks))

    def breakers(self):
        self.looks += 1
        return {"gpu/m": self.breaker}


class Overheard(Store):
    """A store that notes what goes there and what comes back."""

    def __init__(self, url, **options):
        super().__init__(url, **options)
        self.calls = []

    async def send(self, *commands):
        replies = await super().send(*commands)
        self.calls += zip(commands, replies, strict=True)
        return replies


class Gateway:
    """One of several gateways in this process."""

    def __init__(self, url, name, beat=SLOW):
        self.name = name
        self.store = Overheard(url, deadline=5.0)
        self.part = Part()
        self.peers = Peers(self.store, self.part, name, beat=beat)

    async def beat(self, now=0.0):
        await self.peers.beat(now)

    def last(self):
        """Return what the last beat told (values, marks) and heard (changes, marks)."""
        command, reply = self.store.calls[-1]
        *_, values, marks = command
        return (values, marks), (reply[4], reply[5])
