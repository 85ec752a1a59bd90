"""For how long a deployment is left alone because it asked for it.

Law: what an upstream tells is believed (up to a day), by any of the ways to tell it; a 429 that tells nothing keeps
calls away for as long as its dialect says, and one good answer ends that. Word that whoever was away is back ends what
it told of that, and no limit. A freeze never ejects.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime

from policies.failures import Failure, FailureKind

LONGEST_RETRY = 86_400.0
"""Seconds of a Retry-After beyond which it is a slip; the hosted endpoint says 10,800."""

_DATES = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")
"""The three forms of a date in HTTP (RFC 9110, 5.6.7)."""


def told_wait(headers: Mapping[bytes, bytes], now: float) -> float | None:
    """Return the seconds for which an answer with these headers (names in lower case) asks to be left alone, or None.

    `now`: seconds since 1970, by which a date is read where the answer has no `date` of its own. `retry-after-ms`
    (OpenAI, Azure) is the more exact one.
    """
    milliseconds = _number(headers.get(b"retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, LONGEST_RETRY)
    told = headers.get(b"retry-after")
    seconds = _number(told)
    if seconds is None:
        until = _date(told)
        if until is None:
            return None
        seconds = max(0.0, until - (_date(headers.get(b"date")) or now))
    return min(seconds, LONGEST_RETRY)


def _number(told: bytes | None) -> float | None:
    try:
        number = float(told or b"")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _date(told: bytes | None) -> float | None:
    text = (told or b"").decode("latin-1").strip()
    read = (_in_form(text, form) for form in _DATES)
    return next((moment for moment in read if moment is not None), None)


def _in_form(text: str, form: str) -> float | None:
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


class Freeze:
    """Until when one deployment is left alone, in monotonic seconds."""

    __slots__ = ("_away", "_default", "_ever", "_guessed", "_limited")

    def __init__(self, default: float) -> None:
        self._default = default
        self._limited = -math.inf
        self._away = -math.inf
        self._guessed = -math.inf
        self._ever = False

    def failed(self, failure: Failure, now: float) -> None:
        """Take in how an attempt failed at `now`."""
        self._ever = True
        limited = failure.kind is FailureKind.RATE_LIMITED
        if failure.retry_after is None:
            self._guessed = now + self._default if limited else self._guessed
        elif limited:
            self._limited = max(self._limited, now + failure.retry_after)
        else:
            self._away = max(self._away, now + failure.retry_after)

    def answered(self) -> None:
        """Take in a good answer: what nobody asked for is over."""
        self._guessed = -math.inf

    def back(self) -> None:
        """Take in that whoever was away is back."""
        self._away = -math.inf

    def lift(self) -> None:
        """Take in that it is called by another account, or in another way: whatever was asked for is over."""
        self._limited = self._away = self._guessed = -math.inf

    def left(self, now: float) -> float:
        """Return the seconds for which it is still left alone."""
        return max(0.0, self._limited - now, self._away - now, self._guessed - now) if self._ever else 0.0

    def asked(self, now: float) -> float:
        """Return the seconds that are left of what it asked for itself."""
        return max(0.0, self._limited - now, self._away - now)
