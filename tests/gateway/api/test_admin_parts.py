import pytest

from gateway.api.admin_parts import BackendView, Parts


def test_parts_are_named_and_stay_what_they_were():
    """Nine of them in a row would be mixed up."""
    with pytest.raises(TypeError, match="positional"):
        Parts(*range(9))
    view = BackendView(name="rack", kind="vllm", hosted=False, up=None, why=None, in_flight=0, models=())
    with pytest.raises(AttributeError):
        view.name = "other"
