"""Every fault of the table, through the whole gateway.

Plain and streamed, one call and fifty at a time, beside a healthy deployment and alone, by both transports.
"""

import asyncio
from dataclasses import dataclass, field

import pytest
import uvloop

from tests.faults.outcomes import FAULTS, PATIENCE, Fault, Outcome
from tests.faults.theatre import Cast, Theatre, Verdict, booked, lawful, outlived, theatre

pytestmark = [pytest.mark.ci, pytest.mark.timeout(300)]

CROWD = 50
"""Calls at a time."""

AT_ONCE = 2
"""Crowds at a time that only want the processor."""

ALONE_AT_ONCE = 16
"""Single calls beside them."""

PATIENT_AT_ONCE = 8
"""Crowds at a time that mostly wait."""


@dataclass(frozen=True)
class Scene:
    """One fault as it is run: kind of call, company, and how many callers."""

    fault: Fault
    stream: bool
    alone: bool
    count: int
    number: int

    @property
    def name(self):
        """Return a name for people."""
        return f"{self.fault.name}, {'streamed' if self.stream else 'plain'}, {'alone' if self.alone else 'beside'}"

    @property
    def ends(self):
        """Return what follows."""
        return self.fault.ends(stream=self.stream)

    @property
    def outcome(self) -> Outcome:
        """Return what a caller gets."""
        return self.ends.alone if self.alone else self.ends.beside

    @property
    def cast(self):
        """Return the model that it is run with, nobody else's."""
        fault = self.fault
        plays = (fault.script, *(() if self.alone else fault.others))
        first, others = fault.windows
        windows = (first, *[others] * (len(plays) - 1))
        fallback = fault.fallback and not self.alone
        return Cast(self.number, plays, fault.deadlines, windows, fallback, fault.at)


def scenes():
    """Return every way in which the faults are run."""
    found = []
    for fault in FAULTS:
        for stream in (False, True):
            ends = fault.ends(stream=stream)
            for alone in (False, True):
                if ends is None or (ends.alone if alone else ends.beside) is None:
                    continue
                found += [Scene(fault, stream, alone, count, len(found) + n) for n, count in enumerate((1, CROWD))]
    return found


@dataclass
class Run:
    """What was wrong, by fault; `left`: with what was left behind."""

    complaints: dict[str, list[str]] = field(default_factory=lambda: {fault.name: [] for fault in FAULTS})
    left: list[str] = field(default_factory=list)


async def play(it: Theatre, scene: Scene):
    """Make the calls of a scene; return them, and what is wrong."""
    cast, verdict = scene.cast, Verdict()
    about = {"stream": scene.stream, "prompt": scene.fault.prompt, "within": scene.fault.within}
    ids = [f"{scene.number}-{number}" for number in range(scene.count)]
    made = await asyncio.gather(*(it.call(cast, id_, **about) for id_ in ids))
    for call in made:
        judge(verdict, scene, call)
    verdict.expect(it.held(cast) == 0, "load of", it.held(cast), "is left")
    if scene.count > 1:
        state = it.state(cast.deployments[0])
        ends = scene.ends
        wanted = ends.by_itself if scene.alone and ends.by_itself else ends.state
        verdict.expect(state == wanted, "the deployment is", state, "for", wanted)
    it.stage.forget()
    return made, [f"{scene.name}, {scene.count} at a time: {complaint}" for complaint in verdict.complaints]


def judge(verdict, scene, call):
    """Hold one call to the laws and to the table."""
    outcome, later = scene.outcome, scene.ends.later if scene.count > 1 else None
    lawful(verdict, call, attempts=max(outcome.attempts, later.attempts if later else 0))
    wrong = differs(scene, call, outcome)
    if wrong and (later is None or differs(scene, call, later)):
        verdict.expect(False, call.heard.id, wrong)


def differs(scene, call, outcome):
    """Return what makes a call's end another than `outcome`, or None."""
    heard, read = call.heard, call.said
    told = int(heard.headers.get("x-sluiceway-attempts", 0))
    got = f"got {heard.status} {heard.body[-150:]} after {[one.place for one in call.played]}"
    if heard.status != outcome.status:
        return f"{outcome} was due: {got}"
    known = scene.fault.at != "stage"  # a free probe may have found it before any call did
    if scene.count == 1 and not known and told != outcome.attempts:
        return f"{outcome} was due: {told} attempts, {got}"
    if outcome.by is not None and heard.headers.get("x-sluiceway-backend") != call.cast.backend(outcome.by):
        return f"{outcome} was due: {got}"
    right = {
        "served": lambda: heard.whole and read.looks_whole,
        "passed": lambda: heard.body == call.played[-1].body,
        "refused": lambda: read.code == outcome.code,
        "cut": lambda: read.error and not read.done and call.played[-1].body and _beginning(call, outcome.tokens),
    }[outcome.how]()
    if not right or (outcome.retry_after and not int(heard.headers.get("retry-after", 0))):
        return f"{outcome} was due: {got}"
    return None


def _beginning(call, tokens):
    """Say whether a cut answer is the beginning of what was played, of so many tokens."""
    text = call.said.text
    return text and "".join(f"w{n:02d} " for n in range(60)).startswith(text) and tokens in (None, len(text) // 4)


async def run(folder, transport):
    """Run every scene over one gateway; return a `Run`."""
    found, all_scenes = Run(), scenes()
    alone, busy, patient = map(asyncio.Semaphore, (ALONE_AT_ONCE, AT_ONCE, PATIENT_AT_ONCE))
    made = {}

    async def one(scene):
        waits = scene.fault.deadlines is PATIENCE or scene.fault.within is not None
        async with alone if scene.count == 1 else patient if waits else busy:
            calls, complaints = await play(it, scene)
        made[scene] = calls
        found.complaints[scene.fault.name] += complaints

    async with theatre(folder, transport, [scene.cast for scene in all_scenes]) as it:
        await asyncio.gather(*map(one, all_scenes))
        found.left = await it.left()
        records = await it.booked()
    found.left += outlived()
    for scene, calls in made.items():
        verdict = Verdict()
        for call in calls:
            booked(verdict, call, records.get(call.heard.id))
        found.complaints[scene.fault.name] += [f"{scene.name}: {complaint}" for complaint in verdict.complaints]
    return found


@pytest.fixture(scope="module", params=["pooled", "httpx"])
def seen(request, tmp_path_factory):
    """Run everything once by each transport."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(tmp_path_factory.mktemp(request.param), request.param))


@pytest.mark.parametrize("fault", [fault.name for fault in FAULTS])
def test_a_fault_has_the_outcome_that_was_written_down(seen, fault):
    """And every call that met it kept the laws: in time, no attempt too many, nothing cut that looks whole, booked."""
    assert seen.complaints[fault] == []


def test_nothing_is_left_behind_and_the_books_are_equal(seen):
    """No connection, task, slot or reservation, after some thousands of calls that failed in every way."""
    assert seen.left == []
