"""`python -m tests.bench.workers`: what a call takes of two workers, beside what it takes of one process.

Two gateways, asked in turn by the same callers through an upstream that costs next to nothing. Where the callers, the
upstream and the store share the cores with the gateway, calls a second say more of the machine than of us; what is
compared is the processor time a call, of supervisor and workers together. The fewer callers a worker has, the fewer
calls share a turn of its loop and a round trip to the store: with few of them that is most of the difference.
"""

import contextlib
import gc
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import uvloop

from tests.bench.__main__ import upstream
from tests.bench.load import closed_loop, request
from tests.bench.processes import cpu_us, serving
from tests.bench.scenarios import UnexpectedError, chat, set_answer
from tests.bench.streams import Served, listens, settings, warm
from tests.parts.gateway import write_config

WORKERS = 1, 2
"""How many each of the gateways has; of two, those are their numbers too."""

FIGURES = "per_second", "us", "lesser"


@dataclass(frozen=True)
class Round:
    """What calls took. `us`: processor time a call, of all processes; `lesser`: the share of the idler worker."""

    per_second: float
    us: float
    lesser: float


async def run(url, folder, *, callers, rounds, seconds):
    """Measure in turn, so many times; return pairs of rounds, of one and of two workers."""
    await listens(url)
    await set_answer(url)
    async with contextlib.AsyncExitStack() as stack:
        up = [await _started(stack, url, folder / str(count), count) for count in WORKERS]
        return [[await _round(gateway, headers, callers, seconds) for gateway, headers in up] for _ in range(rounds)]


async def _started(stack, url, home, workers):
    home.mkdir()
    gateway = await stack.enter_async_context(Served(write_config(home, settings(url)), workers))
    headers = {"authorization": f"Bearer {await gateway.create_key(plan='wide')}"}
    await warm(gateway, headers, 1000)
    return gateway, headers


async def _round(gateway, headers, callers, seconds):
    wire = request(gateway.url, "/v1/chat/completions", headers, chat("m"))
    pids, counted = serving(gateway.pid), await _calls(gateway)
    gc.collect()
    before = cpu_us(pids)
    statuses, _, took = await closed_loop(gateway.url, wire, callers, seconds)
    used = cpu_us(pids) - before
    if set(statuses) != {200}:
        raise UnexpectedError(f"expected only 200, got {dict(statuses)}")
    calls = [now - then for now, then in zip(await _calls(gateway), counted, strict=True)]
    return Round(statuses[200] / took, used / statuses[200], min(calls) / sum(calls))


async def _calls(gateway):
    """Return the calls that each worker has answered so far, or the one process."""
    metrics = await gateway.metrics()
    workers = [metrics.total("sluiceway_requests_total", worker=str(number)) for number in WORKERS]
    return workers if any(workers) else [metrics.total("sluiceway_requests_total")]


def ratios(pairs):
    """Return, of each pair of rounds, the processor time a call of two workers over that of one."""
    return [two.us / one.us for one, two in pairs]


def told(pairs):
    """Return the lines that say what became of it: medians, and the least and the most of the ratio."""
    lines = []
    for number in WORKERS:
        mine = [pair[number - 1] for pair in pairs]
        per_second, us, lesser = (statistics.median(getattr(one, name) for one in mine) for name in FIGURES)
        split = f", the idler one answers {lesser:.0%}" if number > 1 else ""
        lines.append(f"{number} worker(s): {per_second:,.0f} calls/s, {us:.0f} us of a core a call{split}")
    found = ratios(pairs)
    spread = f"{min(found):.2f} to {max(found):.2f} in {len(found)} rounds"
    return [*lines, f"2 workers : 1 worker, processor time a call: {statistics.median(found):.2f} ({spread})"]


@click.command()
@click.option("--callers", default=64, show_default=True, help="That ask at once.")
@click.option("--rounds", default=7, show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Of one round.")
def main(callers, rounds, seconds):
    """Measure plain calls through one process and through two workers."""
    gc.set_threshold(100_000, 50, 100)
    with tempfile.TemporaryDirectory() as folder, upstream() as url:
        pairs = uvloop.run(run(url, Path(folder), callers=callers, rounds=rounds, seconds=seconds))
    print("\n".join(told(pairs)))


if __name__ == "__main__":
    main()
