"""A file written and loaded: its settings, or its mistakes."""

from collections.abc import Callable, Mapping

import pytest

from gateway.config import ConfigError, Mistake, Settings, load

BACKEND = "backends: {gpu: {kind: vllm, base_url: http://h/v1}}\n"


@pytest.fixture
def settings_of(tmp_path) -> Callable[..., Settings]:
    """Load a text as a file; it must be right."""

    def load_text(text: str, environ: Mapping[str, str] | None = None) -> Settings:
        path = tmp_path / "sluiceway.yaml"
        path.write_text(text)
        return load(path, environ or {})

    return load_text


@pytest.fixture
def mistakes_of(settings_of) -> Callable[..., tuple[Mistake, ...]]:
    """Load a text as a file; it must be wrong."""

    def load_wrong(text: str, environ: Mapping[str, str] | None = None) -> tuple[Mistake, ...]:
        with pytest.raises(ConfigError) as caught:
            settings_of(text, environ)
        return caught.value.mistakes

    return load_wrong


@pytest.fixture
def only_mistake_of(mistakes_of) -> Callable[..., Mistake]:
    """Append a snippet to a line with one right backend; the snippet must hold exactly one mistake."""

    def load_one_wrong(snippet: str, environ: Mapping[str, str] | None = None) -> Mistake:
        (mistake,) = mistakes_of(BACKEND + snippet, environ)
        return mistake

    return load_one_wrong
