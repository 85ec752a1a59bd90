"""The bench's callers: bare asyncio protocols that read no more of an answer than where it ends.

Law: a caller is late by its own schedule, never by an earlier answer's (open loop), and what did not answer 200 is
counted apart. Times are seconds of the monotonic clock.
"""

import asyncio
import re
import time
from collections import Counter

_LENGTH = re.compile(rb"\r\ncontent-length: ?(\d+)", re.IGNORECASE)
_STAMP = re.compile(rb'"content": ?"(\d{19})"')


def request(url, path, headers, body):
    """Return the bytes of a POST."""
    lines = [f"POST {path} HTTP/1.1", f"host: {url.removeprefix('http://')}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


class Caller(asyncio.Protocol):
    """One connection. `done(caller, status)` is called at each answer's end; `begun`: when it was asked."""

    def __init__(self, request, done):
        self.request, self.done = request, done
        self.begun = 0.0
        self.lost = asyncio.get_running_loop().create_future()
        self.stamps = None
        """Lists of (written, read) nanoseconds, where events' delays are wanted."""
        self._reset()

    def _reset(self):
        self.head = b""
        self.status = self.missing = 0
        self.chunked = False
        self.tail = b""

    def connection_made(self, transport):
        self.transport = transport

    def ask(self, begun=None):
        self.begun = begun or time.monotonic()
        self.transport.write(self.request)

    def data_received(self, data):
        if self.stamps is not None:
            now = time.monotonic_ns()
            self.stamps += [(int(stamp), now) for stamp in _STAMP.findall(data)]
        if not self.status:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            data = self.head
            self.status = int(data[9:12])
            told = _LENGTH.search(data, 0, end + 2)
            self.chunked = told is None
            self.missing = 0 if told is None else int(told[1]) - (len(data) - end - 4)
        else:
            self.missing -= len(data)
        if self.chunked:
            self.tail = data if len(data) > 5 else self.tail[-5:] + data
            if not self.tail.endswith(b"0\r\n\r\n"):
                return
        elif self.missing > 0:
            return
        status = self.status
        self._reset()
        self.done(self, status)

    def connection_lost(self, exc):
        if not self.lost.done():
            self.lost.set_result(None)


async def callers(url, request, count, done):
    """Open so many connections, one after another."""
    loop = asyncio.get_running_loop()
    host, port = url.removeprefix("http://").split(":")
    opened = [await loop.create_connection(lambda: Caller(request, done), host, int(port)) for _ in range(count)]
    return [caller for _, caller in opened]


async def closed_loop(url, request, count, seconds):
    """Let `count` callers ask again and again; return (statuses, latencies of the 200s, seconds it took)."""
    statuses, latencies = Counter(), []
    begun = time.monotonic()
    until = begun + seconds

    def done(caller, status):
        now = time.monotonic()
        statuses[status] += 1
        latencies.append(now - caller.begun)
        if now < until:
            caller.ask(now)
        else:
            caller.transport.close()

    asking = await callers(url, request, count, done)
    begun = time.monotonic()
    until = begun + seconds
    for caller in asking:
        caller.ask()
    await _all_lost(asking, seconds + 30)
    return statuses, latencies, time.monotonic() - begun


async def open_loop(url, request, rate, seconds):
    """Ask `rate` times a second, whatever comes back; return (statuses, latencies by schedule)."""
    statuses, latencies, idle = Counter(), [], []

    def done(caller, status):
        statuses[status] += 1
        latencies.append(time.monotonic() - caller.begun)
        idle.append(caller)

    everyone = await callers(url, request, 64, done)
    idle += everyone
    begun = time.monotonic()
    for n in range(round(rate * seconds)):
        due = begun + n / rate
        while (wait := due - time.monotonic()) > 0:  # noqa: ASYNC110 - what is waited for is the time
            await asyncio.sleep(wait)
        while not idle:  # noqa: ASYNC110 - late by now, and its latency counts from when it was due
            await asyncio.sleep(0)
        idle.pop().ask(due)
    async with asyncio.timeout(30):
        while len(idle) < len(everyone):  # noqa: ASYNC110 - once a round
            await asyncio.sleep(0.01)
    for caller in everyone:
        caller.transport.close()
    return statuses, latencies


async def streams(url, request, count, over, midway):
    """Open `count` streams over so many seconds; return (statuses, delays, gaps' excess, seconds a stream took).

    `midway` is called once, when all of them are open. Delays and excess are seconds, of every event.
    """
    statuses, took = Counter(), []

    def done(caller, status):
        statuses[status] += 1
        took.append(time.monotonic() - caller.begun)
        caller.transport.close()

    asking = await callers(url, request, count, done)
    for n, caller in enumerate(asking):
        caller.stamps = []
        caller.ask()
        if n % 10 == 9:
            await asyncio.sleep(10 * over / count)
    midway()
    await _all_lost(asking, 120)
    delays, excess = [], []
    for caller in asking:
        delays += [(read - written) / 1e9 for written, read in caller.stamps]
        pairs = zip(caller.stamps, caller.stamps[1:], strict=False)
        excess += [((r2 - r1) - (w2 - w1)) / 1e9 for (w1, r1), (w2, r2) in pairs]
    return statuses, delays, excess, took


async def _all_lost(asking, seconds):
    async with asyncio.timeout(seconds):
        await asyncio.gather(*(caller.lost for caller in asking))


def quantile(values, q):
    """Return the q-quantile of `values`."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(q * len(ranked)))]
