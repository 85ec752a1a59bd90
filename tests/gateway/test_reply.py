import asyncio
import json

import pytest

from gateway.reply import Reply
from policies.domain import Meter, MeterKind, Standing
from policies.rejections import Reason, Rejection
from tests.gateway.harness import eventually

METER = Meter(MeterKind.REQUESTS_PER_MINUTE, 10, 10)
EMPTY = Standing("key", METER, 10, 0, 5)


class Wire:
    """Collects what a Reply sends."""

    def __init__(self, api="chat"):
        self.messages = []
        self.reply = Reply(self.send, "req_1", b"cfg", api)

    async def send(self, message):
        self.messages.append(message)

    @property
    def headers(self):
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}


async def test_a_whole_answer_has_our_headers_and_its_length():
    """And says who served it, at which attempt."""
    wire = Wire()
    wire.reply.backend, wire.reply.attempts = "a", 2
    wire.reply.standing = [(b"x-ratelimit-limit-requests", b"5")]

    await wire.reply.whole(200, "application/json", b"{}")

    assert wire.headers == {
        "content-type": "application/json",
        "x-request-id": "req_1",
        "x-sluiceway-config": "cfg",
        "x-ratelimit-limit-requests": "5",
        "x-sluiceway-attempts": "2",
        "x-sluiceway-backend": "a",
        "content-length": "2",
    }
    assert wire.messages[1] == {"type": "http.response.body", "body": b"{}", "more_body": False}
    assert wire.reply.status == 200


async def test_what_was_changed_of_a_wish_is_told():
    """A caller who asked for more thought should see why there was less."""
    wire = Wire()
    wire.reply.attempts, wire.reply.changed = 1, ("reasoning_effort: low -> none", "chat_template: dropped")

    await wire.reply.head(200, "application/json", 2)

    assert wire.headers["x-sluiceway-changed"] == "reasoning_effort: low -> none, chat_template: dropped"


async def test_a_stream_must_not_be_buffered_on_its_way():
    """Proxies are told so."""
    wire = Wire()

    await wire.reply.head(200, "text/event-stream; charset=utf-8", None)

    assert wire.headers["x-accel-buffering"] == "no"
    assert "content-length" not in wire.headers


async def test_a_refusal_tells_its_own_standings_else_those_known():
    """A 502 after admission still says what is left."""
    known = [(b"x-ratelimit-remaining-requests", b"9")]
    failed, limited = Wire(), Wire()
    failed.reply.standing = limited.reply.standing = known

    await failed.reply.reject(Rejection(Reason.UPSTREAM_FAILED, "no"))
    await limited.reply.reject(Rejection(Reason.RATE_LIMITED, "no", requests=EMPTY))

    assert failed.headers["x-ratelimit-remaining-requests"] == "9"
    assert limited.headers["x-ratelimit-remaining-requests"] == "0"
    assert failed.messages[0]["status"] == 502


async def test_a_refusal_by_what_is_in_neither_header_of_openais_has_its_own_too():
    """Slots and budgets are told as the tightest."""
    wire = Wire()
    wire.reply.standing = [(b"ratelimit", b"known before")]

    await wire.reply.reject(Rejection(Reason.RATE_LIMITED, "no", tightest=EMPTY))

    assert [name for name, _ in wire.messages[0]["headers"]].count(b"ratelimit") == 1
    assert wire.headers["ratelimit"] != "known before"


async def test_what_was_dropped_for_want_of_money_is_told_with_who_served():
    """Nobody need guess why the slow one did."""
    wire = Wire()
    wire.reply.backend, wire.reply.attempts, wire.reply.dropped = "a", 1, ("b (budget)", "c (budget)")

    await wire.reply.whole(200, "application/json", b"{}")

    assert wire.headers["x-sluiceway-dropped"] == "b (budget), c (budget)"


EVENTS = "text/event-stream"
COMMENT = {"type": "http.response.body", "body": b": keep-alive\n\n", "more_body": True}
NO = Rejection(Reason.OVERLOADED, "no")


async def test_comments_come_after_a_head_of_ours_until_something_is_said():
    """Nobody has served yet, so nobody is named; the answer then has no second head."""
    wire = Wire()
    wire.reply.backend, wire.reply.attempts = "a", 1
    wire.reply.keep_alive(0.01)
    await eventually(lambda: len(wire.messages) >= 3)
    await wire.reply.head(200, EVENTS, None)
    sent = len(wire.messages)
    await asyncio.sleep(0.05)

    assert wire.messages[0]["status"] == 200
    assert wire.headers == {
        "content-type": EVENTS,
        "x-request-id": "req_1",
        "x-sluiceway-config": "cfg",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
    }
    assert wire.messages[1:] == [COMMENT] * (sent - 1)


async def test_comments_go_on_where_they_were_asked_for():
    """A stream that broke off unseen goes on elsewhere; one that nobody keeps alive stays silent."""
    kept, silent = Wire(), Wire()
    await kept.reply.head(200, EVENTS, None)
    kept.reply.keep_alive(0.01)
    kept.reply.hush()
    before = len(kept.messages)
    kept.reply.wake()
    silent.reply.wake()
    await eventually(lambda: len(kept.messages) >= before + 2)
    kept.reply.hush()

    assert kept.messages[before:] == [COMMENT] * (len(kept.messages) - before)
    assert silent.messages == []


class Stuck(Wire):
    """A wire that takes nothing until it is `free`."""

    def __init__(self):
        super().__init__()
        self.free = asyncio.Event()
        self.asked = asyncio.Event()

    async def send(self, message):
        self.asked.set()
        await self.free.wait()
        await super().send(message)


async def test_a_comment_that_waits_for_a_slow_caller_is_dropped_for_the_answer():
    """It must not come in between, nor bring a second head."""
    wire = Stuck()
    wire.reply.keep_alive(0.001)
    await wire.asked.wait()
    answering = asyncio.ensure_future(wire.reply.whole(200, "application/json", b"{}"))
    await asyncio.sleep(0)
    wire.free.set()
    await answering
    await asyncio.sleep(0.01)

    assert [message["type"] for message in wire.messages] == ["http.response.start", "http.response.body"]
    assert wire.headers["content-type"] == "application/json"


async def test_a_no_to_a_stream_that_was_begun_is_its_last_event():
    """And says why it broke; once it has ended there is nothing more to tell."""
    wire = Wire()
    await wire.reply.head(200, EVENTS, None)

    await wire.reply.reject(NO)
    await wire.reply.reject(Rejection(Reason.INTERNAL, "too late"))

    (last,) = wire.messages[1:]
    assert json.loads(last["body"].removeprefix(b"data: "))["error"]["code"] == "overloaded"
    assert not last["more_body"]
    assert wire.reply.broke == "overloaded"


async def test_a_plain_answer_that_was_begun_stays_without_its_end():
    """Which is an error to every client."""
    wire = Wire()
    await wire.reply.head(200, "application/json", 10)
    await wire.reply.reject(NO)

    assert len(wire.messages) == 1
    assert wire.reply.broke == "overloaded"


async def test_who_does_not_take_the_last_words_is_not_waited_for(monkeypatch):
    """The connection is closed instead."""
    monkeypatch.setattr("gateway.reply.LAST_WORDS", 0.01)
    wire = Stuck()
    wire.free.set()
    await wire.reply.head(200, EVENTS, None)
    wire.free.clear()

    await wire.reply.reject(NO)

    assert len(wire.messages) == 1


async def test_a_head_that_could_not_be_sent_is_not_sent():
    """A no may still have its own."""
    wire = Stuck()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await wire.reply.head(200, "application/json", 2)

    assert wire.reply.status == 0


async def test_a_no_has_the_shape_of_its_api_before_and_within_a_stream():
    """An upstream's own words too, where only an event is left to tell them."""
    plain, stream, passed = Wire("messages"), Wire("messages"), Wire("responses")
    await stream.reply.head(200, EVENTS, None)
    await passed.reply.head(200, EVENTS, None)

    await plain.reply.reject(NO)
    await stream.reply.reject(NO)
    await passed.reply.whole(400, "application/json", b'{"detail":"too long"}')

    assert plain.headers["request-id"] == plain.headers["x-request-id"] == "req_1"
    told = json.loads(plain.messages[1]["body"])
    assert (told["type"], told["error"]["type"]) == ("error", "overloaded_error")
    assert stream.messages[1]["body"] == b"event: error\ndata: " + plain.messages[1]["body"] + b"\n\n"
    last = json.loads(passed.messages[1]["body"].removeprefix(b"event: error\ndata: "))
    assert (last["type"], last["message"], last["error"]["message"]) == ("error", "too long", "too long")
    assert (stream.reply.broke, passed.reply.broke) == ("overloaded", "400")


async def test_a_cut_tells_its_own_cause_and_number():
    """The words are the rejection's."""
    wire = Wire("responses")
    await wire.reply.head(200, EVENTS, None)

    await wire.reply.cut("stall", NO, 7)

    assert json.loads(wire.messages[1]["body"].partition(b"data: ")[2])["sequence_number"] == 7
    assert wire.reply.broke == "stall"
