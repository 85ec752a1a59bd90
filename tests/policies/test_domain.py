import msgspec
import pytest

from policies.domain import Usage
from tests.policies.builders import deployment


def test_values_that_cross_rooms_are_frozen():
    """Nobody changes what another room decided."""
    with pytest.raises(AttributeError):
        deployment().backend = "other"


def test_a_deployment_is_named_by_backend_and_model():
    """In metrics, traces and logs."""
    assert deployment("gpu-a").id == "gpu-a/m"


def test_usage_adds_up():
    """Prompt and completion."""
    assert Usage(3, 4, estimated=False).total == 7
    assert msgspec.structs.replace(Usage(3, 4, estimated=False), estimated=True).estimated
