"""The nouns of a call: frozen values without logic.

Law: one meaning a word (the table in CONTRIBUTING.md). Whatever crosses from one room to another is one of these.
Units: tokens are model tokens; prices are pico-dollars a token; money is nano-dollars; durations are seconds unless a
name ends in `_us` (microseconds of the store's clock).
"""

from enum import StrEnum
from typing import Literal

from msgspec import Raw, Struct
from msgspec.structs import force_setattr

from policies.terms import NO_WISHES, RoutingTerms, RoutingWishes, Voice

API = Literal["chat", "completions", "embeddings", "responses", "messages", "count_tokens", "tokenize"]
LevelKind = Literal["organization", "team", "key"]
Overrun = Literal["finish", "cut"]
WhenDown = Literal["deny", "local"]
Tokenizer = Literal["mistral", "other"]
OnStreamFailure = Literal["error", "continue"]
Scope = Literal["inference", "admin:read", "admin:write"]


class MeterKind(StrEnum):
    """What one meter counts; the value is its name in the file, in errors, traces and metrics."""

    REQUESTS_PER_SECOND = "requests_per_second"
    REQUESTS_PER_MINUTE = "requests_per_minute"
    REQUESTS_PER_HOUR = "requests_per_hour"
    INPUT_TOKENS_PER_MINUTE = "input_tokens_per_minute"
    INPUT_TOKENS_PER_HOUR = "input_tokens_per_hour"
    OUTPUT_TOKENS_PER_MINUTE = "output_tokens_per_minute"
    OUTPUT_TOKENS_PER_HOUR = "output_tokens_per_hour"
    TOKENS_PER_MINUTE = "tokens_per_minute"
    TOKENS_PER_HOUR = "tokens_per_hour"
    CONCURRENT_REQUESTS = "concurrent_requests"
    TOKENS_PER_DAY = "tokens_per_day"
    TOKENS_PER_WEEK = "tokens_per_week"
    TOKENS_PER_MONTH = "tokens_per_month"
    TOKENS_IN_ALL = "tokens_in_all"
    BUDGET_PER_DAY = "budget_per_day"
    BUDGET_PER_WEEK = "budget_per_week"
    BUDGET_PER_MONTH = "budget_per_month"
    BUDGET_IN_ALL = "budget_in_all"


class Meter(Struct, frozen=True):
    """One thing counted at a level; what its kind means is told in `policies/meters.py`.

    `limit` and `burst` are requests, tokens, slots or nano-dollars. A rate is a continuous token bucket that holds
    `burst` and refills `limit` every period; everything else has `burst == limit`. `enforce` False: a shadow, which is
    counted and never refuses. `model`: the only model whose calls it counts (None: every model's).
    """

    kind: MeterKind
    limit: int
    burst: int
    enforce: bool = True
    model: str | None = None


class Plan(Struct, frozen=True):
    """A named bundle of meters that a level carries.

    `overrun`: what becomes of a stream that one of its meters will not let grow. `when_down`: its stance while the
    store is gone, None for the store's own. `wishes`: how the level's calls want to be routed.
    """

    name: str
    meters: tuple[Meter, ...]
    overrun: Overrun = "finish"
    when_down: WhenDown | None = None
    wishes: RoutingWishes = NO_WISHES


class Level(Struct, frozen=True):
    """One of the three levels of a principal; `id` is its name in the store, unique inside its organization."""

    kind: LevelKind
    id: str
    meters: tuple[Meter, ...]
    overrun: Overrun = "finish"
    when_down: WhenDown = "deny"


class Reach(Struct, frozen=True):
    """Which models and backends a principal's calls may go to.

    `models`, `backends`: lists of names, each of which has to allow (none: anything goes); `NAME*` is every name that
    begins so. `local_only`: its prompts are never sent to a hosted deployment.
    """

    models: tuple[tuple[str, ...], ...] = ()
    backends: tuple[tuple[str, ...], ...] = ()
    local_only: bool = False


class Principal(Struct, frozen=True):
    """Who is calling: organization > team > key (or the subject of a token).

    `time_zone`: where its calendar periods begin, an IANA name. `expires`: unix seconds from which its credential is
    no good (None: it does not end); `cut`: a stream that runs longer than that is broken off. `wishes`: how its calls
    want to be routed, which `voices` say together, those of its levels that wish anything.
    """

    organization: str
    team: str
    key: str
    name: str
    levels: tuple[Level, ...]
    time_zone: str = "UTC"
    reach: Reach = Reach()
    scopes: frozenset[Scope] = frozenset({"inference"})
    expires: float | None = None
    cut: bool = False
    wishes: RoutingWishes = NO_WISHES
    voices: tuple[Voice, ...] = ()


class InferenceRequest(Struct, frozen=True, gc=False):
    """The few facts read from a body; `members` are its top-level values, byte for byte.

    `size`: bytes of the body; `text_bytes`: bytes of prompt and tools without inlined media; `media`: inlined or linked
    images, sounds and files; `max_tokens`: the caller's bound on output, for one choice. `session`: what the calls have
    in common that had better go to one place ("": nobody said); never the same for two keys.
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
    session: str = ""


class Price(Struct, frozen=True):
    """Pico-dollars a token: 1 USD a million tokens is 1,000,000 pico-dollars a token.

    `cached_input`: of input found in the cache; `reasoning`: of output that is reasoning (None: as the rest).
    """

    input: int
    output: int
    cached_input: int | None = None
    reasoning: int | None = None


class Deployment(Struct, frozen=True):
    """One model on one backend. `price` is None where it is unknown; `context_window` likewise.

    `tokenizer`: with `mistral` the engine templates by mistral-common, which takes no chat template of a caller's and
    two reasoning efforts. `hosted`: it leaves the organization's own machines. `max_in_flight`: calls at once, of all
    gateways (None: any number). `weight`: its share of the calls under `weighted`. `id`: its name wherever one is told.
    """

    backend: str
    kind: str
    model: str
    context_window: int | None
    modalities: frozenset[str]
    price: Price | None
    tokenizer: Tokenizer = "other"
    hosted: bool = False
    max_in_flight: int | None = None
    weight: int = 1
    id: str = ""

    def __post_init__(self) -> None:
        """Name it, once: it is looked up by its name for every call."""
        force_setattr(self, "id", f"{self.backend}/{self.model}")


class Deadlines(Struct, frozen=True):
    """Seconds a call may take in all, whatever its attempts.

    `first_content`: seconds within which a stream must have content (None: by prediction). `stall`: seconds of silence
    inside a stream that end it (None: the dialect's). `keep_alive`: seconds of silence after which a streaming caller
    is sent a comment, until there is content (None: never). `of_token`: `total` is when the caller's token ends.
    """

    total: float = 900.0
    first_content: float | None = None
    stall: float | None = None
    keep_alive: float | None = None
    of_token: bool = False


class Model(Struct, frozen=True):
    """A name that callers ask for, and the deployments that serve it.

    `on_stream_failure`: what becomes of a stream that its upstream breaks off once the caller has seen some of it: the
    caller is told (`error`), or another deployment goes on from there (`continue`). `told`: of `routing` in the file.
    """

    name: str
    aliases: tuple[str, ...]
    deployments: tuple[Deployment, ...]
    fallbacks: tuple[str, ...]
    routing: RoutingTerms
    deadlines: Deadlines
    on_stream_failure: OnStreamFailure = "error"
    told: frozenset[str] = frozenset()


class Estimate(Struct, frozen=True, gc=False):
    """What a call will probably use: prompt tokens, output tokens to expect, to reserve, and at the very most."""

    prompt_tokens: int
    output_tokens: int
    reserved_output: int
    longest_output: int


class Pace(Struct, frozen=True, gc=False):
    """How fast a deployment is believed to be, in seconds.

    `fixed`: before prefill begins; `prefill`: a prompt token; `token`: an output token alone; `crowding`: what each
    call beside it adds to that. `spread`: by which 19 of 20 first tokens come later than predicted, at most.
    """

    fixed: float
    prefill: float
    token: float
    crowding: float
    spread: float = 0.0


class Snapshot(Struct, frozen=True, gc=False):
    """A frozen view of one deployment at one moment.

    `in_flight`, `queued_tokens`: calls, `foreign` ones past the gateways among them, and prefill work without a first
    token, of all gateways. `ejected`: the breaker keeps it out; `off`: an operator's fault keeps it out, with the
    reason; `retired`: its model is gone for good. `lacks`: APIs it has said it does not have. `frozen_for`: seconds for
    which it has asked to be left alone (0: it has not). `down`: what its last free probe found wrong (None: nothing).
    `absent`: why there is nothing to call at all (None: there is). `drained`: an operator has asked for no new calls.
    `cached`: the share of the prompt in question whose prefill is probably spared there; `tells_cache`: it tells what
    it found. `fails`: how probably a call fails, 0 to 1. `kv_use`: share of its KV cache in use (None: unknown).
    `unheard`: seconds since a call told of it. `share`: of what it takes while it warms up after a failure.
    `allowance_wait`: seconds until its own limit has room; `shadow`: nano-dollars that a call of it costs others.
    """

    deployment: Deployment
    in_flight: int
    queued_tokens: int
    pace: Pace
    ejected: bool
    off: str | None
    retired: bool = False
    lacks: frozenset[API] = frozenset()
    frozen_for: float = 0.0
    down: str | None = None
    absent: str | None = None
    drained: bool = False
    cached: float = 0.0
    tells_cache: bool = False
    fails: float = 0.0
    kv_use: float | None = None
    unheard: float = 0.0
    share: float = 1.0
    allowance_wait: float = 0.0
    shadow: int = 0
    foreign: int = 0


class Candidate(Struct, frozen=True, gc=False):
    """A deployment as it was ranked: predicted seconds and nano-dollars, its score, and why it stands where it does.

    `latest`: seconds by which the first token has come 19 times of 20. `longest`: predicted seconds if the output runs
    to its bound. `money` is None where the price is unknown. `dropped` is the reason it is not in the route, else None.
    `prefill`: tokens of the prompt that are probably not in its cache. `imposed`: seconds, as far as they are felt, by
    which all calls there become slower. `risk`: seconds that failing would cost there, times how probable it is.
    `shadow`, `cached`: as the snapshot's. `load`: the work of that prefill (`prefill.py`). `full`: it has no room now.
    """

    deployment: Deployment
    ttft: float
    seconds: float
    longest: float
    money: int | None
    score: float
    reason: str
    dropped: str | None = None
    latest: float = 0.0
    prefill: int = 0
    imposed: float = 0.0
    risk: float = 0.0
    shadow: int = 0
    cached: float = 0.0
    load: int = 0
    full: bool = False


class Route(Struct, frozen=True, gc=False):
    """The deployments to try in order, and those dropped with their reasons.

    `terms`: how the call is routed, its caller's wishes included. `waits`: those that could serve are all full, so that
    the call waits for a place and is routed anew.
    """

    model: Model
    order: tuple[Candidate, ...]
    dropped: tuple[Candidate, ...]
    terms: RoutingTerms = RoutingTerms()
    waits: bool = False


class Claim(Struct, frozen=True, gc=False):
    """What to set aside at every level for one call: one request, one slot, tokens and money.

    `money`: nano-dollars at the first deployment's price; `seconds`: that it probably takes; `time_zone`: its caller's.
    """

    organization: str
    team: str
    key: str
    model: str
    levels: tuple[Level, ...]
    input_tokens: int
    output_tokens: int
    money: int = 0
    seconds: float = 0.0
    time_zone: str = "UTC"

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens


class Standing(Struct, frozen=True, gc=False):
    """One meter after an answer: its limit, what remains (never below 0), and microseconds until it is full again.

    What remains of a rate is in its bucket, which may hold less than the limit. `reset_us` is None where it never is
    full again: what a meter counts in all does not come back, and nobody knows when slots do.
    """

    level: LevelKind
    meter: Meter
    limit: int
    remaining: int
    reset_us: int | None


class Reservation(Struct, frozen=True, gc=False):
    """What the ledger has set aside: settled, released or expired exactly once, by its `id`.

    `requests` and `tokens`: the standings with least left of those that count these, `tightest`: the one with the
    smallest share left of all; None where no level has such a meter. `shadows`: shadow meters that would refuse it.
    """

    id: str
    claim: Claim
    requests: Standing | None = None
    tokens: Standing | None = None
    tightest: Standing | None = None
    shadows: tuple[tuple[LevelKind, MeterKind], ...] = ()


class Usage(Struct, frozen=True, gc=False):
    """Tokens of one attempt: told by the upstream, or counted by us and marked `estimated`.

    `cached_tokens` are those of the prompt that the upstream had in its cache, `reasoning_tokens` those of the
    completion that are reasoning: 0 where it did not tell.
    """

    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens


class Bill(Struct, frozen=True, gc=False):
    """What a call is settled with: its usage, its money in nano-dollars, and what its record says of it.

    `deployment`: what served, as the file names it, "" where nothing did; `replica`: which of it ("": it has none).
    `outcome`: ok, or how it ended. `wasted`, `wasted_money`: of failed attempts, which the account `platform` bears.
    """

    usage: Usage
    money: int = 0
    deployment: str = ""
    outcome: str = "ok"
    request_id: str = ""
    wasted: Usage | None = None
    wasted_money: int = 0
    replica: str = ""
