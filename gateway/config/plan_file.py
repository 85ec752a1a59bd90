"""A file that holds one plan, for whoever sends it to a gateway: YAML or JSON, as `plans` in the gateway's file has it.

Law: like the gateway's own file: every mistake told at once with its line and what would be right. Which models there
are is for the gateway to judge.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import UNSET

from gateway.config.document import compose
from gateway.config.lists import section
from gateway.config.mistakes import At, ConfigError
from gateway.config.plan_checks import check_plan
from gateway.config.plans import PLAN
from gateway.config.reading import Reading
from gateway.config.stored import document_of


def read_plan(content: bytes, file: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the plan in `content` as the admin API takes one; `file` is its name in messages. Raises ConfigError."""
    reading = Reading(file, Path(), environ)
    root = compose(content, file, "name a meter, such as `requests_per_minute: 600`")
    row = reading.attempt(section(PLAN), root, At(1, ""))
    if row is not UNSET:
        check_plan(row, None, reading.tell)
        if not reading.mistakes:
            return document_of(row.plan("", {}))
    raise ConfigError(tuple(sorted(reading.mistakes)))
