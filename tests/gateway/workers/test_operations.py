import asyncio
import json

import httpx
import pytest

from gateway.api.admin_requests import MAX_BODY
from gateway.workers import operations
from gateway.workers.operations import Operations
from tests.parts.http1 import Http1Server


class Worker(Http1Server):
    """A worker's operations, as far as they are asked here. `answers`: (status, body) by path."""

    def __init__(self, name):
        super().__init__()
        self.answers = {"/readyz": (200, b"ok"), "/metrics": (200, f"# HELP m x\nm {name}\n".encode())}
        self.name = name
        self.hangs = False
        self.breaks = False
        self.dawdles = False

    async def handle(self, request, connection):
        looked_at = request.path == "/livez"
        if self.hangs or (self.dawdles and not looked_at):
            await asyncio.Event().wait()
        if self.breaks and not looked_at:
            connection.reset()
            return
        told = {"name": self.name, "method": request.method, "path": request.path, "body": len(request.body)}
        told["headers"] = dict(request.headers)
        status, body = self.answers.get(request.path, (201, json.dumps(told).encode()))
        await connection.answer(status, body, "application/json")


class Site:
    """Two workers and what they are asked through."""

    digest = "0123456789ab"

    def __init__(self, workers):
        self.workers = workers
        self.restarts = {1: 0, 2: 3}
        self.stopping = False
        self.ports = {number: worker.port for number, worker in enumerate(workers, 1)}
        self.answering = list(self.ports.values())
        self.app = Operations(self)

    async def ask(self, path, method="GET", client=("203.0.113.7", 4000), **request):
        request["headers"] = {"authorization": "Bearer key"} | request.get("headers", {})
        transport = httpx.ASGITransport(self.app, client=client)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as asking:
            return await asking.request(method, path, **request)


@pytest.fixture
async def site():
    async with Worker("1") as first, Worker("2") as second:
        yield Site([first, second])


async def test_one_worker_that_is_ready_is_enough(site):
    """The text says which are not, and why."""
    assert ((await site.ask("/readyz")).status_code, (await site.ask("/livez")).text) == (200, "ok")
    site.workers[0].answers["/readyz"] = (503, b"no backend lists a model yet")
    some = await site.ask("/readyz")
    site.ports[2] = None
    none = await site.ask("/readyz")

    assert (some.status_code, some.headers["x-sluiceway-config"]) == (200, site.digest)
    assert some.text == "ok, but: 1 of 2 workers are ready\nworker 1: no backend lists a model yet"
    assert none.status_code == 503
    assert none.text.endswith("worker 1: no backend lists a model yet\nworker 2: starting")


async def test_one_that_does_not_answer_is_not_ready_and_holds_up_nobody(site, monkeypatch):
    """Whether it hangs or has just been killed."""
    monkeypatch.setattr(operations, "ASKED_WITHIN", 0.2)
    monkeypatch.setattr(operations, "MEASURED_WITHIN", 0.2)
    site.workers[0].hangs = True
    await site.workers[1].stop()
    answer = await site.ask("/readyz")
    await site.workers[1].start()

    assert answer.status_code == 503
    assert "did not answer within 0.2 s" in answer.text
    assert "worker 2: http://127.0.0.1" in answer.text
    assert "m{worker=" not in (await site.ask("/metrics")).text.replace('m{worker="2"}', "")


async def test_a_stop_is_told_by_readiness_at_once(site):
    """Before any worker knows; no worker counts as ready any more."""
    site.stopping = True

    assert ((await site.ask("/readyz")).status_code, (await site.ask("/readyz")).text) == (503, "stopping")
    assert "sluiceway_workers 0\n" in (await site.ask("/metrics")).text


async def test_metrics_are_those_of_all(site):
    """And how many are ready, and how often one was replaced."""
    answer = await site.ask("/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'm{worker="1"} 1\nm{worker="2"} 2\n' in answer.text
    assert "sluiceway_workers 2\n" in answer.text
    assert 'sluiceway_worker_restarts_total{worker="2"} 3\n' in answer.text


async def test_what_is_ours_is_only_read(site):
    """As the routes of one gateway alone are."""
    refused = await site.ask("/livez", "POST")

    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert site.workers[0].requests == site.workers[1].requests == []
    assert (await site.ask("/metrics", "HEAD")).status_code == 200


async def test_all_else_goes_to_a_worker_as_it_came(site):
    """Another one each time, which learns who asks, whatever the asker says of that."""
    request = {"json": {"a": 1}, "headers": {"x-forwarded-for": "10.0.0.1", "if-match": '"3"', "te": "trailers"}}
    answers = [await site.ask("/admin/v1/keys/a%2Fb?limit=3&x=%20", "PUT", **request) for _ in range(2)]
    told = answers[0].json()

    assert {answer.json()["name"] for answer in answers} == {"1", "2"}
    assert (answers[0].status_code, answers[0].headers["content-type"]) == (201, "application/json")
    assert (told["method"], told["path"], told["body"]) == ("PUT", "/admin/v1/keys/a%2Fb?limit=3&x=%20", 7)
    assert told["headers"]["x-forwarded-for"] == "203.0.113.7"
    assert told["headers"]["if-match"] == '"3"'
    assert "te" not in told["headers"]


async def test_one_that_is_not_there_is_passed_over(site):
    """It was asked nothing; a worker that took the question and broke off is not followed by another."""
    await site.workers[0].stop()
    names = {(await site.ask("/admin/v1/plans", "POST")).json()["name"] for _ in range(2)}
    await site.workers[0].start()
    for worker in site.workers:
        worker.breaks = True
    lost = await site.ask("/admin/v1/plans", "POST")

    assert names == {"2"}
    assert (lost.status_code, lost.json()["error"]["code"]) == (503, "overloaded")
    assert "retry-after" not in lost.headers
    assert sum(request.path == "/admin/v1/plans" for worker in site.workers for request in worker.requests) == 3


async def test_without_any_worker_the_answer_says_when_to_ask_again(site):
    """In the shape of every other refusal."""
    site.answering = []
    answer = await site.ask("/admin/v1/plans")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["x-request-id"]
    assert "No worker is there" in answer.json()["error"]["message"]


async def test_of_a_body_that_is_too_long_only_so_much_is_passed_on_as_shows_it(site):
    """The worker says no in its own words, and nobody holds the rest."""
    answer = await site.ask("/admin/v1/plans", "POST", content=b"x" * (MAX_BODY + 100_000))

    assert answer.json()["body"] == MAX_BODY + 1


async def test_an_answer_however_long_is_passed_on_as_it_comes(site, monkeypatch):
    """A report on all organizations, say. What a worker tells of itself has a bound, so that it fills nothing."""
    monkeypatch.setattr(operations, "LONGEST", 1000)
    for worker in site.workers:
        worker.answers["/admin/v1/usage"] = (200, b"x" * 1_000_000)
        worker.answers["/metrics"] = (200, b"x" * 1001)

    answer = await site.ask("/admin/v1/usage")
    assert (answer.status_code, len(answer.content), answer.headers["content-length"]) == (200, 1_000_000, "1000000")
    assert "x" * 1000 not in (await site.ask("/metrics")).text


async def test_one_that_takes_too_long_is_told_apart_from_one_that_was_lost(site, monkeypatch):
    """Whoever waited knows what to change; nobody else is asked to do it again."""
    monkeypatch.setattr(operations, "PASSED_WITHIN", 0.2)
    for worker in site.workers:
        worker.dawdles = True
    answer = await site.ask("/admin/v1/ledger/check")

    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert "took longer than" in answer.json()["error"]["message"]
    assert sum(request.path != "/livez" for worker in site.workers for request in worker.requests) == 1


async def test_an_answer_that_breaks_off_is_not_made_whole(site, told):
    """Its head is out, so that only the connection's end can tell."""

    async def half(request, connection):
        if request.path == "/livez":
            await connection.answer(200, b"ok", "text/plain")
        else:
            await connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
            connection.close()

    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b""}

    for worker in site.workers:
        worker.handle = half
    scope = {"type": "http", "method": "GET", "path": "/x", "raw_path": b"/x", "query_string": b"", "client": None}
    await site.app(scope | {"headers": []}, receive, send)

    assert sent[0]["status"] == 200
    assert all(message["more_body"] for message in sent[1:])
    assert "broke off" in str(told)


async def test_one_that_hangs_is_passed_nothing(site, monkeypatch):
    """It would be done when it goes on, long after its sender has given up; known to hang, it is not even looked at."""
    monkeypatch.setattr(operations, "ASKED_WITHIN", 0.5)
    site.workers[0].hangs = True
    names = [(await site.ask("/admin/v1/plans", "POST")).json()["name"] for _ in range(3)]
    looks = len(site.workers[0].requests)
    site.answering = [site.ports[2]]
    names += [(await site.ask("/admin/v1/plans", "POST")).json()["name"] for _ in range(2)]

    assert names == ["2"] * 5
    assert {request.path for request in site.workers[0].requests} == {"/livez"}
    assert len(site.workers[0].requests) == looks


async def test_without_a_credential_nobody_waits_for_the_body(site):
    """A worker says no, whatever it holds: who has shown none could else hold all of the few connections here."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/x", "raw_path": b"/x", "query_string": b"", "client": None}
    lengths = [(b"content-length", b"100"), (b"content-type", b"application/json")]
    await asyncio.wait_for(site.app(scope | {"headers": lengths}, asyncio.Event().wait, send), 10)

    assert sent[0]["status"] == 201
    assert (b"connection", b"close") in sent[0]["headers"], "what is left of the body may still come"
    assert json.loads(sent[1]["body"])["body"] == 0


async def test_a_body_that_does_not_come_in_time_is_given_up(site, monkeypatch):
    """And its connection, as what is left of it may still come there."""
    monkeypatch.setattr(operations, "BODY_WITHIN", 0.1)
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/x", "raw_path": b"/x", "query_string": b"", "client": None}
    await asyncio.wait_for(site.app(scope | {"headers": [(b"x-api-key", b"k")]}, asyncio.Event().wait, send), 10)

    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert site.workers[0].requests == site.workers[1].requests == []


async def test_a_target_that_is_no_path_goes_nowhere(site):
    """It would be read as a part of the host's name."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": "GET", "path": "x", "raw_path": b"@203.0.113.1/", "query_string": b""}
    await site.app(scope | {"headers": [], "client": None}, receive, send)

    assert sent[0]["status"] == 404
    assert site.workers[0].requests == site.workers[1].requests == []
