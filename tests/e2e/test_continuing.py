"""A replica is killed amid eight streams: another goes on with them, and nobody can tell from the answers."""

import asyncio
from dataclasses import dataclass, field

import pytest

from tests.e2e.conftest import WIDE, over
from tests.parts.llamacpp import LlamaServer

pytestmark = pytest.mark.ci

STREAMS = 8
LONG = 50
"""Tokens of each answer, its bound: the model never ends by itself, and says one word a token."""
SEEN = 12
"""Tokens that each caller has read when the replica is killed."""
TOLD = {"stream_options": {"include_usage": True}}


@dataclass
class Read:
    """What one caller read. `backend`: who began. `pieces`: the words, as they came."""

    backend: str = ""
    pieces: list = field(default_factory=list)
    finishes: list = field(default_factory=list)
    usages: list = field(default_factory=list)
    done: bool = False

    @property
    def text(self):
        return "".join(self.pieces)

    def take(self, chunk):
        self.usages += [chunk.usage] if chunk.usage else []
        for choice in chunk.choices:
            words = choice.text if hasattr(choice, "text") else choice.delta.content
            self.pieces += [words] if words else []
            self.finishes += [choice.finish_reason] if choice.finish_reason else []


def asked(api, number):
    """Return what is asked for in one call: no two ask the same."""
    words = f"{['river', 'stone', 'cloud', 'field'][number % 4]} {number}"
    prompt = {"messages": [{"role": "user", "content": words}]} if api == "chat" else {"prompt": words}
    return {"model": "slow", "max_tokens": LONG, "temperature": 0.0} | prompt


def endpoint(client, api):
    return client.chat.completions if api == "chat" else client.completions


async def stream(client, api, number, read):
    """Make one call and take in whatever comes; raises what its SDK does."""
    raw = await endpoint(client, api).with_raw_response.create(**asked(api, number), stream=True, **TOLD)
    read.backend = raw.headers["x-sluiceway-backend"]
    async for chunk in raw.parse():
        read.take(chunk)
    read.done = True


async def uncut(client, api, number):
    """Return what the model says where nothing is cut."""
    answer = (await endpoint(client, api).create(**asked(api, number))).choices[0]
    return answer.message.content if api == "chat" else answer.text


def two(first, second):
    """Configure a gateway that prefers the first of two replicas and goes on with streams that break off."""
    settings = over([first, second], model="slow")
    (model,) = settings["models"].values()
    dear = {"input": 1, "output": 1}
    model["deployments"] = [model["deployments"][0], model["deployments"][1] | {"price": dear}]
    settings["models"] = {"slow": model | {"on_stream_failure": "continue", "routing": {"value_of_time": 0}}}
    return settings | {"plans": {"wide": WIDE | {"tokens_in_all": 10**9, "budget_in_all": 1000}}}


@pytest.mark.parametrize("api", ["chat", "completions"])
async def test_every_stream_of_a_killed_replica_is_gone_on_with_by_the_other(start, models, api):
    """One whole answer each, the same as an uncut one; the prompt is paid once, all of the output, the rest by us."""
    async with (
        LlamaServer(models["slow"], alias="slow", parallel=STREAMS, context=1024) as first,
        LlamaServer(models["slow"], alias="slow", parallel=STREAMS, context=1024) as second,
    ):
        site = await start(two(first, second))
        client = await site.client()
        reads = [Read() for _ in range(STREAMS)]
        calls = [asyncio.ensure_future(stream(client, api, number, read)) for number, read in enumerate(reads)]
        async with asyncio.timeout(60):
            while min(len(read.pieces) for read in reads) < SEEN:
                assert not any(call.done() for call in calls)
                await asyncio.sleep(0.005)
        first.kill()
        cut = [len(read.pieces) for read in reads]
        await asyncio.gather(*calls)
        await site.booked()
        platform, paid = sorted(await site.process.usage(), key=lambda row: row["calls"])
        metrics = await site.process.metrics()
        audit = await site.process.admin("GET", "/ledger/check")
        made = await second.generated()
        other = await site.client(organization="other")
        whole = await asyncio.gather(*(uncut(other, api, number) for number in range(STREAMS)))

    assert [read.text for read in reads] == whole
    assert [len(read.text.split()) for read in reads] == [LONG] * STREAMS
    assert {read.backend for read in reads} == {"gpu-a"}
    assert max(cut) < LONG
    assert [(read.done, read.finishes) for read in reads] == [(True, ["length"])] * STREAMS
    usages = [usage for read in reads for usage in read.usages]
    assert [usage.completion_tokens for usage in usages] == [LONG] * STREAMS
    assert metrics.total("sluiceway_streams_continued_total") == STREAMS
    assert metrics.total("sluiceway_streams_cut_total") == 0
    assert (paid["calls"], paid["output_tokens"]) == (STREAMS, LONG * STREAMS)
    assert paid["input_tokens"] == sum(usage.prompt_tokens for usage in usages)
    assert (platform["key"], platform["output_tokens"]) == ("(platform)", 0)
    assert platform["input_tokens"] >= sum(cut)
    assert made <= LONG * STREAMS - sum(cut)
    assert audit["meters"] > 0
    assert audit["differences"] == []
