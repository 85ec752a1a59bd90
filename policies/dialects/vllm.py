"""vLLM: the OpenAI API with usage on request."""

from policies.dialects.dialect import Dialect, Priors

DIALECT = Dialect(kind="vllm", priors=Priors(0.2, 12_000.0, 0.015), mistral_common=True)
