"""`transformers serve`: refuses members it does not know (422), always tells usage, never sends `[DONE]`.

The list is that of its own request check (transformers, cli/serving/chat_completion.py).
"""

from policies.dialects.dialect import Dialect, Priors

DIALECT = Dialect(
    kind="transformers",
    priors=Priors(0.5, 1_000.0, 0.05),
    usage="always",
    drops=frozenset(
        {
            "logprobs",
            "metadata",
            "n",
            "parallel_tool_calls",
            "presence_penalty",
            "reasoning_effort",
            "response_format",
            "service_tier",
            "store",
            "stream_options",
            "tool_choice",
            "top_logprobs",
            "user",
        }
    ),
    renames={"max_completion_tokens": "max_tokens"},
)
