"""What every simulated engine is: a server with a generator behind it that does not know its callers.

Law: tokens are generated apart from the connection that waits for them, as in the engines; what a leaving caller does
to them is the engine's own habit (`lingering`).
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from gateway.clock import spawn
from tests.parts.http1 import Connection, Received
from tests.parts.scripted import Bytes, Call, Hang, ScriptedServer, Status, Step, whole

EVENTS = {"content-type": "text/event-stream; charset=utf-8"}


class State(StrEnum):
    """How far a generation is."""

    OPEN = "open"
    FINISHED = "finished"
    ABORTED = "aborted"


@dataclass(frozen=True)
class Trouble:
    """Why a generation ended early, as the engine tells it: an HTTP status, words, the name of the kind."""

    status: int
    message: str
    kind: str


DEAD = Trouble(
    500, "EngineCore encountered an issue. See stack trace (above) for the root cause.", "InternalServerError"
)
"""vLLM's words for an engine that died (vllm/v1/engine/exceptions.py)."""


@dataclass
class Work:
    """One generation: what was asked of it and how far it is. Counts are tokens."""

    model: str
    prompt: int
    limit: int
    finish: str = "stop"
    reasoning: int = 0
    """How many of the first tokens are thoughts."""
    fails_at: int | None = None
    """After so many tokens the engine breaks down."""
    stalls_at: int | None = None
    """After so many tokens nothing more is sent, with the connection left open."""
    generated: int = 0
    delivered: int = 0
    """Tokens that were written to a caller who was still there."""
    answered: bool = False
    """Whether the head of the answer was sent."""
    state: State = State.OPEN
    trouble: Trouble | None = None
    arrived: asyncio.Queue[int | None] = field(default_factory=asyncio.Queue)
    """The number of each token, from 1, as it is generated; None at the end."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the first token, or at the end."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def add(self) -> None:
        """Generate one more token."""
        self.generated += 1
        self.arrived.put_nowait(self.generated)
        self.begun.set()

    def end(self, state: State, trouble: Trouble | None = None) -> None:
        """Be over."""
        self.state, self.trouble = state, trouble
        self.arrived.put_nowait(None)
        self.begun.set()
        self.ended.set()


class Shape(Protocol):
    """How one API tells of a generation; each piece is the bytes of whole events."""

    def opening(self) -> bytes:
        """Tell what comes before the first token."""

    def token(self, number: int) -> bytes:
        """Tell one token."""

    def closing(self) -> bytes:
        """Tell what comes after the last token."""

    def broken(self, trouble: Trouble) -> bytes:
        """Tell what comes in place of the rest."""

    def whole(self) -> dict[str, Any]:
        """Return the plain answer."""


class FakeEngine(ScriptedServer):
    """An engine that serves one model.

    `answer`: tokens of an answer that nothing cuts. `pace`: seconds a token; `prefill`: before the first one. `slots`:
    how many generate at once, the others wait. `context`: the window in tokens, a word being one. `time_scale`: what
    the engine's own times are multiplied with, so that 300 s can be waited for. While `flow` is cleared, nothing is
    generated.
    """

    early_head = True
    """Whether the head of a stream is sent before there is a token."""

    def __init__(
        self,
        model: str,
        *,
        answer: int = 5,
        pace: float = 0.0,
        prefill: float = 0.0,
        slots: int | None = None,
        context: int = 262144,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__(model)
        self.answer, self.pace, self.prefill = answer, pace, prefill
        self.slots, self.context, self.time_scale = slots, context, time_scale
        self.works: list[Work] = []
        self.flow = asyncio.Event()
        self.flow.set()
        self._turns = asyncio.Semaphore(slots or 1_000_000)

    @property
    def unfinished(self) -> int:
        """Generations that run or wait."""
        return sum(work.state is State.OPEN for work in self.works)

    @property
    def running(self) -> int:
        """Generations that have a slot."""
        return min(self.unfinished, self.slots or self.unfinished)

    @property
    def waiting(self) -> int:
        """Generations that wait for a slot."""
        return self.unfinished - self.running

    @property
    def aborted(self) -> int:
        """Generations that were cut short."""
        return sum(work.state is State.ABORTED for work in self.works)

    @property
    def generated(self) -> int:
        """Tokens that were generated, for whoever was there or not."""
        return sum(work.generated for work in self.works)

    @property
    def prompted(self) -> int:
        """Prompt tokens that were taken."""
        return sum(work.prompt for work in self.works)

    async def handle(self, request: Received, connection: Connection) -> None:
        if request.method == "POST":
            await super().handle(request, connection)
        else:
            await self._play(Call(request, connection), self.page(request))

    def page(self, request: Received) -> list[Step]:
        """Return the answer to a request that is no POST."""
        raise NotImplementedError

    def lingering(self, work: Work) -> float | None:
        """Return for how many seconds generation goes on after its caller left; None: to its end."""
        return 0.0

    def begin(self, work: Work) -> None:
        """Start generating."""
        self.works.append(work)
        work.task = spawn(self._generate(work), "generation")

    def refuse(self, work: Work, trouble: Trouble) -> None:
        """Take a generation that ends before it begins."""
        work.end(State.ABORTED, trouble)
        self.works.append(work)

    def leave(self, work: Work) -> None:
        """Be told that nobody waits for this generation any more."""
        seconds = self.lingering(work)
        if work.state is State.OPEN and work.task is not None and seconds is not None:
            asyncio.get_running_loop().call_later(seconds, work.task.cancel)

    async def stop(self) -> None:
        await super().stop()
        tasks = [work.task for work in self.works if work.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def failed(self, trouble: Trouble) -> list[Step]:
        """Return the plain answer of a generation that failed."""
        raise NotImplementedError

    async def _generate(self, work: Work) -> None:
        try:
            async with self._turns:
                await asyncio.sleep(self.prefill)
                while work.generated < work.limit and work.generated != work.fails_at:
                    await asyncio.sleep(self.pace)
                    await self.flow.wait()
                    work.add()
        except asyncio.CancelledError:
            work.end(State.ABORTED)
            raise
        if work.generated == work.fails_at:
            work.end(State.ABORTED, DEAD)
        else:
            work.end(State.FINISHED)


@dataclass(frozen=True)
class Generate(Step):
    """Generate and tell of it, streamed or whole.

    `late`: what is answered when nothing can be told after `deadline` seconds.
    """

    engine: FakeEngine
    work: Work
    shape: Shape
    stream: bool
    headers: dict[str, str] = field(default_factory=dict)
    deadline: float | None = None
    late: tuple[Step, ...] = ()

    async def play(self, call: Call) -> None:
        if self.work.trouble is None:
            self.engine.begin(self.work)
        try:
            await (self._stream(call) if self.stream else self._whole(call))
        finally:
            self.engine.leave(self.work)

    async def _stream(self, call: Call) -> None:
        if not self.engine.early_head and not await self._in_time(self.work.begun):
            await play(call, self.late)
            return
        self.work.answered = True
        await Status(200, EVENTS | self.headers).play(call)
        if self.work.trouble is None:
            await self._tell(call, self.shape.opening())
        while (number := await self.work.arrived.get()) is not None:
            if self.work.stalls_at is not None and number > self.work.stalls_at:
                await Hang().play(call)
            await self._tell(call, self.shape.token(number), tokens=1)
            self.work.delivered += 1
        trouble = self.work.trouble
        await self._tell(call, self.shape.closing() if trouble is None else self.shape.broken(trouble))

    async def _whole(self, call: Call) -> None:
        if not await self._in_time(self.work.ended):
            await play(call, self.late)
            return
        self.work.answered = True
        if self.work.trouble is not None:
            await play(call, self.engine.failed(self.work.trouble))
            return
        self.work.delivered = self.work.generated
        await play(call, whole(200, self.shape.whole(), tokens=self.work.generated, **self.headers))

    async def _in_time(self, event: asyncio.Event) -> bool:
        try:
            async with asyncio.timeout(self.deadline):
                await event.wait()
        except TimeoutError:
            return False
        return True

    async def _tell(self, call: Call, data: bytes, tokens: int = 0) -> None:
        if data:  # an empty chunk would end the answer
            await Bytes(data, tokens).play(call)


async def play(call: Call, steps: Iterable[Step]) -> None:
    """Play some steps, one after another."""
    for step in steps:
        await step.play(call)


def text(status: int, words: str, **headers: str) -> list[Step]:
    """Script an answer of plain words."""
    head = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(words.encode()))}
    return [Status(status, head | headers), Bytes(words.encode())]
