import json
import logging
import os
import subprocess
import sys

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


def test_a_workers_entries_say_whose_they_are(capsys):
    """Many write into one log, libraries too."""
    logs.configure(worker=3)
    structlog.get_logger("x").warning("ours")
    logging.getLogger("a.library.of.workers").error("theirs")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()

    assert [(line["event"], line["worker"]) for line in lines] == [("ours", 3), ("theirs", 3)]


WRITER = """
import sys
from gateway import logs
import structlog
logs.configure(worker=int(sys.argv[1]))
for number in range(1500):
    structlog.get_logger("x").info("a line", number=number, filler="x" * 1500)
"""


def test_lines_of_several_processes_into_one_pipe_stay_whole():
    """A supervisor and its workers share their stderr; what reads it takes each line for an object."""
    ours, theirs = os.pipe()
    env = os.environ | {"PYTHONUNBUFFERED": "1"}  # as in a container
    command = [sys.executable, "-c", WRITER]
    writers = [subprocess.Popen([*command, number], stderr=theirs, env=env) for number in ("1", "2")]
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        lines = pipe.read().splitlines()

    assert [writer.wait(20) for writer in writers] == [0, 0]
    assert len(lines) == 3000
    assert all(json.loads(line)["event"] == "a line" for line in lines)


def test_a_traceback_is_cut_so_that_its_line_stays_whole(capsys):
    """Its beginning and its end tell most. What is long for another reason is told in full."""
    logs.configure()

    def fall(deep):
        if not deep:
            raise ValueError("the \N{SNOWMAN} bottom" * 3)
        fall(deep - 1)

    def other(deep):
        fall(deep) if deep % 2 else other(deep - 1)

    for deep in (0, 1, 30, 200):
        try:
            [fall, other][deep > 50](deep)
        except ValueError:
            structlog.get_logger("x").exception("bug")
    structlog.get_logger("x").info("long", why="y" * 9000)
    *lines, long = capsys.readouterr().err.splitlines()
    structlog.reset_defaults()

    assert [len(line) < logs.LINE for line in lines] == [True] * 4
    for line in lines:
        told = json.loads(line)["exception"]
        assert told.startswith("Traceback")
        assert told.endswith("bottom")
    assert len(json.loads(long)["why"]) == 9000
