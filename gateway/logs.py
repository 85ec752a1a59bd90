"""How the gateway writes its log: one JSON object a line on stderr.

Law: a traceback is its frames, never their variables: those hold prompts and keys.
"""

import logging
import sys

import structlog


def configure(level: int = logging.INFO) -> None:
    """Write entries of `level` and above, ours and (from warnings on) the libraries'."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
