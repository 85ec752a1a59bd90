"""The hosted endpoint, simulated as it is on the wire, before a whole gateway that has somewhere else to go."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime, timedelta

import pytest

from gateway.upstream import polling
from policies.domain import Deadlines
from tests.conformance.fleets import Place, by, fleet, seen, state, wholly
from tests.fakes.nim import NimServer
from tests.fakes.nvidia import Hosted, NvidiaServer, Quirk
from tests.fakes.tests.asking import events, told
from tests.gateway.harness import eventually

WENT = {
    Quirk.CREDITS: "off",
    Quirk.NOT_FOR_ACCOUNT: "off",
    Quirk.DEGRADED: "ejected",
    Quirk.QUEUE_FULL: "frozen",
    Quirk.BAD_GATEWAY: "ejected",
    Quirk.EXHAUSTED: "frozen",
    Quirk.EXHAUSTED_STREAM: "frozen",
    Quirk.OVERLOADED: "ejected",
    Quirk.INTERNAL: "ejected",
    Quirk.NO_WORKER: "ejected",
}
"""What it says of a call, and what that makes of it."""

TRIED = {"off": 1, "frozen": 1, "ejected": 3}
"""The calls that it gets before others come first."""


@contextlib.asynccontextmanager
async def site(folder, *models, fallbacks=(), deadlines=None, **options):
    """Run the endpoint, a NIM to go to, and a gateway; yield (endpoint, spare, gateway).

    `models`: of the endpoint's, each behind the same name here, with the spare second; without any there is `m`.
    """
    async with NvidiaServer(**{"time_scale": 0.001} | options) as hosted, NimServer() as spare:
        named = {name: name for name in models} or {"m": hosted.model}
        served = {name: [("hosted", there), ("spare", spare.model)] for name, there in named.items()}
        places = {"hosted": Place("nvidia", hosted), "spare": Place("nim", spare)}
        async with fleet(folder, places, served, fallbacks=fallbacks, deadlines=deadlines) as gateway:
            yield hosted, spare, gateway


async def test_whatever_goes_wrong_there_the_call_is_served_elsewhere(tmp_path):
    """And calls after it are not sent there first, for as long as what it said means."""
    async with site(tmp_path, *WENT) as (hosted, spare, gateway):
        for quirk, then in WENT.items():
            hosted.models[quirk] = Hosted(quirk=quirk)
            served = [by(await gateway.ask(model=quirk, stream=number != 1)) for number in range(4)]
            tried = TRIED[then]
            assert served == [("spare", "2")] * tried + [("spare", "1")] * (4 - tried), quirk
            assert state(gateway, quirk) == then
        rows = await gateway.usage()

    assert {row.model for row in rows} == set(WENT)
    assert all((row.requests, row.completion_tokens, row.estimated_tokens) == (4, 20, 0) for row in rows)
    assert spare.generated == 20 * len(WENT)


async def test_it_is_told_how_long_its_answer_is_waited_for(tmp_path):
    """So that it gives up when we do, and not after five minutes."""
    async with site(tmp_path, deadlines=Deadlines(900.0)) as (hosted, _, gateway):
        await gateway.ask(stream=True)
        await gateway.ask()
        await gateway.client.post(
            "/v1/chat/completions",
            json={"model": "m", "messages": [{"role": "user", "content": "hi"}]},
            headers={"x-request-timeout": "4"},
        )
        waits = [int(call.request.header("nvcf-poll-seconds")) for call in hosted.calls]
    assert 1 <= waits[0] <= 120
    assert 60 <= waits[1] <= 300
    assert waits[2] <= 4


async def test_an_empty_stream_is_made_elsewhere(tmp_path):
    """Good by its status; three of them eject."""
    async with site(tmp_path) as (hosted, _, gateway):
        hosted.models[hosted.model].quirk = Quirk.EMPTY_STREAM
        for _ in range(3):
            answer = await gateway.ask(stream=True)
            assert by(answer) == ("spare", "2")
            assert wholly(answer) == "w1 w2 w3 w4 w5 "
        assert state(gateway) == "ejected"


async def test_a_stall_after_a_word_is_told_and_the_words_are_paid(tmp_path):
    """The caller has seen it, so that nobody else can answer."""
    async with site(tmp_path, deadlines=Deadlines(20.0, stall=0.2)) as (hosted, _, gateway):
        hosted.upset(Quirk.STALL)
        answer = await gateway.ask(stream=True)
        (booked,) = await gateway.usage()
    assert told(answer, "content") == "w1 "
    assert "[DONE]" not in answer.text
    assert events(answer)[-1]["error"]["code"] == "upstream_failed"
    assert (booked.completion_tokens, booked.estimated_tokens > 0) == (1, True)


async def test_a_retired_model_is_never_asked_for_again_and_its_fallback_serves(tmp_path):
    """Announced, it serves on; after its end, one call finds out."""
    async with NvidiaServer() as hosted:
        other = "meta/llama"
        hosted.models[other] = Hosted()
        models = {"m": [("hosted", hosted.model)], "fallback": [("hosted", other)]}
        async with fleet(tmp_path, {"hosted": Place("nvidia", hosted)}, models, fallbacks=("fallback",)) as gateway:
            hosted.retire(end=datetime.now(UTC) + timedelta(days=9))
            assert (await gateway.ask()).json()["model"] == hosted.model
            hosted.retire()
            answers = [await gateway.ask(stream=number == 1) for number in range(4)]
            assert state(gateway) == "retired"
            assert [by(answer)[1] for answer in answers] == ["2", "1", "1", "1"]
            asked = [json.loads(call.request.body)["model"] for call in hosted.calls]
            assert asked == [hosted.model] * 2 + [other] * 4
            assert answers[0].headers["x-sluiceway-backend"] == "hosted"


async def test_a_window_that_is_full_sends_calls_elsewhere_and_is_left_alone(tmp_path):
    """One too many slips through; the first that is refused freezes it, since it counts those it refuses too."""
    async with site(tmp_path, per_minute=2, time_scale=1.0) as (hosted, _, gateway):
        served = [by(await gateway.ask(stream=bool(number % 2))) for number in range(6)]
        assert served == [("hosted", "1")] * 3 + [("spare", "2")] + [("spare", "1")] * 2
        assert state(gateway) == "frozen"
        assert 9 < seen(gateway).frozen_for <= 10
        assert hosted.models[hosted.model].window.counted == 4


async def test_a_window_that_is_full_ejects_nobody_and_is_told_where_nothing_else_is(tmp_path):
    """As a 503 that says when; the next calls wait for room as long as they may, and do not ask again."""
    async with (
        NvidiaServer(per_minute=0, at_once=True) as hosted,
        fleet(tmp_path, {"hosted": Place("nvidia", hosted)}, max_wait=0.1) as gateway,
    ):
        answers = [await gateway.ask() for _ in range(4)]
        assert state(gateway) == "frozen"
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
        assert 1 <= int(answer.headers["retry-after"]) <= 10
    assert len(hosted.calls) == 1


async def test_an_offline_model_is_left_alone_for_the_three_hours_that_it_asks_for(tmp_path):
    """A 503 that says when is no reason to eject, nor to wait."""
    async with site(tmp_path) as (hosted, _, gateway):
        hosted.models[hosted.model].offline = "Under maintenance."
        served = [by(await gateway.ask(stream=bool(number % 2))) for number in range(3)]
        assert served == [("spare", "2"), ("spare", "1"), ("spare", "1")]
        assert state(gateway) == "frozen"
        assert 10_700 < seen(gateway).frozen_for <= 10_800
    assert len(hosted.calls) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_that_is_not_taken_is_the_operators_fault(tmp_path, stream):
    """Nobody is told the endpoint's own words, and it is tried once."""
    async with site(tmp_path, keys=frozenset({"nvapi-2"})) as (hosted, _, gateway):
        assert by(await gateway.ask(stream=stream)) == ("spare", "2")
        assert by(await gateway.ask(stream=stream)) == ("spare", "1")
        assert state(gateway) == "off"
        assert len(hosted.calls) == 1


async def test_an_answer_that_is_promised_is_fetched(tmp_path, monkeypatch):
    """By the id that the promise came with, as often as it takes."""
    monkeypatch.setattr(polling, "PAUSE", 0.01)
    async with site(tmp_path, polls=3) as (hosted, spare, gateway):
        hosted.upset(Quirk.ACCEPTED)
        answer = await gateway.ask()
        assert by(answer) == ("hosted", "1")
        assert answer.json()["choices"][0]["message"]["content"] == "w1 w2 w3 w4 w5 "
        (booked,) = await gateway.usage()
        polled = [request.path for request in hosted.requests if request.path.startswith("/v2/nvcf/pexec/status/")]
    assert (booked.prompt_tokens, booked.completion_tokens, booked.estimated_tokens) == (1, 5, 0)
    assert len(polled) == 4
    assert len(set(polled)) == 1
    assert spare.calls == []


async def test_a_body_that_it_does_not_take_is_never_sent_there(tmp_path):
    """26 MiB go to whoever takes them; with nobody there the caller is told why."""
    async with site(tmp_path) as (hosted, spare, gateway):
        spare.context = 10**9
        large = {"messages": [{"role": "user", "content": "x" * (26 << 20)}]}
        assert by(await gateway.ask(**large)) == ("spare", "1")
        assert hosted.requests == []
    async with NvidiaServer() as hosted, fleet(tmp_path / "alone", {"hosted": Place("nvidia", hosted)}) as gateway:
        refused = await gateway.ask(**large)
        assert (refused.status_code, hosted.requests) == (413, [])
        assert "takes at most 26214400 bytes" in refused.json()["error"]["message"]


async def test_an_api_that_it_does_not_have_is_not_asked_of_it(tmp_path):
    """Nothing is translated."""
    async with NvidiaServer() as hosted, fleet(tmp_path, {"hosted": Place("nvidia", hosted)}) as gateway:
        for api, members in {"responses": {"input": "hi"}, "messages": {"messages": [], "max_tokens": 1}}.items():
            answer = await gateway.client.post(f"/v1/{api}", json={"model": "m"} | members)
            assert answer.status_code == 501
        assert hosted.requests == []


async def test_a_slow_first_word_is_waited_for_there_and_its_worker_left_where_the_caller_leaves(tmp_path):
    """Before the head of its answer a caller who leaves cancels the work; that is the only moment where it helps."""
    async with site(tmp_path, time_scale=1.0) as (hosted, _, gateway):
        hosted.flow.clear()
        call = asyncio.ensure_future(gateway.ask(stream=True))
        await eventually(lambda: hosted.unfinished == 1)
        call.cancel()
        await eventually(lambda: hosted.aborted == 1)
        assert hosted.generated == 0
