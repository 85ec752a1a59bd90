"""How long a call, and each of its waits, may take.

Law: the call's own deadline always wins; inside it an attempt may take a few times as long as was predicted, never so
little that a slow start counts as silence. A call's deadlines are those of the model that was asked for, whichever
fallback is tried: its caller waits for one answer. A caller may lower the whole, never raise it.
"""

import math
import re

from policies.domain import Candidate, Deadlines
from policies.rejections import Reason, Rejection

CONNECT = 2.0
"""Seconds to reach a backend (TCP and TLS)."""

LEAST_FIRST, MOST_FIRST = 10.0, 120.0
"""Bounds of the wait for a stream's first content: an engine that compiles or swaps takes seconds; past two minutes
proxies and callers have given up."""

LEAST_WHOLE = 60.0
"""Seconds that a plain answer gets at least: its head comes with its end, so silence says nothing before."""

PATIENCE = 3.0
"""Times a prediction that an attempt may take."""

HEADER = "x-request-timeout"
"""The header by which a caller lowers its call's deadline, in seconds."""

EXPIRED = "The token that this call came with has expired, which ends it. Get a new one."
"""What a caller is told whose call's deadline was the end of its token."""

_SECONDS = re.compile(rb"\d{1,9}(?:\.\d{1,9})?")


def first_content(candidate: Candidate, deadlines: Deadlines, *, last: bool) -> float:
    """Return the seconds after which a stream without content has failed; the `last` that can be tried gets the most.

    To give up is to try elsewhere: where there is no elsewhere, a slow answer is better than none.
    """
    if deadlines.first_content is not None:
        return deadlines.first_content
    if last:
        return MOST_FIRST
    return min(MOST_FIRST, max(LEAST_FIRST, PATIENCE * max(candidate.latest, candidate.ttft)))


def whole_answer(candidate: Candidate) -> float:
    """Return the seconds after which a plain answer has failed, as predicted if its output runs to its bound."""
    return max(LEAST_WHOLE, PATIENCE * candidate.longest)


def stall(deadlines: Deadlines, usual: float) -> float:
    """Return the seconds of silence inside an answer that end it; `usual`: its dialect's."""
    return usual if deadlines.stall is None else deadlines.stall


def asked_total(told: bytes | None, total: float) -> float | Rejection:
    """Return the seconds that a call may take, where its caller asks by `HEADER` for less than the model's `total`."""
    if told is None:
        return total
    seconds = float(told) if _SECONDS.fullmatch(told.strip()) else math.nan
    if not seconds > 0:
        message = f"The header {HEADER} must be a number of seconds more than 0, such as 30 or 2.5."
        return Rejection(Reason.BAD_MEMBER, message, param=HEADER)
    return min(seconds, total)
