"""A caller who reads slower than its upstream writes holds the upstream up, and costs no memory."""

import asyncio
from pathlib import Path

from tests.faults.leaving import Upstream, call, site

CALLERS = 8
SECONDS = 4.0
TICK = 0.1
READ = 1_000
"""Bytes a caller reads a tick: 10 KB a second. Its upstream has 60 KB more to write every millisecond."""


def resident(pid):
    """Return the bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def test_memory_stays_flat(tmp_path):
    """However much the upstreams would send: what is held is bounded by buffers, not by time."""
    Upstream.phase = "blocked"
    async with site(tmp_path) as (gateway, key):
        calls = [await call(gateway, key) for _ in range(CALLERS)]
        held = []
        for _ in range(round(SECONDS / TICK)):
            await asyncio.gather(*(reader.read(READ) for reader, _ in calls))
            held.append(resident(gateway.pid))
            await asyncio.sleep(TICK)
        quarter = len(held) // 4
        for _, writer in calls:
            writer.transport.abort()

    assert max(held[3 * quarter :]) - max(held[quarter : 2 * quarter]) < 2_000_000
    assert max(held) - held[0] < CALLERS * 4_000_000
