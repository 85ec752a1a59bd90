"""The tour against a running gateway: its steps in order, and the report on all of them.

Law: a step that breaks is a step that failed, and the others still run; the tour is ok when every step is.
"""

from collections import Counter
from collections.abc import Awaitable, Callable

import httpx
from msgspec import Struct

from gateway.demo import steps
from gateway.demo.board import Board, Step
from gateway.demo.caller import Caller, Desk, Key, TourBroken
from gateway.demo.cast import MODEL
from gateway.demo.fleet import Fleet
from gateway.demo.steps import Scene

STEPS: tuple[tuple[str, str, Callable[[Scene, Step], Awaitable[bool]]], ...] = (
    ("serve", "Calls are served, plain and streamed, across backends", steps.serve),
    ("failover", "A GPU replica is killed under load, and callers go on", steps.failover),
    ("quota", "A quota refuses, names its meter, and keeps its word", steps.quota),
    ("leave", "A caller leaves: the GPU stops, its tokens are charged", steps.leave),
)


class Report(Struct):
    """What the tour found, as `--json` prints it. The steps' facts hold the rest."""

    ok: bool
    first_200_seconds: float
    calls_served: int
    streams_served: int
    killed_pid: int
    attempts: dict[str, int]
    streams_cut: int
    refusing_meter: str
    refusing_level: str
    charged_tokens_after_leaving: int
    seen_tokens_when_leaving: int
    steps: list[Step]


class Tour:
    """One tour of the gateway that `client` talks to, whose backends are `fleet`."""

    def __init__(self, client: httpx.AsyncClient, admin_key: str, fleet: Fleet) -> None:
        self._client = client
        self._desk = Desk(client, admin_key)
        self._fleet = fleet

    async def first_call(self) -> Key:
        """Make a key for the person who watches and try it once; raises `TourBroken` when that is not served."""
        key = await self._desk.make_key("you")
        outcome = await Caller(self._client, key, MODEL).plain("Say hello.", 1)
        if outcome.ended != "clean":
            raise TourBroken(f"the first call was not served: {outcome.problem}")
        return key

    async def run(self, board: Board, first_200_seconds: float) -> Report:
        """Run every step and report."""
        scene = Scene(self._client, self._desk, self._fleet, board)
        done = []
        for name, title, work in STEPS:
            step = Step(name, title)
            board.begin(step)
            try:
                step.ok = await work(scene, step)
            except (TourBroken, httpx.HTTPError) as error:
                step.ok = False
                step.facts["problem"] = f"{type(error).__name__}: {error}"
            board.show(step)
            done.append(step)
        return _report(scene, done, first_200_seconds)


def _report(scene: Scene, done: list[Step], first_200_seconds: float) -> Report:
    clean = [outcome for outcome in scene.outcomes if outcome.ended == "clean"]
    refused = [outcome for outcome in scene.outcomes if outcome.ended == "refused"]
    left = done[-1].facts
    return Report(
        ok=all(step.ok for step in done),
        first_200_seconds=round(first_200_seconds, 3),
        calls_served=len(clean),
        streams_served=sum(outcome.streamed for outcome in clean),
        killed_pid=scene.killed,
        attempts={str(tries): calls for tries, calls in sorted(Counter(each.attempts for each in clean).items())},
        streams_cut=sum(outcome.ended == "cut" for outcome in scene.outcomes),
        refusing_meter=refused[0].meter if refused else "",
        refusing_level=refused[0].level if refused else "",
        charged_tokens_after_leaving=_whole(left.get("charged_tokens")),
        seen_tokens_when_leaving=_whole(left.get("seen_tokens")),
        steps=done,
    )


def _whole(fact: object) -> int:
    return fact if isinstance(fact, int) else 0
