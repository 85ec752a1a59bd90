"""What the other gateways tell of each deployment: their load there, and what has become of their breakers.

Law: a gateway's row is what it told, whole, with every change since; nothing is guessed between. What is in a row that
cannot be read, or is no count that can be, is not there: during an upgrade another version may write otherwise.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from policies.breaker import Breaker, State
from policies.live import Elsewhere

MOST = 10**9
"""Of anything that a gateway counts: its sums stay numbers that arithmetic is exact with."""

Count = Annotated[int, Meta(ge=0, le=MOST)]


class Value(Struct, frozen=True, array_like=True):
    """What one gateway tells of one deployment. `openings`, `reopenings`, `closings` count since it began.

    `more`: what an engine counts of its calls beyond one a call.
    """

    in_flight: Count = 0
    queued_tokens: Count = 0
    probing: Count = 0
    openings: Count = 0
    reopenings: Count = 0
    closings: Count = 0
    more: Count = 0

    @property
    def turns(self) -> tuple[int, int, int]:
        """What has become of its breaker."""
        return self.openings, self.reopenings, self.closings


_NOTHING = Value()


def own(
    loads: Mapping[str, tuple[int, int]], more: Mapping[str, int], breakers: Mapping[str, Breaker]
) -> dict[str, str]:
    """Return what this gateway has to tell, by deployment: all those of which there is anything."""
    values = {name: f"[{calls},{tokens}]" for name, (calls, tokens) in loads.items()}
    for name, breaker in breakers.items():
        if breaker.openings:
            calls, tokens = loads.get(name, (0, 0))
            probing = breaker.state is State.HALF_OPEN
            became = f"{probing:d},{breaker.openings},{breaker.reopenings},{breaker.closings}"
            values[name] = f"[{calls},{tokens},{became}]"
    for name, count in more.items():
        told = values.get(name, "[0,0]")
        values[name] = f"{told[:-1]}{'' if told.count(',') > 1 else ',0,0,0,0'},{count}]"
    return values


def changes(sent: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Return what is to be told to whoever knows `sent`: the values that differ, nothing for what is gone."""
    changed = {name: value for name, value in values.items() if sent.get(name) != value}
    return changed | dict.fromkeys(sent.keys() - values.keys(), "")


class Rows:
    """The rows of the other gateways that live."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Value]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, gateway: str, packed: bytes, *, whole: bool) -> list[tuple[str, Value, Value]]:
        """Take in what a gateway tells; return what changed, of one that was known: deployment, before, after.

        A part of the row of one that is not known says nothing.
        """
        known = self._rows.get(gateway)
        if known is None and not whole:
            return []
        row = {} if known is None or whole else known
        self._rows[gateway] = row
        told = [(name, text, _value(text)) for name, text in _texts(packed).items()]
        changed = [] if known is None else [(name, known.get(name, _NOTHING), value) for name, _, value in told]
        for name, text, value in told:
            if text:
                row[name] = value
            else:
                row.pop(name, None)
        return changed

    def drop(self, gateway: str) -> bool:
        """Forget a gateway; False if it was not known."""
        return self._rows.pop(gateway, None) is not None

    def keep(self, gateways: Iterable[str]) -> None:
        """Forget all but these."""
        for gateway in self._rows.keys() - set(gateways):
            del self._rows[gateway]

    def elsewhere(self) -> dict[str, Elsewhere]:
        """Return the load of all of them together, by deployment that has any."""
        calls: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        more: Counter[str] = Counter()
        for row in self._rows.values():
            for name, value in row.items():
                calls[name] += value.in_flight
                tokens[name] += value.queued_tokens
                more[name] += value.more
        return {name: Elsewhere(calls[name], tokens[name], more[name]) for name in calls if calls[name]}

    def probing(self) -> set[str]:
        """Return the deployments that a gateway has a probe at."""
        return {name for row in self._rows.values() for name, value in row.items() if value.probing}

    def rank(self, deployment: str, instance: str, *, told: bool = False) -> int:
        """Return how many of them come before `instance` where `deployment` is concerned.

        By rendezvous hashing: all gateways have the same order, another one for each deployment. `told`: of those that
        have told anything of it, as all do whose breaker has opened.
        """
        ours = _weight(deployment, instance)
        return sum(
            _weight(deployment, other) > ours for other, row in self._rows.items() if not told or deployment in row
        )


def _weight(deployment: str, instance: str) -> bytes:
    return bytes(blake2b(f"{deployment} {instance}".encode(), digest_size=8).digest())


def _texts(packed: bytes) -> dict[str, str]:
    try:
        return msgspec.msgpack.decode(packed, type=dict[str, str]) if packed else {}
    except msgspec.DecodeError:
        return {}


def _value(text: str) -> Value:
    try:
        return msgspec.json.decode(text, type=Value)
    except msgspec.DecodeError:
        return _NOTHING
