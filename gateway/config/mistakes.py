"""What is wrong with a file, and where.

Law: a mistake says the line, the setting, what is wrong and what would be right, on one line of text, and never shows a
credential. Reading goes on after one, so that all are told at once.
"""

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

SHOWN = 60
"""Characters of a value that a message shows."""


def shown(text: str) -> str:
    """Return `text` quoted, on one line and not too long."""
    return ascii(text if len(text) <= SHOWN else text[:SHOWN] + "...")


class At(Struct, frozen=True):
    """A place in the file: the line (from 1) of a key or list item, and its path such as `backends.gpu-a.kind`."""

    line: int
    where: str

    def key(self, name: str, line: int | None = None) -> "At":
        """Return the place of a key below this one; without a line, it stands where this one does."""
        label = name if name.isprintable() and 0 < len(name) <= 2 * SHOWN else shown(name)
        return At(self.line if line is None else line, f"{self.where}.{label}" if self.where else label)

    def item(self, index: int, line: int) -> "At":
        """Return the place of a list's item (from 0)."""
        return At(line, f"{self.where}[{index}]")


Tell = Callable[[At, str, str], None]
"""How a mistake is told: where it is, what is wrong, and what would be right."""


class Mistake(Struct, frozen=True, order=True):
    """One thing wrong with the file; as text `FILE:LINE: where: message; remedy`."""

    line: int
    where: str
    message: str
    remedy: str
    file: str

    def __str__(self) -> str:
        """Return the mistake on one line, as compilers write theirs."""
        return f"{self.file}:{self.line}: {self.where}: {self.message}; {self.remedy}"


class ConfigError(Exception):
    """The file cannot be used; `mistakes` is everything wrong with it, in the file's order.

    `files`: those that it refers to, as far as they are known: whoever mends one of them mends the file.
    """

    def __init__(self, mistakes: tuple[Mistake, ...], files: tuple[Path, ...] = ()) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = mistakes
        self.files = files


class MisreadError(Exception):
    """A value is not what its setting wants; raised by its reader, told as a `Mistake` by `Reading.attempt`."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
