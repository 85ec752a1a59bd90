"""One whole `sluiceway serve` in front of two real llama.cpp servers, for every test of the official clients."""

from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.parts.gateway import GatewayProcess, write_config
from tests.parts.llamacpp import LlamaServer
from tests.parts.tiny_model import write_model

WINDOW = 2048
STRANGER = "sw_" + "a" * 12 + "_" + "b" * 49
"""A key of the right shape that nobody was given."""
ANSWER = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Paris"]}, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
    "additionalProperties": False,
}
"""A schema whose every answer is short enough to be whole."""
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Straße, café, 東京"}},
    "required": ["city"],
}


class Site:
    """A gateway with the models `tiny`, which chats, and `embedder`; and the addresses of their engines."""

    def __init__(self, process: GatewayProcess, engines: dict[str, LlamaServer]) -> None:
        self.process = process
        self.url = process.url
        self.engines = engines

    async def key(self, plan: str = "wide") -> str:
        """Create a key."""
        return await self.process.create_key(plan=plan)


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    model = write_model(folder)
    async with AsyncExitStack() as stack:
        engines = {
            "tiny": LlamaServer(model, context=WINDOW),
            "embedder": LlamaServer(model, alias="embedder", context=WINDOW, embeddings=True),
        }
        for engine in engines.values():
            await stack.enter_async_context(engine)
        backends = {name: {"kind": "llamacpp", "base_url": f"{engine.url}/v1"} for name, engine in engines.items()}
        # The engine has text only; it is to say so itself.
        terms = {"context_window": WINDOW, "modalities": ["text", "image", "audio", "file"]}
        models = {name: {"deployments": [{"backend": name, "model": name} | terms]} for name in engines}
        plans = {"wide": {"requests_per_minute": 60_000}, "narrow": {"requests_per_minute": 1}}
        config = write_config(folder, {"backends": backends, "models": models, "plans": plans})
        yield Site(await stack.enter_async_context(GatewayProcess(config)), engines)


@pytest.fixture
async def key(site):
    return await site.key()


@pytest.fixture
async def narrow_key(site):
    """Make a key that may call once a minute."""
    return await site.key("narrow")
