"""The one door out for a no: a Rejection becomes an answer in the API's own error shape.

Law: the shape is that of the OpenAI API, `{"error": {"message", "type", "param", "code"}}` and a `request_id`; nothing
of an upstream, a credential or a traceback is in it.
"""

import math

import msgspec

from gateway import clock
from policies.limits import limit_headers
from policies.rejections import Reason, Rejection

Headers = list[tuple[bytes, bytes]]

STOPPING = Rejection(Reason.OVERLOADED, "The gateway is stopping; send the call again.", retry_after_us=1_000_000)

_encode = msgspec.json.Encoder().encode


def new_request_id() -> str:
    """Return an id for a call that brought none."""
    return f"req_{clock.dice.getrandbits(96):024x}"  # names a call, guards nothing


def error_body(rejection: Rejection, request_id: str) -> bytes:
    """Return the JSON body that tells `rejection`."""
    error = {
        "message": rejection.message,
        "type": rejection.shape.type,
        "param": rejection.param,
        "code": rejection.reason.value,
    }
    return _encode({"error": error, "request_id": request_id})


def error_headers(rejection: Rejection) -> Headers:
    """Return the headers that only a refusal has: when to come back, who refused, what is left.

    A limit that no waiting helps says `x-should-retry: false`, which OpenAI's SDKs obey: they repeat a 429 otherwise.
    """
    again_us = rejection.retry_after_us
    headers = limit_headers(rejection.requests, rejection.tokens, rejection.tightest, again_us)
    if again_us is not None:
        headers += retry_after(again_us)
    elif rejection.shape.status == 429:
        headers.append((b"x-should-retry", b"false"))
    if rejection.level is not None:
        headers.append((b"x-sluiceway-level", rejection.level.encode()))
    if rejection.meter is not None:
        headers.append((b"x-sluiceway-meter", rejection.meter.encode()))
    return headers


def retry_after(microseconds: int) -> Headers:
    """Return `retry-after` (whole seconds, rounded up) and `retry-after-ms` (likewise)."""
    return [
        (b"retry-after", b"%d" % math.ceil(microseconds / 1_000_000)),
        (b"retry-after-ms", b"%d" % math.ceil(microseconds / 1_000)),
    ]
