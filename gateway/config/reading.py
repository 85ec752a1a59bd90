"""Read YAML nodes into rows by a declared schema, gathering every mistake.

Law: a row is a Struct whose fields are the keys of one mapping. A field's annotation carries its `Key`: how a value is
read, and whether it must be there. Nothing is skipped in silence: a key that is unknown, repeated, empty or not
enforced yet is a mistake. After a mistake a field keeps its default and is named in `wrong`, so that later checks can
tell what they know from what they do not. A message shows what the file says, never what a variable held.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_type_hints

import msgspec
import yaml
from msgspec import UNSET, Struct, UnsetType

from gateway.config.mistakes import At, MisreadError, Mistake, shown
from gateway.config.not_yet import NOT_YET

T = TypeVar("T")
R = TypeVar("R", bound="Row")
Read = Callable[["Reading", yaml.Node, At], T]

_TAGS = "tag:yaml.org,2002:"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class Key(Struct, frozen=True):
    """How one key is read; `needed` is the remedy when it is missing (None: it may be)."""

    read: Callable[["Reading", yaml.Node, At], Any]
    needed: str | None = None


class Row(Struct, frozen=True, kw_only=True):
    """One mapping of the file as read: where it stands, the line of each key given, and the keys told wrong."""

    NOUN: ClassVar[str]

    at: At = At(1, "")
    lines: dict[str, int] = msgspec.field(default_factory=dict)
    wrong: frozenset[str] = frozenset()

    def spot(self, key: str) -> At:
        """Return where `key` stands, or would stand."""
        return self.at.key(key, self.lines.get(key))

    @classmethod
    def instead_of(cls, key: str) -> str | None:  # noqa: ARG003 - for rows that know better
        """Return a remedy for a key that is none, where it is known better than by the nearest one."""
        return None

    def given(self, key: str) -> bool:
        """Say whether the file has `key`, with a value that could be read."""
        return key in self.lines and key not in self.wrong


class Word(Struct, frozen=True):
    """A scalar: its text with variables filled in, and as it stands in the file."""

    text: str
    written: str

    @property
    def shown(self) -> str:
        """The value for a message: what the file says, never what a variable held."""
        return shown(self.written) if self.written == self.text else f"the value of {shown(self.written)}"


class Entry(Struct, frozen=True):
    """One key of a mapping with its value."""

    key: str
    at: At
    node: yaml.Node


@cache
def keys_of(row: type[Row]) -> dict[str, Key]:
    """Return the keys that a row declares, in order."""
    hints = get_type_hints(row, include_extras=True)
    return {
        name: item
        for name, hint in hints.items()
        for item in getattr(hint, "__metadata__", ())
        if isinstance(item, Key)
    }


def nearest(name: str, known: Collection[str], otherwise: str | None = None) -> str:
    """Return a remedy for an unknown name: the nearest known one, else `otherwise`, which is by itself all of them."""
    match = get_close_matches(name, known, n=1)
    if match:
        return f"did you mean `{match[0]}`?"
    if otherwise is not None:
        return otherwise
    return f"known are: {', '.join(known)}" if known else "none is defined"


class Reading:
    """One pass over one file: where variables and relative paths come from, and the mistakes so far.

    `environ` None: there are no variables, and text is what it is. `whole`: what a mistake of all of it is one of.
    `files`: those that it refers to, each with a digest of what it held, empty where that is not told. `secrets`: they
    are read; else each has a stand-in, and it does not matter whether the environment or its file has it.
    """

    def __init__(
        self,
        file: str,
        folder: Path,
        environ: Mapping[str, str] | None,
        whole: str = "file",
        *,
        secrets: bool = True,
    ) -> None:
        self.folder = folder
        self.secrets = secrets
        self.mistakes: list[Mistake] = []
        self.files: dict[Path, str] = {}
        self._file = file
        self._environ = environ
        self._whole = whole

    def tell(self, at: At, message: str, remedy: str) -> None:
        """Note a mistake."""
        self.mistakes.append(Mistake(at.line, at.where or self._whole, message, remedy, self._file))

    def attempt(self, read: Read[T], node: yaml.Node, at: At) -> T | UnsetType:
        """Read a value; UNSET, and the mistake noted, when it is not what is wanted."""
        try:
            if node.tag == f"{_TAGS}null":
                raise MisreadError("has no value", "give it one, or remove the line")  # noqa: TRY301 - told just below
            return read(self, node, at)
        except MisreadError as error:
            self.tell(at, error.message, error.remedy)
            return UNSET

    def word(self, node: yaml.Node) -> Word:
        """Return a scalar with `${VAR}` and `${VAR:-default}` filled in. Raises MisreadError."""
        if not isinstance(node, yaml.ScalarNode):
            raise MisreadError("must be a single value", "write it without brackets, braces or lines below it")
        if not node.tag.startswith(_TAGS):
            raise MisreadError("has a YAML tag", "remove the tag; put a value that begins with ! in quotes")
        written: str = node.value
        text = written if self._environ is None else _filled_in(written, self._environ)
        if not text.isprintable():
            raise MisreadError("holds a line break or another control character", "write it on one line")
        return Word(text, written)

    def entries(self, node: yaml.Node, at: At) -> Iterator[Entry]:
        """Yield the keys of a mapping, each once. Raises MisreadError when it is none."""
        if not isinstance(node, yaml.MappingNode):
            raise MisreadError("must be a mapping of keys to values", "write it as `{key: value}` or as indented lines")
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.tell(At(line, at.where), "has a key that is a list or a mapping", "use plain text as a key")
            elif key.value in first:
                message = f"is given twice, first on line {first[key.value]}"
                self.tell(at.key(key.value, line), message, "keep one of them")
            else:
                first[key.value] = line
                yield Entry(key.value, at.key(key.value, line), value)

    def items(self, node: yaml.Node, at: At) -> Iterator[tuple[yaml.Node, At]]:
        """Yield the items of a list and their places. Raises MisreadError when it is none."""
        if not isinstance(node, yaml.SequenceNode):
            raise MisreadError("must be a list", "write it as `[one, two]` or as lines that begin with `- `")
        for index, item in enumerate(node.value):
            yield item, at.item(index, item.start_mark.line + 1)

    def row(self, row: type[R], node: yaml.Node, at: At) -> R:
        """Read one mapping as a `row`. Raises MisreadError when it is no mapping."""
        keys = keys_of(row)
        later = NOT_YET.get(row.NOUN, frozenset())
        lines: dict[str, int] = {}
        values: dict[str, Any] = {}
        for entry in self.entries(node, at):
            lines[entry.key] = entry.at.line
            if entry.key in keys:
                value = self.attempt(keys[entry.key].read, entry.node, entry.at)
                if value is not UNSET:
                    values[entry.key] = value
            elif entry.key in later:
                self.tell(entry.at, "is not enforced by this version", "remove the line")
            else:
                remedy = row.instead_of(entry.key) or nearest(entry.key, keys)
                self.tell(entry.at, f"is not a setting of {row.NOUN}", remedy)
        for name, key in keys.items():
            if key.needed is not None and name not in lines:
                self.tell(at.key(name), "is missing", key.needed)
        wrong = frozenset(name for name in keys if name in lines and name not in values)
        return row(at=at, lines=lines, wrong=wrong, **values)


def _filled_in(written: str, environ: Mapping[str, str]) -> str:
    """Return text with the value of each variable that it names. Raises MisreadError."""
    found = list(_VARIABLE.finditer(written))
    unset = [match[1] for match in found if match[2] is None and match[1] not in environ]
    if unset:
        raise MisreadError(f"the environment has no {', '.join(unset)}", "set it, or write ${NAME:-default}")
    if "${" in _VARIABLE.sub("", written):
        raise MisreadError("holds a ${ that is no variable", "write ${NAME} or ${NAME:-default}")
    return _VARIABLE.sub(lambda match: environ.get(match[1]) or match[2] or "", written)
