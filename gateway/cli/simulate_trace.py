"""A file of calls that were: a trace, plain or compressed.

Law: what a file is, is told by its content, never by its name. What is wrong with it is told with its line and what
would be right.
"""

import gzip
import re
import zlib
from pathlib import Path

from gateway.clock import Dice
from policies.simulation.calls import Call
from policies.simulation.traces import COLUMNS, TraceError, trace

_GZIP = b"\x1f\x8b"

RIGHT = (
    'a line of Mooncake\'s is {"timestamp": ms, "input_length": N, "output_length": N, "hash_ids": [...]}; '
    f"Azure's begin with {COLUMNS}"
)


class UnreadableError(Exception):
    """There is no trace; `code` is the exit code: 1 for what is in the file, 2 where there is nothing to read."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def read_trace(path: Path, most: int | None) -> tuple[Call, ...]:
    """Return the first `most` calls of a trace (None: all), in the order of their arrival. Raises UnreadableError."""
    try:
        return tuple(trace(_text(path).splitlines(), Dice(0))[:most])
    except TraceError as error:
        raise UnreadableError(f"{_placed(path, str(error))}; {RIGHT}", 1) from error


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if content.startswith(_GZIP) else content).decode()
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{path}:1: is not text; {RIGHT}", 1) from error
    except (OSError, EOFError, zlib.error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreadableError(f"{path} cannot be read: {why}", 2) from error


def _placed(path: Path, message: str) -> str:
    """Return `line 3: what` as `FILE:3: what`."""
    found = re.match(r"line ([0-9]+):? ", message)
    return f"{path}:{found[1]}: {message[found.end() :]}" if found else f"{path}:1: {message}"
