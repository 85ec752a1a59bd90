import pytest

from gateway.cli.diffing import Change
from gateway.cli.editing import Edit, line, tell


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (Change("plan", None, "gold"), "plan: (none) -> gold"),
        (Change("models", ["a", "b*"], None), 'models: [a, "b*"] -> (none)'),
        (Change("local_only", False, True), "local_only: false -> true"),
        (Change("expires", 1_790_000_000, None), 'expires: "2026-09-21 14:13" -> (none)'),
        (Change("meters", {"tokens_per_day": 5}, {}), 'meters: {"tokens_per_day":5} -> {}'),
    ],
)
def test_a_change_is_told_on_one_line(change, told):
    """As it was and as it is."""
    assert line(change) == told


def test_what_was_changed_is_told_and_what_was_not(capsys):
    """To programs, the record itself."""
    changed = Edit("changed", (Change("plan", "a", "b"),), {"name": "acme"})
    tell("acme", changed, as_json=False)
    tell("globex", Edit("made", (), {"name": "globex"}), as_json=False)
    tell("acme", Edit(None, (), {"name": "acme"}), as_json=False)
    tell("acme", changed, as_json=True)

    assert capsys.readouterr().out == (
        'changed acme\n  plan: a -> b\nmade globex\nacme is so already: nothing was changed\n{"name":"acme"}\n'
    )


def test_what_may_be_wrong_with_a_record_is_told_beside_it(capsys):
    """To people, and on standard error; programs find it in the record."""
    changed = Edit("changed", (), {"name": "acme", "warnings": ["models: no model here is called a"]})
    tell("acme", changed, as_json=False)
    assert capsys.readouterr() == ("changed acme\n", "Warning: models: no model here is called a\n")

    tell("acme", changed, as_json=True)
    assert capsys.readouterr().err == ""
