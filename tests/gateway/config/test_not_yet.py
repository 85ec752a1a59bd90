import pytest

from gateway.config import not_yet
from gateway.config.reading import Row, keys_of

PLACES = {
    "the file": "{key}: 1\n",
    "a listen address": "listen: {{{key}: 1}}\n",
    "the operations address": "operations: {{{key}: 1}}\n",
}


def rows(row=Row):
    return [one for below in row.__subclasses__() for one in (below, *rows(below))]


@pytest.mark.parametrize(
    ("noun", "key"),
    [(noun, key) for noun, keys in sorted(not_yet.NOT_YET.items()) for key in sorted(keys)],
)
def test_a_setting_that_nothing_enforces_is_refused_with_its_line(only_mistake_of, noun, key):
    mistake = only_mistake_of(PLACES[noun].format(key=key))
    assert mistake.line == 2
    assert mistake.where.endswith(key)
    assert "is not enforced by this version; remove the line" in str(mistake)


def test_every_noun_of_the_table_is_a_row_and_none_of_its_keys_is_read():
    known = {row.NOUN: keys_of(row) for row in rows()}
    for noun, keys in not_yet.NOT_YET.items():
        assert not keys & known[noun].keys()
