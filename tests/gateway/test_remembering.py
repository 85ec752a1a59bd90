"""Gateways that begin with what others have learned, over a real store: where their first calls go."""

import asyncio
from collections import Counter

import pytest
from msgspec.structs import replace

from gateway.peers.memory import KEPT, PREFIX
from policies.domain import Deadlines, Deployment, Model, Price
from policies.latency import ENOUGH
from policies.terms import RoutingTerms
from tests.gateway.harness import TEXT, running, settings
from tests.gateway.identity.support import valkey
from tests.parts.scripted import Pause, plain

MODELS = [f"m{number}" for number in range(8)]
"""Each has two replicas and pools of its own, so each one's first call is a decision of its own."""

FREE = Price(0, 0)
"""As the file has engines of one's own: only of those whose price is known does a call find out how they do."""

QUICK, LAME = 0.02, 0.1
ROUNDS = 240
WORDS = "a b c d e f g h i j k l m n o p q r s t"


@pytest.fixture
def replicas(first, second):
    """Two servers with the same models; the first, by the file's order, is the slow one."""
    first.default = [Pause(LAME), *plain(WORDS)]
    second.default = [Pause(QUICK), *plain(WORDS)]
    return {"lame": first, "quick": second}


def served(replicas, policy):
    """Return the models as a file has them; of those that are `weighted` each replica gets half of the calls."""
    return tuple(
        Model(
            name,
            (),
            tuple(Deployment(replica, "vllm", name, None, TEXT, FREE) for replica in replicas),
            (),
            RoutingTerms(policy=policy),
            Deadlines(),
        )
        for name in MODELS
    )


def gateway(folder, replicas, policy="balanced", **store):
    models = served(replicas, policy)
    made = settings(folder, replicas, kind="vllm")
    return running(folder, replicas, kind="vllm", models=models, store=replace(made.store, **store))


async def taught(harness):
    """Have a gateway make enough calls of each model at each replica, as many as the dice need for that."""
    for _ in range(ROUNDS):
        answers = await asyncio.gather(*(harness.ask(model=model) for model in MODELS))
        assert {answer.status_code for answer in answers} == {200}
        if min(min(learner.samples) for learner in harness.gateway._learners().values()) >= ENOUGH:
            return
    raise AssertionError("the dice are loaded")


async def aged(harness, seconds):
    """Have all that was told be so much older."""
    store = harness.gateway.store
    await store.send(*(("EXPIRE", key, KEPT - seconds) for key in await store.keys(f"{PREFIX}*")))


async def first_calls(harness):
    """Return which replica serves the first call of each model, one after the other."""
    answers = [await harness.ask(model=model) for model in MODELS]
    return Counter(answer.headers["x-sluiceway-backend"] for answer in answers)


@pytest.mark.parametrize("age", [0, 90])
async def test_a_second_gateways_first_calls_go_where_the_first_has_learned(tmp_path, replicas, age):
    """To the replica that is five times quicker, of every model: no toss of a coin, and nothing to find out first."""
    with valkey() as url:
        async with gateway(tmp_path / "one", replicas, "weighted", url=url) as one:
            await taught(one)
            await one.gateway._memory.tell()
            await aged(one, age)
            async with gateway(tmp_path / "other", replicas, url=url) as other:
                assert await first_calls(other) == {"quick": len(MODELS)}


async def test_a_lone_gateway_remembers_after_its_restart(tmp_path, replicas):
    """What it has learned is in its own store when it ends."""
    async with gateway(tmp_path, replicas, "weighted") as one:
        await taught(one)
    async with gateway(tmp_path, replicas) as again:
        assert await first_calls(again) == {"quick": len(MODELS)}
