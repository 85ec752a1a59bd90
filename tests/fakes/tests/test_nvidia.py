import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from tests.fakes.chat import Reasoning
from tests.fakes.nvidia import Hosted, NvidiaServer, Quirk
from tests.fakes.tests.asking import CHAT, HELLO, ask, events, leave, look, raw, sdk, told, until


@pytest.fixture
async def hosted():
    async with NvidiaServer(time_scale=0.001) as server:
        yield server


async def test_it_streams_and_answers_with_its_headers(hosted):
    """Each call has a number, and says that it was fulfilled."""
    async with sdk(hosted) as client:
        stream = await client.chat.completions.create(
            model=hosted.model, messages=HELLO, stream=True, max_tokens=2, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert (chunks[-2].choices[0].finish_reason, chunks[-1].usage.completion_tokens) == ("length", 2)
    plain = await ask(hosted)
    assert uuid.UUID(plain.headers["nvcf-reqid"])
    assert plain.headers["nvcf-status"] == "fulfilled"
    assert "x-ratelimit-limit-requests" not in plain.headers


async def test_keys_are_refused_by_three_parts_in_three_ways():
    """Text where the header is wrong; a problem where the key is."""
    async with NvidiaServer(keys=frozenset({"nvapi-1"})) as server:
        missing = await ask(server, key=None)
        assert (missing.status_code, missing.text) == (401, "Header of type `authorization` was missing")
        basic = await ask(server, key=None, headers={"authorization": "Basic eA=="})
        assert (basic.status_code, basic.text) == (401, "Unauthorized access")
        assert (await ask(server, key="sk-1")).json()["detail"] == "Authentication failed"
        expired = await ask(server, key="nvapi-2")
        assert (expired.status_code, expired.json()["detail"]) == (403, "Authorization failed")
        assert (await ask(server)).status_code == 200


async def test_a_model_is_looked_for_before_the_key(hosted):
    """The gateway knows the models, the service behind it the keys."""
    answer = await ask(hosted, key=None, model="no/such")
    assert (answer.status_code, answer.text) == (404, "404 page not found\n")
    assert answer.headers["content-type"].startswith("text/plain")
    lacking = await ask(hosted, model="")
    assert (lacking.status_code, lacking.json()["error"]["code"]) == (400, "missing_required_field")
    assert (await ask(hosted, "/v1/nothing")).status_code == 404


async def test_the_list_needs_no_key_and_tells_nothing(hosted):
    """One moment for all, no window, no state; a retired model is listed all the same."""
    hosted.models["meta/llama"] = Hosted()
    hosted.retire()
    listed = (await look(hosted, "/v1/models", key=None)).json()["data"]
    assert [set(card) for card in listed] == [{"id", "object", "created", "owned_by"}] * 2
    assert {card["created"] for card in listed} == {735790403}
    assert (await look(hosted, f"/v1/models/{hosted.model}")).status_code == 410
    assert "Model does not exist by the name of" in (await look(hosted, "/v1/models/a/b")).text
    hosted.lists_retired = False
    assert len((await look(hosted, "/v1/models")).json()["data"]) == 1


async def test_a_retirement_is_announced_and_then_a_410(hosted):
    """The announcement is a header of good answers."""
    hosted.retire(end=datetime.now(UTC) + timedelta(days=9))
    announced = await ask(hosted)
    assert announced.status_code == 200
    assert datetime.fromisoformat(announced.headers["deprecation"]) > datetime.now(UTC)
    hosted.retire()
    gone = await ask(hosted)
    assert (gone.status_code, gone.headers["content-type"]) == (410, "application/problem+json")
    assert gone.json() == {
        "type": "about:blank",
        "title": "Gone",
        "status": 410,
        "detail": f"The model '{hosted.model}' has reached its end of life on 2026-08-07T09:00:00Z and is no longer "
        "available.",
    }


async def test_an_offline_model_asks_for_three_hours(hosted):
    """The only place where it tells when to come back."""
    hosted.models[hosted.model].offline = "Under maintenance."
    answer = await ask(hosted)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10800")


@pytest.mark.parametrize(
    ("quirk", "status", "words"),
    [
        (Quirk.CREDITS, 402, "Cloud credits expired"),
        (Quirk.NOT_FOR_ACCOUNT, 404, "Not found for account"),
        (Quirk.DEGRADED, 400, "DEGRADED function cannot be invoked"),
        (Quirk.QUEUE_FULL, 429, '"detail"'),
        (Quirk.BAD_GATEWAY, 502, "Upstream request failed."),
        (Quirk.EXHAUSTED, 503, "ResourceExhausted: Worker local total request limit reached"),
        (Quirk.OVERLOADED, 529, "Overloaded"),
        (Quirk.INTERNAL, 500, "internal_server_error"),
    ],
)
async def test_a_call_can_go_wrong(hosted, quirk, status, words):
    """Once where it was set for a call, always where for a model."""
    hosted.upset(quirk)
    answer = await ask(hosted)
    assert (answer.status_code, words in answer.text) == (status, True)
    assert "retry-after" not in answer.headers
    assert (await ask(hosted)).status_code == 200
    hosted.models[hosted.model].quirk = quirk
    assert [(await ask(hosted)).status_code for _ in range(2)] == [status, status]


async def test_the_window_refuses_after_one_too_many_slipped_through():
    """The check is beside the call, so the first call too many is served."""
    async with NvidiaServer(per_minute=3) as server:
        codes = [(await ask(server)).status_code for _ in range(6)]
        assert codes == [200, 200, 200, 200, 429, 429]
        refused = await ask(server)
    assert refused.json() == {"status": 429, "title": "Too Many Requests"}
    assert not {"retry-after", "nvcf-reqid"} & set(refused.headers)


async def test_each_model_has_a_window_that_counts_what_it_refuses():
    """Another model is served meanwhile."""
    async with NvidiaServer(per_minute=2, at_once=True) as server:
        server.models["meta/llama"] = Hosted()
        assert [(await ask(server)).status_code for _ in range(4)] == [200, 200, 429, 429]
        assert (await ask(server, model="meta/llama")).status_code == 200
        assert server.models[server.model].window.counted == 4


async def test_advertising_is_added_to_a_429():
    """What an operator of the gateway may set for a model."""
    async with NvidiaServer(per_minute=0, at_once=True) as server:
        server.too_many_message = "Deploy it yourself."
        assert (await ask(server)).json()["detail"] == "Deploy it yourself."


@pytest.mark.parametrize("stream", [False, True])
async def test_without_a_worker_there_is_an_empty_504_when_the_poll_is_over(hosted, stream):
    """The caller chooses how long, up to an hour; two seconds are added."""
    hosted.upset(Quirk.NO_WORKER)
    answer = await ask(hosted, stream=stream, headers={"NVCF-POLL-SECONDS": "5"})
    assert (answer.status_code, answer.content, answer.headers["nvcf-status"]) == (504, b"", "errored")
    assert answer.headers["nvcf-reqid"]
    assert (await ask(hosted, headers={"NVCF-POLL-SECONDS": "3601"})).status_code == 400


@pytest.mark.parametrize("stream", [False, True])
async def test_a_worker_that_is_too_slow_is_cancelled(stream):
    """A 504 ends the generation."""
    async with NvidiaServer(prefill=5, time_scale=0.001) as server:
        answer = await ask(server, stream=stream, headers={"NVCF-POLL-SECONDS": "8"})
        assert answer.status_code == 504
        await until(lambda: server.aborted == 1)


async def test_a_large_body_is_a_400_as_text(hosted):
    """Counted before anything is read; Go guesses the type."""
    hosted.largest = 1000
    answer = await ask(hosted, key=None, user="a" * 1000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_image_format")
    assert "below 26214400 bytes" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


async def test_an_accepted_call_is_asked_after_until_it_is_done(hosted):
    """Then it is forgotten."""
    hosted.upset(Quirk.ACCEPTED)
    accepted = await ask(hosted)
    assert (accepted.status_code, accepted.headers["nvcf-status"], accepted.content) == (202, "in-progress", b"")
    page = f"/v2/nvcf/pexec/status/{accepted.headers['nvcf-reqid']}"
    await until(lambda: hosted.unfinished == 0)
    answers = [await look(hosted, page) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 200, 404]
    assert answers[1].json()["usage"]["completion_tokens"] == 5
    assert (await look(hosted, page, key=None)).status_code == 401


async def test_streams_can_be_empty_or_broken_after_their_200(hosted):
    """Both are good by their status."""
    hosted.upset(Quirk.EMPTY_STREAM, Quirk.EXHAUSTED_STREAM)
    empty = await ask(hosted, stream=True)
    assert (empty.status_code, empty.content) == (200, b"")
    broken = await ask(hosted, stream=True)
    assert "ResourceExhausted" in events(broken)[0]["error"]["message"]


async def test_a_stream_can_stall(hosted):
    """The connection stays, nothing comes."""
    hosted.upset(Quirk.STALL)
    body = {"model": hosted.model, "messages": HELLO, "stream": True}
    async with raw(hosted) as client, client.stream("POST", CHAT, json=body) as answer:
        lines = answer.aiter_lines()
        seen = [await anext(lines) for _ in range(4)]
        assert "w1" in seen[2]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(lines), 0.05)


async def test_it_generates_on_after_a_caller_left_its_stream():
    """After the head of an answer nothing tells the worker."""
    async with NvidiaServer(answer=200, pace=0.001) as server:
        await leave(server, after=3)
        await until(lambda: server.unfinished == 0)
        assert (server.generated, server.aborted) == (200, 0)
        assert server.after_leaving() > 0


async def test_it_stops_for_a_caller_who_leaves_before_the_answer():
    """Until the head is sent, leaving cancels."""
    async with NvidiaServer(prefill=30) as server:
        call = asyncio.ensure_future(ask(server))
        await until(lambda: server.unfinished == 1)
        call.cancel()
        await until(lambda: server.aborted == 1)


async def test_a_worker_takes_only_so_many(hosted):
    """Beyond them it is exhausted, not slow."""
    hosted.worker_limit = 1
    hosted.flow.clear()
    first = asyncio.ensure_future(ask(hosted, stream=True, headers={"NVCF-POLL-SECONDS": "3600"}))
    await until(lambda: hosted.unfinished == 1)
    second = await ask(hosted)
    assert (second.status_code, second.headers["nvcf-status"]) == (503, "errored")
    hosted.flow.set()
    assert (await first).status_code == 200


@pytest.mark.parametrize("form", list(Reasoning))
async def test_thoughts_come_in_one_of_three_forms(hosted, form):
    """Whichever the vLLM behind it has."""
    hosted.reasoning, hosted.form = 2, form
    answer = await ask(hosted, stream=True)
    if form is Reasoning.TAGS:
        assert told(answer, "content") == "<think>w1 w2 </think>w3 w4 w5 "
    else:
        assert (told(answer, form), told(answer, "content")) == ("w1 w2 ", "w3 w4 w5 ")


async def test_the_models_own_noes_pass_through(hosted):
    """In vLLM's shape, with the call's number."""
    answer = await ask(hosted, chat_template_kwargs={})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "BadRequestError")
    assert (answer.headers["nvcf-status"], bool(answer.headers["nvcf-reqid"])) == ("errored", True)
