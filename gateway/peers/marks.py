"""Which beginnings of prompts are told to the other gateways, and how much of them.

Law: a mark is told when it is new, and again when the others would soon cease to believe it; so a session's turn tells
what it has added. What all gateways tell in a beat together has a bound, whatever their calls bring: what has no room
waits its turn, and `fresh` drops the oldest of what waits. A mark is a guess: one that is lost costs a prefill.
"""

from collections.abc import Callable

import msgspec

from policies.affinity import KEPT
from policies.live import Fresh

MOST = 4000
"""Marks that all gateways together tell in a beat, about 20 KB: each has an even part."""

AGAIN = KEPT / 4
"""Seconds after which a mark that was told is told again; it is believed for four times as long."""

TOLD = 20_000
"""Marks remembered as told, about 4 MB; those told longest ago go first."""

_Packed = list[tuple[str, tuple[int, ...]]]


class Telling:
    """What this gateway has told of. `name`: returns what all gateways call a deployment."""

    def __init__(self, name: Callable[[str], str]) -> None:
        self._name = name
        self._told: dict[tuple[str, int], float] = {}

    def forget(self) -> None:
        """Tell all anew: there is somebody who has heard nothing."""
        self._told.clear()

    def pack(self, fresh: Fresh, gateways: int, now: float) -> bytes:
        """Take from `fresh` what one of so many gateways may tell in a beat, and pack it; empty if there is nothing."""
        told, room = self._told, MOST // gateways
        packing: _Packed = []
        while fresh and room > 0:
            deployment, marks = fresh.popleft()
            new = tuple(mark for mark in marks if now - told.get((deployment, mark), -AGAIN) >= AGAIN)
            if len(new) > room:
                fresh.appendleft((deployment, new[room:]))
                new = new[:room]
            for mark in new:
                told.pop((deployment, mark), None)
                told[deployment, mark] = now
            if new:
                packing.append((self._name(deployment), new))
                room -= len(new)
        while len(told) > TOLD:
            del told[next(iter(told))]
        return msgspec.msgpack.encode(packing) if packing else b""


def unpack(packed: bytes) -> _Packed:
    """Return what another gateway told, deployment and marks; nothing of a version that packs otherwise."""
    try:
        return msgspec.msgpack.decode(packed, type=_Packed)
    except msgspec.DecodeError:
        return []
