"""Money: nano-dollars from pico-dollar prices, whole numbers only.

Law: a call's money is rounded up once, at its end; nothing is ever a float.
"""

from policies.domain import Price

PICO_PER_NANO = 1000


def money(price: Price, prompt_tokens: int, completion_tokens: int) -> int:
    """Return nano-dollars for that many tokens, rounded up."""
    pico = prompt_tokens * price.input + completion_tokens * price.output
    return -(-pico // PICO_PER_NANO)
