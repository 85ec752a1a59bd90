"""`python -m tests.bench.streams`: very many open streams at once, and what one of them takes.

An upstream that writes an event every so often to each, one process of callers, and a real gateway between them. Ends
with 1 where a stream is lost or one takes more memory than `--most-kb`.
"""

import asyncio
import gc
import json
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import click
import uvloop

from tests.bench import capacity_page
from tests.bench.__main__ import upstream
from tests.bench.capacity_model import FILE, Fleet, load
from tests.bench.load import Caller, closed_loop, quantile, request
from tests.bench.processes import cpu_us, descriptors, memory, serving
from tests.bench.scenarios import chat, set_answer
from tests.parts.gateway import GatewayProcess, write_config

_STAMP = re.compile(rb'"content": ?"(\d{19})"')
_DONE = b"data: [DONE]"

AT_ONCE = 10
"""Streams that are opened without a pause between them."""

WINDOW = 0.5
"""Seconds between two looks at the gateway; what an event takes is the least of all: others only add to it."""

LATE = 30.0
"""Seconds that streams may end later than their last event was due."""


class Reader(Caller):
    """One stream: whether it said [DONE]; by how much each event was delayed (seconds) is added to `delays`."""

    def __init__(self, wire, delays, done):
        super().__init__(wire, done)
        self.delays = delays
        self.finished = False
        self.late = b""

    def data_received(self, data):
        """Note the events in it."""
        now = time.monotonic_ns()
        self.delays.extend((now - int(stamp)) / 1e9 for stamp in _STAMP.findall(data))
        self.finished = self.finished or _DONE in self.late + data
        self.late = data[-len(_DONE) :]
        super().data_received(data)


@dataclass
class Held:
    """What became of the streams. `kb`: memory a stream took at the gateway; `busy`: its cores while all were open.

    `cpu_us`: processor time an event took there; `descriptors`: what a stream took.
    """

    asked: int
    statuses: Counter = field(default_factory=Counter)
    finished: int = 0
    events: int = 0
    delays: list = field(default_factory=list)
    kb: float = 0.0
    busy: float = 0.0
    cpu_us: float = 0.0
    descriptors: float = 0.0


async def hold(gateway, headers, streams, over, seconds):
    """Open so many streams within `over` seconds, look at the gateway while all are open, and wait for their ends."""
    held = Held(streams)
    wire = request(gateway.url, "/v1/chat/completions", headers, chat("m", stream=True))
    readers, pids = [], serving(gateway.pid)

    def done(reader, status):
        held.statuses[status] += 1
        held.finished += reader.finished
        reader.transport.close()

    empty, files = memory(pids), descriptors(pids)
    loop = asyncio.get_running_loop()
    host, port = gateway.url.removeprefix("http://").split(":")
    begun = time.monotonic()
    for number in range(streams):
        _, reader = await loop.create_connection(lambda: Reader(wire, held.delays, done), host, int(port))
        reader.ask()
        readers.append(reader)
        if number % AT_ONCE == AT_ONCE - 1:
            await asyncio.sleep(max(0.0, begun + over * number / streams - time.monotonic()))
    await asyncio.sleep(1.0)
    await _watch(held, pids, begun + seconds - 1.0)
    held.kb = (memory(pids) - empty) / streams / 1024
    held.descriptors = (descriptors(pids) - files) / streams
    async with asyncio.timeout(over + LATE):
        await asyncio.gather(*(reader.lost for reader in readers))
    held.events = len(held.delays)
    return held


async def _watch(held, pids, until):
    """Look every now and then what the gateway has used for how many events, until that moment."""
    looks = [(time.monotonic(), cpu_us(pids), len(held.delays))]
    while len(looks) < 2 or looks[-1][0] < until:
        await asyncio.sleep(WINDOW)
        looks.append((time.monotonic(), cpu_us(pids), len(held.delays)))
    spans = [[last - first for first, last in zip(*pair, strict=True)] for pair in pairwise(looks)]
    held.busy = sum(used for _, used, _ in spans) / sum(took for took, _, _ in spans) / 1e6
    held.cpu_us = min((used / events for _, used, events in spans if events), default=0.0)


class Served(GatewayProcess):
    """A gateway of several workers, or of one process."""

    def __init__(self, config, workers=1):
        super().__init__(config)
        if workers > 1:
            self._command += ["--workers", str(workers)]

    async def start(self, within=60.0):
        """Start it, on a machine that may be busy."""
        return await super().start(within)


def settings(url):
    """Return a file's sections for streams from this upstream, with limits that none of them meets."""
    plan = {"requests_per_minute": 60_000_000, "tokens_per_minute": 150_000_000, "concurrent_requests": 100_000}
    return {
        "backends": {"up": {"kind": "vllm", "base_url": f"{url}/v1", "probe_every": 0}},
        "models": {"m": {"deployments": [{"backend": "up", "model": "m"}]}},
        "plans": {"wide": plan},
    }


async def run(url, folder, *, streams, workers, every, seconds, over):
    """Hold the streams; return `Held`."""
    await listens(url)
    async with Served(write_config(folder, settings(url)), workers) as gateway:
        headers = {"authorization": f"Bearer {await gateway.create_key(plan='wide')}"}
        await set_answer(url)
        await warm(gateway, headers)
        await set_answer(url, round(seconds / every), 1 / every)
        return await hold(gateway, headers, streams, over, seconds)


async def listens(url):
    """Wait until whoever was started a moment ago listens."""
    host, port = url.removeprefix("http://").split(":")
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except ConnectionError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return await writer.wait_closed()


async def warm(gateway, headers, calls=200):
    """Make some plain calls, so that what is made once is made."""
    await closed_loop(gateway.url, request(gateway.url, "/v1/chat/completions", headers, chat("m")), 8, calls / 1000)


def told(held, workers):
    """Return the lines that say what became of it."""
    delays = [quantile(held.delays, q) * 1e3 for q in (0.5, 0.99, 1.0)] if held.delays else [0.0] * 3
    return (
        f"{held.asked:,} streams over {workers} worker(s): {held.finished:,} ended with [DONE], {dict(held.statuses)}",
        f"memory a stream {held.kb:.1f} KB; descriptors a stream {held.descriptors:.2f}",
        f"{held.events:,} events; gateway {held.busy:.2f} cores, {held.cpu_us:.1f} us an event",
        "an event's delay: p50 {:.1f} ms, p99 {:.1f} ms, most {:.0f} ms".format(*delays),
    )


def afford(files):
    """Raise this process's limit of file descriptors, which its children inherit; say whether there are so many."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, most), max(files, most)))
    except ValueError:  # not allowed to raise the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return max(resource.getrlimit(resource.RLIMIT_NOFILE)) >= files


@click.command()
@click.option("--streams", default=10_000, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--every", default=2.0, show_default=True, help="Seconds between two events of a stream.")
@click.option("--seconds", default=60.0, show_default=True, help="Of a stream.")
@click.option("--over", default=20.0, show_default=True, help="Seconds in which they are opened.")
@click.option("--most-kb", default=40.0, show_default=True, help="Of memory a stream.")
@click.option("--keep", is_flag=True, help="Write what was found to tests/bench/capacity.json, and README's section.")
def main(*, streams, workers, every, seconds, over, most_kb, keep):
    """Hold very many streams open through one gateway."""
    files = max(streams, round(2.4 * streams / workers)) + 1_000
    if not afford(files):
        print(f"fewer than {files:,} file descriptors are allowed here: one process may lack some")
    gc.set_threshold(100_000, 50, 100)
    with tempfile.TemporaryDirectory() as folder, upstream() as url:
        held = uvloop.run(
            run(url, Path(folder), streams=streams, workers=workers, every=every, seconds=seconds, over=over)
        )
    print("\n".join(told(held, workers)))
    if keep:
        kept = json.loads(FILE.read_text())
        kept["held"] = {
            "streams": streams,
            "finished": held.finished,
            "workers": workers,
            "every": every,
            "kb": round(held.kb, 1),
            "cores": round(held.busy, 2),
            "p50_ms": round(quantile(held.delays, 0.5) * 1e3, 1),
            "p99_ms": round(quantile(held.delays, 0.99) * 1e3, 1),
        }
        FILE.write_text(json.dumps(kept, indent=1) + "\n")
        capacity_page.write(load(), Fleet())
    sys.exit(held.finished < streams or held.kb > most_kb)


if __name__ == "__main__":
    main()
