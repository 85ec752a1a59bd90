"""Any hosted service that speaks the OpenAI API as it is documented; what is known of no other kind."""

from policies.dialects.dialect import Dialect, Priors

DIALECT = Dialect(kind="openai", priors=Priors(0.8, 20_000.0, 0.02), stall=60.0)
