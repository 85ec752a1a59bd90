"""Money: nano-dollars from pico-dollar prices, whole numbers only.

Law: a call's money is rounded up once, at its end; nothing is ever a float. Cached input and reasoning have their own
price where one is told, else that of the rest.
"""

from policies.domain import Price, Usage

PICO_PER_NANO = 1000


def money(price: Price | None, usage: Usage) -> int:
    """Return the nano-dollars that `usage` costs, rounded up; 0 where the price is unknown."""
    if price is None:
        return 0
    pico = usage.prompt_tokens * price.input + usage.completion_tokens * price.output
    if price.cached_input is not None:
        pico += usage.cached_tokens * (price.cached_input - price.input)
    if price.reasoning is not None:
        pico += usage.reasoning_tokens * (price.reasoning - price.output)
    return -(-pico // PICO_PER_NANO)


def free(price: Price | None) -> bool:
    """Say whether nothing is paid at `price`; what is unknown is not free."""
    return price is not None and not (price.input or price.output or price.cached_input or price.reasoning)
