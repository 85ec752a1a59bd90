"""A call of a simulated caller, and what every simulated engine understands.

Law: a call is the same whoever serves it. Its prompt is told by the ids of its blocks: two prompts agree up to a block
whose id they share, and an engine that has the block need not prefill it.
"""

from typing import Literal, Protocol

from msgspec import Struct

BLOCK = 512
"""Tokens of prompt to a block, as in Mooncake's published traces."""


class Call(Struct, frozen=True):
    """One call, as its caller makes it and as it would be answered.

    `at` is in seconds from the beginning; `blocks` has an id for each block of the prompt, the last one of which may be
    partial; `prompt` and `output` are the true tokens, images and reasoning included; `bound` is its max_tokens.
    """

    number: int
    at: float
    tenant: str
    session: str
    blocks: tuple[int, ...]
    prompt: int
    output: int
    images: int = 0
    reasoning: bool = False
    bound: int | None = None

    @property
    def answer(self) -> int:
        """The tokens that it is answered with: those that it would make, up to its bound."""
        return self.output if self.bound is None else min(self.output, self.bound)


class Event(Struct, frozen=True):
    """What became of a call at an engine, at one moment in seconds.

    `tokens` are the output tokens made so far, `cached` the prompt tokens that need not be prefilled.
    """

    at: float
    number: int
    kind: Literal["first", "done", "failed"]
    tokens: int
    cached: int = 0


class Engine(Protocol):
    """One place that serves calls. Whoever drives it calls it with moments that never go back.

    The order: `advance(now)` before `arrive`, `cancel` or a fault of the same moment. All of these may move `next_at`.
    """

    @property
    def next_at(self) -> float:
        """The next moment in seconds at which `advance` has something to do; infinite when idle."""

    @property
    def running(self) -> int:
        """Calls in the batch, as its metrics would tell."""

    @property
    def waiting(self) -> int:
        """Calls in its queue, as its metrics would tell."""

    @property
    def kv_use(self) -> float:
        """The share of its KV room, 0 to 1, that running calls hold."""

    def arrive(self, call: Call, now: float) -> int | None:
        """Take in a call; or return the HTTP status with which it is refused at once."""

    def cancel(self, number: int, now: float) -> None:
        """Forget a call whose caller left: no event of it follows. One that is not there is passed over."""

    def advance(self, now: float) -> list[Event]:
        """Do everything up to `now` and return what happened, in order of time."""

    def slow(self, speed: float, now: float) -> None:
        """Go on at a share of its usual speed; 1.0 is as usual."""

    def stall(self, until: float, now: float) -> None:
        """Do nothing until then, but take calls in, as a process that is stopped does."""

    def crash(self, now: float) -> list[Event]:
        """Lose everything: return the failure of every call that was there. It is as new then."""

    def cold(self) -> None:
        """Lose what was cached of calls that are over."""
