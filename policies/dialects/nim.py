"""A NIM container: since 2.0 vLLM behind health endpoints of its own, before that other engines and names.

Sources: docs.nvidia.com/nim/large-language-models: reference/api-reference of 2.0.6 (every API of vLLM's,
/v1/health/ready), observability of 1.x (metrics without a prefix).
"""

from policies.dialects.dialect import ALL_APIS, Dialect, Priors, Scrape

DIALECT = Dialect(
    kind="nim",
    priors=Priors(0.2, 12_000.0, 0.015),
    apis=ALL_APIS,
    drops=frozenset({"priority"}),
    renames={"tokenize": {"content": "prompt", "add_special": "add_special_tokens"}},
    health="/v1/health/ready",
    scrape=Scrape(
        "/v1/metrics",
        running=("vllm:num_requests_running", "num_requests_running"),
        waiting=("vllm:num_requests_waiting", "num_requests_waiting"),
        kv_use=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "gpu_cache_usage_perc"),
    ),
    prefill="flags",
    mistral_common=True,
)
