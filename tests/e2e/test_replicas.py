"""Replicas that come and go behind one backend while calls flow: a list that is edited, a name that is looked up."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

from openai import OpenAIError

from tests.gateway.harness import eventually
from tests.parts.scripted import Pause as Wait
from tests.parts.scripted import ScriptedServer, plain

REPLICAS = 3


class Flow:
    """Calls, `width` at once, one after another until it is stopped: who answered, and what went wrong."""

    def __init__(self, client, width=4):
        self.client = client
        self.answers = Counter()
        self.faults = []
        self._going = True
        self._tasks = [asyncio.ensure_future(self._run()) for _ in range(width)]

    async def _run(self):
        while self._going:
            try:
                raw = await self.client.chat.completions.with_raw_response.create(
                    model="m", messages=[{"role": "user", "content": "hi"}]
                )
            except OpenAIError as error:
                self.faults.append(error)
            else:
                self.answers[raw.headers["x-sluiceway-backend"]] += 1

    async def settled(self, more=30):
        """Let so many more calls be answered and return who answered them."""
        await asyncio.sleep(0)
        before = Counter(self.answers)
        await eventually(lambda: self.faults or (self.answers - before).total() >= more, within=20)
        return self.answers - before

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        self._going = False
        await asyncio.gather(*self._tasks)


def over_list(path):
    return {
        "backends": {"gpu": {"kind": "vllm", "list": str(path)}},
        "models": {"m": {"deployments": [{"backend": "gpu", "model": "scripted"}]}},
        "plans": {"wide": {"requests_per_minute": 6_000_000, "concurrent_requests": 200}},
    }


async def test_a_list_is_edited_while_calls_flow_and_none_of_them_fails(start, store, tmp_path):
    """A new replica gets calls, a removed one gets none, and a wrong edit changes nothing."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(ScriptedServer()) for _ in range(REPLICAS)]
        for server in servers:
            server.default = [Wait(0.005), *plain()]
        names = [f"gpu@127.0.0.1:{server.port}" for server in servers]
        urls = [f"{server.url}/v1\n" for server in servers]
        path = tmp_path / "replicas"
        path.write_text("".join(urls[:2]))
        site = await start(over_list(path) | store)
        flow = await stack.enter_async_context(Flow(await site.client()))

        assert set(await flow.settled()) == set(names[:2])
        path.write_text("".join(urls))
        await eventually(lambda: flow.answers[names[2]] or flow.faults, within=20)
        assert set(await flow.settled(60)) == set(names)
        path.write_text("".join(urls[1:]) + "ftp://wrong\n")
        await eventually(lambda: "the last known replicas stay" in site.process.output, within=20)
        assert set(await flow.settled(60)) == set(names)
        path.write_text("".join(urls[1:]))
        await eventually(lambda: f'["{names[0]}"]' in site.process.output, within=20)
        await flow.settled(8)  # the last ones that knew of it have ended
        left = len(servers[0].calls)
        assert set(await flow.settled(60)) == set(names[1:])
        assert len(servers[0].calls) == left
        metrics = await site.process.metrics()

    assert flow.faults == []
    assert metrics.total("sluiceway_attempts_total") == metrics.total("sluiceway_attempts_total", outcome="ok")
    assert {label.partition('"')[2].rstrip('"}') for label in metrics if "backend_up" in label} == set(names[1:])


async def test_a_name_is_every_address_that_it_has(start, store):
    """Looked up by the system's own resolver; the replica is in the answer's header."""
    async with ScriptedServer() as server:
        backend = {"kind": "vllm", "base_url": f"http://localhost:{server.port}/v1", "discover": "dns"}
        site = await start(over_list("") | {"backends": {"gpu": backend}} | store)
        client = await site.client()
        answers = [
            await client.chat.completions.with_raw_response.create(
                model="m", messages=[{"role": "user", "content": "hi"}]
            )
            for _ in range(4)
        ]

        assert {answer.headers["x-sluiceway-backend"] for answer in answers} == {f"gpu@127.0.0.1:{server.port}"}
        assert server.calls[0].request.header("host") == f"localhost:{server.port}"
        assert (await site.booked())[2] == 4
        told = await site.process.admin("GET", "/usage", params={"organization": "acme", "by": "deployment"})
        assert [(row["deployment"], row["calls"]) for row in told["rows"]] == [("gpu/scripted", 4)]
