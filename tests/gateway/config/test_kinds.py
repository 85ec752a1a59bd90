import pytest

from gateway.config.settings import KINDS

FILE = "backends: {a: {base_url: http://127.0.0.1:11434/v1, kind: %s}}\n"


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        ("llama.cpp", "did you mean `llamacpp`?"),
        ("LM-Studio", "did you mean `lmstudio`?"),
        ("vllms", "did you mean `vllm`?"),
        ("ollama", "write `kind: openai`, `hosted: false` and `base_url: http://HOST:11434/v1`"),
        ("Ollama", "write `kind: openai`, `hosted: false` and `base_url: http://HOST:11434/v1`"),
        ("text-generation-inference", "write `kind: openai` and `hosted: false`"),
        ("zzz", f"write one of {', '.join(KINDS)}"),
    ],
)
def test_a_kind_by_another_name_is_answered_with_what_to_write(mistakes_of, written, remedy):
    """As people call the engine; of one without a kind, what serves it."""
    (mistake,) = mistakes_of(FILE % written)

    assert (mistake.where, mistake.message) == ("backends.a.kind", f"'{written}' is not known here")
    assert remedy in mistake.remedy


def test_what_is_told_of_ollama_is_accepted(settings_of):
    """Its own engine: no price is owed for it, and no credential."""
    (backend,) = settings_of(FILE % "openai, hosted: false").backends

    assert (backend.kind, backend.hosted, backend.api_key) == ("openai", False, None)
