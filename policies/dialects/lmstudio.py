"""LM Studio: usage on request since 0.3.18; models are loaded on first use, so silence may be a load."""

from policies.dialects.dialect import Dialect, Priors

DIALECT = Dialect(kind="lmstudio", priors=Priors(0.5, 1_000.0, 0.04), stall=60.0)
