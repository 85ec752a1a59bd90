"""Tell a caller about limits: the refusal's words, and the headers of every answer.

Law: a refusal names the level and the meter that refused, and when this very call would be admitted; nothing here
decides whether it is.
"""

from policies.buckets import MEASURES, Measure
from policies.domain import Claim, Level, Meter, Standing
from policies.rejections import Reason, Rejection

SECOND_MS = 1000
MINUTE_MS = 60 * SECOND_MS


def refusal(
    claim: Claim,
    level: Level,
    meter: Meter,
    *,
    retry_after_us: int | None,
    requests: Standing | None,
    tokens: Standing | None,
) -> Rejection:
    """Say no to `claim` because of one level's meter.

    `retry_after_us` None: the claim is larger than the meter's bucket and will never fit. `requests` and `tokens` are
    the tightest standings of all levels, for the headers.
    """
    who = _name(claim, level)
    if retry_after_us is None:
        reason, message = Reason.TOO_LARGE_FOR_LIMIT, _too_large(claim, who, meter)
    else:
        reason, message = Reason.RATE_LIMITED, f"{_used(who, meter)}; try again in {_in_words(retry_after_us)}"
    return Rejection(
        reason=reason,
        message=message,
        retry_after_us=retry_after_us,
        level=level.kind,
        meter=meter.kind.value,
        requests=requests,
        tokens=tokens,
    )


def openai_headers(requests: Standing | None, tokens: Standing | None) -> list[tuple[bytes, bytes]]:
    """Return the `x-ratelimit-*` headers of the tightest requests and tokens meters, as the OpenAI API writes them."""
    headers: list[tuple[bytes, bytes]] = []
    for what, standing in ((b"requests", requests), (b"tokens", tokens)):
        if standing is None:
            continue
        headers += [
            (b"x-ratelimit-limit-" + what, b"%d" % standing.limit),
            (b"x-ratelimit-remaining-" + what, b"%d" % standing.remaining),
            (b"x-ratelimit-reset-" + what, duration(standing.reset_us).encode()),
        ]
    return headers


def duration(us: int) -> str:
    """Write microseconds as OpenAI does (`20ms`, `8.64s`, `6m0s`, `1h2m3s`), rounded up.

    To the millisecond below a minute, to the second from there on.
    """
    ms = -(-us // 1000)
    if 0 < ms < SECOND_MS:
        return f"{ms}ms"
    if ms < MINUTE_MS:
        return f"{ms / SECOND_MS:g}s"
    minutes, seconds = divmod(-(-ms // SECOND_MS), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s"


def _name(claim: Claim, level: Level) -> str:
    """Name a level in plain words; its id may carry its kind as a prefix."""
    name = claim.organization if level.kind == "organization" else level.id.removeprefix(f"{level.kind}:")
    return f"{level.kind} '{name}'"


def _used(who: str, meter: Meter) -> str:
    if MEASURES[meter.kind] is Measure.SLOTS:
        return f"{who} has all of its {meter.limit} {meter.kind.value} running"
    return f"{who} has used its {meter.limit} {meter.kind.value}"


def _too_large(claim: Claim, who: str, meter: Meter) -> str:
    if MEASURES[meter.kind] is Measure.TOKENS:
        return (
            f"this call needs {claim.tokens} tokens, but the {meter.kind.value} of {who} never hold more than "
            f"{meter.burst}; shorten the prompt or lower the maximum of output tokens"
        )
    return f"the {meter.kind.value} of {who} never hold more than {meter.burst}; no call can be admitted"


def _in_words(us: int) -> str:
    """Write a wait in seconds, rounded up to the tenth below a minute."""
    tenths = max(1, -(-us // 100_000))
    return f"{tenths / 10:g} s" if tenths < 600 else f"{-(-tenths // 10)} s"
