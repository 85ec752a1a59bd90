"""What a call sets aside, where it goes without money, and what it is billed, over books without a store."""

import asyncio
import contextlib
import json

import httpx
import pytest

from gateway.config.settings import Telemetry
from gateway.reply import Reply
from gateway.store.door import StoreDown
from policies.claims import cost
from policies.domain import Deadlines, Deployment, MeterKind, Model, Price, Usage
from policies.rejections import Reason
from policies.terms import RoutingTerms
from tests.gateway.books import Books, refused
from tests.gateway.harness import ASK, TEXT, eventually, running
from tests.parts.otlp import OtlpReceiver
from tests.parts.scripted import (
    DONE,
    Bytes,
    Close,
    Hang,
    Pause,
    Reset,
    Status,
    Until,
    delta,
    error,
    event,
    plain,
    sse,
    usage,
)

EVENTS = {"content-type": "text/event-stream"}
FREE, CHEAP, DEAR = Price(0, 0), Price(1000, 2000), Price(1_000_000, 2_000_000)


def served(prices, **terms):
    """Make a model on `prices` (backend -> price, ranked by it), falling back to those in `terms["spare"]`.

    `most`: of `terms`, calls at once that each takes.
    """
    spare, most = terms.pop("spare", {}), terms.pop("most", None)

    def on(name, prices, fallbacks=()):
        deployments = tuple(
            Deployment(backend, "openai", "scripted", None, TEXT, price, max_in_flight=most)
            for backend, price in prices.items()
        )
        return Model(name, (), deployments, fallbacks, RoutingTerms(**terms), Deadlines(20.0))

    return (on("m", prices, ("n",) if spare else ()), on("n", spare))


@contextlib.asynccontextmanager
async def over(folder, upstreams, prices, *, shadows=(), telemetry=None, **terms):
    """Run a gateway whose books are a test's own."""
    changes = {} if telemetry is None else {"telemetry": telemetry}
    async with running(folder, upstreams, models=served(prices, **terms), **changes) as gateway:
        gateway.books = gateway.services.ledger = Books(shadows=shadows)
        yield gateway


@pytest.fixture
async def paid(tmp_path, first, second):
    """Run a gateway over a deployment that costs something and a dearer one."""
    async with over(tmp_path, {"a": first, "b": second}, {"a": CHEAP, "b": DEAR}) as gateway:
        yield gateway


@pytest.fixture
async def spared(tmp_path, first, second):
    """Run a gateway over a deployment that costs something and a fallback that costs nothing."""
    async with over(tmp_path, {"a": first, "b": second}, {"b": DEAR}, spare={"a": FREE}) as gateway:
        yield gateway


async def test_a_call_claims_tokens_and_money_at_its_first_deployments_price(paid):
    """For its whole principal, and says how long it will take."""
    await paid.ask(max_tokens=50)

    (claim,) = paid.books.claims
    assert (claim.organization, claim.team, claim.model, claim.time_zone) == ("acme", "team", "m", "UTC")
    assert claim.key in claim.levels[2].id
    assert claim.output_tokens == 50
    assert claim.money == cost(CHEAP, claim.input_tokens, 50) > 0
    assert claim.seconds > 0


async def test_the_bill_is_told_usage_at_the_price_of_who_served(paid, first):
    """Cached input and reasoning are told too; the record says who, how and which call."""
    details = {"prompt_tokens_details": {"cached_tokens": 400}, "completion_tokens_details": {"reasoning_tokens": 9}}
    first.enqueue(plain(told=usage(1000, 20) | details))

    answer = await paid.ask()

    (bill,) = paid.books.bills
    assert bill.usage == Usage(1000, 20, estimated=False, cached_tokens=400, reasoning_tokens=9)
    assert bill.money == 1000 + 2 * 20
    assert (bill.deployment, bill.outcome) == ("a/scripted", "ok")
    assert bill.request_id == answer.headers["x-request-id"]
    assert (bill.wasted, bill.wasted_money) == (None, 0)
    assert paid.metric("sluiceway_cost_usd_total", model="m") == bill.money / 10**9


async def test_a_failed_attempt_is_wasted_and_the_one_that_served_is_paid(paid, first, second):
    """Each at its own price; the caller pays nothing for the first."""
    first.enqueue([*sse(end=False), Close()])
    second.enqueue(sse("good", told=usage(10, 1)))

    await paid.ask(stream=True)

    (bill,) = paid.books.bills
    (claim,) = paid.books.claims
    assert (bill.usage, bill.deployment) == (Usage(10, 1, estimated=False), "b/scripted")
    assert bill.money == 10 * 1000 + 1 * 2000
    assert bill.wasted == Usage(claim.input_tokens, 0, estimated=True)
    assert bill.wasted_money == claim.input_tokens


async def test_a_replicas_bill_names_its_backend_and_apart_from_it_which_one_served(tmp_path, first, second):
    """What all replicas have used is one sum, and they are as many as discovery finds."""
    first.enqueue([Reset()])
    prices = {"gpu@10.0.0.1:8000": FREE, "gpu@10.0.0.2:8000": CHEAP}
    async with over(tmp_path, dict(zip(prices, (first, second), strict=True)), prices) as gateway:
        answer = await gateway.ask()

    assert answer.headers["x-sluiceway-backend"] == "gpu@10.0.0.2:8000"
    (bill,) = gateway.books.bills
    assert (bill.deployment, bill.replica, bill.outcome) == ("gpu/scripted", "10.0.0.2:8000", "ok")


async def test_a_failed_attempt_that_told_its_usage_wasted_that(paid, first):
    """More than it told, if more came."""
    first.enqueue([Status(200, EVENTS), event({"choices": [], "usage": usage(70, 30)}), Close()])

    await paid.ask(stream=True)

    (bill,) = paid.books.bills
    assert bill.wasted == Usage(70, 30, estimated=True)
    assert bill.wasted_money == 70 + 2 * 30


@pytest.mark.parametrize("refusal", [error(429), error(503), error(401)], ids=["429", "503", "401"])
async def test_an_upstream_that_refuses_has_wasted_nothing(paid, first, refusal):
    """It did no work."""
    first.enqueue(refusal)

    await paid.ask()

    assert [(bill.outcome, bill.wasted) for bill in paid.books.bills] == [("ok", None)]


async def test_when_every_attempt_fails_the_caller_pays_nothing(paid, first, second):
    """All of it is waste, and the outcome is how the last one failed."""
    first.enqueue([Reset()])
    second.enqueue([Reset()])

    assert (await paid.ask()).status_code == 502

    (bill,) = paid.books.bills
    (claim,) = paid.books.claims
    assert (bill.usage.total, bill.money, bill.deployment, bill.outcome) == (0, 0, "", "reset")
    assert bill.wasted.prompt_tokens == 2 * claim.input_tokens
    assert bill.wasted_money == claim.input_tokens * 1001


async def test_a_callers_own_fault_is_its_outcome(paid, first):
    """And costs nothing."""
    first.enqueue(error(400))
    await paid.ask()

    (bill,) = paid.books.bills
    assert (bill.outcome, bill.usage.total, bill.wasted) == ("caller", 0, None)


async def test_a_committed_stream_that_fails_is_paid_as_counted(paid, first):
    """With its failure for an outcome."""
    first.enqueue([*sse("one", "two", end=False), Close()])
    await paid.ask(stream=True)

    (bill,) = paid.books.bills
    (claim,) = paid.books.claims
    assert bill.usage == Usage(claim.input_tokens, 2, estimated=True)
    assert (bill.outcome, bill.deployment, bill.money) == ("truncated", "a/scripted", claim.input_tokens + 4)


async def test_a_bill_so_far_can_be_asked_for_at_any_moment_and_a_leaver_pays_it(paid, first):
    """As heartbeats do."""
    first.enqueue([*sse("one", "two", end=False), Hang()])
    async with paid.client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as answer:
        async for line in answer.aiter_lines():
            if "two" in line:
                break
        so_far = paid.books.so_far()
    await eventually(lambda: paid.books.bills)

    (bill,) = paid.books.bills
    assert so_far.usage == bill.usage
    assert (so_far.money, so_far.deployment) == (bill.money, "a/scripted")
    assert bill.outcome == "caller_left"


async def test_a_bug_after_admission_is_its_outcome(paid, monkeypatch):
    """And costs nothing."""
    monkeypatch.setattr("gateway.attempts.rewrite", lambda *_: 1 / 0)
    await paid.ask()

    (bill,) = paid.books.bills
    assert (bill.outcome, bill.usage.total) == ("internal_error", 0)


@pytest.mark.parametrize("reason", [Reason.RATE_LIMITED, Reason.TOO_LARGE_FOR_LIMIT, Reason.SPENT])
async def test_a_replica_that_costs_nothing_serves_whose_budget_is_spent(spared, first, second, reason):
    """The answer says who was dropped and why; the load of the first plan is given back."""
    spared.books.admissions.append(refused(reason=reason))

    answer = await spared.ask()

    assert (answer.status_code, answer.headers["x-sluiceway-backend"]) == (200, "a")
    assert answer.headers["x-sluiceway-dropped"] == "b (budget)"
    assert (len(first.requests), len(second.requests)) == (1, 0)
    assert [claim.money > 0 for claim in spared.books.claims] == [True, False]
    assert {(live.in_flight, live.queued_tokens) for live in spared.services.fleet._live.values()} == {(0, 0)}
    assert spared.books.bills[0].money == 0


async def test_with_money_nothing_is_dropped(spared):
    """And no header says so."""
    answer = await spared.ask()

    assert answer.headers["x-sluiceway-backend"] == "b"
    assert "x-sluiceway-dropped" not in answer.headers


async def test_a_spent_budget_is_a_429_where_nothing_is_free(paid, first):
    """The refusal's own, with its level and meter."""
    paid.books.admissions.append(refused())

    answer = await paid.ask()

    assert (answer.status_code, answer.headers["x-sluiceway-meter"]) == (429, "budget_per_day")
    assert (len(paid.books.claims), len(first.requests), paid.books.bills) == (1, 0, [])
    assert {(live.in_flight, live.queued_tokens) for live in paid.services.fleet._live.values()} == {(0, 0)}


async def test_another_meters_refusal_is_no_matter_of_money(spared):
    """Nothing is tried again; nor is a second refusal, of which the caller is told."""
    spared.books.admissions.extend([refused("tokens_per_minute"), refused(), refused("requests_per_minute")])

    answers = [await spared.ask() for _ in range(2)]

    assert [answer.headers["x-sluiceway-meter"] for answer in answers] == ["tokens_per_minute", "requests_per_minute"]
    assert len(spared.books.claims) == 3


async def test_a_store_that_goes_in_between_is_503(spared):
    """Nothing is served unmetered."""
    spared.books.admissions.extend([refused(), StoreDown("gone")])

    assert (await spared.ask()).status_code == 503
    assert {(live.in_flight, live.queued_tokens) for live in spared.services.fleet._live.values()} == {(0, 0)}


async def test_a_dearer_attempt_sets_the_difference_aside_first(paid, first):
    """Of what the whole call may cost."""
    first.enqueue([Reset()])

    assert (await paid.ask()).headers["x-sluiceway-backend"] == "b"

    (claim,) = paid.books.claims
    tokens = claim.input_tokens, claim.output_tokens
    assert paid.books.grown == [(0, cost(DEAR, *tokens) - cost(CHEAP, *tokens))]
    assert paid.metric("sluiceway_growths_total", outcome="granted") == 1


async def test_a_cheaper_attempt_sets_nothing_more_aside(spared, second):
    """What is there is enough."""
    second.enqueue([Reset()])

    assert (await spared.ask()).headers["x-sluiceway-backend"] == "a"
    assert spared.books.grown == []


@pytest.mark.parametrize(("no", "word"), [(refused(), "budget"), (StoreDown("gone"), "store_unavailable")])
async def test_a_dearer_attempt_that_cannot_be_paid_is_skipped(paid, first, second, no, word):
    """The caller is told why nobody else was asked."""
    paid.books.growths.append(no)
    first.enqueue([Reset()])

    answer = await paid.ask()

    assert answer.status_code == 502
    assert f"a: reset; b: not tried ({word})" in answer.json()["error"]["message"]
    assert answer.headers["x-sluiceway-dropped"] == f"b ({word})"
    assert len(second.requests) == 0
    assert {(live.in_flight, live.queued_tokens) for live in paid.services.fleet._live.values()} == {(0, 0)}


async def test_after_one_that_cannot_be_paid_the_next_is_tried(tmp_path, first, second):
    """Which costs less."""
    prices = {"a": CHEAP, "b": DEAR}
    async with over(tmp_path, {"a": first, "b": second, "c": second}, prices, spare={"c": FREE}) as gateway:
        gateway.books.growths.append(refused())
        first.enqueue([Reset()])

        answer = await gateway.ask()

        assert (answer.headers["x-sluiceway-backend"], answer.headers["x-sluiceway-attempts"]) == ("c", "2")
        assert answer.headers["x-sluiceway-dropped"] == "b (budget)"


@contextlib.asynccontextmanager
async def talkative(tmp_path, first, monkeypatch, overrun):
    """Run a gateway whose calls reserve 5 tokens, and script a stream of 900."""
    monkeypatch.setattr("policies.estimates.OUTPUT_HIGH", 5)
    monkeypatch.setattr("gateway.growth.cuts", lambda refusal, levels: overrun == "cut")
    monkeypatch.setattr("gateway.growth.counts_output", lambda claim: True)
    words = [Bytes(delta(content="w").data * 10, 10) for _ in range(90)]
    paced = [step for word in words for step in (word, Pause(0.002))]
    told = event({"choices": [], "usage": usage(8, 900)})
    first.enqueue([Status(200, EVENTS), *paced, delta(finish="stop"), told, DONE])
    async with over(tmp_path, {"a": first}, {"a": CHEAP}) as gateway:
        yield gateway


async def test_a_stream_that_outgrows_its_reservation_grows_it_and_goes_on(tmp_path, first, monkeypatch):
    """In steps, tokens and money; it never waits."""
    async with talkative(tmp_path, first, monkeypatch, "cut") as gateway:
        text = (await gateway.ask(stream=True)).text

        steps = [tokens for tokens, _ in gateway.books.grown]
        assert text.count('"content"') == 900
        assert 3 <= len(steps) <= 5
        assert min(steps) >= 256
        assert 900 <= 5 + sum(steps) <= 1600
        assert [money for _, money in gateway.books.grown] == [2 * tokens for tokens in steps]
        assert gateway.books.bills[0].usage == Usage(8, 900, estimated=False)


async def test_a_store_that_does_not_answer_holds_no_stream_up(tmp_path, first, monkeypatch):
    """One question is under way, and the stream ends before its answer."""
    async with talkative(tmp_path, first, monkeypatch, "cut") as gateway:
        gateway.books.open.clear()
        text = (await gateway.ask(stream=True)).text
        gateway.books.open.set()
        await asyncio.sleep(0)

        assert text.endswith("data: [DONE]\n\n")
        assert len(gateway.books.grown) == 1
        assert gateway.books.bills[0].outcome == "ok"


@pytest.mark.parametrize(("overrun", "no"), [("finish", refused("tokens_per_day")), ("cut", StoreDown("gone"))])
async def test_a_stream_that_may_not_grow_finishes_all_the_same(tmp_path, first, monkeypatch, overrun, no):
    """Where its level says so, and always where only the store is gone."""
    async with talkative(tmp_path, first, monkeypatch, overrun) as gateway:
        gateway.books.growths.extend([no] * 9)
        text = (await gateway.ask(stream=True)).text

        assert text.count('"content"') == 900
        assert text.endswith("data: [DONE]\n\n")
        assert gateway.books.bills[0].usage == Usage(8, 900, estimated=False)
        assert len(gateway.books.grown) > 1


async def test_a_stream_that_may_not_grow_is_cut_where_its_level_says_so(tmp_path, first, monkeypatch):
    """In-band, with the limit's own words; it is paid as counted, and its upstream is stopped, not blamed."""
    async with talkative(tmp_path, first, monkeypatch, "cut") as gateway:
        gateway.books.growths.extend([None, refused("tokens_per_day")])
        text = (await gateway.ask(stream=True)).text

        error = json.loads(text.rstrip().rpartition("data: ")[2])["error"]
        received = text.count('"content"')
        assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
        assert "key has used its tokens_per_day" in error["message"]
        assert "[DONE]" not in text
        assert 260 <= received < 900
        (bill,) = gateway.books.bills
        assert (bill.usage.completion_tokens, bill.usage.estimated) == (received, True)
        assert (bill.outcome, bill.deployment) == ("cut_by_limit", "a/scripted")
        assert await eventually(lambda: not first.running)
        assert gateway.metric("sluiceway_streams_cut_total", cause="cut_by_limit") == 1
        assert gateway.metric("sluiceway_attempts_total", backend="a", outcome="cut_by_limit") == 1
        assert not gateway.services.fleet._live["a/scripted"].breaker._failures


async def test_a_stream_that_has_said_its_last_word_is_not_cut(tmp_path, first, monkeypatch):
    """Though the refusal comes before its usage does."""
    monkeypatch.setattr("policies.estimates.OUTPUT_HIGH", 2)
    monkeypatch.setattr("gateway.growth.cuts", lambda refusal, levels: True)
    monkeypatch.setattr("gateway.growth.counts_output", lambda claim: True)
    script = sse("one", "two", "three", told=usage(3, 3))
    first.enqueue([*script[:-3], Pause(0.1), script[-3], Pause(0.1), *script[-2:]])
    async with over(tmp_path, {"a": first}, {"a": CHEAP}) as gateway:
        gateway.books.growths.append(refused("tokens_per_day"))
        text = (await gateway.ask(stream=True)).text

        assert text.endswith("data: [DONE]\n\n")
        assert len(gateway.books.grown) == 1
        assert gateway.books.bills[0].usage == Usage(3, 3, estimated=False)


async def test_what_a_shadow_meter_would_have_refused_is_counted(tmp_path, first):
    """And served."""
    shadows = (("key", MeterKind.TOKENS_PER_DAY), ("team", MeterKind.BUDGET_PER_MONTH))
    async with over(tmp_path, {"a": first}, {"a": CHEAP}, shadows=shadows) as gateway:
        assert (await gateway.ask()).status_code == 200

        for level, meter in shadows:
            assert gateway.metric("sluiceway_shadow_refusals_total", level=level, meter=meter.value) == 1


async def test_the_trace_says_what_a_call_cost_and_what_refused_it(tmp_path, first, second):
    """By the names of the conventions where they have one."""
    details = {"prompt_tokens_details": {"cached_tokens": 400}, "completion_tokens_details": {"reasoning_tokens": 9}}
    told = usage(1000, 20) | details
    first.enqueue(plain(told=told))
    second.enqueue(plain(told=told))
    shadows = (("key", MeterKind.TOKENS_PER_DAY),)
    with OtlpReceiver() as receiver:
        terms = {"shadows": shadows, "spare": {"a": FREE}, "telemetry": Telemetry(receiver.endpoint)}
        async with over(tmp_path, {"a": first, "b": second}, {"b": DEAR}, **terms) as gateway:
            gateway.books.admissions.extend([None, refused()])
            await gateway.ask()
            await gateway.ask()
        spans = await receiver.wait_for(lambda spans: len(spans) == 4)

    paid, spared = (span.attributes for span in spans if span.name.startswith("POST"))
    assert (paid["gen_ai.usage.cache_read.input_tokens"], paid["gen_ai.usage.reasoning.output_tokens"]) == (400, 9)
    assert paid["sluiceway.cost_usd"] == pytest.approx(0.00104)
    assert paid["sluiceway.outcome"] == "ok"
    assert list(paid["sluiceway.shadow_refusals"]) == ["key.tokens_per_day"]
    assert "sluiceway.meter" not in paid
    assert spared["sluiceway.cost_usd"] == 0
    assert (spared["sluiceway.level"], spared["sluiceway.meter"]) == ("key", "budget_per_day")
    assert list(spared["sluiceway.dropped"]) == ["b/scripted: budget"]


async def test_a_call_that_waited_and_cannot_pay_is_told_where_it_went_and_why(tmp_path, first, second):
    """It found a place at the dearer one; that the free one serves it after all is no route of before."""
    gates = asyncio.Event(), asyncio.Event()
    first.default = [Until(gates[0]), *plain()]
    second.default = [Until(gates[1]), *plain()]
    prices = {"a": FREE, "b": DEAR}
    async with over(tmp_path, {"a": first, "b": second}, prices, most=1, policy="cheapest") as gateway:
        there = [asyncio.ensure_future(gateway.ask()) for _ in range(2)]
        assert await eventually(lambda: (len(first.requests), len(second.requests)) == (1, 1))
        gateway.books.open.clear()
        asked = len(gateway.books.grown)
        gateway.books.growths.append(refused())
        explain = {"x-sluiceway-explain": "1"}
        call = asyncio.ensure_future(gateway.client.post("/v1/chat/completions", json=ASK, headers=explain))
        assert await eventually(lambda: gateway.services.room.waiting == 1)
        gates[1].set()
        assert await eventually(lambda: len(gateway.books.grown) > asked)
        gates[0].set()
        await asyncio.gather(*there)
        gateway.books.open.set()
        answer = await call

    assert answer.headers["x-sluiceway-backend"] == "a"
    assert answer.headers["x-sluiceway-dropped"] == "b (budget)"
    assert answer.headers["x-sluiceway-route"].endswith(', "b/scripted";dropped="budget"')


@pytest.mark.parametrize(
    ("noes", "status"),
    [
        ([refused("tokens_per_day")], 429),
        ([refused(), refused("tokens_per_day")], 429),
        ([StoreDown("x")], 503),
    ],
)
async def test_a_call_that_cannot_pay_holds_no_place_while_it_is_told_so(spared, monkeypatch, noes, status):
    """Its caller may take the answer slowly; whatever refuses it."""
    told, held = Reply.reject, []

    async def reject(reply, no):
        held.append(spared.services.fleet.loads())
        await told(reply, no)

    monkeypatch.setattr(Reply, "reject", reject)
    spared.books.admissions.extend(noes)

    assert (await spared.ask()).status_code == status
    assert held == [{}]


async def test_a_caller_who_leaves_while_a_dearer_attempt_is_asked_for_is_let_go(paid, first, second):
    """Nothing is attempted for nobody."""
    paid.books.open.clear()
    first.enqueue([Reset()])
    with pytest.raises(httpx.ReadTimeout):
        await paid.client.post("/v1/chat/completions", json=ASK, timeout=0.3)

    assert await eventually(lambda: paid.books.bills)
    assert (paid.books.bills[0].outcome, len(second.requests)) == ("caller_left", 0)
    assert {(live.in_flight, live.queued_tokens) for live in paid.services.fleet._live.values()} == {(0, 0)}
