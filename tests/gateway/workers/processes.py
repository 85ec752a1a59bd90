"""A real `sluiceway serve --workers`, whose workers a test can tell apart."""

import asyncio
import contextlib
import json

import httpx

from tests.parts.gateway import GatewayProcess
from tests.parts.scripted import DONE, Until, delta, event, sse, usage

ASK = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}


class Workers(GatewayProcess):
    """Two workers. `compiled`: a folder for compiled modules, without which each process would compile them all."""

    def __init__(self, config, compiled):
        super().__init__(config, env={"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(compiled)})
        self._command += ["--workers", "2"]

    async def start(self, within=60.0):
        await super().start(within)
        async with asyncio.timeout(within):
            while "with 2 workers" not in self.output:  # noqa: ASYNC110 - another process's words
                await asyncio.sleep(0.02)
        await eventually(self.both_ready)
        return self

    async def both_ready(self):
        return "2 of 2" in (await self.operator("/readyz")).text

    @property
    def log_lines(self):
        """What it has logged so far."""
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{") and line.endswith("}")]

    def lines(self, event):
        """Return the entries of the log for one event."""
        return [line for line in self.log_lines if line.get("event") == event]

    @property
    def pids(self):
        """The process of each worker that was started last under its number."""
        return {line["worker"]: line["process"] for line in self.lines("a worker is started")}

    async def operator(self, path):
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            return await client.get(self.operations_url + path)

    async def per_worker(self, name, **labels):
        """Return a metric's total at each worker."""
        metrics = await self.metrics()
        return {number: metrics.total(name, worker=str(number), **labels) for number in (1, 2)}

    async def ask(self, key, stream=False, verify=False):
        """Make one call over a connection of its own."""
        async with httpx.AsyncClient(verify=verify, trust_env=False, timeout=60) as client:
            headers = {"authorization": f"Bearer {key}"}
            return await client.post(f"{self.url}/v1/chat/completions", json=ASK | {"stream": stream}, headers=headers)

    async def streams_through_both(self, key, **how):
        """Open streams until each worker carries one, and return them as tasks."""
        streams = []
        while not all((await self.per_worker("sluiceway_open_calls")).values()):
            assert len(streams) < 60, "all of them went to one worker"
            before = len(streams)
            streams += [asyncio.ensure_future(self.ask(key, stream=True, **how)) for _ in range(4)]

            async def opened(least=before + 4):
                return sum((await self.per_worker("sluiceway_open_calls")).values()) >= least

            await eventually(opened)
        return streams


def until(event_, *, prompt=3):
    """Script a stream of two tokens that comes to its end when the test says so."""
    told = {"id": "c-1", "object": "chat.completion.chunk", "created": 0, "model": "scripted", "choices": []}
    end = [delta(content=" two"), delta(finish="stop"), event(told | {"usage": usage(prompt, 2)}), DONE]
    return [*sse("one", end=False), Until(event_), *end]


async def eventually(condition, within=30.0):
    """Wait until `await condition()` is true, whatever a gateway that is just being replaced does meanwhile."""
    async with asyncio.timeout(within):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if await condition():
                    return
            await asyncio.sleep(0.05)
