import pytest

from gateway.config.settings import KINDS
from policies.dialects import DIALECTS, tokenizer_of


def test_every_kind_of_the_file_has_a_dialect_and_every_dialect_is_a_kind():
    """One engine a file, found under its own kind."""
    assert set(DIALECTS) == set(KINDS)
    assert all(dialect.kind == kind for kind, dialect in DIALECTS.items())


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.kind)
def test_priors_are_plausible(dialect):
    """Seconds, tokens a second, seconds a token: a wrong unit would route everything away."""
    assert 0.05 <= dialect.priors.ttft_fixed <= 5
    assert 500 <= dialect.priors.prefill_rate <= 50_000
    assert 0.001 <= dialect.priors.token_time <= 0.2
    assert 10 <= dialect.stall <= 120


def test_only_transformers_is_not_asked_for_usage():
    """It tells it anyway, and refuses the question."""
    assert [kind for kind, dialect in DIALECTS.items() if dialect.usage != "include_usage"] == ["transformers"]
    assert "stream_options" in DIALECTS["transformers"].drops


def test_the_hosted_endpoint_is_told_how_long_we_wait():
    """It else answers only after 300 seconds."""
    assert ("nvcf-poll-seconds", "60") in DIALECTS["nvidia"].headers


@pytest.mark.parametrize(
    ("kind", "model", "tokenizer"),
    [
        ("vllm", "mistralai/Mistral-Medium-3.5-128B", "mistral"),
        ("nvidia", "mistralai/mistral-medium-3.5-128b", "mistral"),
        ("nim", "mistralai/devstral-small", "mistral"),
        ("vllm", "mistralai/Mixtral-8x7B-Instruct-v0.1", "mistral"),
        ("vllm", "Qwen/Qwen3-32B", "other"),
        ("vllm", "ours/central-13b", "other"),
        ("llamacpp", "mistral-medium-3.5-q4", "other"),
    ],
)
def test_an_engine_templates_mistrals_models_by_their_own_tokenizer(kind, model, tokenizer):
    """llama.cpp has the template in the GGUF, whatever the model."""
    assert tokenizer_of(kind, model) == tokenizer
