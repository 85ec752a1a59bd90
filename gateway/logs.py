"""How the gateway writes its log: one JSON object a line on stderr.

Law: a traceback is its frames, never their variables: those hold prompts and keys.
"""

import logging
import sys

import structlog

from gateway import clock

QUIET = 60.0
"""Seconds in which one place of a library's code writes one entry: a receiver that is down is told of once."""


def configure(level: int = logging.INFO) -> None:
    """Write entries of `level` and above, ours and (from warnings on) the libraries'."""
    shared: list[structlog.types.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.format_exc_info,
    ]
    json = structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Seldom())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, json],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    structlog.configure(
        processors=[*shared, json],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


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
