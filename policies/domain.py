"""The nouns of a call: frozen values without logic.

Law: one meaning a word (the table in CONTRIBUTING.md). Whatever crosses from one room to another is one of these.
Units: tokens are model tokens; prices are pico-dollars a token; money is nano-dollars; durations are seconds unless a
name ends in `_us` (microseconds of the store's clock).
"""

from enum import StrEnum
from typing import Literal

from msgspec import Raw, Struct

API = Literal["chat", "completions", "embeddings"]
LevelKind = Literal["organization", "team", "key"]


class MeterKind(StrEnum):
    """What one meter counts; the value is its name in the file, in errors, traces and metrics."""

    REQUESTS_PER_MINUTE = "requests_per_minute"
    TOKENS_PER_MINUTE = "tokens_per_minute"
    CONCURRENT_REQUESTS = "concurrent_requests"


class Meter(Struct, frozen=True):
    """One thing counted at a level.

    A rate is a continuous token bucket: it holds `burst` and refills `limit` every `period_us`. Concurrent requests
    (slots) have `burst == limit` and `period_us == 0`.
    """

    kind: MeterKind
    limit: int
    burst: int
    period_us: int


class Plan(Struct, frozen=True):
    """A named bundle of meters that a level carries."""

    name: str
    meters: tuple[Meter, ...]


class Level(Struct, frozen=True):
    """One of the three levels of a principal; `id` is its name in the store, unique inside its organization."""

    kind: LevelKind
    id: str
    meters: tuple[Meter, ...]


class Principal(Struct, frozen=True):
    """Who is calling: organization > team > key."""

    organization: str
    team: str
    key: str
    name: str
    levels: tuple[Level, ...]


class InferenceRequest(Struct, frozen=True):
    """The few facts read from a body; `members` are its top-level values, byte for byte.

    `size`: bytes of the body; `text_bytes`: bytes of prompt and tools without inlined media; `media`: inlined or linked
    images, sounds and files; `max_tokens`: the caller's bound on output, for one choice.
    """

    api: API
    model: str
    stream: bool
    wants_usage: bool
    max_tokens: int | None
    choices: int
    size: int
    text_bytes: int
    media: int
    modalities: frozenset[str]
    members: dict[str, Raw]


class Price(Struct, frozen=True):
    """Pico-dollars a token: 1 USD a million tokens is 1,000,000 pico-dollars a token."""

    input: int
    output: int


class Deployment(Struct, frozen=True):
    """One model on one backend. `price` is None where it is unknown; `context_window` likewise."""

    backend: str
    kind: str
    model: str
    context_window: int | None
    modalities: frozenset[str]
    price: Price | None

    @property
    def id(self) -> str:
        """The deployment's name in metrics, traces and logs."""
        return f"{self.backend}/{self.model}"


class RoutingTerms(Struct, frozen=True):
    """How one model's calls are routed.

    `ttft_target`: seconds to the first token that count as in time (soft; None: any).
    `value_of_time`: nano-dollars that a second of a caller's waiting is worth.
    `max_attempts`: deployments tried for one call; 1 turns failover off.
    """

    ttft_target: float | None = None
    value_of_time: int = 2_000_000
    max_attempts: int = 3


class Deadlines(Struct, frozen=True):
    """Seconds a call may take in all, whatever its attempts.

    `keep_alive`: seconds of silence after which a streaming caller is sent a comment, and again, until there is content
    (None: never).
    """

    total: float = 900.0
    keep_alive: float | None = None


class Model(Struct, frozen=True):
    """A name that callers ask for, and the deployments that serve it."""

    name: str
    aliases: tuple[str, ...]
    deployments: tuple[Deployment, ...]
    fallbacks: tuple[str, ...]
    routing: RoutingTerms
    deadlines: Deadlines


class Estimate(Struct, frozen=True):
    """What a call will probably use: prompt tokens, output tokens to expect, to reserve, and at the very most."""

    prompt_tokens: int
    output_tokens: int
    reserved_output: int
    longest_output: int


class Snapshot(Struct, frozen=True):
    """A frozen view of one deployment at one moment.

    `queued_tokens`: prompt tokens sent there whose first token has not come. `ttft_fixed`: seconds before prefill
    begins; `prefill_rate`: prompt tokens a second; `token_time`: seconds an output token. `ejected`: the breaker keeps
    it out; `off`: an operator's fault keeps it out, with the reason; `retired`: its model is gone for good. `lacks`:
    APIs it has said it does not have.
    """

    deployment: Deployment
    in_flight: int
    queued_tokens: int
    ttft_fixed: float
    prefill_rate: float
    token_time: float
    ejected: bool
    off: str | None
    retired: bool = False
    lacks: frozenset[API] = frozenset()


class Candidate(Struct, frozen=True):
    """A deployment as it was ranked: predicted seconds and nano-dollars, its score, and why it stands where it does.

    `longest`: predicted seconds if the output runs to its bound. `money` is None where the price is unknown. `dropped`
    is the reason it is not in the route, else None.
    """

    deployment: Deployment
    ttft: float
    seconds: float
    longest: float
    money: int | None
    score: float
    reason: str
    dropped: str | None = None


class Route(Struct, frozen=True):
    """The deployments to try in order, and those dropped with their reasons."""

    model: Model
    order: tuple[Candidate, ...]
    dropped: tuple[Candidate, ...]


class Claim(Struct, frozen=True):
    """What to set aside at every level for one call: one request, one slot and `tokens`, of which `prompt_tokens`."""

    organization: str
    key: str
    model: str
    levels: tuple[Level, ...]
    tokens: int
    prompt_tokens: int


class Standing(Struct, frozen=True):
    """One meter after an answer: its limit, what remains (never below 0) and microseconds until it is full again."""

    limit: int
    remaining: int
    reset_us: int


class Reservation(Struct, frozen=True):
    """What the ledger has set aside: settled, released or expired exactly once, by its `id`.

    `requests` and `tokens` are the tightest levels' standings, None where no level has such a meter.
    """

    id: str
    claim: Claim
    requests: Standing | None
    tokens: Standing | None


class Usage(Struct, frozen=True):
    """Tokens of one attempt: told by the upstream, or counted by us and marked `estimated`."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool

    @property
    def total(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens
