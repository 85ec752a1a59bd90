import asyncio
import json
from collections import Counter

import httpx
import pytest
import structlog

from gateway.config.settings import PROBE_EVERY, PROBE_HOSTED_EVERY, Backend
from gateway.errors import CONFIG
from gateway.upstream import probes as module
from gateway.upstream.fleet import Fleet
from gateway.upstream.listing import GATEWAY
from gateway.upstream.probes import Probes, probe
from policies.domain import Deployment
from policies.failures import Failure, FailureKind
from policies.probing import ANY, Finding, Load, Told, Trouble
from tests.fakes.lmstudio import LmStudioServer
from tests.fakes.nim import NimServer
from tests.fakes.nvidia import NvidiaServer
from tests.fakes.sglang import SglangServer
from tests.gateway.harness import eventually
from tests.parts.http1 import Http1Server
from tests.parts.llamacpp import LlamaServer
from tests.parts.tiny_model import TINY, write_model

REFUSED = Trouble("refused", certain=True)
LATE = Trouble("late", certain=False)
WELL = Finding()

METRICS = {
    "vllm": "vllm:num_requests_running 2\nvllm:num_requests_waiting 1\nvllm:kv_cache_usage_perc 0.5\n",
    "sglang": "sglang:num_running_reqs 2\nsglang:num_queue_reqs 1\nsglang:token_usage 0.5\n",
    "nim": "num_requests_running 2\nnum_requests_waiting 1\ngpu_cache_usage_perc 0.5\n",
    "llamacpp": "llamacpp:requests_processing 2\nllamacpp:requests_deferred 1\n",
}
LISTED = {"data": [{"id": "m", "max_model_len": 4096}]}
LOADED = {"models": [{"key": "m", "loaded_instances": [{"config": {"context_length": 4096}}]}]}

# What each engine answers, by path; what is not there is a 404.
ENGINES = {
    "vllm": {"/health": "", "/metrics": METRICS["vllm"], "/v1/models": LISTED},
    "sglang": {"/metrics": METRICS["sglang"], "/v1/models": LISTED},
    "nim": {"/v1/health/ready": {}, "/v1/metrics": METRICS["nim"], "/v1/models": LISTED},
    "llamacpp": {
        "/health": {"status": "ok"},
        "/metrics": METRICS["llamacpp"],
        "/v1/models": {"data": [{"id": "m"}]},
        "/props": {"default_generation_settings": {"n_ctx": 4096}},
    },
    "lmstudio": {"/v1/models": {"data": [{"id": "m"}]}, "/api/v0/models": {"data": []}, "/api/v1/models": LOADED},
    "transformers": {"/health": {"status": "ok"}, "/v1/models": {"data": [{"id": "m"}]}},
    "nvidia": {"/v1/models": {"data": [{"id": "m"}]}},
    "openai": {"/v1/models": {"data": [{"id": "m"}]}},
}
TELLS_LOAD = {"vllm", "sglang", "nim", "llamacpp"}
TELLS_WINDOW = {"vllm", "sglang", "nim", "llamacpp", "lmstudio"}


class Engine(Http1Server):
    """Answers from a table of paths with `status`, or as `statuses` says, once `free` is set; never those in `silent`.

    `header`: a line of each answer's head. `most`: requests that it had at once.
    """

    def __init__(self, pages):
        super().__init__()
        self.pages, self.status = pages, 200
        self.silent, self.statuses, self.header = set(), {}, ""
        self.open = self.most = 0
        self.free = asyncio.Event()
        self.free.set()

    async def handle(self, request, connection):
        self.open += 1
        self.most = max(self.most, self.open)
        await self.free.wait()
        if request.path in self.silent:
            await asyncio.Event().wait()
        self.open -= 1
        found = self.pages.get(request.path)
        body = (found or "") if isinstance(found, str) else json.dumps(found)
        status = self.statuses.get(request.path, 404 if found is None else self.status)
        head = f"HTTP/1.1 {status} \r\n{self.header}content-length: {len(body)}\r\n\r\n"
        await connection.write((head + body).encode())

    @property
    def asked(self):
        return Counter(request.path for request in self.requests)


@pytest.fixture
async def fleet():
    made = Fleet()
    yield made
    await made.close()


def home_of(fleet, engine, kind="vllm", **settings):
    return fleet.add(Backend("gpu", kind, f"{engine.url}/v1", **settings))


def live_of(fleet, model="m"):
    return fleet.live(Deployment("gpu", "vllm", model, None, frozenset({"text"}), None))


@pytest.mark.parametrize("kind", ENGINES)
async def test_every_engine_is_asked_by_its_own_free_questions(fleet, kind):
    """And says its load and its windows as far as it has them; nothing is ever generated."""
    async with Engine(ENGINES[kind]) as engine:
        found = await probe(home_of(fleet, engine, kind), thorough=True)

    kv_use = 0.5 if kind != "llamacpp" else None
    assert found.trouble is None
    assert found.load == (Load(2.0, 1.0, kv_use) if kind in TELLS_LOAD else Load())
    assert set(found.told.windows.values()) == ({4096} if kind in TELLS_WINDOW else set())
    assert set(engine.asked) == set(ENGINES[kind])
    assert {request.method for request in engine.requests} == {"GET"}


async def test_sglangs_health_is_never_asked(fleet):
    """It generates a token, each time."""
    async with Engine(ENGINES["sglang"] | {"/health": "", "/health_generate": ""}) as engine:
        home = home_of(fleet, engine, "sglang")
        for thorough in (True, False) * 3:
            await probe(home, thorough=thorough)
        engine.status = 503
        await probe(home, thorough=True)

    assert engine.asked["/health"] == engine.asked["/health_generate"] == 0
    assert engine.asked["/v1/models"] == 7


async def test_a_hosted_kind_is_asked_for_its_list_alone_and_seldom(fleet):
    """All it says is what is listed; own engines are asked every 5 s, and whoever likes sets it."""
    async with Engine(ENGINES["nvidia"]) as engine:
        await probe(home_of(fleet, engine, "nvidia"), thorough=False)

    assert engine.asked == {"/v1/models": 1}
    assert [Backend("a", kind, "").pause for kind in ("nvidia", "openai")] == [PROBE_HOSTED_EVERY] * 2
    assert Backend("a", "vllm", "").pause == PROBE_EVERY
    assert [Backend("a", "nvidia", "", probe_every=every).pause for every in (7, 0)] == [7, 0]


async def test_what_an_engine_does_not_tell_is_unknown(fleet):
    """llama.cpp without --metrics answers 501; a page that fails says nothing, and what was said stays."""
    async with Engine({"/health": "", "/v1/models": LISTED}) as engine:
        home = home_of(fleet, engine, "llamacpp")

        assert await probe(home, thorough=True) == Finding(None, Load(), None, 200)


async def test_an_engine_that_is_too_busy_to_tell_its_load_is_up(fleet, monkeypatch):
    """llama.cpp answers for its metrics only between two steps."""
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    async with Engine(ENGINES["vllm"]) as engine:
        engine.silent = {"/metrics"}
        found = await probe(home_of(fleet, engine), thorough=True)

    assert found == Finding(None, Load(), Told(("m",), {"m": 4096}, {}), 200)


@pytest.mark.parametrize("body", ["", {"error": {"code": 503, "message": "Loading model"}}])
async def test_an_engine_that_loads_is_down_with_words(fleet, body):
    """llama.cpp answers so on every path until it has its model."""
    async with Engine({"/health": body}) as engine:
        engine.status = 503
        found = await probe(home_of(fleet, engine, "llamacpp"), thorough=True)

    assert found.trouble == Trouble("it is loading its model" if body else "its probe was answered 503", certain=True)
    assert engine.asked == {"/health": 1}


@pytest.mark.parametrize("transport", ["pooled", "httpx"])
async def test_a_refused_connection_is_certain_and_silence_is_not(fleet, transport, monkeypatch):
    """Nor is a name that is not found just now: that may be our own resolver."""
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    async with Engine(ENGINES["vllm"]) as engine:
        home = home_of(fleet, engine, transport=transport)
        engine.free.clear()
        silent = (await probe(home, thorough=False)).trouble
    refused = (await probe(home, thorough=False)).trouble
    nameless = fleet.add(Backend("nameless", "vllm", "http://no-such-host.invalid/v1", transport=transport))
    unknown = (await probe(nameless, thorough=False)).trouble

    assert (silent.certain, refused.certain, unknown.certain) == (False, True, False)
    assert "ConnectError" in refused.reason


@pytest.mark.parametrize("transport", ["pooled", "httpx"])
async def test_connections_that_calls_hold_say_nothing(fleet, transport, monkeypatch):
    """The bound is ours."""
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    async with Engine(ENGINES["vllm"]) as engine:
        home = home_of(fleet, engine, transport=transport, max_connections=1)
        engine.free.clear()
        call = asyncio.ensure_future(
            home.transport.post(home.urls["chat"], [(b"host", b"x")], b"{}", written=lambda: None)
        )
        await eventually(lambda: engine.requests)
        with pytest.raises(httpx.PoolTimeout):
            await probe(home, thorough=False)
        engine.free.set()
        (await call).close()


@pytest.mark.parametrize("ends", [True, False])
async def test_what_an_engine_told_of_its_load_is_believed_until_a_probe_fails_or_is_late(fleet, ends, monkeypatch):
    """Else one with calls past the gateways would seem full for as long as ours hold every connection there."""
    gate, seen, asked = asyncio.Event(), [], []

    async def scripted(*_, **__):
        asked.append(1)
        if len(asked) > 2:
            await gate.wait()
            raise httpx.PoolTimeout("busy")
        return Finding(None, Load(9.0, 0.0))

    def measured(*told):
        Fleet.measured(fleet, *told)
        seen.append(home.condition.foreign)

    monkeypatch.setattr(module, "probe", scripted)
    monkeypatch.setattr(module, "LEAST_DUE", 60.0 if ends else 0.05)
    home = fleet.add(Backend("gpu", "vllm", "http://127.0.0.1:9/v1", probe_every=0.01))
    fleet.measured, probes = measured, Probes(fleet, lambda: None)
    probes.follow()
    await eventually(lambda: len(asked) == 3)
    if ends:
        gate.set()
    await eventually(lambda: len(seen) == 3)
    probes.close()

    assert seen == [0, 9, 0]
    assert home.condition.load == Load()


async def test_a_doubtful_failure_counts_when_it_is_repeated_and_a_certain_one_at_once(fleet):
    """Each reason is told once, and so is the way back."""
    probes = Probes(fleet, lambda: None)
    async with Engine({}) as engine:
        home = home_of(fleet, engine)
    seen = []
    with structlog.testing.capture_logs() as told:
        for finding in (LATE, None, LATE, LATE, LATE, None, REFUSED, LATE, None):
            probes.found(home, WELL if finding is None else Finding(finding))
            seen.append(home.condition.down)

    assert seen == [None, None, None, "late", "late", None, "refused", "late", None]
    words = [entry.get("why", entry["event"].partition(":")[0]) for entry in told]
    assert words == ["late", "a backend is up again", "refused", "late", "a backend is up again"]


async def test_an_ejected_deployment_whose_backend_is_back_may_prove_it_at_once(fleet):
    """By one call, which alone closes the breaker; a backend that was never down changes no pause."""
    probes = Probes(fleet, lambda: None)
    async with Engine({}) as engine:
        home = home_of(fleet, engine)
    live = live_of(fleet)
    for _ in range(3):
        live.failed(Failure(FailureKind.CONNECT, "x"), "chat", 1e9, probe=False)
    probes.found(home, WELL)
    assert not live.breaker.passes(1e9)
    probes.found(home, Finding(REFUSED))
    assert not live.breaker.passes(1e9)
    probes.found(home, WELL)

    assert live.breaker.passes(1e9)
    assert live.breaker.sent(1e9)
    assert not live.breaker.passes(1e9)


async def test_a_probe_ejects_nobody(fleet):
    """It makes others come first, which gives way when nobody else is left."""
    probes = Probes(fleet, lambda: None)
    async with Engine({}) as engine:
        home = home_of(fleet, engine)
    for _ in range(10):
        probes.found(home, Finding(REFUSED))
    snapshot = live_of(fleet).snapshot(Deployment("gpu", "vllm", "m", None, frozenset(), None), 0.0)

    assert (snapshot.down, snapshot.ejected, snapshot.absent) == ("refused", False, None)


@pytest.mark.parametrize("kind", ["vllm", "openai"])
async def test_no_call_goes_to_a_gateway_not_even_as_the_last_resort(fleet, kind, monkeypatch):
    """It would come back as two, these as four; once an engine stands there, it is found as any other is."""
    monkeypatch.setattr(module, "AGAIN", 0.01)
    probes = Probes(fleet, lambda: None)
    one = Deployment("gpu", kind, "m", None, frozenset(), None)
    async with Engine(ENGINES[kind]) as engine:
        engine.header = f"{CONFIG}: abc\r\n"
        home = home_of(fleet, engine, kind, probe_every=0.01)
        probes.follow()
        await eventually(lambda: home.condition.down)
        seen = fleet.live(one).snapshot(one, 0.0)
        engine.header = ""
        probes.follow()
        await eventually(lambda: home.condition.down is None)
        after = fleet.live(one).snapshot(one, 0.0)
        probes.close()

    assert (seen.down, seen.absent) == (GATEWAY, GATEWAY)
    assert (after.down, after.absent) == (None, None)


@pytest.mark.parametrize("kind", ["vllm", "openai"])
@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_backend_that_refuses_its_list_is_up_and_in_doubt(fleet, kind, status):
    """As a wrong path or key makes it, which else the first caller finds out; told once, until it is mended."""
    probes, doubts = Probes(fleet, lambda: None), []
    async with Engine(ENGINES[kind]) as engine:
        home = home_of(fleet, engine, kind)
        with structlog.testing.capture_logs() as logs:
            for now in (status, status, 200, status):
                engine.statuses["/v1/models"] = now
                probes.found(home, await probe(home, thorough=True))
                doubts.append(home.condition.doubt)
                assert home.condition.down is None

    why = f"GET /models answered {status}: are its URL and its credential right?"
    assert doubts == [why, why, None, why]
    assert [(entry["event"], entry["why"]) for entry in logs] == [("a backend refuses its list of models", why)] * 2


async def test_what_a_list_said_stands_until_it_is_asked_for_again(fleet):
    """An engine whose health is another page is asked for it every half minute."""
    probes = Probes(fleet, lambda: None)
    async with Engine(ENGINES["vllm"] | {"/v1/models": None}) as engine:
        home = home_of(fleet, engine)
        for thorough in (True, False):
            probes.found(home, await probe(home, thorough=thorough))

    assert home.condition.doubt is not None


async def test_what_is_told_anew_is_passed_on_once(fleet):
    """And what is not asked changes nothing."""
    passed = []
    probes = Probes(fleet, lambda: passed.append(1))
    async with Engine({}) as engine:
        home = home_of(fleet, engine)
    for told in (Told(windows={"m": 1}), None, Told(windows={"m": 1}), Told(windows={"m": 2})):
        probes.found(home, Finding(told=told))

    assert home.condition.window("m") == 2
    assert len(passed) == 2


async def test_probes_go_on_never_overlap_and_follow_the_fleet(fleet, monkeypatch):
    """One that takes longer than the pause delays the next; what leaves is asked no more."""
    monkeypatch.setattr(module, "AGAIN", 0.01)
    probes = Probes(fleet, lambda: None)
    async with Engine(ENGINES["vllm"]) as engine, Engine(ENGINES["vllm"]) as still:
        home = home_of(fleet, engine, probe_every=0.01)
        fleet.add(Backend("unasked", "vllm", f"{still.url}/v1", probe_every=0))
        probes.follow()
        probes.follow()
        await eventually(lambda: engine.asked["/health"] >= 3)
        engine.free.clear()
        await eventually(lambda: engine.open)
        await asyncio.sleep(0.1)  # ten pauses
        engine.free.set()
        before = engine.asked["/health"]
        await eventually(lambda: engine.asked["/health"] > before + 1)
        assert engine.most == 1
        assert home.condition.probed
        assert home.condition.load == Load(2.0, 1.0, 0.5)
        fleet.leave("gpu", 1e12)
        probes.follow()
        await asyncio.sleep(0.05)
        gone = len(engine.requests)
        await asyncio.sleep(0.05)
        assert len(engine.requests) == gone
        assert not still.requests
        probes.close()


async def test_models_are_asked_about_at_first_and_after_trouble(fleet, monkeypatch):
    """Not with every probe: a chat template is some 20 KB."""
    monkeypatch.setattr(module, "AGAIN", 0.01)
    probes = Probes(fleet, lambda: None)
    async with Engine(ENGINES["llamacpp"]) as engine:
        home = home_of(fleet, engine, "llamacpp", probe_every=0.01)
        probes.follow()
        await eventually(lambda: engine.asked["/health"] >= 4)
        assert engine.asked["/props"] == 1
        engine.status = 503
        await eventually(lambda: home.condition.down is not None)
        engine.pages["/props"] = {"default_generation_settings": {"n_ctx": 512}}
        engine.status = 200
        await eventually(lambda: home.condition.window("m") == 512)
        probes.close()


async def test_a_real_llama_cpp_tells_its_load_its_window_and_its_end(fleet, tmp_path):
    """The window is that of one slot, whatever the model is called."""
    model = write_model(tmp_path, TINY)
    async with LlamaServer(model, context=1024, parallel=2) as server:
        home = fleet.add(Backend("gpu", "llamacpp", f"{server.url}/v1"))
        found = await probe(home, thorough=True)
        assert found == Finding(None, Load(0.0, 0.0, None), Told(("tiny",), {"tiny": 1024, ANY: 1024}, {}), 200)
        server.kill()

        assert (await probe(home, thorough=True)).trouble.certain


@pytest.mark.parametrize("prefix", ["sglang:", "sglang_"])
async def test_a_simulated_sglang_generates_nothing_for_its_probes(fleet, prefix):
    """Though its health would."""
    async with SglangServer(metrics_prefix=prefix, key="key") as engine:
        home = home_of(fleet, engine, "sglang", api_key="key")
        found = [await probe(home, thorough=True) for _ in range(3)][-1]

        told = Told((engine.model,), {engine.model: engine.context}, {})
        assert found == Finding(None, Load(0.0, 0.0, 0.0), told, 200)
        assert (engine.health_generations, engine.generated) == (0, 0)


@pytest.mark.parametrize("old", [True, False])
async def test_a_simulated_nim_is_down_until_it_is_ready(fleet, old):
    """Under the names of either generation."""
    async with NimServer(old=old) as engine:
        home = home_of(fleet, engine, "nim")
        engine.ready = False
        assert (await probe(home, thorough=True)).trouble.certain
        engine.ready = True
        found = await probe(home, thorough=True)

        assert (found.load.running, found.load.waiting) == (0.0, 0.0)
        assert found.told.windows == {engine.model: engine.context}


async def test_a_simulated_lm_studio_loads_nothing_for_its_probes(fleet):
    """And tells the window with which a model is loaded, once it is."""
    async with LmStudioServer("org/loaded", downloads=("org/idle",)) as engine:
        found = await probe(home_of(fleet, engine, "lmstudio"), thorough=True)

        assert found.load == Load()
        assert found.told.windows == {"org/loaded": engine.context}
        assert found.told.states == {"org/loaded": "loaded", "org/idle": "not loaded"}
        assert engine.loads == []


async def test_the_simulated_hosted_endpoint_is_asked_for_its_list_alone(fleet):
    """Without a call that counts."""
    async with NvidiaServer() as hosted:
        found = await probe(home_of(fleet, hosted, "nvidia", api_key="nvapi-1"), thorough=True)

        assert found.trouble is None
        assert found.told.ids
        assert hosted.calls == []
