import asyncio
import os
import re
import signal

import httpx
import pytest
from msgspec.structs import replace

from gateway.api.cors import EXPOSED, TAKEN, Cors
from gateway.config.settings import Listen
from policies.domain import Meter, MeterKind, Plan
from tests.gateway.harness import ASK, eventually, running
from tests.house import sources
from tests.parts.scripted import sse

APP, OTHER = "https://app.example.org", "https://evil.example.org"
LISTEN = Listen("127.0.0.1", 0, cors=(APP, "http://localhost:3000"))
NARROW = Plan("narrow", (Meter(MeterKind.REQUESTS_PER_MINUTE, limit=1, burst=1),))

ALWAYS_SENT = frozenset({"accept", "accept-language", "content-language"})
ALWAYS_READ = frozenset(
    {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma"}
)
OPENAIS = {
    "accept": "application/json",
    "content-type": "application/json",
    "user-agent": "OpenAI/JS 6.49.0",
    "openai-organization": "o",
    "openai-project": "p",
    "x-stainless-arch": "unknown",
    "x-stainless-lang": "js",
    "x-stainless-os": "Unknown",
    "x-stainless-package-version": "6.49.0",
    "x-stainless-retry-count": "0",
    "x-stainless-runtime": "browser:chrome",
    "x-stainless-runtime-version": "156.0.0",
    "x-stainless-timeout": "600",
}
"""What OpenAI's SDK sends from a browser, beside the key."""
ANTHROPICS = {name: value for name, value in OPENAIS.items() if "openai" not in name} | {
    "anthropic-beta": "b",
    "anthropic-dangerous-direct-browser-access": "true",
    "anthropic-version": "2023-06-01",
}


class Blocked(Exception):  # noqa: N818 - what a script sees as "TypeError: Failed to fetch"
    """A browser did not hand the answer over."""


class Page:
    """What a script of an origin can ask and read, by the Fetch standard's rules for requests without cookies."""

    def __init__(self, client, origin=APP):
        self.client, self.origin = client, {"origin": origin}

    async def fetch(self, method, path, headers, **terms):
        """Return the answer with those headers alone that a script can read. Raises Blocked."""
        unsafe = {name for name in headers if name not in ALWAYS_SENT}
        if unsafe:
            await self._preflight(method, path, unsafe)
        answer = await self.client.request(method, path, headers=headers | self.origin, **terms)
        exposed = self._shared(answer) | ALWAYS_READ
        answer.headers = httpx.Headers([pair for pair in answer.headers.multi_items() if pair[0] in exposed])
        return answer

    async def _preflight(self, method, path, unsafe):
        asks = {"access-control-request-method": method, "access-control-request-headers": ",".join(sorted(unsafe))}
        answer = await self.client.options(path, headers=self.origin | asks)
        self._shared(answer)
        allowed = listed(answer, "access-control-allow-headers")
        if not answer.is_success or not unsafe <= allowed:
            raise Blocked(unsafe - allowed)
        assert method.lower() in listed(answer, "access-control-allow-methods")

    def _shared(self, answer):
        """Return the headers that the answer exposes. Raises Blocked where it is not shared."""
        if answer.headers.get_list("access-control-allow-origin") not in ([self.origin["origin"]], ["*"]):
            raise Blocked(answer.headers)
        return listed(answer, "access-control-expose-headers")


def listed(answer, name):
    return {word.strip().lower() for word in answer.headers.get(name, "").split(",")} - {""}


@pytest.fixture
async def gateway(tmp_path, first):
    plans = {"narrow": NARROW}
    async with running(tmp_path, {"a": first}, listen=LISTEN, plans=plans) as harness:
        yield harness


@pytest.fixture
async def page(gateway):
    async with httpx.AsyncClient(base_url=gateway.running.url) as client:
        yield Page(client)


@pytest.fixture
def key(gateway):
    return {"authorization": gateway.client.headers["authorization"]}


async def test_a_page_calls_and_reads_what_its_limits_are(page, key):
    """Plain, with what OpenAI's SDK sends, and the model list."""
    answer = await page.fetch("POST", "/v1/chat/completions", key | OPENAIS | {"x-sluiceway-explain": "1"}, json=ASK)
    models = await page.fetch("GET", "/v1/models", key)

    assert (answer.status_code, models.status_code) == (200, 200)
    assert answer.headers["x-sluiceway-backend"] == "a"
    assert {"x-sluiceway-route", "x-request-id", "x-sluiceway-config"} <= answer.headers.keys()
    assert models.headers["x-request-id"].startswith("req_")


async def test_a_page_reads_a_stream(page, key, first):
    """Marked once, at its head."""
    first.enqueue(sse("a", "b"))
    answer = await page.fetch("POST", "/v1/chat/completions", key | OPENAIS, json=ASK | {"stream": True})

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_a_page_reads_why_it_was_refused(page, gateway, key):
    """By whomever of us it was: a stranger, a limit, a model, a path, a method, a body that is none."""
    narrow = {"authorization": f"Bearer {await gateway.key('narrow')}"}
    call = ("POST", "/v1/chat/completions")
    assert (await page.fetch(*call, narrow | OPENAIS, json=ASK)).status_code == 200
    limited = await page.fetch(*call, narrow | OPENAIS, json=ASK)
    answers = [
        await page.fetch(*call, OPENAIS, json=ASK),
        await page.fetch("GET", "/v1/models", {"authorization": "Bearer x"}),
        limited,
        await page.fetch(*call, key | OPENAIS, json=ASK | {"model": "none"}),
        await page.fetch("GET", "/v1/models/none", key),
        await page.fetch("POST", "/v1/nope", key, json={}),
        await page.fetch("GET", "/v1/chat/completions", key),
        await page.fetch(*call, key | OPENAIS, content=b"{"),
    ]

    assert [answer.status_code for answer in answers] == [401, 401, 429, 404, 404, 404, 405, 400]
    assert all(answer.json()["error"]["message"] for answer in answers)
    assert {"retry-after", "x-ratelimit-limit-requests", "x-sluiceway-meter"} <= limited.headers.keys()


async def test_anthropics_clients_call_from_a_page_too(page, key):
    """With the headers of theirs; errors and the model list in that API's shape."""
    headers = ANTHROPICS | {"x-api-key": key["authorization"].removeprefix("Bearer ")}
    refused = await page.fetch("POST", "/v1/messages", headers, json={})
    models = await page.fetch("GET", "/v1/models", headers)

    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert refused.headers["request-id"] == refused.headers["x-request-id"]
    assert models.json()["data"][0]["type"] == "model"


async def test_a_preflight_asks_neither_for_a_key_nor_the_store(page, gateway, key):
    """Which hangs here: the call itself is refused for it, and the page reads so."""
    (info,) = await gateway.gateway.store.send(("INFO", "server"))
    os.kill(info["process_id"], signal.SIGSTOP)
    try:
        await eventually(lambda: gateway.gateway.store.down is not None, 10)
        before = gateway.gateway.store.round_trips
        async with asyncio.timeout(5):
            answer = await page.fetch("POST", "/v1/chat/completions", key | OPENAIS, json=ASK)
            asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
            preflight = await page.client.options("/v1/chat/completions", headers=page.origin | asks)
        assert gateway.gateway.store.round_trips == before
    finally:
        os.kill(info["process_id"], signal.SIGCONT)

    assert (answer.status_code, preflight.status_code, preflight.content) == (503, 204, b"")
    assert preflight.headers["access-control-max-age"] == "7200"
    assert "access-control-allow-credentials" not in preflight.headers


async def test_a_page_of_another_origin_is_told_why_and_reads_nothing(page, gateway, key):
    """A preflight says no, an answer is not marked as its to read; both say that they depend on the origin."""
    other = Page(page.client, OTHER)
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    preflight = await page.client.options("/v1/messages", headers=other.origin | asks)
    answer = await page.client.get("/v1/models", headers=key | other.origin)
    script = await page.client.get("/v1/models", headers=key)

    assert preflight.status_code == 403
    assert "`listen.cors`" in preflight.json()["error"]["message"]
    assert answer.status_code == script.status_code == 200
    for told in (preflight, answer, script):
        assert told.headers.get_list("vary") == ["origin"]
        assert not any(name.startswith("access-control-") for name in told.headers)
    with pytest.raises(Blocked):
        await other.fetch("POST", "/v1/chat/completions", key | OPENAIS, json=ASK)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/v1/chat/completions/", 200), ("//v1/chat/completions", 200), ("/v1//chat/completions", 200)),
        *(("//tokenize/", 501), ("/v1/nope/", 404), ("/v1", 404), ("//v1/", 404)),
        *(("/chat/completions", 404), ("//messages/", 404), ("/v1/v1/messages", 404)),
    ],
)
async def test_a_page_reads_what_becomes_of_a_path_that_is_nearly_right(page, gateway, key, path, status):
    """With a slash too many, or a `/v1` too few: it is what a base URL that is not quite right makes of a path."""
    answer = await page.fetch("POST", f"{gateway.running.url}{path}", key | OPENAIS, json=ASK)

    assert answer.status_code == status
    assert status == 200 or answer.json()["error"]["message"]


async def test_what_only_looks_like_an_origin_of_the_list_is_another(page, key):
    """They are compared whole."""
    for origin in ("null", "https://app.example.org.evil.org", "http://app.example.org", f"{APP}/"):
        answer = await page.client.get("/v1/models", headers=key | {"origin": origin})
        assert "access-control-allow-origin" not in answer.headers


async def test_pages_read_nothing_but_the_callers_routes(page, gateway):
    """An admin's browser is nobody's tool."""
    asks = {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}
    for path in ("/admin/v1/keys", "//admin/v1/keys/", "/admin//v1/keys", "/schema", "/schema/", "/nothing", "/", "//"):
        for answer in (
            await page.client.options(f"{gateway.running.url}{path}", headers=page.origin | asks),
            await page.client.get(
                f"{gateway.running.url}{path}", headers=page.origin | {"authorization": "Bearer admin"}
            ),
        ):
            assert not {"access-control-allow-origin", "vary"} & answer.headers.keys()


async def test_a_page_may_send_no_header_that_nobody_here_reads(page):
    """It learns so from its browser."""
    with pytest.raises(Blocked, match="x-secret"):
        await page.fetch("POST", "/v1/messages", OPENAIS | {"x-secret": "1"}, json={})


@pytest.mark.parametrize("name", [b"x-sluiceway-\xff", b"anthropic-", b"*", b"cookie", b""])
def test_a_header_is_allowed_by_its_whole_name(name):
    assert not TAKEN.fullmatch(name)


async def test_a_star_is_every_page(tmp_path, first):
    """One without an origin of its own too; never with credentials."""
    async with running(tmp_path, {"a": first}, listen=replace(LISTEN, cors=("*",))) as gateway:
        key = {"authorization": gateway.client.headers["authorization"]}
        for origin in (APP, "null"):
            answer = await Page(gateway.client, origin).fetch("POST", "/v1/chat/completions", key | OPENAIS, json=ASK)
            assert answer.status_code == 200
        answer = await gateway.client.get("/v1/models", headers={"origin": APP})

    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


async def test_without_the_setting_nothing_is_said(tmp_path, first):
    """And it is taken while the gateway runs, as it is taken back."""
    async with running(tmp_path, {"a": first}) as gateway:
        key, settings = gateway.client.headers["authorization"], gateway.gateway.settings
        page = Page(gateway.client)
        told = await gateway.client.get("/v1/models", headers=page.origin)
        with pytest.raises(Blocked):
            await page.fetch("GET", "/v1/models", {"authorization": key})
        await gateway.gateway.take(replace(settings, listen=LISTEN))
        read = await page.fetch("GET", "/v1/models", {"authorization": key})
        await gateway.gateway.take(settings)
        with pytest.raises(Blocked):
            await page.fetch("GET", "/v1/models", {"authorization": key})

    assert read.status_code == 200
    assert "vary" not in told.headers


async def test_without_the_setting_a_preflight_is_told_so(tmp_path, first):
    """As a page of another origin is with it; whoever asks what a path takes is answered as ever."""
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with running(tmp_path, {"a": first}) as gateway:
        chat = await gateway.client.options("/v1/chat/completions", headers={"origin": APP} | asks)
        message = await gateway.client.options("/v1/messages", headers={"origin": APP} | asks)
        plain = await gateway.client.options("/v1/chat/completions")
        bare = await gateway.client.options("/v1/chat/completions", headers={"origin": APP})

    assert (chat.status_code, message.status_code, plain.status_code, bare.status_code) == (403, 403, 204, 204)
    assert "`listen.cors` does not let in pages of this origin" in chat.json()["error"]["message"]
    assert message.json()["error"]["type"] == "permission_error"
    assert "vary" not in plain.headers


async def test_a_page_reads_that_the_gateway_is_stopping(page, gateway, key):
    """Its call is not begun, and the no is in the shape of the API that it asked."""
    gateway.running._house.over = True
    chat = await page.fetch("POST", "/v1/chat/completions", key | OPENAIS, json=ASK)
    message = await page.fetch("POST", "/v1/messages", ANTHROPICS, json=ASK)

    assert (chat.status_code, message.status_code) == (503, 503)
    assert chat.json()["error"]["code"] == "overloaded"
    assert message.json()["error"]["type"] == "overloaded_error"
    assert {"retry-after", "request-id"} <= message.headers.keys()


def test_every_header_of_our_answers_can_be_read():
    """As they stand in the source: one that is added later is in it."""
    found = set()
    for path in sources():
        if path.name in {"errors.py", "reply.py", "limits.py"}:
            found |= set(re.findall(r'b"((?:x-|ratelimit|retry-|request-id)[a-z-]*)"', path.read_text()))
    found |= {
        f"x-ratelimit-{which}-{what}" for which in ("limit", "remaining", "reset") for what in ("requests", "tokens")
    }
    whole = {name for name in found if not name.endswith("-")}

    assert len(whole) >= 20
    assert whole - {"x-accel-buffering"} == set(EXPOSED)


def test_nothing_is_put_around_calls_where_no_origin_is_let_in():
    """The same objects go in: a call costs what it did."""
    seen = []
    served = Cors([]).around(lambda *given: seen.append(given))
    scope, receive, send = {"path": "/v1/messages", "headers": []}, object(), object()
    served(scope, receive, send)

    assert seen == [(scope, receive, send)]
