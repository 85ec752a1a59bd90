"""What each engine is sent and how it differs, one engine a file.

Law: everything that is particular to one kind of backend stands in its file here, as data; nobody else asks for a kind
by name.
"""

import re

from policies.dialects import anthropic, llamacpp, lmstudio, nim, nvidia, openai, sglang, transformers, vllm
from policies.dialects.dialect import Dialect, Names, Prefill, Priors, Scrape
from policies.domain import Tokenizer

__all__ = ["DIALECTS", "Dialect", "Names", "Prefill", "Priors", "Scrape", "tokenizer_of"]

DIALECTS: dict[str, Dialect] = {
    module.DIALECT.kind: module.DIALECT
    for module in (anthropic, llamacpp, lmstudio, nim, nvidia, openai, sglang, transformers, vllm)
}

_MISTRAL = re.compile(
    r"(?:^|/)(?:[a-z]+-)?(?:mi[sx]tral|ministral|magistral|devstral|codestral|pixtral|voxtral)", re.IGNORECASE
)


def tokenizer_of(kind: str, model: str) -> Tokenizer:
    """Guess how an engine of `kind` templates `model`, named as it is there, where nobody says.

    vLLM, and what is built on it, takes mistral-common for whatever carries Mistral's own tokenizer file
    (`--tokenizer-mode auto`); llama.cpp and LM Studio template by the GGUF's.
    """
    return "mistral" if DIALECTS[kind].mistral_common and _MISTRAL.search(model) else "other"
