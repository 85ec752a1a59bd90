"""Streams that break off after 40 of 60 words, many at once, and are gone on with by engines of every kind."""

import asyncio
import contextlib
import json
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from gateway import server
from gateway.config.settings import Backend, Organization, StoreSettings
from gateway.store.embedded import embedded
from policies.continuation import INSTRUCTION
from policies.domain import Deadlines, Deployment, Model, Price
from policies.terms import RoutingTerms
from tests.faults import scripts
from tests.faults.scripts import ALL, EVENTS, TEXT, WORDS
from tests.faults.stage import Stage, ask, said
from tests.faults.theatre import BOOKS, ORGANIZATION, Theatre
from tests.gateway.harness import TEXT as ONLY_TEXT
from tests.gateway.harness import new_key, settings
from tests.parts.gateway import STORE_DEADLINE
from tests.parts.scripted import Bytes, Close, Hang, Pause, Reset, Status, Until, delta, event, usage

pytestmark = pytest.mark.ci

SEEN = 40
"""Words that a caller has before its stream breaks off."""
CALLS = 50
"""At once; each is under way at the first deployment before any breaks off, since three would eject it."""
PROMPT = 7
"""Tokens of the prompt, as both tell it."""
STALL = Deadlines(total=40.0, stall=1.5)

ENDS = {
    "closed": [Close()],
    "reset": [Pause(scripts.SLOW), Reset()],
    "stalled": [Hang()],
    "an error event": [event({"error": scripts.ERROR}), scripts.DONE],
    "an event named error": [Bytes(b'event: error\ndata: {"message": "the engine fell over"}\n\n')],
    "no finish_reason": [],
    "[DONE] without a finish_reason": [scripts.DONE],
}
"""How the first deployment breaks off."""

REPEATS = {"vllm": 0, "sglang": 0, "llamacpp": 0, "openai": 3}
"""Words that a kind says once more: a model that is asked in words may repeat some, an engine that goes on does not.

(llama.cpp repeats all of it, but in plain answers alone.)
"""


@dataclass
class Scene:
    """One way to break off, and the model that does it at its first deployment."""

    end: str
    number: int
    kind: str
    here: int = 0

    def __post_init__(self):
        self.all_here = asyncio.Event()
        self.name = f"scene-{self.number}"

    def breaks(self, seen):
        """Play the first deployment: wait until every call has come so far, and end."""
        self.here += 1
        if self.here == CALLS:
            self.all_here.set()
        return [Status(200, EVENTS), scripts.opening(seen, SEEN), Until(self.all_here), *ENDS[self.end]]

    def goes_on(self, seen):
        """Play the second one."""
        again = REPEATS[self.kind]
        words = [delta(seen.model, content=word) for word in WORDS[SEEN - again :]]
        last = {"id": "c-2", "object": "chat.completion.chunk", "created": 0, "model": seen.model, "choices": []}
        told = event(last | {"usage": usage(PROMPT + SEEN, ALL - SEEN + again)})
        opening = delta(seen.model, role="assistant", content="")
        return [Status(200, EVENTS), opening, *words, delta(seen.model, finish="stop"), told, scripts.DONE]

    @property
    def model(self):
        """Return the model."""
        places = [
            Deployment(place, kind, f"{self.name}.{rank}", None, ONLY_TEXT, Price(rank * 10**9, rank * 10**9))
            for rank, (place, kind) in enumerate((("first", "openai"), ("second", self.kind)))
        ]
        deadlines = STALL if self.end == "stalled" else Deadlines(total=40.0)
        return Model(self.name, (), tuple(places), (), RoutingTerms(value_of_time=0), deadlines, "continue")


@contextlib.asynccontextmanager
async def theatre(folder, kind, scenes):
    """Run a gateway over both deployments of every scene; yield (a `Theatre`, how a call is made)."""
    async with embedded(folder / "store") as url, Stage() as stage:
        for scene in scenes:
            stage.plays |= {f"{scene.name}.0": scene.breaks, f"{scene.name}.1": scene.goes_on}
        places = (("first", "openai"), ("second", kind))
        terms = {
            "backends": tuple(Backend(name, kind, f"{stage.url}/v1", probe_every=0) for name, kind in places),
            "models": tuple(scene.model for scene in scenes),
            "plans": {"books": BOOKS},
            "store": StoreSettings(url, folder / "data", deadline=STORE_DEADLINE),
            "organizations": {ORGANIZATION: Organization(BOOKS, {})},
        }
        running = await server.start(replace(settings(folder, {}), **terms))
        try:
            key = await new_key(running.gateway, ORGANIZATION, "books")
            it = Theatre(stage, running, url, key)
            it.begin()

            async def call(scene, number):
                body = {"model": scene.name, "stream": True, "messages": [{"role": "user", "content": "hi there"}]}
                body["stream_options"] = {"include_usage": True}
                return await ask(running.url, key, f"{scene.name}-{number}", json.dumps(body).encode())

            yield it, call
        finally:
            await running.stop()


def wrong(scene, heard):
    """Say what is wrong with an answer."""
    read, made = said(heard.body, stream=True), ALL + REPEATS[scene.kind]
    told = heard.body.count(b'"usage":{') + heard.body.count(b'"usage": {')
    holds = {
        "whole": heard.status == 200 and heard.whole and read.looks_whole and read.broken == 0,
        "the words": read.text == TEXT,
        "usage": read.usage == (PROMPT, made),
        "usage once": told == 1,
        "the end once": heard.body.count(b'"finish_reason": "stop"') + heard.body.count(b'"finish_reason":"stop"') == 1,
        "no error": b"fell over" not in heard.body,
    }
    return [f"{scene.end}: {what}: {heard.body[-400:]!r}" for what, right in holds.items() if not right]


@pytest.mark.parametrize("kind", REPEATS)
async def test_every_caller_reads_one_whole_answer_and_pays_for_one(tmp_path, kind):
    """However it broke off; what is said twice is read once, and the prompt that was read again is the operator's."""
    scenes = [Scene(end, number, kind) for number, end in enumerate(ENDS)]
    complaints = []
    async with theatre(tmp_path, kind, scenes) as (it, call):
        for scene in scenes:
            answers = await asyncio.gather(*(call(scene, number) for number in range(CALLS)))
            complaints += [complaint for heard in answers for complaint in wrong(scene, heard)]
        left = await it.left()
        records = (await it.booked()).values()
        asked = [json.loads(one.request.body) for one in it.stage.calls if b'.1"' in one.request.body]

    assert complaints[:3] == []
    assert left == []
    assert len(records) == len(asked) == CALLS * len(ENDS)
    made = ALL + REPEATS[kind]
    assert {(record.head.input, record.head.output) for record in records} == {(PROMPT, made)}
    assert {record.outcome for record in records} == {"ok"}
    prefill = {"role": "assistant", "content": "".join(WORDS[:SEEN])}
    last = [{"role": "user", "content": INSTRUCTION}] if kind == "openai" else []
    assert all(body["messages"][1:] == [prefill, *last] for body in asked)
    flags = (True, False) if kind in {"vllm", "sglang"} else (None, None)
    assert {(body.get("continue_final_message"), body.get("add_generation_prompt")) for body in asked} == {flags}
