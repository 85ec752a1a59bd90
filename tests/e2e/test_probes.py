"""What free probes of real engines are good for: who is gone, who is back, and how long a prompt may be."""

import asyncio
from contextlib import AsyncExitStack

from tests.parts.llamacpp import LlamaServer
from tests.parts.ports import free_port

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


async def until(site, condition, within=30.0):
    """Scrape the gateway until `condition` holds of its metrics, and return them."""
    async with asyncio.timeout(within):
        while not condition(metrics := await site.process.metrics()):  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.05)
    return metrics


async def asked(client):
    """Make a call and return who served it, at which attempt."""
    headers = (await client.chat.completions.with_raw_response.create(**ASK)).headers
    return headers["x-sluiceway-backend"], headers["x-sluiceway-attempts"]


def up(metrics, backend):
    return metrics.get(f'sluiceway_backend_up{{backend="{backend}"}}')


async def test_an_engine_that_comes_dies_and_returns_is_followed(start, models, store):
    """While it cannot serve no attempt is wasted on it; its window and load are known without being written down."""
    port = free_port()
    async with AsyncExitStack() as stack:
        spare = await stack.enter_async_context(LlamaServer(models["tiny"], context=2048))
        backends = {
            "gpu": {"kind": "llamacpp", "base_url": f"http://127.0.0.1:{port}/v1", "probe_every": 0.1},
            "spare": {"kind": "llamacpp", "base_url": f"{spare.url}/v1", "probe_every": 0.1},
        }
        price = {"input": 100, "output": 100}
        deployments = [{"backend": "gpu", "model": "tiny"}, {"backend": "spare", "model": "tiny", "price": price}]
        site = await start({"backends": backends, "models": {"tiny": {"deployments": deployments}}} | store)
        client = await site.client(None)
        await until(site, lambda told: up(told, "gpu") == 0)
        assert await asked(client) == ("spare", "1")

        engine = LlamaServer(models["slow"], context=1024, parallel=2, port=port)
        await stack.enter_async_context(engine)
        metrics = await until(site, lambda told: up(told, "gpu") == 1)
        assert await asked(client) == ("gpu", "1")
        assert metrics['sluiceway_engine_running{backend="gpu"}'] == 0
        assert 'sluiceway_engine_kv_use{backend="gpu"}' not in metrics
        listed = await client.models.retrieve("tiny")
        assert listed.max_model_len == 2048  # the larger of the two

        engine.kill()
        await until(site, lambda told: up(told, "gpu") == 0)
        assert await asked(client) == ("spare", "1")
        await stack.enter_async_context(LlamaServer(models["tiny"], context=1024, parallel=2, port=port))
        await until(site, lambda told: up(told, "gpu") == 1)
        assert await asked(client) == ("gpu", "1")
