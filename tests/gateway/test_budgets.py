"""Limits of tokens and money over a whole gateway and a real store: who is served, who is cut, and what is booked."""

import asyncio
import json

import pytest
from msgspec.structs import replace

from policies.domain import Deadlines, Deployment, Meter, MeterKind, Model, Plan, Price
from policies.terms import RoutingTerms
from tests.gateway.harness import TEXT, eventually, running
from tests.parts.scripted import DONE, Bytes, Hang, Pause, Reset, Status, Until, delta, event, plain, sse, usage

USD = 10**9
EVENTS = {"content-type": "text/event-stream"}
FREE, HOSTED = Price(0, 0), Price(1_500_000, 7_500_000)


def models(price, *spare):
    """Make the model `m` on `a` at `price`, falling back to `b` that costs nothing if that is among `spare`."""
    deployments = (Deployment("a", "openai", "scripted", None, TEXT, price),)
    free = tuple(Deployment(name, "openai", "scripted", None, TEXT, FREE) for name in spare)
    return (
        Model("m", (), deployments, ("n",) if spare else (), RoutingTerms(), Deadlines(20.0)),
        Model("n", (), free, (), RoutingTerms(), Deadlines(20.0)),
    )


def plans(kind, limit, overrun="finish"):
    return {"plan": Plan("plan", (Meter(kind, limit, limit),), overrun)}


async def test_a_free_replica_serves_a_caller_whose_budget_is_spent(tmp_path, first, second):
    """The books say who served; without such a replica it is a 429."""
    first.enqueue(plain(told=usage(1_000_000, 0)))
    budget = plans(MeterKind.BUDGET_PER_DAY, USD)
    async with running(tmp_path, {"a": first, "b": second}, models=models(HOSTED, "b"), plans=budget) as gateway:
        key = await gateway.key("plan")
        answers = [await gateway.ask(key=key) for _ in range(3)]
        booked = {total.model: total for total in await gateway.usage()}

    assert [answer.headers["x-sluiceway-backend"] for answer in answers] == ["a", "b", "b"]
    assert [answer.headers.get("x-sluiceway-dropped") for answer in answers] == [None, *["a (budget)"] * 2]
    assert (booked["m"].requests, booked["m"].money) == (3, 1_500_000_000)


async def test_a_spent_budget_without_a_free_replica_is_a_429(tmp_path, first):
    """Named, with the wait until the next period; it reaches no upstream."""
    first.enqueue(plain(told=usage(1_000_000, 0)))
    budget = plans(MeterKind.BUDGET_PER_DAY, USD)
    async with running(tmp_path, {"a": first}, models=models(HOSTED), plans=budget) as gateway:
        key = await gateway.key("plan")
        await gateway.ask(key=key)
        refused = await gateway.ask(key=key)

    assert (refused.status_code, refused.headers["x-sluiceway-meter"]) == (429, "budget_per_day")
    assert 0 < int(refused.headers["retry-after"]) <= 25 * 3600
    assert len(first.requests) == 1


@pytest.mark.parametrize("free", [True, False])
async def test_a_call_that_waited_is_sent_only_where_what_it_costs_is_set_aside(tmp_path, first, second, free):
    """It paid for the cheaper one and finds a place at the dearer one, which its budget has no room for.

    So it waits on for what costs nothing, or is told.
    """
    gates = asyncio.Event(), asyncio.Event()
    first.default = [Until(gates[0]), *plain()]
    second.default = [Until(gates[1]), *plain(told=usage(1_000_000, 0))]
    (model, _) = models(FREE)
    dear = Deployment("b", "openai", "scripted", None, TEXT, HOSTED)
    deployments = tuple(replace(one, max_in_flight=1) for one in (*model.deployments, dear))
    model = replace(model, deployments=deployments, routing=RoutingTerms(policy="cheapest"))
    budget = plans(MeterKind.BUDGET_PER_DAY, USD)
    async with running(tmp_path, {"a": first, "b": second}, models=(model,), plans=budget) as gateway:
        key, fleet = await gateway.key("plan"), gateway.services.fleet
        calls = [asyncio.ensure_future(gateway.ask(key=key)) for _ in range(2)]
        assert await eventually(lambda: (len(first.requests), len(second.requests)) == (1, 1))
        calls.append(asyncio.ensure_future(gateway.ask(key=key)))
        assert await eventually(lambda: gateway.services.room.waiting == 1)
        if not free:
            fleet.drain(frozenset({"a"}))
        gates[1].set()
        assert (await calls[1]).status_code == 200
        if free:
            assert await eventually(lambda: gateway.services.room.waiting == 1)
        gates[0].set()
        answers = await asyncio.gather(*calls)
        (booked,) = await gateway.usage()
        assert [fleet.live(one).in_flight for one in deployments] == [0, 0]
        assert gateway.gateway.ledger.open_reservations == 0

    last = answers[-1]
    assert (last.status_code, last.headers.get("x-sluiceway-meter")) == (
        (200, None) if free else (429, "budget_per_day")
    )
    assert (len(first.requests), len(second.requests)) == (2 if free else 1, 1)
    assert booked.requests == (3 if free else 2)


async def test_coding_agents_under_an_unspent_budget_are_admitted_several_at_once(tmp_path, first):
    """Their prompts are long and their bounds huge, their answers short."""
    first.default = [*sse("ok", end=False), Pause(0.3), delta(finish="stop"), DONE]
    agent = {"stream": True, "max_tokens": 32_000, "messages": [{"role": "user", "content": "return x " * 44_000}]}
    budget = plans(MeterKind.BUDGET_PER_MONTH, 25 * USD)
    async with running(tmp_path, {"a": first}, models=models(HOSTED), plans=budget) as gateway:
        key = await gateway.key("plan")
        answers = await asyncio.gather(*(gateway.ask(key=key, **agent) for _ in range(16)))

    assert [answer.status_code for answer in answers] == [200] * 16


async def test_what_a_failed_attempt_cost_is_booked_to_the_operator(tmp_path, first, second):
    """And nothing of it to the caller."""
    first.enqueue([Reset()])
    second.enqueue(plain(told=usage(7, 2)))
    async with running(tmp_path, {"a": first, "b": second}, models=models(HOSTED, "b")) as gateway:
        await gateway.ask()
        (paid,) = await gateway.usage()
        (wasted,) = await gateway.usage(platform=True)

    assert (paid.prompt_tokens, paid.completion_tokens, paid.estimated_tokens, paid.money) == (7, 2, 0, 0)
    assert wasted.prompt_tokens == wasted.estimated_tokens > 0
    assert wasted.money == wasted.prompt_tokens * 1500


async def test_cached_and_reasoning_tokens_are_booked_at_their_own_price(tmp_path, first):
    """As the upstream told them."""
    details = {"prompt_tokens_details": {"cached_tokens": 900}, "completion_tokens_details": {"reasoning_tokens": 40}}
    first.enqueue(plain(told=usage(1000, 50) | details))
    price = Price(10_000, 20_000, cached_input=1_000, reasoning=30_000)
    async with running(tmp_path, {"a": first}, models=models(price)) as gateway:
        await gateway.ask()
        (total,) = await gateway.usage()

    assert (total.cached_tokens, total.reasoning_tokens) == (900, 40)
    assert total.money == 100 * 10 + 900 * 1 + 10 * 20 + 40 * 30


def talk(words):
    paced = [step for _ in range(words // 20) for step in (Bytes(delta(content="w").data * 20, 20), Pause(0.005))]
    return [Status(200, EVENTS), *paced, delta(finish="stop"), event({"choices": [], "usage": usage(5, words)}), DONE]


async def test_a_stream_that_outgrows_its_limit_is_cut_and_never_the_less_booked(tmp_path, first, monkeypatch):
    """To the token that was passed; the next call waits for what it overran."""
    monkeypatch.setattr("policies.estimates.OUTPUT_HIGH", 20)
    first.enqueue(talk(2000))
    limit = plans(MeterKind.TOKENS_PER_DAY, 700, "cut")
    async with running(tmp_path, {"a": first}, models=models(FREE), plans=limit) as gateway:
        key = await gateway.key("plan")
        text = (await gateway.ask(key=key, stream=True)).text
        (total,) = await gateway.usage()

        error = json.loads(text.rstrip().rpartition("data: ")[2])["error"]
        assert "tokens_per_day" in error["message"]
        assert "key" in error["message"]
        assert 276 <= text.count('"content"') < 2000
        assert total.completion_tokens == text.count('"content"')
        assert await eventually(lambda: not first.running)


async def test_a_stream_that_outgrows_its_limit_finishes_and_is_a_debt(tmp_path, first, monkeypatch):
    """It is booked whole, and nobody is admitted until it is paid."""
    monkeypatch.setattr("policies.estimates.OUTPUT_HIGH", 20)
    first.enqueue(talk(2000))
    limit = plans(MeterKind.TOKENS_PER_DAY, 700)
    async with running(tmp_path, {"a": first}, models=models(FREE), plans=limit) as gateway:
        key = await gateway.key("plan")
        text = (await gateway.ask(key=key, stream=True)).text
        refused = await gateway.ask(key=key)
        (total,) = await gateway.usage()

    assert text.count('"content"') == total.completion_tokens == 2000
    assert text.endswith("data: [DONE]\n\n")
    assert (refused.status_code, refused.headers["x-sluiceway-meter"]) == (429, "tokens_per_day")


async def test_a_stream_that_grows_within_its_limit_reserves_what_it_has(tmp_path, first, monkeypatch):
    """Another call, for which there was room before, is refused meanwhile; what was not used returns."""
    monkeypatch.setattr("policies.estimates.OUTPUT_HIGH", 20)
    *running_on, _, _, _ = talk(300)
    first.enqueue([*running_on, Hang()])
    limit = plans(MeterKind.TOKENS_PER_DAY, 700)
    async with running(tmp_path, {"a": first}, models=models(FREE), plans=limit) as gateway:
        key = await gateway.key("plan")
        headers = {"authorization": f"Bearer {key}"}
        body = {"model": "m", "messages": [], "stream": True}
        async with gateway.client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
            lines = answer.aiter_lines()
            seen = 0
            while seen < 300:
                seen += "content" in await anext(lines)
            await eventually(lambda: gateway.metric("sluiceway_growths_total", outcome="granted") >= 2)
            refused = await gateway.ask(key=key, n=15)
        await gateway.usage()
        again = await gateway.ask(key=key, max_tokens=10)

    assert (refused.json()["error"]["code"], again.status_code) == ("rate_limit_exceeded", 200)
