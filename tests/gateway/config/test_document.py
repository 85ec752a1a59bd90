import pytest

from gateway.config import ConfigError
from gateway.config.document import compose


@pytest.mark.parametrize(
    ("content", "line", "fragment"),
    [
        (b"", 1, "is empty"),
        (b"# nothing\n", 1, "is empty"),
        (b"a: 1\nb: \xff\n", 2, "not UTF-8"),
        (b"a: 1\nb: \x07\n", 2, "a character that YAML does not allow"),
        (b"a: 1\nb: [1, 2\nc: 3\n", 3, "not valid YAML"),
        (b"a: 1\n\tb: 2\n", 2, "not valid YAML"),
        (b"a: 1\n---\nb: 2\n", 2, "expected a single document"),
        (b"a: 1\nb: *nowhere\n", 2, "undefined alias"),
        (b"[" * 5000, 1, "nested too deeply"),
    ],
)
def test_bytes_that_are_no_document_are_one_mistake_with_its_line(content, line, fragment):
    with pytest.raises(ConfigError) as caught:
        compose(content, "s.yaml")
    (mistake,) = caught.value.mistakes
    assert mistake.line == line
    assert fragment in mistake.message
    assert str(mistake).startswith(f"s.yaml:{line}: file: ")
    assert "\n" not in str(mistake)


@pytest.mark.parametrize("content", [b"api_key: *hunter2", b"a: &hunter2 1\nb: &hunter2 2", b"api_key: !hunter2!x y"])
def test_a_syntax_error_does_not_quote_what_may_be_a_credential(content):
    try:
        compose(content, "s.yaml")
    except ConfigError as error:
        assert "hunter2" not in str(error)  # noqa: PT017 - some of these PyYAML accepts


def test_a_variable_without_quotes_between_braces_is_explained():
    with pytest.raises(ConfigError) as caught:
        compose(b"a: 1\nlisten: {port: ${PORT}}\n", "s.yaml")
    (mistake,) = caught.value.mistakes
    assert mistake.line == 2
    assert mistake.remedy == 'put "${VAR}" in quotes between braces'


def test_nodes_know_their_lines():
    root = compose(b"\xef\xbb\xbfa: 1\nb:\n  - 2\n", "s.yaml")
    (_, _), (key, items) = root.value
    assert key.start_mark.line == 1
    assert items.value[0].start_mark.line == 2
