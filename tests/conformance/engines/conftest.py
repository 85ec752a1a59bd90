"""Real vLLM and transformers behind a real `sluiceway serve`, called by the official clients: `-m engines`.

What the scripted engines of the other tests say is what these said; here the engines speak for themselves.
"""

from contextlib import AsyncExitStack

import httpx
import pytest

from tests.e2e.conftest import WIDE, Site
from tests.parts.gateway import GatewayProcess, write_config
from tests.parts.tiny_mistral import write_mistral
from tests.parts.tiny_model import WORDS
from tests.parts.transformers import TransformersServer
from tests.parts.vllm import VllmServer

# The first test of each engine waits until it has loaded.
ENGINES = [pytest.mark.engines, pytest.mark.timeout(400)]

CONTEXT = 8192
KINDS = ["vllm", "transformers"]
ASK = {"model": "m", "messages": [{"role": "user", "content": "the river and the garden"}]}
MESSAGE = {"model": "m", "max_tokens": 6, "messages": ASK["messages"]}


@pytest.fixture(scope="session")
def mistral(tmp_path_factory):
    return write_mistral(tmp_path_factory.mktemp("mistral"))


@pytest.fixture(scope="session")
def vllm(mistral):
    server = VllmServer(mistral, context=CONTEXT)
    yield server.start()
    server.stop()


@pytest.fixture(scope="session")
def embedder(mistral):
    server = VllmServer(mistral, context=CONTEXT, embeddings=True)
    yield server.start()
    server.stop()


@pytest.fixture(scope="session")
def transformers(mistral):
    server = TransformersServer(mistral)
    yield server.start()
    server.stop()


class Front(Site):
    """A gateway in front of one engine, which serves its model as `m`."""

    def __init__(self, process, stack, engine):
        super().__init__(process, stack)
        self.engine = engine

    async def row(self):
        """Return the one row of the books, once nothing is open."""
        await self.booked()
        (row,) = await self.process.usage()
        return row

    async def raw(self, api, body):
        """Call without an SDK and return the answer."""
        key = await self.process.create_key(plan="wide")
        async with httpx.AsyncClient(base_url=self.process.url, trust_env=False, timeout=60) as client:
            return await client.post(api, json=body, headers={"authorization": f"Bearer {key}"})


@pytest.fixture
async def over(tmp_path):
    """Start a gateway over an engine of some kind; it is ended with the test."""
    async with AsyncExitStack() as stack:

        async def started(kind, engine, **changes):
            settings = {
                "backends": {"gpu": {"kind": kind, "base_url": f"{engine.url}/v1"}},
                "models": {"m": {"deployments": [{"backend": "gpu", "model": engine.alias}]}},
                "plans": {"wide": WIDE},
                **changes,
            }
            settings = {name: value for name, value in settings.items() if value is not None}
            process = await stack.enter_async_context(GatewayProcess(write_config(tmp_path, settings)))
            return Front(process, stack, engine)

        yield started


@pytest.fixture(params=KINDS)
async def front(request, over):
    return await over(request.param, request.getfixturevalue(request.param))


@pytest.fixture
async def front_vllm(over, vllm):
    return await over("vllm", vllm)


@pytest.fixture
async def front_transformers(over, transformers):
    return await over("transformers", transformers)


def said(text):
    """Count the model's words in `text`, which must hold nothing else."""
    words = text.split()
    assert set(words) <= set(WORDS)
    return len(words)


async def heard(stream):
    """Read a stream of the SDK: its text and the usage told."""
    text, usage = "", None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += (choice.delta.content if hasattr(choice, "delta") else choice.text) or ""
    return text, usage


def told(usage):
    return usage.prompt_tokens, usage.completion_tokens
