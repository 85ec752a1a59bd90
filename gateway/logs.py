"""How the gateway writes its log: one JSON object a line on stderr.

Law: a traceback is its frames, never their variables: those hold prompts and keys. A line is written in one piece, and
is kept as short as a pipe takes whole, for several processes write into one.
"""

import logging
import sys

import structlog

from gateway import clock

QUIET = 60.0
"""Seconds in which one place of a library's code writes one entry: a receiver that is down is told of once."""

LINE = 4096
"""Bytes of a line that a pipe takes whole, whoever else writes into it (Linux's PIPE_BUF). Only a traceback is cut to
that: another entry as long, as of a file with a hundred mistakes, is told in full, though another may fall into it."""

_CUT = "\n... cut here ...\n"


def configure(level: int = logging.INFO, *, worker: int | None = None) -> None:
    """Write entries of `level` and above, ours and (from warnings on) the libraries'; `worker`: whose they are."""

    def sign(_: object, __: str, entry: structlog.types.EventDict) -> structlog.types.EventDict:
        return entry if worker is None else {**entry, "worker": worker}

    shared: list[structlog.types.Processor] = [
        sign,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Seldom())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _render],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    structlog.configure(
        processors=[*shared, _render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


_json = structlog.processors.JSONRenderer()


def _render(logger: object, name: str, entry: structlog.types.EventDict) -> str | bytes:
    """Return an entry as a line; of a traceback that is too long its beginning and, the more telling, its end."""
    line = _json(logger, name, entry)
    over, trace = len(line) + 1 - LINE, entry.get("exception")
    if over <= 0 or not isinstance(trace, str):
        return line
    room = max(0, len(trace) - over - len(_json(logger, name, {"": _CUT})))  # a character is a byte of JSON, or several
    told = f"{trace[: room // 4]}{_CUT}{trace[len(trace) - room + room // 4 :]}"
    return _json(logger, name, {**entry, "exception": told})


class _Seldom(logging.Filter):
    """Passes one entry a minute from each place."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether `record` is to be written."""
        place, now = (record.pathname, record.lineno), clock.monotonic()
        if now - self._passed.get(place, -QUIET) < QUIET:
            return False
        self._passed[place] = now
        return True
