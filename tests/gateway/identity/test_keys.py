import re
import zlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity import keys


def test_a_new_key_has_the_published_shape_and_carries_its_id():
    key_id, key = keys.new_key()
    assert re.fullmatch(r"sw_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}", key)
    assert len(key) == keys.KEY_LENGTH
    assert key.startswith(f"sw_{key_id}_")


def test_a_new_key_is_parsed_to_its_id():
    for _ in range(200):
        key_id, key = keys.new_key()
        assert keys.parse(key) == key_id


def test_a_small_checksum_is_padded_to_six_digits():
    body = "sw_000000000248_" + "0" * keys.SECRET_LENGTH
    assert zlib.crc32(body.encode()) == 8_645_785 == ((36 * 62 + 17) * 62 + 10) * 62 + 9  # a, H, A, 9
    assert keys.parse(body + "00aHA9") == "000000000248"


@pytest.mark.parametrize("position", range(keys.KEY_LENGTH))
def test_one_wrong_character_anywhere_is_noticed(position):
    _, key = keys.new_key()
    other = "A" if key[position] != "A" else "B"
    assert keys.parse(key[:position] + other + key[position + 1 :]) is None


@pytest.mark.parametrize(
    "mistake",
    [
        lambda key: "",
        lambda key: key[:-1],
        lambda key: key + "0",
        lambda key: key + "\n",
        lambda key: " " + key,
        lambda key: key.replace("sw_", "sk-", 1),
        lambda key: key.upper(),
        lambda key: key[:20] + key[21] + key[20] + key[22:] if key[20] != key[21] else key[:-1],
        lambda key: key.replace(key[5], "٣"),
        lambda key: key * 1000,
    ],
)
def test_what_is_not_a_key_is_not_parsed(mistake):
    _, key = keys.new_key()
    assert keys.parse(mistake(key)) is None


@given(st.text())
def test_no_text_makes_the_parser_stumble(text):
    assert keys.parse(text) is None


def test_every_digit_is_equally_likely():
    count = 62_000
    seen = Counter(keys._random_digits(count))
    assert set(seen) == set(keys.DIGITS)
    # 1,000 expected, deviation 31.5: six deviations. A plain modulo would give the first eight digits 1,211.
    assert all(abs(seen[digit] - count / 62) < 190 for digit in keys.DIGITS)


def test_keys_do_not_repeat():
    made = [keys.new_key() for _ in range(1000)]
    assert len({key_id for key_id, _ in made}) == len({key for _, key in made}) == 1000


def test_the_digest_is_sha_256_of_the_whole_key():
    assert keys.digest(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
