import math

import pytest

from policies.condition import MOST_FOREIGN, Condition
from policies.probing import ANY, MOST, Load, Told


def measured(condition, *figures, ours=0):
    """Let the engine tell, one after the other, how many calls it has."""
    for figure in figures:
        condition.measured(Load(running=figure, waiting=0.0), ours)


def test_a_model_that_is_being_loaded_is_better_asked_elsewhere():
    """Whoever is down says so of all its models."""
    condition = Condition()
    condition.told = Told(states={"big": "loading", "small": "loaded", "cold": "not loaded"})
    seen = [condition.against(name) for name in ("big", "small", "cold", "unheard-of")]
    assert seen == ["its model is being loaded", None, None, None]

    condition.down = "refused"
    assert condition.against("big") == condition.against("small") == "refused"


def test_a_window_is_the_models_own_or_that_of_every_model_there():
    """llama.cpp serves one model under any name."""
    condition = Condition()
    assert condition.window("m") is None
    condition.told = Told(windows={"m": 1, ANY: 2})

    assert (condition.window("m"), condition.window("other")) == (1, 2)


def test_calls_are_foreign_once_two_answers_in_a_row_say_so():
    """One is taken while calls begin and end."""
    condition = Condition()
    measured(condition, 20, ours=5)
    assert condition.foreign == 0
    measured(condition, 12, ours=5)
    assert condition.foreign == 7
    measured(condition, 0, ours=5)
    assert condition.foreign == 0
    measured(condition, 20, ours=5)
    assert condition.foreign == 0


def test_an_engine_that_tells_no_load_has_no_foreign_calls():
    """What it told before is of then."""
    condition = Condition()
    measured(condition, 20, 20)
    condition.measured(Load(running=20.0), 0)
    assert condition.foreign == 0
    measured(condition, 20)

    assert condition.foreign == 0


@pytest.mark.parametrize("figure", [1e300, math.inf])
def test_no_engine_has_more_calls_than_can_be(figure):
    """Whatever it says."""
    condition = Condition()
    measured(condition, figure, figure)

    assert condition.foreign == MOST_FOREIGN


def test_calls_that_the_others_tell_of_are_no_longer_foreign():
    """While the store was away nobody told of them; those that come and go later take nothing from what is foreign."""
    condition = Condition()
    measured(condition, 23, 23)
    assert condition.foreign == 23
    for elsewhere in (20, 18, 20):
        condition.counted(elsewhere)
        assert condition.foreign == 23 - elsewhere
    measured(condition, 23, 23, ours=20)

    assert condition.foreign == 3
    for elsewhere in (15, 20, 15, 20):
        condition.counted(elsewhere)
        assert condition.foreign == 3


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (Told(), False),
        (Told(("m",)), False),
        (Told(("other",)), True),
        (Told(("other",), windows={"m": 1}), False),
        (Told(tuple(map(str, range(MOST)))), False),
    ],
)
def test_a_model_is_unlisted_only_where_all_that_there_are_were_told(told, expected):
    """A list that is cut, or was never told, says nothing of what is not in it; an instance may be called too."""
    condition = Condition()
    condition.told = told

    assert condition.unlisted("m") is expected
