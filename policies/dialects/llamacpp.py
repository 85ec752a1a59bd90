"""The server of llama.cpp: usage on request, a `timings` object beside it, one slot a call."""

from policies.dialects.dialect import Dialect, Priors

DIALECT = Dialect(kind="llamacpp", priors=Priors(0.2, 2_000.0, 0.03))
