"""What goes to the script and what comes back: the codes, the packing, and where the script's text lies.

Law: the only file that knows the script's arguments; it says the same as the head of `ledger.lua`.
"""

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from msgspec import msgpack

from policies.buckets import MEASURES
from policies.domain import Level, Meter

ADMIT, SETTLE, GROW, BEAT = 1, 2, 3, 4
"""The operations' codes."""

FAILED, REFUSED, DONE, TOO_LARGE = -1, 0, 1, 2
"""The outcomes that an answer starts with."""

SCRIPT = files("gateway.ledger").joinpath("ledger.lua").read_bytes()
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()

_FIRST_ARGUMENT = 3
"""Where in ARGV the plans and counts begin."""

_MOST_PLANS = 10_000
"""Packed plans that are kept; beyond, all are packed anew."""

_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder().decode

Answer = list[Any]
Body = tuple[Any, ...]


class ScriptFailed(Exception):  # noqa: N818 - told on as StoreDown
    """The script could not run at all; nothing of it has happened."""


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


class Plans:
    """Packs levels for the script. A principal's levels are the same object in every call, so it is done once each."""

    def __init__(self) -> None:
        self._packed: dict[int, tuple[tuple[Level, ...], bytes]] = {}

    def pack(self, levels: tuple[Level, ...]) -> bytes:
        """Return `levels` as the script reads them."""
        known = self._packed.get(id(levels))
        if known is not None and known[0] is levels:
            return known[1]
        if len(self._packed) >= _MOST_PLANS:
            self._packed.clear()
        packed = pack_levels(levels)
        self._packed[id(levels)] = (levels, packed)  # holding the levels keeps their id theirs
        return packed


def pack_levels(levels: tuple[Level, ...]) -> bytes:
    """Return `levels` as the script reads them: {level id, {{measure, meter, limit, burst, period}, ...}}, ..."""
    return _encode(
        [
            (level.id, [(MEASURES[m.kind], m.kind, m.limit, m.burst, m.period_us) for m in level.meters])
            for level in levels
        ]
    )


def pack_counts(counts: Mapping[str, int]) -> bytes:
    """Return tokens counted by reservation id, as the script reads them."""
    return _encode(counts)


def call(organization: str, gateway: str, bodies: list[Body], arguments: Arguments) -> list[str | bytes | int]:
    """Return the command that runs the script."""
    return ["EVALSHA", SHA, 1, stem(organization), gateway, _encode(bodies), *arguments.values]


def stem(organization: str) -> str:
    """Return what every key of an organization begins with; the braces keep them in one slot."""
    return f"sw:{{{organization}}}"


def answers(reply: bytes) -> list[Answer]:
    """Read the script's reply. Raises `ScriptFailed` with the store's own words."""
    decoded = _decode(reply)
    if len(decoded) == 1:
        raise ScriptFailed(decoded[0])
    answered: list[Answer] = decoded[1]
    return answered


def _meter(meter: Meter) -> Body:
    return (MEASURES[meter.kind], meter.kind, meter.limit, meter.burst, meter.period_us)
