"""Calls whose prompts begin alike go where that beginning was prefilled, through a whole gateway."""

import pytest
from msgspec.structs import replace

from policies.affinity import BLOCK
from policies.domain import Price
from policies.latency import Latency
from tests.gateway.harness import running, settings

WORDS = "the river and the garden and "


@pytest.fixture
async def gateway(tmp_path, first, second, monkeypatch):
    """Run a gateway over two backends that cost the same, and that prefill as fast as their kind is thought to.

    What these prefill takes no time at all, of which a cache would spare nothing.
    """
    monkeypatch.setattr(Latency, "observe_first", lambda *_: None)
    (model,) = settings(tmp_path, {"a": first, "b": second}).models
    equal = replace(model, deployments=tuple(replace(one, price=Price(0, 0)) for one in model.deployments))
    async with running(tmp_path, {"a": first, "b": second}, models=(equal,), kind="vllm") as harness:
        yield harness


def turns(name, count):
    """Return the first so many turns of a conversation, each of two blocks and more."""
    text = (WORDS * BLOCK)[: 2 * BLOCK]
    return [{"role": "user", "content": f"{name} {number}: {text}"} for number in range(count)]


async def served_by(gateway, messages, **more):
    answer = await gateway.ask(messages=messages, **more)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-sluiceway-backend"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_stays_where_its_prompt_is_cached(gateway, stream):
    """However many there are, and though nobody names a session."""
    places = {}
    for count in range(1, 6):
        for name in "abcdefgh":
            place = await served_by(gateway, turns(name, count), stream=stream)
            assert place == places.setdefault(name, place)


async def test_another_tenants_same_prompt_is_not_followed(gateway, monkeypatch):
    """Where it goes tells nothing of what others asked."""
    place = await served_by(gateway, turns("a", 2))
    fleet = gateway.services.fleet
    seen = []
    take = type(fleet).snapshots
    monkeypatch.setattr(type(fleet), "snapshots", lambda *given, **more: seen.append(take(*given, **more)) or seen[-1])

    await served_by(gateway, turns("a", 2))
    key = await gateway.key(organization="globex")
    assert (await gateway.ask(messages=turns("a", 2), key=key)).status_code == 200

    mine, theirs = [{one.deployment.backend: one.cached for one in views} for views in seen]
    assert mine[place] > 0.8
    assert set(theirs.values()) == {0.0}


async def test_a_cache_that_is_busy_gives_way(gateway):
    """A queue that costs more than the cache spares is not joined."""
    place = await served_by(gateway, turns("a", 1))
    (model,) = gateway.services.catalog.models
    live = gateway.services.fleet.live(next(one for one in model.deployments if one.backend == place))

    live.queued_tokens += 1_000_000

    assert await served_by(gateway, turns("a", 2)) != place
