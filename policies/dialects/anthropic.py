"""Anthropic's API, and whatever speaks nothing else: Messages and their token count, a key without `Bearer`.

Sources: docs.claude.com, api/overview (x-api-key, anthropic-version) and api/errors (413 beyond 32 MB). Its streams
tell usage unasked. Newer models refuse a last message of the assistant's (build-with-claude/prefill), so it is asked in
words to go on. Its list is a page of the newest, without aliases (api/models-list).
"""

from policies.dialects.dialect import Dialect, Priors

DIALECT = Dialect(
    kind="anthropic",
    priors=Priors(1.0, 20_000.0, 0.015),
    apis=frozenset({"messages", "count_tokens"}),
    auth=("x-api-key", ""),
    usage="always",
    headers=(("anthropic-version", "2023-06-01"),),
    max_body=32 << 20,
    stall=60.0,
    any_name=True,
)
