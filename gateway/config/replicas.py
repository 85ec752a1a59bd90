"""The list of a backend's replicas: a file of its own, which changes while the gateway runs.

Law: one base URL a line; a `#` at its beginning or after a space begins a comment. As with the file itself, it is right
or every mistake in it is told; no mistake shows a URL, which may hold a credential.
"""

import re

from gateway.config.mistakes import ConfigError, MisreadError, Mistake
from gateway.config.values import url_of

_COMMENT = re.compile(r"(?:^|\s)#.*")


def read_replicas(content: bytes, file: str) -> tuple[str, ...]:
    """Return the base URLs in `content`, none without a line; `file` is its name in messages. Raises ConfigError."""
    mistakes: list[Mistake] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        written = _COMMENT.sub("", line).strip()
        if not written:
            continue
        try:
            if not written.isascii() or not written.isprintable():
                raise MisreadError("holds what no URL may", "write one base URL a line, in ASCII")  # noqa: TRY301
            url = url_of(written)
            if url in lines:
                raise MisreadError(f"is the URL of line {lines[url]} again", "keep one of them")  # noqa: TRY301
        except MisreadError as error:
            mistakes.append(Mistake(number, "a base URL", error.message, error.remedy, file))
        else:
            lines[url] = number
    if mistakes:
        raise ConfigError(tuple(mistakes))
    return tuple(lines)
