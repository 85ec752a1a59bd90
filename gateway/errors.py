"""The one door out for a no: a Rejection becomes an answer in the API's own error shape.

Law: whatever the shape, there is a request id, and nothing of an upstream, a credential or a traceback.
"""

import math

from gateway import clock
from policies import error_shapes
from policies.apis import APIS
from policies.domain import API
from policies.limits import limit_headers
from policies.rejections import Reason, Rejection

Headers = list[tuple[bytes, bytes]]

CONFIG_HEADER = b"x-sluiceway-config"
"""By it every answer of a gateway tells its configuration, and a gateway is known from an engine."""

CONFIG = CONFIG_HEADER.decode()
"""The same as text."""

STOPPING = Rejection(Reason.OVERLOADED, "The gateway is stopping; send the call again.", retry_after_us=1_000_000)


def new_request_id() -> str:
    """Return an id for a call that brought none."""
    return f"req_{clock.dice.getrandbits(96):024x}"  # names a call, guards nothing


def id_headers(request_id: str, api: API = "chat") -> Headers:
    """Return the headers that tell a call's id, by the names that the API's clients know."""
    headers = [(b"x-request-id", request_id.encode())]
    if APIS[api].family == "anthropic":
        headers.append((b"request-id", request_id.encode()))
    return headers


def refusal(rejection: Rejection, request_id: str, api: API = "chat") -> tuple[Headers, bytes]:
    """Return the headers and the body of an answer that tells `rejection` and nothing else."""
    body = error_body(rejection, request_id, api)
    headers = [
        *id_headers(request_id, api),
        *error_headers(rejection),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
    ]
    return headers, body


def error_body(rejection: Rejection, request_id: str, api: API = "chat") -> bytes:
    """Return the JSON body that tells `rejection`."""
    return error_shapes.body(api, rejection.shape.status, _error(rejection), request_id)


def error_event(rejection: Rejection, request_id: str, api: API, number: int = 0) -> bytes:
    """Return the last event of a stream that ends with `rejection`; `number`: of the event, where its API has one."""
    return error_shapes.event(api, rejection.shape.status, _error(rejection), request_id, number)


def error_headers(rejection: Rejection) -> Headers:
    """Return the headers that only a refusal has: when to come back, who refused, what is left.

    A limit that no waiting helps says `x-should-retry: false`, which both SDKs obey: they repeat a 429 otherwise.
    """
    again_us = rejection.retry_after_us
    headers = limit_headers(rejection.requests, rejection.tokens, rejection.tightest, again_us)
    if again_us is not None:
        headers += retry_after(again_us)
    elif rejection.shape.status in {429, 501}:
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


def _error(rejection: Rejection) -> error_shapes.Error:
    return {
        "message": rejection.message,
        "type": rejection.shape.type,
        "param": rejection.param,
        "code": rejection.reason.value,
    }
