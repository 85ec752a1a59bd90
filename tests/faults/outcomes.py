"""The faults that an upstream can have, and what must follow of each: written down first, then run.

Law: the README's table "an upstream's answer | what follows" as data. `alone`: the deployment is the model's only one.
`beside`: a healthy one stands second. `plain` and `streamed` None: an answer of that kind cannot have the fault.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from policies.domain import Deadlines
from tests.faults import scripts
from tests.faults.stage import Play

PATIENCE = Deadlines(total=10.0, first_content=3.0, stall=3.0)
"""What a call may take where a fault is one of time: long beside what two busy cores make of a crowd."""

PLENTY = Deadlines(total=40.0)
"""What it may take elsewhere; nothing there needs it."""

State = Literal["well", "ejected", "off", "retired", "lacks", "frozen"]


@dataclass(frozen=True)
class Outcome:
    """What a caller gets.

    `how`: a `served` answer is whole and the model's; a `passed` one is the upstream's own no, untouched; a `refused`
    one is ours, with `code`; a `cut` one begins well and is told in-band to be incomplete after `tokens`. `by`: the
    place that answered, from 0. `attempts`: of one call alone; under load never more.
    """

    how: Literal["served", "passed", "refused", "cut"]
    attempts: int
    status: int = 200
    by: int | None = None
    code: str | None = None
    retry_after: bool = False
    tokens: int | None = None


def served(by=0, attempts=None):
    """Say that place `by` answers, at this attempt (else as many as there are places before it)."""
    return Outcome("served", by + 1 if attempts is None else attempts, by=by)


def passed(status, by=0):
    """Say that the no of place `by` is passed on."""
    return Outcome("passed", by + 1, status, by=by)


def refused(status, code, attempts=1, *, retry_after=False):
    """Say that we say no."""
    return Outcome("refused", attempts, status, code=code, retry_after=retry_after)


def cut(tokens, by=0):
    """Say that a stream is broken off after so many tokens of place `by`."""
    return Outcome("cut", by + 1, by=by, tokens=tokens)


@dataclass(frozen=True)
class Ends:
    """What follows: `alone`, `beside` a healthy deployment, and `state`, what is known of the faulty one afterwards.

    `state` is "ejected" also where a free probe finds it down; `by_itself` is the state where it is alone and that
    differs. `later`: what calls may get instead that come when
    others have found the fault already.
    """

    alone: Outcome | None
    beside: Outcome | None
    state: State = "well"
    later: Outcome | None = None
    by_itself: State | None = None


@dataclass(frozen=True)
class Fault:
    """One fault.

    `windows`: context windows of the faulty deployment and of all others. `others`: what the other deployments play.
    `fallback`: these belong to a fallback model. `at`: a place other than the stage where the faulty one is said to be.
    `prompt`: what is asked. `within`: seconds that the caller gives it, by header.
    """

    name: str
    script: Play
    plain: Ends | None
    streamed: Ends | None
    deadlines: Deadlines = PLENTY
    windows: tuple[int | None, int | None] = (None, None)
    others: Sequence[Play] = field(default=(scripts.well,))
    fallback: bool = False
    at: Literal["stage", "tls", "dns", "name", "closed"] = "stage"
    prompt: str = "hi there"
    within: float | None = None

    def ends(self, *, stream: bool) -> Ends | None:
        """Return what follows for a call of that kind."""
        return self.streamed if stream else self.plain


FAILED = refused(502, "upstream_failed")
REFUSED = refused(502, "upstream_refused")
TOO_LATE = refused(504, "deadline_exceeded")
TOO_LONG = refused(400, "context_length_exceeded")
LACKING = refused(501, "api_not_supported")
FULL = refused(503, "overloaded", retry_after=True)
GONE = refused(503, "no_deployment_available")

FAILS = Ends(FAILED, served(1), "ejected")
"""Elsewhere, and it speaks against the deployment."""

DOUBTED = Ends(FAILED, served(1), "ejected", by_itself="well")
"""Likewise, but only once another has served the call: by itself it may be the call that breaks it."""

OPERATORS = Ends(REFUSED, served(1), "off")
"""Elsewhere, and the operator is told."""

LACKS = Ends(LACKING, served(1), "lacks")
SERVES = Ends(served(), served())
LARGER = Ends(TOO_LONG, served(1))
"""Only to a larger window; the deployment is as good as before."""


def cuts(tokens):
    """Say that a stream is cut after so many tokens, which speaks against the deployment."""
    return Ends(cut(tokens), cut(tokens), "ejected", served(1, 1))


TIMES_OUT = Ends(TOO_LATE, TOO_LATE)
"""A plain answer's head comes with its end, so silence says nothing: the call's own deadline ends it."""

THEIRS = Ends(passed(400), passed(400))
"""The caller's."""

LIMITED = [
    Fault("429 once, Retry-After 2", scripts.limited_once, *[Ends(served(0, 2), served(1))] * 2),
    Fault(
        "429 for ever, Retry-After 60",
        scripts.answers(429, "slow down", retry_after="60"),
        *[Ends(FULL, served(1), "frozen")] * 2,
    ),
    Fault("429 for ever, no Retry-After", scripts.answers(429, "slow down"), *[Ends(FULL, served(1))] * 2),
    Fault("503 once, Retry-After 1", scripts.unavailable_once, *[Ends(served(0, 2), served(1))] * 2),
]

STATUSES = [
    Fault("500 once", scripts.error_once, DOUBTED, DOUBTED),
    Fault("500 for ever", scripts.answers(500, "boom"), DOUBTED, DOUBTED),
    Fault("200 and an error", scripts.says(200, {"error": "Unexpected endpoint"}), DOUBTED, DOUBTED),
    Fault("200 and an empty object", scripts.nothing, DOUBTED, DOUBTED),
    *(Fault(f"{status} for ever", scripts.answers(status), FAILS, FAILS) for status in (408, 425, 502, 503, 504, 529)),
    *(Fault(f"{status}", scripts.answers(status), OPERATORS, OPERATORS) for status in (401, 402, 403)),
    Fault(
        "404 for the model",
        scripts.answers(404, "The model `m` does not exist."),
        OPERATORS,
        OPERATORS,
    ),
    Fault("410", scripts.answers(410, "has reached its end of life"), *[Ends(REFUSED, served(1), "retired", GONE)] * 2),
    *(
        Fault(f"{status} for the path", scripts.says(status, {"detail": "Not Found"}), LACKS, LACKS)
        for status in (404, 405, 501)
    ),
    Fault("redirect", scripts.redirected(307, "look there"), FAILS, FAILS),
    Fault("422", scripts.answers(422), *[Ends(passed(422), passed(422))] * 2),
    Fault("content refused by a 400", scripts.says(400, scripts.POLICY), THEIRS, THEIRS),
]

CONNECTIONS = [
    Fault("connection refused", scripts.well, FAILS, FAILS, at="closed"),
    Fault("self-signed certificate", scripts.well, FAILS, FAILS, at="tls"),
    Fault("no such name", scripts.well, FAILS, FAILS, at="dns"),
    Fault("a name that no resolver takes", scripts.well, FAILS, FAILS, at="name"),
    Fault("reset before headers", scripts.reset_before, FAILS, FAILS),
    Fault("closed before headers", scripts.closed_before, FAILS, FAILS),
    Fault("reset after headers", scripts.after_head(scripts.Reset()), FAILS, FAILS),
    Fault("closed after headers", scripts.after_head(scripts.Close()), FAILS, FAILS),
    Fault("no HTTP", scripts.not_http, FAILS, FAILS),
    Fault("garbage for the first chunk", scripts.garbage_for_chunks(0), FAILS, FAILS),
    Fault("garbage for a later chunk", scripts.garbage_for_chunks(20), FAILS, cuts(20)),
    Fault("content-length too long", scripts.too_long_a_length, FAILS, SERVES),
    Fault("content-length too short", scripts.too_short_a_length, FAILS, cuts(None)),
    Fault("gzip", scripts.zipped, FAILS, FAILS),
    Fault("cut after 40 of 60 tokens", lambda ask: scripts.half(ask, 40, scripts.Close()), FAILS, cuts(40)),
    Fault(
        "reset after 40 of 60 tokens",
        lambda ask: scripts.half(ask, 40, scripts.Pause(scripts.SLOW), scripts.Reset()),
        FAILS,
        cuts(40),
    ),
]

SILENCES = [
    Fault("says nothing", scripts.silent, TIMES_OUT, FAILS, PATIENCE),
    Fault("says nothing to a caller in a hurry", scripts.silent, TIMES_OUT, TIMES_OUT, within=1.0),
    Fault("headers, then nothing", scripts.after_head(scripts.Hang()), TIMES_OUT, FAILS, PATIENCE),
    Fault("headers without end", scripts.dripping, TIMES_OUT, FAILS, PATIENCE),
    Fault("a slow first token", scripts.first_token_after(scripts.SLOW), SERVES, SERVES, PATIENCE),
    Fault("a first token too late", scripts.first_token_after(scripts.LATE), SERVES, FAILS, PATIENCE),
    Fault("a stall after 20 tokens", scripts.stalled, SERVES, cuts(20), PATIENCE),
]

STREAMS = [
    Fault("a malformed event", scripts.malformed, FAILS, SERVES),
    Fault("no [DONE]", scripts.no_done, None, SERVES),
    Fault("no finish_reason", scripts.no_finish, None, cuts(40)),
    Fault("[DONE] without a finish_reason", scripts.done_unfinished, None, cuts(40)),
    Fault("an empty stream", scripts.empty, None, DOUBTED),
    Fault("an empty body", scripts.says(200, ""), FAILS, None),
    Fault("a first event that is an error", scripts.error_event(0), None, DOUBTED),
    Fault("an error event after 20 tokens", scripts.error_event(20), None, cuts(20)),
    Fault("a first event named error", scripts.named_error_event(0), None, DOUBTED),
    Fault("an event named error later", scripts.named_error_event(20), None, cuts(20)),
    Fault("a refusal by the model", scripts.refuses, SERVES, SERVES),
    Fault("finish_reason content_filter", scripts.filtered, SERVES, SERVES),
]

LONG = "word " * 320
"""About 400 tokens."""

WINDOWS = (4096, 131_072)
SMALL = (420, 131_072)

OVERFLOWS = [
    *(
        Fault(f"overflow as {engine} says it", script, LARGER, LARGER, windows=WINDOWS)
        for engine, script in scripts.OVERFLOWS.items()
    ),
    Fault("overflow as lm studio says it", scripts.lm_studio_overflow, None, LARGER, windows=WINDOWS),
    Fault("zero deltas near the window", scripts.zero_deltas, LARGER, LARGER, windows=SMALL, prompt=LONG),
    Fault("only an end near the window", scripts.only_an_end, None, LARGER, windows=SMALL, prompt=LONG),
    Fault("only an end far from the window", scripts.only_an_end, None, SERVES, windows=WINDOWS),
    Fault("zero deltas far from the window", scripts.zero_deltas, None, DOUBTED, windows=WINDOWS),
    Fault(
        "overflow, and no larger window",
        scripts.OVERFLOWS["vllm"],
        *[Ends(None, TOO_LONG)] * 2,
        windows=(4096, 4096),
    ),
]

UNAVAILABLE = scripts.answers(503)

COMPANIES = [
    Fault(
        "500 from two of three",
        scripts.answers(500, "boom"),
        *[Ends(None, refused(502, "upstream_failed", 2))] * 2,
        others=(scripts.answers(500, "boom"), scripts.well),
    ),
    Fault(
        "two of three fail",
        UNAVAILABLE,
        *[Ends(None, served(2), "ejected", FAILED)] * 2,
        others=(UNAVAILABLE, scripts.well),
    ),
    Fault(
        "three of four fail",
        UNAVAILABLE,
        *[Ends(None, refused(502, "upstream_failed", 3), "ejected", served(3, 3))] * 2,
        others=(UNAVAILABLE, UNAVAILABLE, scripts.well),
    ),
    Fault("a fallback serves", UNAVAILABLE, *[Ends(None, served(1), "ejected")] * 2, fallback=True),
    Fault(
        "a fallback refuses the content",
        UNAVAILABLE,
        *[Ends(None, passed(400, by=1), "ejected")] * 2,
        others=(scripts.says(400, scripts.POLICY),),
        fallback=True,
    ),
    Fault(
        "a fallback refuses us",
        UNAVAILABLE,
        *[Ends(None, refused(502, "upstream_failed", 2), "ejected", REFUSED)] * 2,
        others=(scripts.answers(401),),
        fallback=True,
    ),
    Fault(
        "all are limited",
        scripts.answers(429, "slow down", retry_after="90"),
        *[Ends(None, refused(503, "overloaded", 2, retry_after=True), "frozen")] * 2,
        others=(scripts.answers(429, "slow down", retry_after="60"),),
    ),
    Fault(
        "all lack the API",
        scripts.says(404, {"detail": "Not Found"}),
        *[Ends(None, refused(501, "api_not_supported", 2), "lacks")] * 2,
        others=(scripts.answers(501),),
    ),
]

FAULTS = [*LIMITED, *STATUSES, *CONNECTIONS, *SILENCES, *STREAMS, *OVERFLOWS, *COMPANIES]
