"""What goes to the script and what comes back: the codes, the packing, and where the script's text lies.

Law: the only file that knows the script's arguments; it says the same as the heads of the parts in `script/`.
"""

import hashlib
from importlib.resources import files
from typing import Any

from msgspec import Struct, msgpack

from policies.domain import Bill, Claim
from policies.meters import SECOND_US

ADMIT, SETTLE, GROW, BEAT = 1, 2, 3, 4
"""The operations' codes."""

FAILED, REFUSED, DONE, TOO_LARGE, SPENT, STALE, UNKNOWN = -1, 0, 1, 2, 3, 4, 5
"""The outcomes that an answer starts with."""

PARTS = ("head", "meters", "plans", "records", "operations", "leases", "run")
SCRIPT = b"#!lua\n" + b"".join(files("gateway.ledger").joinpath("script", f"{part}.lua").read_bytes() for part in PARTS)
"""Its first line has the store refuse it whole, before anything is done, where it can take no writes."""
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()

_FIRST_ARGUMENT = 5
"""Where in ARGV the plans and counts begin."""

_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder().decode

Answer = list[Any]
Body = tuple[Any, ...]
Words = list[str | bytes | int]


class ScriptFailed(Exception):  # noqa: N818 - told on as StoreDown
    """The script could not run at all; nothing of it has happened."""


class StoreBehindError(ScriptFailed):
    """The store has lost what it had acknowledged; nothing of the call has happened."""


class Reply(Struct, frozen=True):
    """What one call of the script told.

    `now_us`: the store's clock. `answers`: one an operation. `touched`: level id, field, what is used of it, and again
    (empty unless asked for). `asked`: the number of the last reservation that it has been asked for. `live`: gateways
    that called for the organization lately (0 unless asked for).
    """

    now_us: int
    answers: list[Answer]
    touched: list[Any]
    asked: int
    live: int = 0


class Arguments:
    """The plans and counts of one call, each sent once however many operations name it."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self._places: dict[bytes, int] = {}

    def place(self, value: bytes) -> int:
        """Return the index by which an operation names `value`."""
        place = self._places.get(value)
        if place is None:
            place = self._places[value] = len(self.values) + _FIRST_ARGUMENT
            self.values.append(value)
        return place


def pack(value: object) -> bytes:
    """Return `value` as the script reads it."""
    return _encode(value)


def pack_counts(bills: dict[str, Bill]) -> bytes:
    """Return what open reservations have used so far, by id."""
    return _encode({id_: (*_amounts(bill), bill.deployment, bill.replica) for id_, bill in bills.items()})


def admission(id_: str, claim: Claim, plan: int, *, forced: int | bool = False) -> Body:
    """Return the operation that asks for `claim` under the plan at that place of the arguments.

    `forced`: when it was admitted without being asked for (microseconds of the store's clock).
    """
    takes_us = round(claim.seconds * SECOND_US)
    return (ADMIT, id_, forced, claim.input_tokens, claim.output_tokens, claim.money, takes_us, plan)


def settlement(id_: str, bill: Bill | None) -> Body:
    """Return the operation that ends a reservation with `bill`, or (None) as if it had never been."""
    if bill is None:
        return (SETTLE, id_, False, 0, 0, 0, 0, 0, False, "", ("", "", ""), False)
    usage, lost = bill.usage, bill.wasted
    wasted = lost is not None and (lost.prompt_tokens, lost.completion_tokens, bill.wasted_money)
    ending = (bill.outcome, bill.request_id, bill.replica)
    return (SETTLE, id_, True, *_amounts(bill), usage.estimated, bill.deployment, ending, wasted)


def heartbeat(counts: int | None, known: int, lost_after_us: int, suspects: dict[str, str], *, must_look: bool) -> Body:
    """Return the operation that says that this gateway lives.

    `counts`: the place of what its reservations have used so far, None where the store need not be told. `known`: how
    many it may have. `suspects`: gateways that look lost for `lost_after_us`, with the last call that is known of each.
    `must_look`: tell of the others whosever turn it is.
    """
    return (BEAT, counts or False, known, lost_after_us, suspects, must_look)


def _amounts(bill: Bill) -> tuple[int, int, int, int, int]:
    usage = bill.usage
    return usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens, bill.money


def call(
    organization: str, gateway: str, bodies: bytes, arguments: list[bytes], *, touched: bool, asked: int = 0
) -> Words:
    """Return the command that runs the script over packed operations.

    `touched`: tell what is used of every meter; `asked`: the `Reply.asked` of the call before, 0 for any.
    """
    return ["EVALSHA", SHA, 1, stem(organization), gateway, bodies, int(touched), asked, *arguments]


def stem(organization: str) -> str:
    """Return what every key of an organization begins with; the braces keep them in one slot."""
    return f"sw:{{{organization}}}"


def read(reply: bytes) -> Reply:
    """Read the script's reply. Raises `ScriptFailed` with the store's own words, or `StoreBehindError`."""
    decoded = _decode(reply)
    if decoded == ["BEHIND"]:
        raise StoreBehindError("the store has lost what it had acknowledged")
    if len(decoded) == 1:
        raise ScriptFailed(decoded[0])
    return Reply(*decoded)


def again(bodies: bytes, reply: bytes) -> bytes | None:
    """Return operations to be told once more after they were answered, None where there is nothing to tell.

    What was admitted is admitted again at the time it was, whatever the meters say now; what was refused is not asked
    again, nor is a heartbeat.
    """
    told = read(reply)
    repeated: list[Any] = []
    for body, answer in zip(_decode(bodies), told.answers, strict=True):
        if body[0] == BEAT or answer[0] == FAILED:
            continue
        if body[0] == ADMIT and answer[0] == DONE:
            repeated.append([*body[:2], body[2] or told.now_us, *body[3:]])
        elif body[0] == SETTLE or (body[0] == GROW and answer[0] == DONE):
            repeated.append(body)
    return _encode(repeated) if repeated else None
