"""The shape of a dialect: the few ways in which OpenAI-compatible engines differ."""

from msgspec import Struct


class Priors(Struct, frozen=True):
    """What is believed of a deployment before its first call.

    `ttft_fixed`: seconds before prefill begins; `prefill_rate`: prompt tokens a second; `token_time`: seconds an output
    token. Learning replaces the first and the last within some calls.
    """

    ttft_fixed: float
    prefill_rate: float
    token_time: float


class Dialect(Struct, frozen=True):
    """One kind of backend.

    `asks_usage`: takes `stream_options.include_usage`. `drops`, `renames`: request members it refuses or calls
    otherwise. `headers`: sent with every call. `stall`: seconds of silence inside a stream that count as a failure.
    """

    kind: str
    priors: Priors
    asks_usage: bool = True
    drops: frozenset[str] = frozenset()
    renames: dict[str, str] = {}
    headers: tuple[tuple[str, str], ...] = ()
    stall: float = 30.0
