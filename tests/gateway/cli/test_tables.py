import re
import sys

import pytest
import yaml

from gateway.cli import tables


@pytest.fixture
def terminal(monkeypatch):
    """Make of standard output a terminal so many columns wide."""

    def terminal(columns):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))

    return terminal


def test_what_is_told_is_text_and_no_markup(capsys):
    """A name may hold brackets, which rich would take for colours."""
    tables.table(("name", "[b]"), [("[red]x[/red]", "[link]")])

    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["name", "[b]"],
        ["[red]x[/red]", "[link]"],
    ]


def test_a_narrow_terminal_folds_and_cuts_nothing(capsys, terminal):
    """What is cut cannot be copied."""
    terminal(20)
    tables.table(("id", "name"), [("0123456789ab", "a-long-name-that-does-not-fit")])
    seen = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    told = "".join(seen.split())

    assert max(map(len, seen.splitlines())) <= 20
    assert sorted(told) == sorted("idname0123456789aba-long-name-that-does-not-fit")


def test_where_nobody_looks_a_row_is_a_line_without_padding(capsys, monkeypatch):
    """So that `grep` finds whole rows, whatever the environment says of widths and colours."""
    for name, value in {"COLUMNS": "20", "FORCE_COLOR": "1", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    models = ", ".join(f"model-{number}" for number in range(100))
    tables.table(("backend", "models", "why"), [("gpu", models, "-"), ("hosted", "-", "no answer")])

    wide = " " * (len(models) - 1)
    assert capsys.readouterr().out.splitlines() == [
        f"backend  models{wide[5:]}  why",
        f"gpu      {models}  -",
        f"hosted   -{wide}  no answer",
    ]


def test_numbers_stand_at_the_right_above_their_sum(capsys):
    """As in the report of usage."""
    tables.table(("who", tables.Column("calls", right=True, footer="1,005")), [("a", "5"), ("b", "1,000")])

    assert capsys.readouterr().out.splitlines() == ["who  calls", "a        5", "b    1,000", "     1,005"]


@pytest.mark.parametrize(
    "document",
    [
        {"plan": "gold", "models": ["a", "b/c*", "yes", "5"], "local_only": True, "n": 1.5},
        {"meters": {"tokens_per_day": {"limit": 5, "enforce": False}, "models": {"m:latest": {"budget_in_all": 2}}}},
        {"routing": {"max_price": 1e-7, "value_of_time": 0.000025}, "metadata": {"1e-7": "1e-7"}},
        {"metadata": {"a b": 'say "hi": no', "no": "", "émile": "ü", "#": "- x"}},
    ],
)
def test_a_record_is_shown_as_yaml(capsys, document):
    """So that what was shown can be given back."""
    tables.record(document)

    assert yaml.safe_load(capsys.readouterr().out) == document


def test_what_is_not_set_is_not_shown(capsys):
    """A record has many fields, of which few say something."""
    tables.record({"plan": None, "name": "acme"})

    assert capsys.readouterr().out == "name: acme\n"


@pytest.mark.parametrize(
    ("value", "cell"),
    [(None, "-"), ("", "-"), ([], "-"), ({}, "-"), (["a", "b"], "a, b"), ({"a": "b"}, "a=b"), (True, "yes"),
     (False, "no"), (0, "0"), ("x", "x")],
)  # fmt: skip
def test_a_cell_is_never_empty(value, cell):
    """An empty one would move the next column."""
    assert tables.cell(value) == cell


def test_a_moment_is_told_in_utc_to_the_minute():
    """Wherever the reader is."""
    assert tables.moment(1_790_000_000) == "2026-09-21 14:13"
    assert tables.moment(None) == "-"


def test_a_number_has_its_noun():
    """In the singular where it is one."""
    assert [tables.count(number, "step") for number in (0, 1, 2000)] == ["0 steps", "1 step", "2,000 steps"]
