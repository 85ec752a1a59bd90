import json
import logging

import structlog

from gateway import logs


def test_a_traceback_shows_no_variables(capsys):
    """They hold prompts and keys."""
    logs.configure()
    secret = "sw_" + "canary"
    try:
        int("no" if secret else "")
    except ValueError:
        structlog.get_logger("x").exception("bug")
    entry = json.loads(capsys.readouterr().err)
    structlog.reset_defaults()

    assert "ValueError: invalid literal" in entry["exception"]
    assert secret not in str(entry)


def test_levels_below_are_not_written(capsys):
    """The demo shows errors only."""
    logs.configure(logging.ERROR)
    structlog.get_logger("x").warning("quiet")
    err = capsys.readouterr().err
    structlog.reset_defaults()

    assert err == ""
