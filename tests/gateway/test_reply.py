from gateway.reply import Reply
from policies.domain import Standing
from policies.rejections import Reason, Rejection


class Wire:
    """Collects what a Reply sends."""

    def __init__(self):
        self.messages = []
        self.reply = Reply(self.send, "req_1", b"cfg")

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
    await limited.reply.reject(Rejection(Reason.RATE_LIMITED, "no", requests=Standing(10, 0, 5)))

    assert failed.headers["x-ratelimit-remaining-requests"] == "9"
    assert limited.headers["x-ratelimit-remaining-requests"] == "0"
    assert failed.messages[0]["status"] == 502
