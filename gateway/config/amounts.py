"""Sizes, counts and money from text, exactly.

Law: decimals are read as decimals, so 0.002 USD is 2,000,000 nano-dollars and not one less; what does not come out
whole is refused, never rounded. Each function raises ValueError, whose text follows the value in a sentence.
"""

import re
from decimal import Decimal

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17}|[1-9][0-9]{0,2}(_[0-9]{3}){1,5})")
_DECIMAL = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,12})?")
_SIZE = re.compile(r"([0-9]{1,15}) ?([KMG]i?B|B)?")
_UNITS = {
    None: 1,
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}


def whole(text: str) -> int:
    """Return a whole number written in digits; thousands may be parted by `_`."""
    if not _INTEGER.fullmatch(text):
        raise ValueError("is not a whole number")
    return int(text)


def decimal(text: str) -> Decimal:
    """Return a number written as digits with at most one point (no exponent), up to 12 digits either side."""
    if not _DECIMAL.fullmatch(text):
        raise ValueError("is not a plain decimal number")
    return Decimal(text)


def size(text: str) -> int:
    """Return bytes from `32MiB`, `10MB` or plain digits."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError("is not a size")
    return int(match[1]) * _UNITS[match[2]]


def pico_dollars(text: str) -> int:
    """Return the price of a token in pico-dollars from USD per million tokens."""
    return _scaled(text, 6, "is finer than a millionth of a dollar per million tokens")


def nano_dollars(text: str) -> int:
    """Return nano-dollars from USD."""
    return _scaled(text, 9, "is finer than a billionth of a dollar")


def usd(nano: int) -> str:
    """Return nano-dollars as a file would say them, in USD."""
    dollars, rest = divmod(nano, 10**9)
    return f"{dollars:,}.{rest:09}".rstrip("0").rstrip(".")


def _scaled(text: str, digits: int, too_fine: str) -> int:
    """Return the decimal in `text` times ten to the `digits`, which must come out whole."""
    amount = decimal(text).scaleb(digits)
    if amount != int(amount):
        raise ValueError(too_fine)
    return int(amount)
