"""Published traces as calls: Mooncake's JSON lines and Azure's CSV.

Law: a call is what its line says; what a trace leaves out is filled in from the dice, the same way each time. Mooncake
tells no sessions: a call goes on from the one whose beginning it shares beyond the first block, which all share. Azure
tells nothing of what is in a prompt: no two share anything. Neither tells tenants: they are drawn as those of
workloads are. Where a trace counts time in ticks, the calls of a tick are spread over it.
"""

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from random import Random

import msgspec
from msgspec import Struct

from policies.simulation.calls import BLOCK, Call
from policies.simulation.workloads import tenant_of

COLUMNS = "TIMESTAMP,ContextTokens,GeneratedTokens"
"""The first line of Azure's traces of 2023 and 2024."""


class TraceError(Exception):
    """A line is of no trace that is known here; the text says which, and why."""


class _Line(Struct, frozen=True):
    """One call of a trace: seconds, tokens, and the blocks where they are told."""

    at: float
    prompt: int
    output: int
    blocks: tuple[int, ...] = ()


class _Mooncake(Struct, frozen=True):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...]


def trace(lines: Iterable[str], dice: Random, speed: float = 1.0) -> list[Call]:
    """Return the calls of a trace in order of arrival, from 0 s on, `speed` times as fast as they came.

    Which trace it is, is told by its first line. Raises TraceError.
    """
    numbered = ((number, line.strip()) for number, line in enumerate(lines, 1) if line.strip())
    begin = next(numbered, None)
    if begin is None:
        raise TraceError("there is no call in it")
    _, line = begin
    if line.startswith("{"):
        told = [_of_mooncake(number, text) for number, text in itertools.chain([begin], numbered)]
        return _in_sessions(_from_zero(told, dice, speed), dice)
    if line.removeprefix("\ufeff") == COLUMNS:
        return _apart(_from_zero([_of_azure(number, text) for number, text in numbered], dice, speed), dice)
    raise TraceError(f"line 1 is neither a JSON object, as in Mooncake's traces, nor {COLUMNS}, as in Azure's")


def _of_mooncake(number: int, text: str) -> _Line:
    try:
        told = msgspec.json.decode(text, type=_Mooncake)
    except msgspec.MsgspecError as error:
        raise TraceError(f"line {number}: {error}") from error
    if len(told.hash_ids) != -(-told.input_length // BLOCK):
        raise TraceError(f"line {number}: {len(told.hash_ids)} hash_ids, not one for each {BLOCK} tokens")
    return _possible(number, _Line(told.timestamp / 1000, told.input_length, told.output_length, told.hash_ids))


def _of_azure(number: int, text: str) -> _Line:
    try:
        at, prompt, output = text.split(",")
        line = _Line(datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp(), int(prompt), int(output))
    except ValueError as error:
        raise TraceError(f"line {number}: {error}") from error
    return _possible(number, line)


def _possible(number: int, line: _Line) -> _Line:
    """Return the line, if there can be such a call. Raises TraceError."""
    if line.prompt < 1 or line.output < 0:
        lengths = f"a prompt of {line.prompt} tokens with an answer of {line.output}"
        raise TraceError(f"line {number}: {lengths} is no call; a prompt has 1 at least, an answer 0")
    return line


def _from_zero(told: Sequence[_Line], dice: Random, speed: float) -> list[tuple[float, _Line]]:
    """Return the lines with their moments, in order; those that came at once are spread up to the next moment."""
    if not told:
        raise TraceError("there is no call in it")
    told = sorted(told, key=lambda line: line.at)
    ticks = [(at, list(lines)) for at, lines in itertools.groupby(told, key=lambda line: line.at)]
    found = []
    width = 0.0
    for (at, lines), after in itertools.zip_longest(ticks, ticks[1:]):
        width = after[0] - at if after else width
        spread = sorted(dice.random() for _ in lines) if len(lines) > 1 else [0.0]
        found += [((at - told[0].at + width * part) / speed, line) for part, line in zip(spread, lines, strict=True)]
    return found


def _in_sessions(told: Sequence[tuple[float, _Line]], dice: Random) -> list[Call]:
    belongs: dict[int, int] = {}
    tenants: dict[int, int] = {}
    found = []
    for number, (at, line) in enumerate(told):
        own = line.blocks[1:]
        known = [belongs[block] for block in itertools.takewhile(belongs.__contains__, own)]
        session = known[-1] if known else number
        belongs.update(dict.fromkeys(own, session))
        if session not in tenants:
            tenants[session] = tenant_of(dice)
        names = f"t{tenants[session]}", f"s{session}"
        found.append(Call(number, at, *names, line.blocks, line.prompt, line.output))
    return found


def _apart(told: Sequence[tuple[float, _Line]], dice: Random) -> list[Call]:
    ids = itertools.count()
    return [
        Call(
            number,
            at,
            f"t{tenant_of(dice)}",
            f"s{number}",
            tuple(itertools.islice(ids, -(-line.prompt // BLOCK))),
            line.prompt,
            line.output,
        )
        for number, (at, line) in enumerate(told)
    ]
