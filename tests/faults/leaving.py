"""How soon an upstream sees that its caller's caller has left: `python -m tests.faults.leaving` (soak).

Law: both ends are in this process, so that one clock tells both times; the gateway is a process of its own, and what
else keeps its core busy is part of the measurement.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.parts.gateway import GatewayProcess, write_config

PHASES = ("prefill", "stream", "blocked")
"""Before anything came back; while events come; while the caller does not read and the gateway cannot write."""

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_BLOCKED = 0.1
"""Seconds without room to write after which every buffer on the way is full."""


def _event(size):
    data = json.dumps({"choices": [{"index": 0, "delta": {"content": "x" * size}, "finish_reason": None}]})
    event = b"data: " + data.encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


class Upstream(asyncio.Protocol):
    """Serves one phase; `last` is the latest connection. Times are monotonic seconds."""

    phase = "prefill"
    last = None

    def connection_made(self, transport):
        self.transport = transport
        self.asked = asyncio.Event()
        self.gone = asyncio.get_running_loop().create_future()
        self.paused_at = None
        self.sent = 0

    def data_received(self, data):
        Upstream.last = self
        if not self.asked.is_set():
            self.asked.set()
            if self.phase != "prefill":
                self.transport.write(_HEAD)
                self.go_on()

    def go_on(self):
        """Write an event, and the next one soon."""
        if self.transport.is_closing():
            return
        if self.paused_at is None:
            event = _event(20 if self.phase == "stream" else 60_000)
            self.transport.write(event)
            self.sent += len(event)
        asyncio.get_running_loop().call_later(0.02 if self.phase == "stream" else 0.001, self.go_on)

    def pause_writing(self):
        self.paused_at = time.monotonic()

    def resume_writing(self):
        self.paused_at = None

    def connection_lost(self, error):
        if not self.gone.done():
            self.gone.set_result(time.monotonic())


@contextlib.asynccontextmanager
async def site(folder):
    """Run an upstream of ours and a gateway before it; yield (gateway, key)."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    many = {"requests_per_minute": 1_000_000, "tokens_per_minute": 100_000_000, "concurrent_requests": 1000}
    config = write_config(
        folder,
        {
            "backends": {"up": {"kind": "vllm", "base_url": f"http://127.0.0.1:{port}/v1", "probe_every": 0}},
            "models": {"m": {"deployments": [{"backend": "up", "model": "m"}]}},
            "plans": {"many": many},
        },
    )
    async with GatewayProcess(config) as gateway:
        yield gateway, await gateway.create_key(plan="many")
    server.close()


async def call(gateway, key):
    """Open a connection and ask for a stream; return (reader, writer)."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**14)
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return reader, writer


async def leave(gateway, key, phase):
    """Make one call and leave it in that phase; return the seconds until its upstream knows."""
    Upstream.phase, Upstream.last = phase, None
    reader, writer = await call(gateway, key)
    try:
        if phase == "stream":
            await reader.readuntil(b"xxxx")
        async with asyncio.timeout(30):
            while Upstream.last is None or (  # noqa: ASYNC110 - nobody is told when every buffer is full
                phase == "blocked" and not _stuck(Upstream.last)
            ):
                await asyncio.sleep(0.002)
        upstream = Upstream.last
        left_at = time.monotonic()
    finally:
        writer.transport.abort()
    return await asyncio.wait_for(upstream.gone, 30) - left_at


def _stuck(upstream):
    return upstream.paused_at is not None and time.monotonic() - upstream.paused_at > _BLOCKED


async def measure(gateway, key, phase, count):
    """Return how long each of `count` upstreams took to know."""
    return [await leave(gateway, key, phase) for _ in range(count)]


@contextlib.contextmanager
def busy(core):
    """Keep a core busy with something else."""
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    os.sched_setaffinity(child.pid, {core})
    try:
        yield
    finally:
        child.kill()
        child.wait()


async def main(count=200):
    """Print the quantiles of each phase, the gateway's core being busy."""
    with tempfile.TemporaryDirectory() as folder:
        async with site(Path(folder)) as (gateway, key):
            os.sched_setaffinity(gateway.pid, {0})
            os.sched_setaffinity(0, {1})
            with busy(0):
                for phase in PHASES:
                    took = sorted(await measure(gateway, key, phase, count))
                    p50, p99 = took[count // 2], took[int(count * 0.99)]
                    print(f"{phase:8} n {count}  p50 {p50 * 1e3:.2f} ms  p99 {p99 * 1e3:.2f} ms")


if __name__ == "__main__":
    asyncio.run(main())
