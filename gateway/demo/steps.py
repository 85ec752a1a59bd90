"""The four steps of the tour, each against a running gateway: what was found, and whether that is as promised.

Law: every number comes from an answer, from the ledger, or from a simulated backend's own `/metrics`. A step that
finds less than the gateway promises is not ok; nothing is retried, softened or left out.
"""

import asyncio
from collections import Counter
from itertools import count

import httpx
from msgspec import Struct, field

from gateway import clock
from gateway.demo.board import Board, Step
from gateway.demo.caller import Caller, Desk, Outcome
from gateway.demo.cast import GPUS, MODEL
from gateway.demo.fleet import Fleet, Replica
from gateway.demo.settings import TINY

PROMPT = "Tell caller {} in a few sentences how several mills share one river."

CALLS = 24
"""Calls of the first step."""

CALLERS = 12
"""Callers that keep the gateway busy while a replica is killed."""

WARM_UP = 1.0
"""Seconds of load before the kill."""

AFTERMATH = 2.5
"""Seconds of load after it."""

SETTLED_WITHIN = 5.0
"""Seconds that a settlement may come after its answer: it stands behind it, not in its way."""

LONG = 3000
"""Tokens that the caller who leaves had asked for."""


class Scene(Struct):
    """What the steps share. `outcomes` holds every call of the tour; `killed` is the replica that was killed."""

    client: httpx.AsyncClient
    desk: Desk
    fleet: Fleet
    board: Board
    outcomes: list[Outcome] = field(default_factory=list)
    killed: int = 0

    async def caller(self, name: str, plan: str | None = None) -> Caller:
        """Return a caller with a new key of its own."""
        return Caller(self.client, await self.desk.make_key(name, plan), MODEL)


async def serve(scene: Scene, step: Step) -> bool:
    """See calls served, plain and streamed, across backends, and the ledger hold to the token what answers told."""
    caller, numbers = await scene.caller("served"), count()
    mine: list[Outcome] = []

    async def some() -> None:
        while (number := next(numbers)) < CALLS:
            make = caller.streamed if number % 2 else caller.plain
            mine.append(await make(PROMPT.format(number), 24))
            _tell(scene, step, mine)

    await asyncio.gather(*(some() for _ in range(6)))
    scene.outcomes += mine
    prompt = sum(outcome.usage.prompt_tokens for outcome in mine)
    completion = sum(outcome.usage.completion_tokens for outcome in mine)
    charged = await scene.desk.charged_at_least(caller.key, completion, SETTLED_WITHIN)
    step.facts |= {"tokens_told": prompt + completion, "ledger": charged.prompt_tokens + charged.completion_tokens}
    exact = (charged.prompt_tokens, charged.completion_tokens) == (prompt, completion)
    return _all_clean(mine) and exact and len({outcome.backend for outcome in mine}) > 1


async def failover(scene: Scene, step: Step) -> bool:
    """Kill a replica under load: no plain call and no stream before its first content fails."""
    caller, stop = await scene.caller("busy"), asyncio.Event()
    mine: list[Outcome] = []

    async def keep_calling(first: int) -> None:
        await asyncio.sleep(WARM_UP * first / CALLERS)  # so that the kill finds calls at every stage
        for number in count(first):
            if stop.is_set():
                return
            make = caller.streamed if number % 2 else caller.plain
            mine.append(await make(PROMPT.format(number), 24 + 8 * (number % 5)))
            _tell(scene, step, mine)

    busy = [clock.spawn(keep_calling(number), f"demo-caller-{number}") for number in range(CALLERS)]
    try:
        await asyncio.sleep(WARM_UP)
        replica, in_flight = await _busiest_gpu(scene)
        scene.killed = replica.pid
        replica.kill()
        step.facts |= {"killed": replica.name, "pid": replica.pid, "in_flight_then": in_flight}
        await asyncio.sleep(AFTERMATH)
    finally:
        stop.set()
        await asyncio.gather(*busy)
    scene.outcomes += mine
    moved = sum(outcome.attempts > 1 for outcome in mine if outcome.ended == "clean")
    failed = [outcome for outcome in mine if outcome.ended not in {"clean", "cut"}]
    step.facts |= {
        "moved_elsewhere": moved,
        "plain_failed": sum(not outcome.streamed for outcome in failed),
        "streams_failed": sum(outcome.streamed for outcome in failed),
        "streams_cut_after_content": sum(outcome.ended == "cut" for outcome in mine),
    }
    _tell(scene, step, mine)
    return not failed and moved > 0 and in_flight > 0


async def quota(scene: Scene, step: Step) -> bool:
    """Use up a tiny plan: its key is refused, told by which meter and until when, and admitted then."""
    caller = await scene.caller("tiny", TINY.name)
    mine = await asyncio.gather(*(caller.plain(PROMPT.format(number), 4) for number in range(5)))
    refused = sorted((outcome for outcome in mine if outcome.ended == "refused"), key=lambda outcome: outcome.wait)
    scene.outcomes += mine
    step.facts |= {"admitted": sum(outcome.ended == "clean" for outcome in mine), "refused": len(refused)}
    _tell(scene, step, list(mine))
    if not refused:
        return False
    no = refused[0]
    step.facts |= {"status": no.status, "code": no.code, "meter": no.meter, "level": no.level, "told_to_wait": no.wait}
    scene.board.show(step)
    await asyncio.sleep(no.wait)
    again = await caller.plain(PROMPT.format("again"), 4)
    scene.outcomes.append(again)
    step.facts["after_that_wait"] = again.status
    rest = [outcome for outcome in mine if outcome.ended != "refused"]
    return bool(no.meter and no.level and no.wait > 0) and _all_clean([*rest, again]) and len(rest) > 0


async def leave(scene: Scene, step: Step) -> bool:
    """Leave mid-stream: the backend stops generating, and what was seen is charged."""
    caller = await scene.caller("leaver")
    before = {replica.name: await _metric(scene, replica, "generation_tokens_total") for replica in scene.fleet.alive}
    mine = await caller.streamed(PROMPT.format("who leaves"), LONG, leave_after=40)
    left = clock.monotonic()
    scene.outcomes.append(mine)
    step.facts |= {"asked_tokens": LONG, "seen_tokens": mine.events, "backend": mine.backend}
    if mine.ended != "left":
        step.facts["problem"] = mine.problem
        return False
    replica = scene.fleet[mine.backend]
    step.facts["backend_idle_after"] = round(await _idle(scene, replica) - left, 3)
    made = await _metric(scene, replica, "generation_tokens_total")
    await asyncio.sleep(0.3)
    idle = await _metric(scene, replica, "generation_tokens_total") == made
    charged = await scene.desk.charged_at_least(caller.key, mine.events, SETTLED_WITHIN)
    step.facts |= {"made_tokens": made - before[replica.name], "charged_tokens": charged.completion_tokens}
    return idle and charged.completion_tokens >= mine.events


async def _busiest_gpu(scene: Scene) -> tuple[Replica, int]:
    """Return the GPU replica with the most calls in flight as soon as there are four, or as it is after 5 seconds."""
    deadline = clock.monotonic() + 5
    gpus = [replica for replica in scene.fleet.alive if replica.how in GPUS]
    while True:
        running = [await _metric(scene, replica, "num_requests_running") for replica in gpus]
        if max(running) >= 4 or clock.monotonic() > deadline:
            return gpus[running.index(max(running))], max(running)
        await asyncio.sleep(0.02)


async def _idle(scene: Scene, replica: Replica) -> float:
    """Return the time at which `replica` has nothing left to do, or the time in 5 seconds."""
    deadline = clock.monotonic() + 5
    while True:
        running = await _metric(scene, replica, "num_requests_running")
        if not running or clock.monotonic() > deadline:
            return clock.monotonic()
        await asyncio.sleep(0.005)


async def _metric(scene: Scene, replica: Replica, name: str) -> int:
    text = (await scene.client.get(replica.url + "/metrics")).text
    values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"vllm:{name}{{")]
    return int(values[0])


def _all_clean(outcomes: list[Outcome]) -> bool:
    return all(outcome.ended == "clean" for outcome in outcomes)


def _tell(scene: Scene, step: Step, outcomes: list[Outcome]) -> None:
    """Put the counts of `outcomes` and the first problem into the facts, and show them."""
    clean = [outcome for outcome in outcomes if outcome.ended == "clean"]
    step.facts |= {
        "plain": sum(not outcome.streamed for outcome in clean),
        "streamed": sum(outcome.streamed for outcome in clean),
        "by": dict(sorted(Counter(outcome.backend for outcome in clean).items())),
    }
    problems = [outcome.problem for outcome in outcomes if outcome.ended == "failed"]
    if problems:
        step.facts["problem"] = problems[0]
    scene.board.show(step)
