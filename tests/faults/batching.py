"""Store round trips that a call costs while many callers ask at a time."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.sites import BOOKS, ORGANIZATION, PRICE
from tests.parts import stores
from tests.parts.fast import fast_upstream, hammer
from tests.parts.gateway import STORE_DEADLINE, GatewayProcess, write_config

CALLERS = 32
SECONDS = 4.0
WARMING = 1.0


@dataclass
class Figures:
    """What was seen."""

    organizations: int = 0
    calls: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    round_trips_a_call: float = 0.0


async def batching(folder, organizations):
    """Let 32 callers of so many organizations call as fast as they can; return `Figures`."""
    async with stores.one(folder / "store") as store, fast_upstream() as upstream:
        config = write_config(
            folder,
            {
                "backends": {"up": {"kind": "vllm", "base_url": f"{upstream}/v1"}},
                "models": {"fast": {"deployments": [{"backend": "up", "model": "fast", "price": PRICE}]}},
                "plans": {"books": BOOKS},
                "store": {"url": store.url, "data_dir": str(folder / "data"), "deadline": STORE_DEADLINE},
            },
        )
        async with GatewayProcess(config) as gateway:
            names = [f"{ORGANIZATION}-{number}" for number in range(organizations)]
            keys = [await gateway.create_key(organization=name, plan="books") for name in names]

            async def everyone(seconds):
                each = CALLERS // organizations
                return await asyncio.gather(*(hammer(gateway.url, key, callers=each, seconds=seconds) for key in keys))

            await everyone(WARMING)
            before = (await gateway.metrics())["sluiceway_store_round_trips"]
            counts = sum(await everyone(SECONDS), Counter())
            trips = (await gateway.metrics())["sluiceway_store_round_trips"] - before
    return Figures(organizations, counts.total(), dict(counts), trips / counts.total())
