"""What the books are written in: the records of calls, and the roll-ups of an hour.

Law: reading only, and pure; the formats are those of `script/records.lua`. What a record tells is also in the roll-up
of the hour of its admission, so that sums over whole hours need no records.
"""

from enum import IntEnum

from msgspec import Struct, msgpack

HOUR_US = 3_600_000_000

PLATFORM = "platform"
"""The key, of no team, that bears what failed attempts cost."""

LETTERS = b"nicorme"
"""What a field of a roll-up ends with, in the order of `Amounts`."""


class What(IntEnum):
    """What a record tells of; of a correction all numbers are differences to an expiry, and may be negative."""

    SETTLED = 0
    EXPIRED = 1
    CORRECTED = 2
    PLATFORM = 3


class Account(Struct, frozen=True, array_like=True):
    """Who pays for what: a team, the id of its key, and the model that was called."""

    team: str
    key: str
    model: str

    @property
    def is_platform(self) -> bool:
        """Whether this is the operator's own account: no level is charged for it."""
        return self.key == PLATFORM and not self.team


class Cell(Struct, frozen=True, array_like=True):
    """What one field of a roll-up is about. `deployment`: `BACKEND/MODEL`, replicas as one; "" where none served."""

    account: Account
    deployment: str


class Amounts(Struct):
    """Sums over calls; `estimated` of the input and output tokens were counted by us. `money` is in nano-dollars."""

    calls: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0
    money: int = 0
    estimated: int = 0


class Head(Struct, frozen=True, array_like=True):
    """A record's numbers: tokens, nano-dollars, and moments in microseconds of the store's clock."""

    id: str
    what: What
    admitted_us: int
    settled_us: int
    input: int
    output: int
    cached: int
    reasoning: int
    money: int
    estimated: bool


class Record(Struct, frozen=True, array_like=True):
    """What became of one reservation. `deployment` names the replica that served, where its backend has any."""

    head: Head
    account: Account
    deployment: str
    outcome: str
    request_id: str


_cell = msgpack.Decoder(Cell).decode
_record = msgpack.Decoder(Record).decode

_TWO, _FIVE = b"\x92", b"\x95"
"""The heads of arrays of so many values: what the store has side by side is read as one."""


def cell(field: bytes) -> Cell:
    """Return what a roll-up's field is about; its last letter, one of `LETTERS`, says which amount it holds."""
    return _cell(_TWO + field[:-1])


def records(packed: bytes) -> list[Record]:
    """Read the records of one entry of the stream. Raises `ValueError` where they are none."""
    found = []
    at = 0
    while at < len(packed):
        end = at
        for _ in Record.__struct_fields__:
            end = end_of(packed, end)
        found.append(_record(_FIVE + packed[at:end]))
        at = end
    return found


_BODY = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8} | {
    first + power: 1 << power for first in (0xCC, 0xD0) for power in range(4)
}
"""The bytes after each code of fixed length: nil, false, true, floats, unsigned and signed numbers."""

_LENGTH = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""The bytes that tell the length of bytes and of text."""

_COUNT = {0xDC: 2, 0xDD: 4}
"""The bytes that tell the length of an array."""


def end_of(packed: bytes, at: int) -> int:
    """Return where the MessagePack value that begins there ends. Raises `ValueError` if it is cut off, or a map."""
    values = 1
    while values:
        if at >= len(packed):
            raise ValueError("what the books hold is cut off")
        values -= 1
        code = packed[at]
        at += 1
        if code <= 0x7F or code >= 0xE0:
            continue
        if 0xA0 <= code <= 0xBF:
            at += code & 0x1F
        elif 0x90 <= code <= 0x9F:
            values += code & 0x0F
        elif code in _BODY:
            at += _BODY[code]
        elif code in _LENGTH:
            at += _LENGTH[code] + int.from_bytes(packed[at : at + _LENGTH[code]])
        elif code in _COUNT:
            values += int.from_bytes(packed[at : at + _COUNT[code]])
            at += _COUNT[code]
        else:
            raise ValueError(f"the books hold a value of code {code:#x}, which nobody writes")
    return at
