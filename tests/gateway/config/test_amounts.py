import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import amounts


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("600", 600), ("-3", -3), ("20_000_000", 20_000_000)],
)
def test_whole_numbers_are_read_from_digits(text, expected):
    assert amounts.whole(text) == expected


@pytest.mark.parametrize("text", ["", "1.0", "1e3", "010", "0x10", "1:30", "2_00", "٣", " 1", "+1", "9" * 19])
def test_what_is_not_plainly_a_whole_number_is_refused(text):
    with pytest.raises(ValueError, match="is not a whole number"):
        amounts.whole(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("7B", 7),
        ("10KB", 10_000),
        ("10MB", 10_000_000),
        ("2GB", 2_000_000_000),
        ("1KiB", 1024),
        ("32MiB", 33_554_432),
        ("1 GiB", 1 << 30),
    ],
)
def test_sizes_know_their_units(text, expected):
    assert amounts.size(text) == expected


@pytest.mark.parametrize("text", ["", "MiB", "1.5MiB", "-1", "32mib", "32M", "1TiB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="is not a size"):
        amounts.size(text)


@pytest.mark.parametrize(("text", "expected"), [("1.5", 1_500_000), ("0", 0), ("0.000001", 1), ("10000", 10**10)])
def test_a_price_per_million_tokens_becomes_pico_dollars_a_token(text, expected):
    assert amounts.pico_dollars(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("0.002", 2_000_000), ("0.000000001", 1), ("-1", -(10**9))])
def test_dollars_become_nano_dollars(text, expected):
    assert amounts.nano_dollars(text) == expected


@pytest.mark.parametrize(
    ("nano", "shown"),
    [(1, "0.000000001"), (500_000_000, "0.5"), (25 * 10**9, "25"), (1_250_500_000_000, "1,250.5"), (10**10, "10")],
)
def test_nano_dollars_are_shown_as_dollars(nano, shown):
    assert amounts.usd(nano) == shown
    assert amounts.nano_dollars(shown.replace(",", "")) == nano


def test_an_amount_that_does_not_come_out_whole_is_refused_instead_of_rounded():
    with pytest.raises(ValueError, match="finer than a millionth"):
        amounts.pico_dollars("1.0000001")
    with pytest.raises(ValueError, match="finer than a billionth"):
        amounts.nano_dollars("0.0000000001")


@pytest.mark.parametrize("text", ["1e3", "nan", "inf", ".5", "5.", "1,5", "1_000", "1" * 13])
def test_what_is_no_plain_decimal_is_refused(text):
    with pytest.raises(ValueError, match="is not a plain decimal"):
        amounts.pico_dollars(text)


@given(st.integers(0, 10**12 - 1), st.integers(0, 999_999))
def test_prices_are_exact_to_the_last_digit(dollars, millionths):
    assert amounts.pico_dollars(f"{dollars}.{millionths:06}") == dollars * 1_000_000 + millionths
