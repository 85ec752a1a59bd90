import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.halves import mended


@pytest.mark.parametrize("text", [rb'"\ud83d"', rb'"a\uDE00b"', rb'"\ud83d\ud83d\ude00"', rb'"\\\ud83d"'])
def test_half_a_character_becomes_one_that_can_be_read(text):
    """As U+FFFD, which is what decoders make of it."""
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(text)
    assert "\ufffd" in msgspec.json.decode(mended(text))


@given(st.text(st.characters(exclude_categories=()), max_size=9))
def test_all_else_is_read_as_before(text):
    """Whatever text JSON can hold: an escaped backslash before `ud83d` is no escape, and may become another word."""
    written = json.dumps({"a": text, "b": 7}).encode()

    assert msgspec.json.decode(mended(written))["b"] == 7
