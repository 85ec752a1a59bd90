"""LM Studio: usage on request since 0.3.18; models are loaded on first use, so silence may be a load.

Sources: lmstudio-ai/docs, 1_developer: api-changelog (0.3.29 /v1/responses, 0.4.1 /v1/messages, without count_tokens),
3_openai-compat/chat-completions.md (the members it reads: `max_tokens`, no `n`, no log probabilities). It has no
health endpoint and answers 200 to whatever it does not know (lmstudio-bug-tracker 1323): its list of models is asked.
"""

from policies.dialects.dialect import OPENAI_APIS, Dialect, Priors

DIALECT = Dialect(
    kind="lmstudio",
    priors=Priors(0.5, 1_000.0, 0.04),
    apis=OPENAI_APIS | {"responses", "messages"},
    renames={"chat": {"max_completion_tokens": "max_tokens"}},
    slights={"chat": frozenset({"n", "logprobs", "top_logprobs"})},
    stall=60.0,
    describes=("/api/v0/models", "/api/v1/models"),
)
