"""The file is edited while a real `sluiceway serve` serves: in force within moments, and no call notices."""

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from operator import lt
from pathlib import Path

import httpx
import pytest
import yaml
from openai import AsyncOpenAI, OpenAIError

from tests.gateway.harness import eventually
from tests.parts.gateway import GatewayProcess, write_config
from tests.parts.scripted import Pause, ScriptedServer, plain, sse

WIDE = {"requests_per_minute": 6_000_000, "concurrent_requests": 200}
SOON = 2.0
"""Seconds within which an edit is in force."""


class Upstream(ScriptedServer):
    """Takes a moment for a plain answer, and some for a stream."""

    def script(self, request):
        streamed = b'"stream":true' in request.body.replace(b" ", b"")
        return sse(*(f"word{number} " for number in range(10)), every=0.02) if streamed else [Pause(0.005), *plain()]


class Load:
    """Calls, plain and streamed, one after another until it is stopped: which backends served, and what went wrong."""

    def __init__(self, client, width=2):
        self.client = client
        self.model = "m"
        self.served, self.faults, self.digests = [], [], set()
        self._going = True
        self._ended = [0] * (2 * width)
        self._tasks = [asyncio.ensure_future(self._run(number)) for number in range(2 * width)]

    async def _run(self, number):
        while self._going:
            try:
                await self._call(stream=number % 2 == 1)
            except (OpenAIError, httpx.HTTPError, AssertionError) as error:
                self.faults.append(error)
            self._ended[number] += 1

    async def _call(self, *, stream):
        asked = {"model": self.model, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
        raw = await self.client.chat.completions.with_raw_response.create(**asked)
        answer = raw.parse()
        if stream:
            chunks = [chunk async for chunk in answer]
            assert chunks[-1].choices[0].finish_reason == "stop"
            assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks) == 10
        self.served.append(raw.headers["x-sluiceway-backend"])
        self.digests.add(raw.headers["x-sluiceway-config"])

    async def more(self, count=12):
        """Let all that are under way end, and then so many more; return who served these."""
        ended = [*self._ended]
        await eventually(lambda: all(map(lt, ended, self._ended)), within=60)
        before = len(self.served)
        await eventually(lambda: self.faults or len(self.served) >= before + count, within=60)
        return set(self.served[before:])

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        self._going = False
        await asyncio.gather(*self._tasks)


def settings(**servers):
    """Configure backends of these names, of which the model `m` has all."""
    backends = {
        name: {"kind": "openai", "base_url": f"{server.url}/v1", "api_key": {"file": "key"}, "probe_every": 1}
        for name, server in servers.items()
    }
    deployments = [{"backend": name, "model": "scripted", "price": {"input": 0, "output": 0}} for name in servers]
    deadlines = {"total": 30}
    return {
        "backends": backends,
        "models": {"m": {"deployments": deployments, "deadlines": deadlines}},
        "plans": {"wide": WIDE, "other": WIDE},
    }


def places(**servers):
    """Return what of such a file says where calls go."""
    return {name: settings(**servers)[name] for name in ("backends", "models")}


class Site:
    """A gateway process whose file is edited."""

    def __init__(self, process, path):
        self.process = process
        self.path = path
        self.took = []

    @property
    def file(self):
        return yaml.safe_load(self.path.read_text())

    async def digest(self):
        """Return which configuration answers."""
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{self.process.operations_url}/readyz")).headers["x-sluiceway-config"]

    async def ready(self):
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{self.process.operations_url}/readyz")
        return answer.status_code, answer.text

    def write(self, file):
        """Put another file in the place of the one there is."""
        text = file if isinstance(file, str) else yaml.safe_dump(file, sort_keys=False)
        half = self.path.with_suffix(".new")
        half.write_text(text)
        half.replace(self.path)

    async def edit(self, **changes):
        """Change the file, and wait until that is in force; note how long it took."""
        before = await self.digest()
        self.write(self.file | changes)
        begun = time.monotonic()
        await self.other_than(before)
        self.took.append(time.monotonic() - begun)

    async def other_than(self, digest):
        """Wait until another configuration answers."""
        async with asyncio.timeout(60):
            while await self.digest() == digest:  # noqa: ASYNC110 - the gateway is another process
                await asyncio.sleep(0.02)

    async def told(self, words):
        await eventually(lambda: words in self.process.output, within=60)


@pytest.fixture
async def upstreams():
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Upstream()) for _ in range(3)]


@pytest.fixture
async def serve(tmp_path):
    """Start gateways over configurations; they are ended with the test."""
    async with AsyncExitStack() as stack:

        async def start(name, file, store=None):
            folder = tmp_path / name
            folder.mkdir()
            (folder / "key").write_text("key-of-the-backends")
            path = write_config(folder, file | (store or {}))
            process = GatewayProcess(path)
            stack.push_async_exit(process.__aexit__)
            await process.start(within=60)
            return Site(process, path)

        yield start


async def loaded(stack, site):
    key = await site.process.create_key(plan="wide")
    client = AsyncOpenAI(base_url=f"{site.process.url}/v1", api_key=key, max_retries=0)
    return await stack.enter_async_context(Load(await stack.enter_async_context(client)))


async def test_edits_are_in_force_within_moments_and_no_call_fails(serve, upstreams):
    """A backend and a model come, a plan changes, a backend goes, a bad file changes nothing, SIGHUP hurries."""
    one, two, three = upstreams
    async with AsyncExitStack() as stack:
        site = await serve("site", settings(one=one, two=two))
        load = await loaded(stack, site)

        new = places(one=one, two=two, three=three)
        new["models"]["alone"] = {"deployments": [{"backend": "three", "model": "scripted"}]}
        new["plans"] = {"wide": WIDE, "other": WIDE | {"requests_per_minute": {"limit": 1, "burst": 1}}}
        held = await site.process.create_key(organization="globex", plan="other")
        assert await refusals(site, held) == 0
        await site.edit(**new)
        load.model = "alone"
        assert await refusals(site, held) >= 1
        assert await load.more() == {"three"}
        load.model = "m"

        await site.edit(**places(two=two, three=three))
        assert await load.more(24) <= {"two", "three"}
        left = len(one.calls)
        await load.more()
        assert len(one.calls) == left
        await unchanged_by_a_bad_file(site, load)

        site.write(site.file | {"shutdown": {"grace": 3}})
        digest = await site.digest()
        site.process.send(signal.SIGHUP)
        await site.other_than(digest)
        await load.more()
        metrics = await site.process.metrics()

    assert load.faults == []
    assert min(site.took) < SOON
    assert len(load.digests) >= 4
    assert metrics["sluiceway_config_stale"] == 0
    assert metrics.total("sluiceway_config_reloads_total", outcome="refused") == 1
    assert metrics.total("sluiceway_attempts_total") == metrics.total("sluiceway_attempts_total", outcome="ok")


async def refusals(site, key):
    """Return how many of two calls are refused by a limit."""
    async with httpx.AsyncClient(base_url=site.process.url, headers={"authorization": f"Bearer {key}"}) as client:
        ask = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        statuses = [(await client.post("/v1/chat/completions", json=ask, timeout=30)).status_code for _ in range(2)]
    return statuses.count(429)


async def unchanged_by_a_bad_file(site, load):
    good, digest = site.path.read_text(), await site.digest()
    site.write(good + "\nlisen: {}\n")
    await site.told("the configuration is refused; the last good one stays")
    assert f"{site.path}:{len(good.splitlines()) + 2}: lisen: is not a setting" in site.process.output
    assert (await site.process.metrics())["sluiceway_config_stale"] == 1
    status, text = await site.ready()
    assert (status, text.startswith("ok, but the file was refused, and the last good one stays")) == (200, True)
    assert await site.digest() == digest
    await load.more()
    site.write(good)
    await site.told("the configuration is good again")
    assert await site.ready() == (200, "ok")


def mounted(folder, version, file, key):
    """Write a version of a ConfigMap and a Secret as Kubernetes mounts them, and turn the link to it in one step."""
    inside = folder / f"..{version}"
    inside.mkdir()
    (inside / "sluiceway.yaml").write_text(yaml.safe_dump(file))
    (inside / "key").write_text(key)
    (folder / "..turned").symlink_to(inside.name)
    (folder / "..turned").replace(folder / "..data")


async def test_a_config_map_that_is_turned_is_in_force_and_so_is_a_secret_alone(serve, upstreams):
    """The file's own link never changes; the file is the same when only the secret differs."""
    one, two, _ = upstreams
    async with AsyncExitStack() as stack:
        site = await serve("site", settings(one=one))
        folder, file = site.path.parent, site.file
        mounted(folder, "1", file, "key-of-the-backends")
        for name in ("sluiceway.yaml", "key"):
            (folder / name).unlink()
            (folder / name).symlink_to(Path("..data") / name)
        load = await loaded(stack, site)
        digest = await site.digest()
        mounted(folder, "2", file | places(two=two), "key-of-the-backends")
        await site.other_than(digest)
        assert await load.more() == {"two"}

        mounted(folder, "3", site.file, "rotated-key-of-the-backends")
        await eventually(
            lambda: two.calls[-1].request.header("authorization") == "Bearer rotated-key-of-the-backends", within=60
        )
        await load.more()

    assert load.faults == []


async def test_two_gateways_on_different_files_show_it(serve, upstreams, store_for_two):
    """In every answer, and to each other's admins."""
    one, two, _ = upstreams
    sites = [await serve(name, settings(one=one), store_for_two) for name in ("first", "second")]
    await sites[1].edit(**places(one=one, two=two))
    digests = [await site.digest() for site in sites]
    assert digests[0] != digests[1]

    async with asyncio.timeout(60):
        while True:
            listed = (await sites[0].process.admin("GET", "/gateways"))["gateways"]
            if {gateway["config"] for gateway in listed} == set(digests):
                break
            await asyncio.sleep(0.1)
