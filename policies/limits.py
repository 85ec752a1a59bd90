"""Tell a caller about limits: the refusal's words, and the headers of every answer.

Law: a refusal names the level and the meter that refused, what the call needs, what is there, and when this very call
would be admitted; nothing here decides whether it is. Money is written exactly.
"""

from functools import lru_cache

from policies.domain import Claim, Level, LevelKind, Meter, Standing
from policies.meters import SECOND_US, SORTS, Calendar, Measure, amount, field
from policies.rejections import Reason, Rejection

Headers = list[tuple[bytes, bytes]]

NANO = 1_000_000_000
MINUTE, HOUR, DAY = 60, 3600, 86_400
LARGEST_INTEGER = 999_999_999_999_999
"""What an integer of a structured header field can hold (RFC 9651): 15 digits."""

WINDOWS: dict[Calendar, int] = {"day": DAY, "week": 7 * DAY}
"""Seconds of a calendar period, save for the changes of clocks; a month has no length of its own."""

UNITS = {Measure.REQUESTS: "requests", Measure.SLOTS: "concurrent-requests", Measure.MONEY: "micro-dollars"}
"""Quota units by the draft's names where it has one: money and tokens, which all other measures count, have none."""


def refusal(
    claim: Claim,
    level: Level,
    meter: Meter,
    *,
    retry_after_us: int | None,
    too_large: bool,
    requests: Standing | None,
    tokens: Standing | None,
    tightest: Standing | None,
) -> Rejection:
    """Say no to `claim` because of one level's meter.

    `too_large`: more than the meter ever holds. Else `retry_after_us` None: what is left never comes back, and it is
    not enough. The standings are for the headers; if one is the refusing meter's, the words tell what it has left.
    """
    who = _name(claim, level)
    if too_large:
        reason, message = Reason.TOO_LARGE_FOR_LIMIT, _too_large(claim, who, meter)
    else:
        left = _left(level, meter, (requests, tokens, tightest))
        reason = Reason.SPENT if retry_after_us is None else Reason.RATE_LIMITED
        message = f"{_short(claim, who, meter, left)}; {_again(meter, retry_after_us)}"
    return Rejection(
        reason=reason,
        message=message,
        retry_after_us=None if too_large else retry_after_us,
        level=level.kind,
        meter=meter.kind.value,
        requests=requests,
        tokens=tokens,
        tightest=tightest,
    )


def limit_headers(
    requests: Standing | None, tokens: Standing | None, tightest: Standing | None, retry_after_us: int | None = None
) -> Headers:
    """Return the rate-limit headers of an answer: OpenAI's `x-ratelimit-*`, and the IETF's for the tightest meter.

    Those are `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers-10. A policy is named as level
    and meter (`"key.tokens_per_minute"`, with `|model` where it is one model's); `q` is what a period allows in
    requests, tokens, slots or micro-dollars (rounded down, so that 15 digits hold every budget), as `qu` says, and `w`
    the period's seconds, absent for a month, a total and slots; `sluiceway-burst` is what a bucket holds if that is not
    `q`. `t` is the seconds until the meter is full again; it is left out if `retry_after_us` (a refusal's) is sooner,
    which the draft asks for.
    """
    headers: Headers = []
    if requests is not None:
        _openai(headers, requests, b"requests")
    if tokens is not None:
        _openai(headers, tokens, b"tokens")
    if tightest is not None:
        policy, name, divisor = _policy(tightest.level, tightest.meter)
        left = b"%b;r=%d" % (name, min(LARGEST_INTEGER, tightest.remaining // divisor))
        full_us = tightest.reset_us
        if full_us is not None and (retry_after_us is None or full_us <= retry_after_us):
            left = b"%b;t=%d" % (left, -(-full_us // SECOND_US))
        headers.append((b"ratelimit-policy", policy))
        headers.append((b"ratelimit", left))
    return headers


def duration(us: int) -> str:
    """Write microseconds as OpenAI does (`20ms`, `8.64s`, `6m0s`, `1h2m3s`), rounded up.

    To the millisecond below a minute, to the second from there on.
    """
    ms = -(-us // 1000)
    if 0 < ms < 1000:
        return f"{ms}ms"
    if ms < MINUTE * 1000:
        return f"{ms / 1000:g}s"
    minutes, seconds = divmod(-(-ms // 1000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s"


def usd(nano: int) -> str:
    """Write nano-dollars as dollars, exactly: `0.00000125 USD`, `25 USD`."""
    dollars, rest = divmod(abs(nano), NANO)
    written = f"{dollars}.{rest:09d}".rstrip("0").rstrip(".")
    return f"{'-' if nano < 0 else ''}{written} USD"


def in_words(us: int) -> str:
    """Write a wait in its two largest units, rounded up: `1.2 s`, `5 min 3 s`, `3 h`, `2 days 4 h`."""
    tenths = max(1, -(-us // 100_000))
    if tenths < MINUTE * 10:
        return f"{tenths / 10:g} s"
    seconds = -(-tenths // 10)
    if seconds < HOUR:
        return _two(*divmod(seconds, MINUTE), "min", "s")
    minutes = -(-seconds // MINUTE)
    if minutes < DAY // MINUTE:
        return _two(*divmod(minutes, 60), "h", "min")
    days, hours = divmod(-(-minutes // 60), 24)
    return _two(days, hours, "day" if days == 1 else "days", "h")


def _two(large: int, small: int, unit: str, part: str) -> str:
    return f"{large} {unit} {small} {part}" if small else f"{large} {unit}"


def _openai(headers: Headers, standing: Standing, what: bytes) -> None:
    headers.append((b"x-ratelimit-limit-" + what, b"%d" % standing.limit))
    headers.append((b"x-ratelimit-remaining-" + what, b"%d" % standing.remaining))
    if standing.reset_us is not None:
        headers.append((b"x-ratelimit-reset-" + what, duration(standing.reset_us).encode()))


@lru_cache(maxsize=4096)
def _policy(level: LevelKind, meter: Meter) -> tuple[bytes, bytes, int]:
    """Return what never changes of a meter's headers: its policy, its quoted name, and what its numbers are divided by.

    Names of models have no mark that a string of a structured field would have to escape; the file sees to that.
    """
    sort = SORTS[meter.kind]
    divisor = 1000 if sort.measure is Measure.MONEY else 1
    quota, burst = (min(LARGEST_INTEGER, number // divisor) for number in (meter.limit, meter.burst))
    name = f'"{level}.{field(meter)}"'
    policy = f'{name};q={quota};qu="{UNITS.get(sort.measure, "tokens")}"'
    window = sort.period_us // SECOND_US if sort.calendar is None else WINDOWS.get(sort.calendar, 0)
    if window:
        policy += f";w={window}"
    if burst != quota:
        policy += f";sluiceway-burst={burst}"
    return policy.encode(), name.encode(), divisor


def _name(claim: Claim, level: Level) -> str:
    """Name a level in plain words; its id may carry its kind as a prefix."""
    name = claim.organization if level.kind == "organization" else level.id.removeprefix(f"{level.kind}:")
    return f"{level.kind} '{name}'"


def _named(meter: Meter) -> str:
    return meter.kind.value if meter.model is None else f"{meter.kind.value} for model '{meter.model}'"


def _written(meter: Meter, number: int) -> str:
    return usd(number) if SORTS[meter.kind].measure is Measure.MONEY else str(number)


def _left(level: Level, meter: Meter, standings: tuple[Standing | None, ...]) -> int | None:
    """Return what the refusing meter has left, if one of `standings` is its own."""
    for each in standings:
        if each is not None and each.level == level.kind and each.meter == meter:
            return each.remaining
    return None


def _short(claim: Claim, who: str, meter: Meter, left: int | None) -> str:
    """Say what is there and what this call needs."""
    measure = SORTS[meter.kind].measure
    whole = f"{_written(meter, meter.limit)} {_named(meter)}"
    if measure is Measure.SLOTS:
        return f"{who} has all of its {whole} running"
    if left == 0 or measure is Measure.REQUESTS:
        said = f"{who} has used its {whole}"
    elif left is None:
        said = f"{who} has too little left of its {whole}"
    else:
        said = f"{who} has {_written(meter, left)} left of its {whole}"
    return said if measure is Measure.REQUESTS else f"{said}, and this call needs {_needs(claim, meter)}"


def _needs(claim: Claim, meter: Meter) -> str:
    measure = SORTS[meter.kind].measure
    needed = amount(claim, measure)
    match measure:
        case Measure.MONEY:
            return usd(needed)
        case Measure.INPUT | Measure.OUTPUT:
            return f"{needed} {'input' if measure is Measure.INPUT else 'output'} tokens"
        case _:
            return f"{needed} tokens"


def _again(meter: Meter, retry_after_us: int | None) -> str:
    """Say when this very call would be admitted."""
    if retry_after_us is None:
        return "what is used does not come back: ask for a higher limit"
    calendar = SORTS[meter.kind].calendar
    wait = in_words(retry_after_us)
    return f"try again in {wait}" if calendar is None else f"try again in {wait}, when a new {calendar} begins"


def _too_large(claim: Claim, who: str, meter: Meter) -> str:
    """Say why no wait would help, and what would."""
    sort = SORTS[meter.kind]
    most = f"the {_named(meter)} of {who} never hold more than {_written(meter, meter.burst)}"
    match sort.measure:
        case Measure.REQUESTS | Measure.SLOTS:
            return f"{most}; no call can be admitted"
        case Measure.INPUT:
            remedy = "shorten the prompt"
        case Measure.OUTPUT:
            remedy = "lower the maximum of output tokens"
        case Measure.MONEY:
            remedy = "shorten the prompt, lower the maximum of output tokens or ask a cheaper model"
        case _:
            remedy = "shorten the prompt or lower the maximum of output tokens"
    return f"this call needs {_needs(claim, meter)}, but {most}; {remedy}"
