import re
import string

import pytest

from gateway.api.admin_fields import BACKEND, KEY_ID, MODEL, NAME, PLAN, ROUTING, RULES, printable
from gateway.config.lists import NAME as FILE_NAME
from gateway.config.lists import PLAIN_NAME
from gateway.config.mistakes import ConfigError
from gateway.config.stored import stored_wishes


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (NAME, ["a", "A-9_.", "...", ".a", "x" * 64], ["", ".", "..", "x" * 65, "a b", "a/b", "é", "a\n", "a*"]),
        (PLAN, ["a", "x" * 128], ["", ".", "..", "x" * 129, "a/b", "a\n"]),
        (
            MODEL,
            ["a", "org/m:7b", "a*", "x" * 128 + "*"],
            ["", "*", "a**", "*a", "a*b", "x" * 129, "a@b", "a\n", "a*\n"],
        ),
        (BACKEND, ["rack", "pool@10.0.0.1:80", "pool@[::1]:80", "p*"], ["", "*", "a b", "a{b", "x" * 129, "a\n"]),
        (KEY_ID, ["0" * 12, "aZ9" * 4], ["", "0" * 11, "0" * 13, "0" * 11 + "-", "0" * 12 + "\n"]),
    ],
)
def test_a_pattern_takes_the_whole_text_or_nothing(pattern, good, bad):
    assert all(re.search(pattern, text) for text in good)
    assert not any(re.search(pattern, text) for text in bad)


def test_every_name_that_the_file_may_give_can_be_listed_here():
    for letter in map(chr, range(128)):
        assert bool(FILE_NAME.fullmatch(letter)) == bool(re.search(MODEL, letter))
        assert bool(PLAIN_NAME.fullmatch(letter)) == bool(re.search(PLAN, letter)) == bool(re.search(NAME, letter))


@pytest.mark.parametrize("name", ROUTING["properties"])
def test_the_page_tells_the_very_bounds_of_wishes(name):
    """The last value inside is taken and the first outside is not."""
    told = ROUTING["properties"][name]
    good, bad = told.get("enum", []), ["best", None]
    if "minimum" in told:
        good, bad = [told["minimum"], told["maximum"]], [told["minimum"] - 0.0001, told["maximum"] + 1, None]
    for value in good:
        assert getattr(stored_wishes({name: value}), name) is not None
    for value in bad:
        with pytest.raises(ConfigError):
            stored_wishes({name: value})


def test_rules_are_sentences_for_people():
    for rule in RULES.values():
        assert rule.startswith("must be")
        assert not set("^$\\") & set(rule)


@pytest.mark.parametrize("text", ["a", "Zoë 日本 🚀", string.punctuation])
def test_what_people_can_read_is_printable(text):
    assert printable(text)


@pytest.mark.parametrize("text", [" ", "a\nb", "\x00", "\u2028", "\u202e"])
def test_what_they_cannot_is_not(text):
    """A line break in a log, or a mark that turns the text around."""
    assert not printable(text)
