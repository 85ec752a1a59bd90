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


def test_libraries_write_the_same_form_and_each_place_seldom(capsys):
    """A receiver that is down is told of once a minute, as JSON."""
    logs.configure()
    for _ in range(3):
        logging.getLogger("some.library").error("down again")
    lines = capsys.readouterr().err.splitlines()
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()

    assert [json.loads(line)["event"] for line in lines] == ["down again"]
    assert json.loads(lines[0])["logger"] == "some.library"
