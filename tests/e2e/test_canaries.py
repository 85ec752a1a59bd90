"""Secrets that go through a gateway in every way that callers and upstreams find, and are in nothing that it leaves.

Law: whatever is looked for has been seen where it belongs, and each place that is searched holds something.
"""

import asyncio
import base64
import json
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx
import pytest

from gateway.identity.keys import new_secret, parse
from tests.contract.support import until
from tests.fakes.identity_provider import IdentityProvider, digits, new_key
from tests.gateway.harness import eventually
from tests.parts.gateway import ADMIN_KEY, STORE_DEADLINE, GatewayProcess, contents, secret_of, write_config
from tests.parts.otlp import OtlpReceiver
from tests.parts.proxy import StoreProxy
from tests.parts.scripted import (
    Bytes,
    Close,
    Hang,
    Raw,
    ScriptedServer,
    Status,
    delta,
    error,
    event,
    plain,
    sse,
    whole,
)
from tests.parts.stores import one

pytestmark = pytest.mark.ci

UPSTREAM_KEYS = {"up": "nvapi-Canary4Upstream9ofTheOperator2", "claude": "sk-ant-Canary7Upstream5ofTheOperator8"}
PROMPT = "kestrel-prompt-canary-harbour"
ANSWER = "plover-answer-canary-lantern"

REFUSALS = (400, 401, 402, 403, 404, 408, 410, 413, 422, 429, 451, 500, 501, 503)
OTHERS = ("plain", "page", "event-first", "event-late", "no-error", "garbage", "cut", "names", "redirect", "hang")
BEHAVIOURS = (*(f"refused-{status}" for status in REFUSALS), *OTHERS)
"""Names of models; what the upstream does to a call for each."""

ENDLESS = "hang"
GOOD = {"id": "c-1", "object": "chat.completion", "created": 0, "model": "names"} | {
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ANSWER}}]
}

ADMIN_PAGES = (
    *("keys", "organizations", "organizations/acme", "organizations/acme/teams", "plans", "backends", "gateways"),
    *("audit", "usage?organization=acme", "ledger/check"),
)


class Echoing(ScriptedServer):
    """An upstream that tells whoever asks what it was sent: credentials and words."""

    def script(self, request):
        name = json.loads(request.body)["model"]
        told = " ".join(value for header, value in request.headers if header in ("authorization", "x-api-key"))
        words = f"what is this: {told} {request.body.decode()}"
        if name.startswith("refused-"):
            return error(int(name.removeprefix("refused-")), words)
        failed = event({"error": {"message": words, "type": "server_error", "code": 500}})
        opened = [Status(200, {"content-type": "text/event-stream"})]
        key = told.removeprefix("Bearer ")
        scripts = {
            "page": [Status(400, {"content-type": "text/html"}), Bytes(f"<html>{words}</html>".encode())],
            "event-first": [*opened, failed],
            "event-late": [*opened, delta(content=ANSWER), failed],
            "no-error": whole(200, {"error": {"message": words}}),
            "garbage": [Raw(f"HTTP/9.9 {words}\r\n{words}: {words}\r\n\r\n".encode()), Close()],
            "cut": [*opened, delta(content=ANSWER), Close()],
            "names": whole(200, GOOD, **{"x-request-id": key, "nvcf-reqid": told, "nvcf-status": key, "server": key}),
            "redirect": [Status(307, {"location": f"{self.url}/{key}", "content-length": "0"})],
            "hang": [*opened, delta(content=ANSWER), Hang()],
        }
        streamed = json.loads(request.body).get("stream")
        return scripts.get(name) or (sse(ANSWER) if streamed else plain(ANSWER))

    async def handle(self, request, connection):
        """Refuse to list its models, in the same words."""
        if request.method != "GET":
            await super().handle(request, connection)
            return
        words = " ".join(f"{name}: {value}" for name, value in request.headers)
        await connection.answer(500, json.dumps({"error": {"message": words}}).encode())


class Keeping(OtlpReceiver):
    """Keeps what came as it came."""

    def __init__(self):
        super().__init__()
        self.raw = b""

    def take(self, path, body):
        self.raw += body
        return super().take(path, body)


@dataclass
class Secrets:
    """What callers and operators know. Each is looked for in parts that nobody could take for anything else."""

    keys: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    @property
    def of_callers(self):
        """Parts of what opens doors here."""
        parts = [ADMIN_KEY]
        for key in self.keys:
            secret = secret_of(key)
            parts += [secret[:20], secret[20:40], base64.b64encode(key.encode()).decode()[8:-8]]
        parts += [segment for token in self.tokens for segment in token.split(".") if segment]
        return parts

    @property
    def of_upstreams(self):
        """Parts of what opens doors there."""
        return [part for key in UPSTREAM_KEYS.values() for part in (key[7:20], key[20:])]


@dataclass
class Seen:
    """What there is to be searched, by its place, and what was asked and answered."""

    secrets: Secrets
    places: dict[str, bytes] = field(default_factory=dict)
    received: bytes = b""
    """All that upstreams were sent."""
    answers: list[tuple[str, bytes]] = field(default_factory=list)
    """What was asked, in words, and the whole answer: status, headers and body."""


class Site:
    """A gateway, what is around it, and what is collected."""

    def __init__(self, gateway, store, provider, upstream, seen):
        self.gateway, self.store, self.provider, self.upstream, self.seen = gateway, store, provider, upstream, seen
        self.client = httpx.AsyncClient(base_url=gateway.url, timeout=30)

    async def ask(self, what, method, path, **request):
        """Ask, and keep the answer."""
        answer = await self.client.request(method, path, **request)
        head = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
        self.seen.answers.append((what, f"{answer.status_code}\n{head}\n\n".encode() + answer.content))
        return answer

    async def call(self, model, credential, *, stream=False, api="chat/completions", **request):
        """Make a call of `model`."""
        headers = {"authorization": f"Bearer {credential}"} | request.pop("headers", {})
        body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 9, "stream": stream}
        return await self.ask(f"{api} {model}", "POST", f"/v1/{api}", json=body, headers=headers, **request)


def settings(folder, store, provider, upstreams, receiver):
    price = {"input": 1, "output": 1}
    backends = {
        name: {"kind": kind, "base_url": f"{upstreams[name].url}/v1", "api_key": UPSTREAM_KEYS[name]}
        for name, kind in (("up", "openai"), ("claude", "anthropic"))
    }
    models = {
        f"{name}{'-claude' if backend == 'claude' else ''}": {
            "deployments": [{"backend": backend, "model": name, "price": price}],
            "routing": {"max_wait": 0},  # whoever was refused by a limit would wait for it
        }
        for name in BEHAVIOURS
        for backend in backends
    }
    return {
        "backends": backends,
        "models": models,
        "plans": {"kept": {"tokens_per_day": 10**9, "concurrent_requests": 100}},
        "organizations": {"acme": {"plan": "kept"}},
        "issuers": {
            "idp": {"issuer": provider.issuer, "audience": "sluiceway", "organization_claim": "org", "team": "research"}
        },
        "store": {
            "url": store.url,
            "data_dir": str(folder / "data"),
            "when_down": "local",
            "deadline": STORE_DEADLINE,
        },
        "telemetry": {"otlp_endpoint": receiver.endpoint, "sample": 1.0},
    }


async def calls_of_all_kinds(site, key, token):
    """Every behaviour of either upstream, to a plain call and to a stream, by a key and by a token."""
    for name in BEHAVIOURS:
        if name == ENDLESS:
            continue
        for stream in (False, True):
            await site.call(name, key, stream=stream)
            await site.call(name, token, stream=stream)
            await site.call(f"{name}-claude", key, stream=stream, api="messages")


async def bad_credentials(site, key, token):
    """Mistyped, forged, expired, for somebody else; every one of them is refused."""
    secrets, provider = site.seen.secrets, site.provider
    head, claims, signature = token.split(".")
    unsigned = f"{digits(json.dumps({'alg': 'none'}))}.{claims}."
    bad = [
        f"{key[:-1]}{'a' if key[-1] != 'a' else 'b'}",
        key[:-5],
        new_secret(parse(key)),
        f"{head}.{claims}.{signature[:-8]}AAAAAAAA",
        unsigned,
        provider.token(exp=int(time.time()) - 3600, sub="late").decode(),
        provider.token(aud="another", sub="astray").decode(),
        provider.token(new_key(number=1), sub="forged").decode(),
    ]
    secrets.keys.append(bad[2])
    secrets.tokens += bad[4:]
    for credential in bad:
        assert (await site.call("plain", credential)).status_code == 401
        answer = await site.ask("models", "GET", "/v1/models", headers={"x-api-key": credential})
        assert answer.status_code == 401
        answer = await site.ask("admin", "GET", "/admin/v1/keys", headers={"authorization": f"Bearer {credential}"})
        assert answer.status_code == 401


async def wrong_places(site, key, token):
    """Where credentials have no business, with and without a good one beside them."""
    basic = base64.b64encode(f"{key}:{token}".encode()).decode()
    site.seen.secrets.tokens.append(basic)
    for good in ({}, {"authorization": f"Bearer {key}"}):
        for name, value in {
            "cookie": f"session={key}; token={token}",
            "user-agent": key,
            "x-session-id": key,
            "x-request-id": key,
            "x-api-key": token,
            "tracestate": f"sw={key}",
            "x-forwarded-for": key,
            "x-request-timeout": key,
            "proxy-authorization": f"Bearer {token}",
            "content-type": key,
            "referer": f"http://127.0.0.1/?key={key}",
        }.items():
            await site.call("plain", "", headers={"authorization": "", **good, name: value})
        await site.call("plain", "", params={"api_key": key, "token": token}, headers={"authorization": "", **good})
        for path in (f"/v1/models/{key}", f"/v1/{token}", f"/{key}/v1/models", f"/admin/v1/keys/{key}"):
            await site.ask("a path", "GET", path, headers=good)
            await site.ask("a path", "POST", path, headers=good, json={"key": key})
    await site.call("plain", "", headers={"authorization": f"Basic {basic}"})
    await site.call("plain", "", headers={"authorization": key})
    for name in (key, token, PROMPT):
        await site.call(name, key)
    assert (await site.call("plain", ADMIN_KEY)).status_code == 401
    body = {"model": "plain", "messages": PROMPT}
    headers = {"authorization": f"Bearer {key}"}
    for wrong in (json.dumps(body)[:-3], json.dumps(body | {"model": [PROMPT]}), json.dumps(body | {"n": PROMPT}), ""):
        await site.ask("a body", "POST", "/v1/chat/completions", content=wrong, headers=headers)
    host, port = site.gateway.url.removeprefix("http://").split(":")
    for raw in (
        f"GET /{key} HTTP/1.1\r\n{key} {token}\r\n\r\n",
        f"{token}\r\n\r\n",
        f"POST / HTTP/7\r\nx: {key}\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw.encode())
        site.seen.answers.append(("raw", await asyncio.wait_for(reader.read(), 10)))
        writer.close()


async def admin_calls(site, key, token):
    """Read all there is; change keys; ask for what is wrong, in words that hold secrets."""
    secrets = site.seen.secrets
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    body = {"organization": "acme", "team": "research", "name": "other"}
    other = await site.gateway.admin("POST", "/keys", json=body)
    secrets.keys.append(other["key"])
    rotated = await site.gateway.change("POST", f"/keys/{other['id']}/rotate", {"overlap": 60})
    secrets.keys.append(rotated.json()["key"])
    assert (await site.call("plain", other["key"])).status_code == 200
    await site.gateway.change("PATCH", f"/keys/{other['id']}", {"metadata": {"word": "changed"}})
    await site.gateway.change("DELETE", f"/keys/{other['id']}")
    pages = (*ADMIN_PAGES, f"keys/{parse(key)}", f"keys/{key}", f"keys?cursor={key}")
    for path in pages:
        await site.ask(f"admin {path}", "GET", f"/admin/v1/{path}", headers=headers)
    wrong = {"organization": "acme", "team": key, "name": token, "plan": key, "models": [key], "nonsense": token}
    await site.ask("admin wrong", "POST", "/admin/v1/keys", headers=headers, json=wrong)
    await site.ask("admin wrong", "POST", "/admin/v1/keys", headers=headers, json=wrong | {"team": "a", "plan": None})
    revoked = {"issuer": "idp", "jti": "a-jti", "expires": "1h"}
    await site.ask("admin token", "POST", "/admin/v1/tokens/revoke", headers=headers, json=revoked)
    for credential in (key, token):
        barred = {"authorization": f"Bearer {credential}"}
        for path in ("keys", "audit"):
            assert (await site.ask("admin", "GET", f"/admin/v1/{path}", headers=barred)).status_code == 403


async def an_outage(site, key, token, data):
    """Call with the store away, and keep what the journal holds then."""
    site.store.pause()
    for credential in (key, token) * 3:
        for stream in (False, True):
            assert (await site.call("plain", credential, stream=stream)).status_code == 200
    await eventually(lambda: b"".join(contents(data / "journal").values()))
    site.seen.places["journal"] = b"".join(contents(data / "journal").values())
    site.store.go_on()

    async def it_is_back():
        metrics = await site.gateway.metrics()
        return metrics["sluiceway_store_down"] == metrics["sluiceway_open_reservations"] == 0

    await until(it_is_back)


async def an_end(site, key):
    """End the gateway in the middle of a stream."""
    cut = asyncio.ensure_future(site.call("hang", key, stream=True))
    await eventually(lambda: any(call.tokens for call in site.upstream.calls[-1:]))
    site.gateway.send(signal.SIGTERM)
    await eventually(lambda: '"stopping"' in site.gateway.output)
    assert await site.gateway.terminate() == 0
    await asyncio.gather(cut, return_exceptions=True)


async def scenario(folder):
    """Let all of it happen; return `Seen`."""
    secrets = Secrets()
    seen = Seen(secrets)
    async with AsyncExitStack() as stack:
        keeping = {"appendonly": "yes", "rdbcompression": "no"}
        store = await stack.enter_async_context(one(folder / "store", **keeping))
        proxy = await stack.enter_async_context(StoreProxy(store.port))
        provider = await stack.enter_async_context(IdentityProvider())
        upstreams = {name: await stack.enter_async_context(Echoing()) for name in UPSTREAM_KEYS}
        receiver = stack.enter_context(Keeping())
        config = write_config(folder, settings(folder, proxy, provider, upstreams, receiver))
        gateway = await stack.enter_async_context(GatewayProcess(config))
        site = Site(gateway, store, provider, upstreams["up"], seen)
        stack.push_async_callback(site.client.aclose)

        key = await gateway.create_key()
        token = provider.token(jti="a-jti-of-its-own").decode()
        secrets.keys.append(key)
        secrets.tokens.append(token)
        await calls_of_all_kinds(site, key, token)
        await bad_credentials(site, key, token)
        await wrong_places(site, key, token)
        await admin_calls(site, key, token)
        await an_outage(site, key, token, folder / "data")
        seen.places["metrics"] = (await site.client.get(f"{gateway.operations_url}/metrics")).content
        await an_end(site, key)
        seen.places |= await left_behind(folder, store)
        seen.places["log"] = gateway.output.encode()
        seen.places["spans"] = receiver.raw
        seen.places["what the store was sent"] = bytes(proxy.sent)
        for upstream in (*upstreams.values(), provider):
            for request in upstream.requests:
                lines = [request.path, *(f"{name}: {value}" for name, value in request.headers)]
                seen.received += "\n".join(lines).encode() + request.body
    return seen


async def left_behind(folder, store):
    """Return what is on disk and in the store."""
    names = await store.ask("KEYS", "*")
    values = [await store.ask("DUMP", name) for name in names]
    await store.ask("SAVE")
    return {
        "the store's keys and values": b"\n".join([*names, *values]),
        "the store's files": b"".join(contents(folder / "store").values()),
        "data_dir": b"".join(contents(folder / "data").values()),
    }


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    return asyncio.run(scenario(tmp_path_factory.mktemp("canaries")))


LEFT = ("log", "spans", "metrics", "journal", "what the store was sent", "the store's keys and values")


def around(text, part):
    """Return where a part stands in a text."""
    at = text.find(part.encode())
    return text[max(at - 200, 0) : at + 120]


def test_the_canaries_were_where_they_belong(seen):
    """Else nothing below would mean anything."""
    answered = b"".join(answer for _, answer in seen.answers)
    key_id = parse(seen.secrets.keys[0]).encode()

    assert all(key.encode() in seen.received for key in UPSTREAM_KEYS.values())
    assert PROMPT.encode() in seen.received
    assert answered.count(ANSWER.encode()) > 10
    assert b"idp" in seen.places["the store's keys and values"]
    for place in ("what the store was sent", "the store's keys and values", "the store's files"):
        assert key_id in seen.places[place], place
    assert b"acme" in seen.places["journal"]
    assert seen.places["spans"].count(b"POST /v1/chat/completions") > 50
    assert b"an attempt failed" in seen.places["log"]
    assert b"sluiceway_requests_total" in seen.places["metrics"]


@pytest.mark.parametrize("place", [*LEFT, "the store's files", "data_dir"])
def test_nothing_that_a_gateway_leaves_holds_a_secret(seen, place):
    """Neither a credential nor a word of a prompt or an answer, be it only a telling part of one."""
    text = seen.places[place]
    parts = [*seen.secrets.of_callers, *seen.secrets.of_upstreams, PROMPT, ANSWER]

    assert {part: around(text, part) for part in parts if part.encode() in text} == {}


def test_no_upstream_gets_a_callers_credential(seen):
    """Whatever else a caller sends along."""
    parts = seen.secrets.of_callers

    assert {part: around(seen.received, part) for part in parts if part.encode() in seen.received} == {}


def test_no_caller_gets_an_operators_credential(seen):
    """Also where an upstream tells it in the answer that is handed on."""
    parts = [*seen.secrets.of_upstreams, ADMIN_KEY]
    found = [(what, around(answer, part)) for what, answer in seen.answers for part in parts if part.encode() in answer]

    assert found == []


def test_what_admins_read_holds_no_credential(seen):
    """Keys are shown once, by the answer that makes them."""
    told = [(what, answer) for what, answer in seen.answers if what.startswith("admin")]
    parts = [*seen.secrets.of_callers, *seen.secrets.of_upstreams, PROMPT, ANSWER]
    found = [(what, around(answer, part)) for what, answer in told for part in parts if part.encode() in answer]

    assert len(told) > 20
    assert found == []
