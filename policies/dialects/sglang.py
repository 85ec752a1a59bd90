"""SGLang: every API, usage on request.

Sources: sglang/srt/entrypoints (openai/protocol.py, anthropic/serving.py, http_server.py), sgl-project/sglang 4226
(`continue_final_message`). Its /health generates a token (http_server.py, health_generate), so its list of models is
asked instead. It tells `sglang:` names with --enable-metrics; its router and Prometheus pass them on as `sglang_`
(sglang 12970, inference-perf 600). `priority` orders the engine's own queue, which is no caller's to set.
It answers to any model's name (sglang 4293, 31404), so one that its list lacks proves nothing.
"""

from policies.dialects.dialect import ALL_APIS, Dialect, Priors, Scrape

DIALECT = Dialect(
    kind="sglang",
    priors=Priors(0.2, 12_000.0, 0.015),
    apis=ALL_APIS,
    drops=frozenset({"priority"}),
    renames={"tokenize": {"content": "prompt", "add_special": "add_special_tokens"}},
    scrape=Scrape(
        "/metrics",
        running=("sglang:num_running_reqs", "sglang_num_running_reqs"),
        waiting=("sglang:num_queue_reqs", "sglang_num_queue_reqs"),
        kv_use=("sglang:token_usage", "sglang_token_usage"),
    ),
    prefill="flags",
    any_name=True,
)
