"""The hosted NVIDIA endpoint: it answers 504 after 300 s unless NVCF-POLL-SECONDS says otherwise (NVIDIA/nvcf)."""

from policies.dialects.dialect import Dialect, Priors

DIALECT = Dialect(
    kind="nvidia",
    priors=Priors(2.0, 20_000.0, 0.04),
    headers=(("nvcf-poll-seconds", "60"),),
    stall=60.0,
    mistral_common=True,
)
