import pytest

from gateway.api.admin_parts import BackendView, Parts


def test_parts_are_named_and_what_is_seen_stays_what_it_was():
    """Eleven of them in a row would be mixed up."""
    with pytest.raises(TypeError, match="positional"):
        Parts(*range(11))
    view = BackendView(name="rack", kind="vllm", hosted=False, up=None, why=None, in_flight=0, models=())
    with pytest.raises(AttributeError):
        view.name = "other"
