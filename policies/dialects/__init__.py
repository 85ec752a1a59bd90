"""What each engine is sent and how it differs, one engine a file.

Law: everything that is particular to one kind of backend stands in its file here, as data; nobody else asks for a kind
by name.
"""

from policies.dialects import llamacpp, lmstudio, nim, nvidia, openai, sglang, transformers, vllm
from policies.dialects.dialect import Dialect, Priors

__all__ = ["DIALECTS", "Dialect", "Priors"]

DIALECTS: dict[str, Dialect] = {
    module.DIALECT.kind: module.DIALECT
    for module in (llamacpp, lmstudio, nim, nvidia, openai, sglang, transformers, vllm)
}
