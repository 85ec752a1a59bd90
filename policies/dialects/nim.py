"""A NIM container: vLLM behind health endpoints of its own."""

from policies.dialects.dialect import Dialect, Priors

DIALECT = Dialect(kind="nim", priors=Priors(0.2, 12_000.0, 0.015), mistral_common=True)
