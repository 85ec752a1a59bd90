"""How much work it is to prefill a prompt, in tokens of a short one.

Law: a token attends to all before it, so a long prompt is more work than its tokens, and what is cached before it still
counts. Work adds up over calls, which tokens of prompts of different lengths do not.
"""

ATTENTION = 60_000
"""Tokens of context at which attending to them costs a token as much as everything else. Of a dense model's floating
point operations a token: 2 x its parameters, and 4 x layers x width x context; for 128 billion parameters, 88 layers
and a width of 12,288 both are 256 billion at 59,000, for 8 billion, 32 and 4,096 at 31,000. Kernels for attention run
further below a GPU's peak than those for the rest, models with windows attend to less."""


def work(cached: int, tokens: int) -> int:
    """Return the work of prefilling `tokens` of a prompt behind `cached` ones."""
    return tokens + round(tokens * (cached + tokens / 2) / ATTENTION)
