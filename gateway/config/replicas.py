"""The list of a backend's replicas: a file of its own, which changes while the gateway runs.

Law: one base URL a line; a `#` at its beginning or after a space begins a comment. As with the file itself, it is right
or every mistake in it is told; no mistake shows a URL, which may hold a credential.
"""

import re
from urllib.parse import urlsplit

from gateway.config.mistakes import ConfigError, MisreadError, Mistake
from gateway.config.values import url_of

_COMMENT = re.compile(r"(?:^|\s)#.*")


def read_replicas(content: bytes, file: str) -> tuple[str, ...]:
    """Return the base URLs in `content`, none without a line; `file` is its name in messages. Raises ConfigError."""
    mistakes: list[Mistake] = []
    places: dict[str, int] = {}
    urls: list[str] = []
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        written = _COMMENT.sub("", line).strip()
        if not written:
            continue
        try:
            if not written.isascii() or not written.isprintable():
                raise MisreadError("holds what no URL may", "write one base URL a line, in ASCII")  # noqa: TRY301
            url = url_of(written)
            place = place_of(url)
            if place in places:
                raise MisreadError(f"is the replica of line {places[place]} again", "keep one of them")  # noqa: TRY301
        except MisreadError as error:
            mistakes.append(Mistake(number, "a base URL", error.message, error.remedy, file))
        else:
            places[place] = number
            urls.append(url)
    if mistakes:
        raise ConfigError(tuple(mistakes))
    return tuple(urls)


def place_of(url: str) -> str:
    """Return the host and port of a replica's URL, and its path where it is not the usual one: who it is."""
    parsed = urlsplit(url)
    host = parsed.hostname or ""
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    return f"{f'[{host}]' if ':' in host else host}:{port}{parsed.path.rstrip('/').removesuffix('/v1')}"
