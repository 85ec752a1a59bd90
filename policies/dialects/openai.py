"""Any hosted service that speaks the OpenAI API as it is documented; what is known of no other kind.

Its list of models is the only free question that every such service answers.
"""

from policies.dialects.dialect import OPENAI_APIS, Dialect, Priors

DIALECT = Dialect(kind="openai", priors=Priors(0.8, 20_000.0, 0.02), apis=OPENAI_APIS | {"responses"}, stall=60.0)
