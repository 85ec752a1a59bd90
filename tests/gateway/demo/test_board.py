from io import StringIO

from rich.console import Console

from gateway.demo.board import Board, Step


def shown(*, terminal: bool) -> str:
    out = StringIO()
    step = Step("serve", "Calls are served")
    with Board(Console(file=out, force_terminal=terminal, width=120)) as board:
        board.begin(step)
        step.facts |= {"calls": 3, "by": {"gpu-a": 1, "gpu-b": 2}, "took": 0.256}
        board.show(step)
        step.ok = False
        board.show(step)
    return out.getvalue()


def test_off_a_terminal_each_step_is_a_line_when_it_begins_and_one_when_it_ends():
    begun, ended = shown(terminal=False).splitlines()
    assert begun == "...   Calls are served"
    assert ended == "FAIL  Calls are served: calls 3, by gpu-a: 1 + gpu-b: 2, took 0.26"


def test_on_a_terminal_the_table_shows_every_fact():
    table = shown(terminal=True)
    assert "FAIL" in table
    assert "calls 3, by gpu-a: 1 + gpu-b: 2" in table


def test_a_quiet_console_stays_empty(capsys):
    with Board(Console(quiet=True)) as board:
        board.begin(Step("serve", "Calls are served", ok=True))
    assert capsys.readouterr().out == ""
