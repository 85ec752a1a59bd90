"""What an admin changes is in force at every gateway within a second, whatever becomes of the news of it."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx
import pytest

from gateway.identity.last_used import USED
from gateway.identity.records import key_of
from tests.fakes.identity_provider import IdentityProvider
from tests.gateway.harness import eventually
from tests.parts.gateway import STORE_DEADLINE, GatewayProcess, write_config
from tests.parts.proxy import StoreProxy
from tests.parts.scripted import ScriptedServer, Until, plain
from tests.parts.stores import one

pytestmark = pytest.mark.ci

WITHIN = 1.0
"""Seconds from the admin API's answer."""

EVERY = 0.01
"""Seconds between two calls of a steady caller."""

HELD = 1_000
"""Calls in flight while a record is changed."""

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SOON = 1
"""Whole seconds in which a key expires, after the one that has begun: what it asks for is still to come when asked."""

ENDLESS, SPENT = {"tokens_in_all": 10**12}, {"tokens_in_all": 1}
"""Plans: one that refuses nobody, and one that a single call has used up."""


@dataclass
class Site:
    """Two gateways over one store; the second one reaches it through `proxy`."""

    gateways: list[GatewayProcess]
    proxy: StoreProxy
    provider: IdentityProvider
    upstream: ScriptedServer
    store: object

    async def records(self, names):
        """Return records as the store has them, byte for byte."""
        return [await self.store.ask("HGETALL", name) for name in names]


@pytest.fixture
async def site(request, tmp_path):
    """Give two gateways over one store; a parameter is the seconds that it may take."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(one(tmp_path / "store"))
        proxy = await stack.enter_async_context(StoreProxy(store.port))
        upstream = await stack.enter_async_context(ScriptedServer())
        provider = await stack.enter_async_context(IdentityProvider())
        issuer = {"issuer": provider.issuer, "audience": "sluiceway", "organization_claim": "org", "team": "token"}
        processes = []
        for name, url in (("first", store.url), ("second", proxy.url)):
            settings = {
                "backends": {"up": {"kind": "openai", "base_url": f"{upstream.url}/v1", "probe_every": 0}},
                "models": {
                    name: {"deployments": [{"backend": "up", "model": "scripted", "price": {"input": 1, "output": 1}}]}
                    for name in ("m", "other")
                },
                "issuers": {"idp": issuer},
                "store": {
                    "url": url,
                    "data_dir": str(tmp_path / name / "data"),
                    "deadline": getattr(request, "param", 0.25),
                },
            }
            (tmp_path / name).mkdir()
            process = GatewayProcess(write_config(tmp_path / name, settings))
            processes.append(await stack.enter_async_context(process))
        yield Site(processes, proxy, provider, upstream, store)


@dataclass
class Steady:
    """A caller that goes on until it is refused: when its calls began, by their statuses."""

    gateway: GatewayProcess
    key: str
    begun: list[tuple[float, int]] = field(default_factory=list)
    refused_at: float = 0.0

    async def call_on(self):
        """Call until an answer is a refusal."""
        headers = {"authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(base_url=self.gateway.url, headers=headers, timeout=10) as client:
            status = 200
            while status in (200, 503):  # a store that comes late, on a busy machine, refuses nobody for good
                begun = time.monotonic()
                status = (await client.post("/v1/chat/completions", json=BODY)).status_code
                self.refused_at = time.monotonic()
                self.begun.append((begun, status))
                await asyncio.sleep(EVERY)

    @property
    def last_served(self):
        """When the last call that was served began."""
        return max(begun for begun, status in self.begun if status == 200)


async def make(site, team, **terms):
    """Make a key; return what the admin API says of it, the key included."""
    body = {"organization": "acme", "team": team, "name": team, **terms}
    return await site.gateways[0].admin("POST", "/keys", json=body)


LINKS = ("whole", "slow", "reset", "blackholed")

CHANGES = {
    "revoked": ("DELETE", "/keys/{id}", None, 401),
    "scopes": ("PATCH", "/keys/{id}", {"scopes": ["admin:read"]}, 403),
    "models": ("PATCH", "/keys/{id}", {"models": ["other"]}, 403),
    "expires": ("PATCH", "/keys/{id}", {"expires": SOON}, 401),
    "rotated": ("POST", "/keys/{id}/rotate", {"overlap": 0}, 401),
    "meters": ("PATCH", "/keys/{id}", {"meters": SPENT}, 429),
    "plan": ("PUT", "/plans/{name}", SPENT, 429),
    "team": ("PUT", "/organizations/acme/teams/{name}", {"state": "suspended"}, 403),
    "token": ("POST", "/tokens/revoke", {"issuer": "idp", "expires": "1h"}, 401),
}
"""What is changed, and what its holder gets then."""


class Trial:
    """One change under steady calls of whoever it is about, one caller at each gateway."""

    def __init__(self, site, link, what):
        self._site = site
        self._first = site.gateways[0]
        self._what, self._name = what, f"{link}-{what}"
        self._method, self._path, self._body, self._status = CHANGES[what]

    async def prepare(self):
        """Make a key, or a token, and let it be known everywhere."""
        if self._what == "plan":
            await self._first.admin("PUT", f"/plans/{self._name}", json=ENDLESS)
        terms = {"plan": {"plan": self._name}, "meters": {"meters": ENDLESS}}.get(self._what, {})
        made = await make(self._site, self._name, **terms)
        key = made["key"]
        self._path = self._path.format(id=made["id"], name=self._name)
        if self._what == "token":
            key = self._site.provider.token(jti=self._name).decode()
            self._body = {**self._body, "jti": self._name}
        self._callers = [Steady(gateway, key) for gateway in self._site.gateways]
        self._tasks = [asyncio.ensure_future(caller.call_on()) for caller in self._callers]
        await eventually(lambda: all(len(caller.begun) > 3 for caller in self._callers), within=10)

    async def lags(self):
        """Make the change; return for each gateway how long after it the old was served, and refused (seconds)."""
        due = 0.0
        if self._what == "expires":
            self._body = {"expires": int(time.time()) + 1 + SOON}
            due = self._body["expires"] - time.time() + time.monotonic()
        await self._first.change(self._method, self._path, self._body)
        due = max(due, time.monotonic())
        async with asyncio.timeout(10):
            await asyncio.gather(*self._tasks)
        assert {caller.begun[-1][1] for caller in self._callers} == {self._status}, self._name
        return [(caller.last_served - due, caller.refused_at - due) for caller in self._callers]


async def deafen(site, link):
    """Spoil the second gateway's feed at the worst moment: its last question was answered as soon as it was asked."""
    for plan in (SPENT, ENDLESS):
        told = site.proxy.told
        await site.gateways[0].change("PUT", "/plans/of-nobody", plan)
        await eventually(lambda told=told: site.proxy.told > told)
    site.proxy.spoil(link)


async def test_a_change_is_in_force_at_every_gateway_within_a_second(site):
    """Also where one of them hears late of it, or not at all; every other time it has become deaf just now."""
    await site.gateways[0].admin("PUT", "/plans/of-nobody", json=ENDLESS)
    figures = {}
    for link in LINKS:
        for number, name in enumerate(CHANGES):
            trial, newly = Trial(site, link, name), number % 2 == 0
            if newly:
                await site.proxy.mend()
            await trial.prepare()
            if newly:
                await deafen(site, link)
            figures[link, name] = await trial.lags()
    for (link, name), both in figures.items():
        told = "; ".join(f"served until {served:6.3f} s, refused at {refused:6.3f} s" for served, refused in both)
        print(f"{link:>10} {name:>8}: {told}")

    # No call that begins later is served; when its refusal is read says as much of how busy this process is.
    assert {change: both for change, both in figures.items() if max(served for served, _ in both) > WITHIN} == {}


class Held:
    """Calls that are made at once, over a connection each, and wait for their answers."""

    def __init__(self, gateway, key, count):
        self._host, port = gateway.url.removeprefix("http://").split(":")
        data = json.dumps(BODY).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        self._port, self._request, self._count = int(port), head.encode() + data, count

    async def statuses(self):
        """Return the statuses once all are answered."""
        return await asyncio.gather(*(self._one() for _ in range(self._count)))

    async def _one(self):
        reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(self._request)
        answer = await reader.read()
        writer.close()
        return int(answer[9:12])


async def statuses(site, key):
    """Call each gateway once."""
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(headers=headers, timeout=10) as client:
        answers = [await client.post(f"{gateway.url}/v1/chat/completions", json=BODY) for gateway in site.gateways]
    return [answer.status_code for answer in answers]


async def update(gateway, key_id):
    """Change the key and all that it stands under; return what the key's record says then."""
    after = {"metadata": {"word": "after"}}
    await gateway.admin("PUT", "/plans/stored", json=ENDLESS)
    await gateway.change("PUT", "/organizations/acme", {"plan": "stored", **after})
    await gateway.change("PUT", "/organizations/acme/teams/research", after)
    terms = {"models": ["other"], "networks": ["127.0.0.0/8"], **after}
    await gateway.change("PATCH", f"/keys/{key_id}", terms)
    return terms


@pytest.mark.parametrize("site", [STORE_DEADLINE], indirect=True)
async def test_an_update_under_a_thousand_calls_in_flight_is_never_lost(site):
    """They end as they would have; no gateway ever writes back what it knew of the records before."""
    first, second = site.gateways
    made = await make(site, "research", metadata={"word": "before"})
    released = asyncio.Event()
    site.upstream.default = [Until(released), *plain()]
    held = [Held(gateway, made["key"], HELD // 2) for gateway in site.gateways]
    calls = asyncio.gather(*(each.statuses() for each in held))
    await eventually(lambda: site.upstream.running == HELD, within=30)

    terms = await update(first, made["id"])
    answered = time.monotonic()
    names = [key_of(*place) for place in (("key", made["id"]), ("team", "acme/research"), ("plan", "stored"))]
    names.append(key_of("organization", "acme"))
    written = await site.records(names)
    assert all(written)
    while await statuses(site, made["key"]) != [403, 403]:
        assert time.monotonic() < answered + WITHIN
    released.set()
    first_half, second_half = await calls
    assert {*first_half, *second_half} == {200}
    assert await statuses(site, made["key"]) == [403, 403]
    assert await site.records(names) == written

    assert await first.terminate() == await second.terminate() == 0
    assert await site.store.ask("HGET", USED, made["id"]), "what gateways write of a key they have written"
    assert await site.records(names) == written
    await asyncio.gather(first.start(), second.start())
    assert await statuses(site, made["key"]) == [403, 403]
    shown = await first.admin("GET", f"/keys/{made['id']}")
    assert {name: shown[name] for name in terms} == terms
    assert await site.records(names) == written
