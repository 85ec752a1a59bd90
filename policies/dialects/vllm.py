"""vLLM 0.32: every API, usage on request.

Sources: vllm/entrypoints (chat_completion, completion, responses, anthropic, serve/tokenize), v1/metrics/loggers.py.
`priority` orders the engine's own queue, which is no caller's to set. /tokenize calls the text `prompt`. The KV cache's
share was once called `gpu_cache_usage_perc`. `/health` looks at the engine without a token.
"""

from policies.dialects.dialect import ALL_APIS, Dialect, Priors, Scrape

DIALECT = Dialect(
    kind="vllm",
    priors=Priors(0.2, 12_000.0, 0.015),
    apis=ALL_APIS,
    drops=frozenset({"priority"}),
    renames={"tokenize": {"content": "prompt", "add_special": "add_special_tokens"}},
    health="/health",
    scrape=Scrape(
        "/metrics",
        running=("vllm:num_requests_running",),
        waiting=("vllm:num_requests_waiting",),
        kv_use=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    ),
    prefill="flags",
    mistral_common=True,
)
