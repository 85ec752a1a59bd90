"""The server of llama.cpp: every API, usage on request, a `timings` object beside it, one slot a call.

Sources: the server itself (b11549), tools/server/server-chat.cpp. `reasoning_effort` goes to the chat template, where
`none` turns thinking off (llama.cpp 26045). /tokenize calls the text `content` and answers anything else with no tokens
at all, `messages` too. A last message of the assistant's is continued; a plain answer repeats it, a stream does not.
Older ones tell the share of the KV cache in use. One with a single model serves it by any name.
"""

from policies.dialects.dialect import ALL_APIS, Dialect, Priors, Scrape

DIALECT = Dialect(
    kind="llamacpp",
    priors=Priors(0.2, 2_000.0, 0.03),
    apis=ALL_APIS,
    renames={"tokenize": {"prompt": "content", "add_special_tokens": "add_special"}},
    slights={"tokenize": frozenset({"messages"})},
    health="/health",
    scrape=Scrape(
        "/metrics",
        running=("llamacpp:requests_processing",),
        waiting=("llamacpp:requests_deferred",),
        kv_use=("llamacpp:kv_cache_usage_ratio",),
    ),
    describes=("/props",),
    prefill="implicit",
    any_name=True,
)
