"""What an answer of several parts costs, and whom.

Law: the tenant pays for the prompt once, at the first part's price, and for the output of every part at that part's;
that the prompt was read again is the operator's cost. Both together are what the upstreams were asked for.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from policies.domain import Price, Usage
from policies.pricing import money


class Part(Struct, frozen=True):
    """What one deployment gave of an answer: what it used, and at which price."""

    price: Price | None
    usage: Usage


class Shares(Struct, frozen=True):
    """An answer's cost: `usage` and `money` of the tenant, `wasted` and `wasted_money` of the operator.

    Money is in nano-dollars.
    """

    usage: Usage
    money: int
    wasted: Usage
    wasted_money: int


def shares(parts: Sequence[Part]) -> Shares:
    """Divide the cost of `parts`, of which there is at least one, in order.

    What came before stands in a later part's prompt; where that is told, it tells the length of the first prompt too.
    """
    first, last = parts[0].usage, parts[-1].usage
    output = sum(part.usage.completion_tokens for part in parts)
    prompt = first.prompt_tokens
    if len(parts) > 1 and first.estimated and not last.estimated:
        prompt = max(0, last.prompt_tokens - (output - last.completion_tokens))
    again_tokens = sum(part.usage.prompt_tokens for part in parts[1:])
    again = [Part(part.price, _prompt_of(part.usage)) for part in parts[1:]]
    outputs = [Part(part.price, _output_of(part.usage)) for part in parts[1:]]
    cached = min(prompt, first.cached_tokens)
    mended = replace(first, prompt_tokens=prompt, cached_tokens=cached)
    usage = Usage(
        prompt,
        output,
        estimated=True,
        cached_tokens=cached,
        reasoning_tokens=sum(part.usage.reasoning_tokens for part in parts),
    )
    return Shares(
        usage,
        sum((_cost(part) for part in outputs), money(parts[0].price, mended)),
        Usage(again_tokens, 0, estimated=True),
        sum(map(_cost, again)),
    )


def _cost(part: Part) -> int:
    return money(part.price, part.usage)


def _prompt_of(usage: Usage) -> Usage:
    return Usage(usage.prompt_tokens, 0, estimated=True, cached_tokens=usage.cached_tokens)


def _output_of(usage: Usage) -> Usage:
    return Usage(0, usage.completion_tokens, estimated=True, reasoning_tokens=usage.reasoning_tokens)
