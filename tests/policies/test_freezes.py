import pytest

from policies.failures import Failure, FailureKind
from policies.freezes import LONGEST_RETRY, Freeze, told_wait

NOON = 1_792_584_000.0
DATES = ("Wed, 21 Oct 2026 12:00:30 GMT", "Wednesday, 21-Oct-26 12:00:30 GMT", "Wed Oct 21 12:00:30 2026")


def limited(retry_after=None, kind=FailureKind.RATE_LIMITED):
    return Failure(kind, "x", 429, retry_after)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({b"retry-after": b"2"}, 2.0),
        ({b"retry-after": b" 1.5 "}, 1.5),
        ({b"retry-after": b"10800"}, 10800.0),
        ({b"retry-after": b"9" * 400}, None),
        ({b"retry-after": b"99999999"}, LONGEST_RETRY),
        ({b"retry-after": b"-1"}, None),
        ({b"retry-after": b"nan"}, None),
        ({b"retry-after": b"soon"}, None),
        ({b"retry-after-ms": b"250", b"retry-after": b"1"}, 0.25),
        ({b"retry-after-ms": b"x", b"retry-after": b"1"}, 1.0),
        ({b"retry-after": b"Wed, 21 Oct 2026 11:00:00 GMT"}, 0.0),
    ],
)
def test_a_wait_is_read_in_every_form(headers, seconds):
    """Seconds, milliseconds; nonsense is no number, and a day the most."""
    assert told_wait(headers, NOON) == seconds


@pytest.mark.parametrize("date", DATES)
def test_a_date_is_read_by_the_answers_own_clock(date):
    """Ours may be wrong; it counts only where the answer has none."""
    told = {b"retry-after": date.encode()}

    assert told_wait(told, NOON) == 30.0
    assert told_wait(told | {b"date": b"Wed, 21 Oct 2026 12:00:20 GMT"}, NOON) == 10.0


def test_what_was_asked_for_lasts_and_what_was_guessed_ends_with_an_answer():
    """A 429 without a word is over when a call gets through; whoever told a time meant it."""
    guessed, asked = Freeze(10.0), Freeze(10.0)
    guessed.failed(limited(), 0.0)
    asked.failed(limited(30.0), 0.0)
    assert (guessed.left(4.0), asked.left(4.0)) == (6.0, 26.0)
    assert (guessed.asked(4.0), asked.asked(4.0)) == (0.0, 26.0)
    guessed.answered()
    asked.answered()

    assert (guessed.left(4.0), asked.left(4.0), asked.left(31.0), asked.asked(31.0)) == (0.0, 26.0, 0.0, 0.0)


def test_the_longer_of_two_freezes_counts():
    """An answer to an older call must not thaw it early."""
    freeze = Freeze(1.0)
    freeze.failed(limited(10_800.0, FailureKind.UNAVAILABLE), 0.0)
    freeze.failed(limited(2.0), 1.0)
    freeze.failed(limited(), 1.0)

    assert freeze.left(1.0) == 10_799.0


def test_only_limits_and_told_absences_freeze():
    """A 503 that says nothing is the breaker's."""
    freeze = Freeze(1.0)
    freeze.failed(limited(kind=FailureKind.UNAVAILABLE), 0.0)
    freeze.failed(limited(kind=FailureKind.SERVER_ERROR), 0.0)

    assert freeze.left(0.0) == 0.0


def test_whatever_was_asked_for_can_be_lifted():
    """It was said to another account."""
    freeze = Freeze(1.0)
    freeze.failed(limited(30.0), 0.0)
    freeze.failed(limited(60.0, FailureKind.UNAVAILABLE), 0.0)
    freeze.failed(limited(), 0.0)
    freeze.lift()

    assert (freeze.left(0.5), freeze.asked(0.5)) == (0.0, 0.0)
