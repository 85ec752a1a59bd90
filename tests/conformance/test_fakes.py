"""The engines that cannot run here, simulated as they are on the wire, each behind a whole gateway."""

import asyncio
import contextlib
import itertools
import json

import pytest

from tests.conformance.fleets import Place, by, fleet, state, wholly
from tests.fakes.chat import Reasoning
from tests.fakes.lmstudio import Download, LmStudioServer, Overflow
from tests.fakes.nim import NimServer
from tests.fakes.nvidia import NvidiaServer
from tests.fakes.sglang import SglangServer
from tests.fakes.tests.asking import HELLO, events, told
from tests.gateway.harness import eventually

ENGINES = {"nvidia": NvidiaServer, "sglang": SglangServer, "lmstudio": LmStudioServer, "nim": NimServer}
FORMS = {"nvidia": Reasoning.FIELD, "sglang": Reasoning.CONTENT, "lmstudio": Reasoning.CONTENT, "nim": Reasoning.FIELD}
LONG = [{"role": "user", "content": "w " * 100}]


def kind_of(kind):
    """Return the kind of backend: some are versions of LM Studio, by how they tell an overflow."""
    return "lmstudio" if isinstance(kind, Overflow) else kind


@contextlib.asynccontextmanager
async def engines(*kinds, **options):
    """Run an engine of each kind and yield them by kind."""
    async with contextlib.AsyncExitStack() as stack:
        yield {
            kind: await stack.enter_async_context(
                ENGINES[kind_of(kind)](**options | ({"overflow": kind} if isinstance(kind, Overflow) else {}))
            )
            for kind in kinds
        }


def each(found, **place):
    """Return the places of some engines, and a model of its own for each of them."""
    places = {kind: Place(kind, engine, **place) for kind, engine in found.items()}
    return places, {kind: [(kind, engine.model)] for kind, engine in found.items()}


async def test_answers_are_whole_thoughts_untouched_and_usage_booked_to_the_token(tmp_path):
    """Plain and streamed, usage asked for or not, by chat and by completions."""
    async with engines(*ENGINES) as found, fleet(tmp_path, *each(found)) as gateway:
        for kind, engine in found.items():
            engine.reasoning, form = 2, FORMS[kind]
            plain = (await gateway.ask(model=kind)).json()
            message = plain["choices"][0]["message"]
            assert (message[form], message["content"]) == ("w1 w2 ", "w3 w4 w5 ")
            assert plain["model"] == engine.model
            stream = await gateway.ask(model=kind, stream=True)
            assert (told(stream, form), wholly(stream)) == ("w1 w2 ", "w3 w4 w5 ")
            assert not any(one.get("usage") for one in events(stream)[:-1])
            counted = await gateway.ask(model=kind, stream=True, stream_options={"include_usage": True}, max_tokens=4)
            assert events(counted)[-2]["usage"]["completion_tokens"] == 4
            text = await gateway.client.post("/v1/completions", json={"model": kind, "prompt": "a b", "stream": True})
            assert events(text)[-1] == "[DONE]"
        booked = {row.model: row for row in await gateway.usage()}

    for kind, engine in found.items():
        assert (booked[kind].requests, booked[kind].estimated_tokens) == (4, 0)
        assert (booked[kind].prompt_tokens, booked[kind].completion_tokens) == (engine.prompted, engine.generated)
        assert engine.generated == 5 + 5 + 4 + 5


async def test_responses_and_messages_go_to_engines_that_have_them(tmp_path):
    """Booked from each API's own usage."""
    asked = {"responses": {"input": "one two"}, "messages": {"messages": HELLO, "max_tokens": 9}}
    async with engines("sglang", "lmstudio", "nim") as found, fleet(tmp_path, *each(found)) as gateway:
        for kind, api, stream in itertools.product(found, asked, (False, True)):
            answer = await gateway.client.post(f"/v1/{api}", json={"model": kind, "stream": stream} | asked[api])
            assert by(answer) == (kind, "1")
            assert "w5" in answer.text
        booked = {row.model: row for row in await gateway.usage()}

    for kind, engine in found.items():
        tokens = booked[kind].prompt_tokens, booked[kind].completion_tokens
        assert tokens == (engine.prompted, engine.generated) == (8, 20)
        assert booked[kind].estimated_tokens == 0


async def test_what_mistrals_tokenizer_refuses_is_mapped_or_dropped_and_told(tmp_path):
    """Sent as they are, each of these would be a 400."""
    wishes = {"reasoning_effort": "medium", "chat_template_kwargs": {"enable_thinking": True}}
    changed = "reasoning_effort: medium -> high, chat_template_kwargs: dropped"
    async with (
        engines("nvidia", "sglang", "nim") as found,
        fleet(tmp_path, *each(found, tokenizer="mistral")) as gateway,
    ):
        for kind, stream in itertools.product(found, (False, True)):
            answer = await gateway.ask(model=kind, stream=stream, **wishes)
            assert by(answer) == (kind, "1")
            assert answer.headers["x-sluiceway-changed"] == changed
            kept = await gateway.ask(model=kind, stream=stream, reasoning_effort="none")
            assert by(kept) == (kind, "1")
            assert "x-sluiceway-changed" not in kept.headers
    for engine in found.values():
        sent = [json.loads(call.request.body) for call in engine.calls]
        assert [body["reasoning_effort"] for body in sent] == ["high", "none"] * 2
        assert not any("chat_template_kwargs" in body for body in sent)


async def test_an_overflow_in_any_disguise_goes_to_a_larger_window_or_is_told_as_one(tmp_path):
    """In OpenAI's words; the engine that said it is as good as before."""
    async with engines("nvidia", "sglang", "nim", *Overflow, context=40) as small, NimServer() as large:
        # An answer without a word is told by the window, which the prompt must seem to fit and come near to.
        windows = {Overflow.EMPTY: 105}
        places = {kind: Place(kind_of(kind), engine, windows.get(kind)) for kind, engine in small.items()}
        places["large"] = Place("nim", large, 4000)
        models = {kind: [(kind, engine.model)] for kind, engine in small.items()}
        models |= {f"{kind} or more": [(kind, small[kind].model), ("large", large.model)] for kind in small}
        async with fleet(tmp_path, places, models) as gateway:
            for kind, stream in itertools.product(small, (False, True)):
                alone = await gateway.ask(model=kind, messages=LONG, stream=stream, max_tokens=1)
                told_ = alone.json()["error"]
                assert (alone.status_code, told_["code"]) == (400, "context_length_exceeded"), kind
                assert "maximum context length" in told_["message"]
                both = await gateway.ask(model=f"{kind} or more", messages=LONG, stream=stream, max_tokens=1)
                assert by(both) == ("large", "2"), kind
                assert state(gateway, kind) == "well"
            booked = {row.model: row for row in await gateway.usage()}

    for kind, engine in small.items():
        assert len(engine.calls) == 4
        assert booked[kind][2:4] == (0, 0)
        assert booked[f"{kind} or more"][2:4] == (200, 2)


async def test_a_full_queue_sends_calls_elsewhere_and_freezes_for_a_moment(tmp_path):
    """SGLang tells it plainly as a 503, to a stream inside a 200."""
    async with (
        SglangServer(slots=1, max_queued=0) as full,
        NimServer() as spare,
        fleet(tmp_path, {"full": Place("sglang", full), "spare": Place("nim", spare)}) as gateway,
    ):
        full.flow.clear()
        first = asyncio.ensure_future(gateway.ask())
        await eventually(lambda: full.unfinished == 1)
        assert by(await gateway.ask()) == ("spare", "2")
        assert state(gateway) == "frozen"
        assert by(await gateway.ask()) == ("spare", "1")
        await eventually(lambda: state(gateway) == "well")
        streamed = await gateway.ask(stream=True)
        assert by(streamed) == ("spare", "2")
        assert "error" not in streamed.text
        full.flow.set()
        assert by(await first) == ("full", "1")
        assert by(await gateway.ask()) == ("full", "1")


async def test_a_model_that_is_not_there_is_the_operators_and_calls_go_elsewhere(tmp_path):
    """Each engine's own 404; SGLang looks at no name."""
    async with contextlib.AsyncExitStack() as stack:
        servers = {kind: await stack.enter_async_context(make()) for kind, make in ENGINES.items()}
        servers["lmstudio"].downloads["another"] = Download("another", 9)
        spare = await stack.enter_async_context(NimServer())
        places = {kind: Place(kind, server) for kind, server in servers.items()} | {"spare": Place("nim", spare)}
        models = {kind: [(kind, "no/such"), ("spare", spare.model)] for kind in ENGINES}
        gateway = await stack.enter_async_context(fleet(tmp_path, places, models))
        for kind in ("nvidia", "lmstudio", "nim"):
            assert by(await gateway.ask(model=kind)) == ("spare", "2"), kind
            assert state(gateway, kind) == "off"
            assert by(await gateway.ask(model=kind)) == ("spare", "1"), kind
        assert by(await gateway.ask(model="sglang")) == ("sglang", "1")
        nobody = await gateway.ask(model="nobody")
        assert (nobody.status_code, nobody.json()["error"]["code"]) == (404, "model_not_found")


async def test_windows_and_load_are_learned_by_probes_that_cost_nothing(tmp_path):
    """No engine is asked to generate, SGLang's /health least of all; what fits nowhere small is not sent there."""
    async with contextlib.AsyncExitStack() as stack:
        kinds = ("sglang", "lmstudio", "nim")
        servers = {kind: await stack.enter_async_context(ENGINES[kind](context=40)) for kind in kinds}
        large = await stack.enter_async_context(NimServer())
        places = {kind: Place(kind, server, probe_every=0.02) for kind, server in servers.items()}
        places["large"] = Place("nim", large, probe_every=0.02)
        models = {kind: [(kind, servers[kind].model), ("large", large.model)] for kind in kinds}
        gateway = await stack.enter_async_context(fleet(tmp_path, places, models))

        def windows():
            return [one.context_window for kind in kinds for one in gateway.services.catalog.find(kind).deployments]

        await eventually(lambda: windows() == [40, large.context] * 3)
        for kind in kinds:
            assert by(await gateway.ask(model=kind, messages=LONG)) == ("large", "1")
            servers[kind].flow.clear()
        calls = [asyncio.ensure_future(gateway.ask(model=kind, max_tokens=1)) for kind in kinds]

        def loads():
            return {kind: gateway.metric("sluiceway_engine_running", backend=kind) for kind in ("sglang", "nim")}

        await eventually(lambda: loads() == {"sglang": 1, "nim": 1})
        for server in servers.values():
            server.flow.set()
        assert [by(await call) for call in calls] == [(kind, "1") for kind in kinds]

    assert servers["sglang"].health_generations == 0
    assert not [request for request in servers["sglang"].requests if request.path.startswith("/health")]
    assert [len(server.works) for server in servers.values()] == [1, 1, 1]
    assert {request.path for request in servers["nim"].requests if request.method == "GET"} >= {
        "/v1/health/ready",
        "/v1/metrics",
    }


async def test_lm_studio_loads_a_model_for_its_first_call_which_waits_for_it(tmp_path):
    """Not loaded is not down; its window is known once it is loaded."""
    async with (
        LmStudioServer(loaded=False, context=4096, time_scale=0.002) as desktop,
        fleet(tmp_path, {"desktop": Place("lmstudio", desktop, probe_every=0.02)}) as gateway,
    ):
        home = gateway.services.fleet.homes["desktop"]
        await eventually(lambda: home.condition.told.states == {desktop.model: "not loaded"})
        assert home.condition.down is None
        assert by(await gateway.ask(stream=True)) == ("desktop", "1")
        assert desktop.loads == [desktop.model]


async def test_lm_studio_without_a_model_is_no_fault_of_the_caller(tmp_path):
    """Nobody has loaded one, and it loads none by itself: the operator's, as a model that is missing."""
    async with (
        LmStudioServer(loaded=False, jit=False) as desktop,
        NimServer() as spare,
        fleet(tmp_path, {"desktop": Place("lmstudio", desktop), "spare": Place("nim", spare)}) as gateway,
    ):
        assert by(await gateway.ask()) == ("spare", "2")
        assert state(gateway) == "off"


async def test_an_endpoint_that_lm_studio_does_not_have_is_looked_for_elsewhere(tmp_path):
    """It answers 200 to it; older versions have no Messages API."""
    async with (
        LmStudioServer(messages=False) as desktop,
        NimServer() as spare,
        fleet(tmp_path, {"desktop": Place("lmstudio", desktop), "spare": Place("nim", spare)}) as gateway,
    ):
        asked = {"model": "m", "messages": HELLO, "max_tokens": 9}
        for stream in (False, True):
            answer = await gateway.client.post("/v1/messages", json=asked | {"stream": stream})
            assert by(answer)[0] == "spare"
        assert by(await gateway.ask()) == ("desktop", "1")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_dies_in_an_answer_is_left_or_told(tmp_path, stream):
    """A plain answer is made elsewhere; a stream that was seen is told to have broken off, and paid as seen."""
    async with NimServer() as dying, NimServer() as spare:
        dying.fails_at = 3
        async with fleet(tmp_path, {"dying": Place("nim", dying), "spare": Place("nim", spare)}) as gateway:
            answer = await gateway.ask(stream=stream)
            (booked,) = await gateway.usage()
    if stream:
        assert told(answer, "content") == "w1 w2 w3 "
        assert "[DONE]" not in answer.text
        assert "error" in events(answer)[-1]
        assert (booked.completion_tokens, booked.estimated_tokens > 0) == (3, True)
    else:
        assert by(answer) == ("spare", "2")
        assert (booked.completion_tokens, booked.estimated_tokens) == (5, 0)


async def test_a_container_that_is_not_ready_is_passed_over_until_it_is(tmp_path):
    """Its probe says so before any call does."""
    async with NimServer(ready=False) as starting, NimServer() as spare:
        places = {"starting": Place("nim", starting, probe_every=0.02), "spare": Place("nim", spare)}
        async with fleet(tmp_path, places) as gateway:
            condition = gateway.services.fleet.homes["starting"].condition
            await eventually(lambda: condition.down)
            assert by(await gateway.ask()) == ("spare", "1")
            starting.ready = True
            await eventually(lambda: condition.down is None)
            assert by(await gateway.ask()) == ("starting", "1")
