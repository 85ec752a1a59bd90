"""The hosted NVIDIA endpoint: a gateway over many engines, most of them vLLM.

It answers 504 after 300 s unless NVCF-POLL-SECONDS says otherwise, takes 26,214,400 bytes (NVIDIA/nvcf,
openai_director.go) and counts calls in fixed windows of a minute, refused ones too, without saying when the window ends
(NVIDIA/nvcf, rate_limit/mod.rs): some calls lost to a window cost less than a minute lost to every call. They are 40
for each model of a trial account, as its makers say in their forum (free-claude-code 319, 334); some models have fewer,
and paid accounts more. It also maps
/responses, but for models that are not listed apart, and a model without it answers like one that is gone; so that API
is not asked of it.

Of its engines some refuse `prompt_cache_key` (picoclaw 1019), and some know `max_tokens` by no other name (as NIMs of
one model: docs.nvidia.com/nim/alpamayo, chat completions).
"""

from policies.dialects.dialect import OPENAI_APIS, Dialect, Priors

DIALECT = Dialect(
    kind="nvidia",
    priors=Priors(2.0, 20_000.0, 0.04),
    apis=OPENAI_APIS,
    drops=frozenset({"priority", "prompt_cache_key"}),
    renames={"chat": {"max_completion_tokens": "max_tokens"}},
    max_body=26_214_400,
    stall=60.0,
    freeze=10.0,
    polls="/v2/nvcf/pexec/status/",
    waits=("nvcf-poll-seconds", 300),
    mistral_common=True,
    per_minute=40,
)
