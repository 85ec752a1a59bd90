from pathlib import Path

import pytest
import yaml

from gateway.config.mistakes import At, MisreadError
from gateway.config.reading import Reading, nearest


def word(source, environ=None):
    return Reading("s.yaml", Path(), environ or {}).word(yaml.compose(source))


@pytest.mark.parametrize(
    ("source", "environ", "expected"),
    [
        ("plain", {}, "plain"),
        ("${A}", {"A": "x"}, "x"),
        ("http://${HOST}:${PORT}/v1", {"HOST": "h", "PORT": "80"}, "http://h:80/v1"),
        ("${A:-default}", {}, "default"),
        ("${A:-default}", {"A": "set"}, "set"),
        ("${A:-default}", {"A": ""}, "default"),
        ("${A:-}", {}, ""),
        ("${A}", {"A": ""}, ""),
        ("${A}", {"A": "${B}"}, "${B}"),
        ("cost: $5", {}, None),
        ("'$5'", {}, "$5"),
    ],
)
def test_variables_are_filled_in(source, environ, expected):
    if expected is None:
        with pytest.raises(MisreadError, match="single value"):
            word(source, environ)
    else:
        assert word(source, environ).text == expected


@pytest.mark.parametrize(
    ("source", "fragment"),
    [
        ("${A}", "the environment has no A"),
        ("${A}${B}", "the environment has no A, B"),
        ("${A", "no variable"),
        ("${1A}", "no variable"),
        ("${A-x}", "no variable"),
        ('"a\\nb"', "line break"),
        ("!secret a", "YAML tag"),
        ("[a]", "single value"),
    ],
)
def test_text_that_cannot_be_read_says_why(source, fragment):
    with pytest.raises(MisreadError, match=fragment):
        word(source)


def test_where_there_are_no_variables_text_is_what_it_is():
    """A document from elsewhere reads nothing of this machine."""
    for source in ("${HOME}", "${A:-b}", "a${b"):
        assert Reading("plan", Path(), None).word(yaml.compose(source)).text == source


def test_a_message_shows_what_the_file_says_and_not_what_a_variable_held():
    assert word("${A}", {"A": "hunter2"}).shown == "the value of '${A}'"
    assert word("seven").shown == "'seven'"


@pytest.mark.parametrize(
    ("snippet", "line", "where", "fragment"),
    [
        ("listen: {host: h}\nlisten: {host: i}\n", 3, "listen", "is given twice, first on line 2"),
        ("backends: {}\n", 2, "backends", "is given twice, first on line 1"),
        ("listen: {prot: 1}\n", 2, "listen.prot", "is not a setting of a listen address; did you mean `port`?"),
        ("zzz: 1\n", 2, "zzz", "is not a setting of the file; known are: listen, operations, admin_key"),
        ("listen:\n", 2, "listen", "has no value"),
        ("telemetry:\n  sample: ~\n", 3, "telemetry.sample", "has no value"),
        ("listen: 8600\n", 2, "listen", "must be a mapping"),
        ("listen:\n  - 8600\n", 2, "listen", "must be a mapping"),
        ("listen:\n  port: [1]\n", 3, "listen.port", "must be a single value"),
        ("listen:\n  ? [a]\n  : 1\n", 3, "listen", "a key that is a list or a mapping"),
        ("listen: {host: !env HOST}\n", 2, "listen.host", "has a YAML tag"),
        ("listen: {port: '${NOPE}'}\n", 2, "listen.port", "the environment has no NOPE"),
        ("<<: {a: 1}\n", 2, "<<", "is not a setting of the file"),
    ],
)
def test_nothing_in_a_file_is_skipped_in_silence(only_mistake_of, snippet, line, where, fragment):
    mistake = only_mistake_of(snippet)
    assert (mistake.line, mistake.where) == (line, where)
    assert fragment in f"{mistake.message}; {mistake.remedy}"


@pytest.mark.parametrize("text", ["[]\n", "just text\n", "42\n"])
def test_a_file_that_is_no_mapping_is_one_mistake(mistakes_of, text):
    (mistake,) = mistakes_of(text)
    assert (mistake.line, mistake.where) == (1, "file")
    assert "must be a mapping" in mistake.message


def test_missing_keys_are_told_at_the_line_of_what_lacks_them(mistakes_of):
    first, second = mistakes_of("backends:\n  gpu:\n    api_key: k\n")
    assert (first.line, first.where, first.message) == (2, "backends.gpu.base_url", "is missing")
    assert (second.line, second.where, second.message) == (2, "backends.gpu.kind", "is missing")


def test_anchors_are_followed(settings_of):
    plan = "plans: {a: &a {concurrent_requests: 3}, b: *a}\n"
    settings = settings_of(f"backends: {{gpu: {{kind: vllm, base_url: http://h/v1}}}}\n{plan}")
    assert settings.plans["a"].meters == settings.plans["b"].meters


def test_an_unknown_name_is_answered_with_the_nearest_one_or_with_all():
    assert nearest("vlm", ["vllm", "nim"]) == "did you mean `vllm`?"
    assert nearest("zzz", ["vllm", "nim"]) == "known are: vllm, nim"
    assert nearest("zzz", []) == "none is defined"
    assert nearest("zzz", ["vllm", "nim"], "write an engine") == "write an engine"


def test_a_mistake_without_a_place_is_the_files():
    reading = Reading("s.yaml", Path(), {})
    reading.tell(At(1, ""), "is odd", "mend it")
    assert [str(mistake) for mistake in reading.mistakes] == ["s.yaml:1: file: is odd; mend it"]
