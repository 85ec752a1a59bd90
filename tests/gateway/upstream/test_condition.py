from gateway.upstream.condition import Condition
from policies.probing import ANY, Told


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
