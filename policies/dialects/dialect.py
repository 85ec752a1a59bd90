"""The shape of a dialect: the few ways in which engines differ.

Law: data only; `rewrite`, `candidates`, `failures` and the gateway's probes read it and know no engine by name.
"""

from typing import Literal, get_args

from msgspec import Struct

from policies.domain import API

UsageMode = Literal["include_usage", "always"]
"""How a stream tells its usage where the API lets callers ask: when `stream_options` does, or always, unasked."""

Prefill = Literal["flags", "implicit", "prefix"]
"""How an engine is made to go on from an assistant's unfinished message: `continue_final_message` with
`add_generation_prompt: false`; by that message being the last; by `prefix: true` on it."""

Names = frozenset[str]
"""Names of a body's members."""

OPENAI_APIS: frozenset[API] = frozenset({"chat", "completions", "embeddings"})
ALL_APIS: frozenset[API] = frozenset(get_args(API))


class Priors(Struct, frozen=True):
    """What is believed of a deployment before its first call.

    `ttft_fixed`: seconds before prefill begins; `prefill_rate`: prompt tokens a second; `token_time`: seconds an output
    token. Learning replaces the first and the last within some calls.
    """

    ttft_fixed: float
    prefill_rate: float
    token_time: float


class Scrape(Struct, frozen=True):
    """Where an engine tells its load to Prometheus: a path from its root, and the names of each figure, newest first.

    `running`, `waiting`: calls; `kv_use`: share of the KV cache in use, 0 to 1. A name that is not found is unknown,
    never 0.
    """

    path: str
    running: tuple[str, ...]
    waiting: tuple[str, ...]
    kv_use: tuple[str, ...] = ()


class Dialect(Struct, frozen=True):
    """One kind of backend.

    `apis`: those that it has. `auth`: the header of its credential and what stands before it. `usage`: how a stream
    tells it. By API: `keeps`, the only members it takes, where it refuses all others (an API without: any); `renames`,
    members it knows by another name; `adds`, members as JSON that it is sent where the caller has none; `slights`,
    members whose being dropped or ignored changes what the caller gets, so that other deployments come first. `drops`:
    members it is never sent. `headers`: sent with every call. `max_body`: bytes that it takes (None: any). `stall`:
    seconds of silence in a stream that count as a failure. `freeze`: seconds that a 429 without a Retry-After keeps
    calls away. `health`: a path from its root that answers 200 when it serves, at no cost (None: its list of models is
    asked). `scrape`: its load. `describes`: paths from its root that tell of its models what their list does not.
    `prefill`: how it goes on from given text (None: it is asked in words). `polls`: a path from the root of its host at
    which an answer of 202 is fetched, with its request id behind it. `waits`: the header that tells it for how many
    seconds its answer is waited for, and the most that it is told. `mistral_common`: it templates models of Mistral's
    with their own tokenizer. `any_name`: it may serve models by names that its list lacks. `per_minute`: calls that it
    takes of one account for one model (None: nobody has said).
    """

    kind: str
    priors: Priors
    apis: frozenset[API] = OPENAI_APIS
    auth: tuple[str, str] = ("authorization", "Bearer ")
    usage: UsageMode = "include_usage"
    keeps: dict[API, Names] = {}
    drops: Names = frozenset()
    renames: dict[API, dict[str, str]] = {}
    adds: dict[API, dict[str, bytes]] = {}
    slights: dict[API, Names] = {}
    headers: tuple[tuple[str, str], ...] = ()
    max_body: int | None = None
    stall: float = 30.0
    freeze: float = 1.0
    health: str | None = None
    scrape: Scrape | None = None
    describes: tuple[str, ...] = ()
    prefill: Prefill | None = None
    polls: str | None = None
    waits: tuple[str, int] | None = None
    mistral_common: bool = False
    any_name: bool = False
    per_minute: int | None = None
