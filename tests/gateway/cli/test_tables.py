import pytest
import yaml

from gateway.cli import tables


@pytest.fixture
def width(monkeypatch):
    """Set the width of the terminal."""
    return lambda columns: monkeypatch.setenv("COLUMNS", str(columns))


def test_what_is_told_is_text_and_no_markup(capsys, width):
    """A name may hold brackets, which rich would take for colours."""
    width(80)
    tables.table(("name", "[b]"), [("[red]x[/red]", "[link]")])

    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["name", "[b]"],
        ["[red]x[/red]", "[link]"],
    ]


def test_a_narrow_terminal_folds_and_cuts_nothing(capsys, width):
    """What is cut cannot be copied."""
    width(20)
    tables.table(("id", "name"), [("0123456789ab", "a-long-name-that-does-not-fit")])
    told = "".join(capsys.readouterr().out.split())

    assert sorted(told) == sorted("idname0123456789aba-long-name-that-does-not-fit")


def test_numbers_stand_at_the_right_above_their_sum(capsys, width):
    """As in the report of usage."""
    width(80)
    tables.table(("who", tables.Column("calls", right=True, footer="1,005")), [("a", "5"), ("b", "1,000")])

    assert capsys.readouterr().out.splitlines() == ["who  calls", "a        5", "b    1,000", "     1,005"]


@pytest.mark.parametrize(
    "document",
    [
        {"plan": "gold", "models": ["a", "b/c*", "yes", "5"], "local_only": True, "n": 1.5},
        {"meters": {"tokens_per_day": {"limit": 5, "enforce": False}, "models": {"m:latest": {"budget_in_all": 2}}}},
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
