from typing import get_args

import pytest

from policies.apis import APIS
from policies.domain import API


def test_every_api_has_its_shape_and_its_own_path():
    """A caller's path names the API."""
    assert set(APIS) == set(get_args(API))
    assert len({shape.path for shape in APIS.values()}) == len(APIS)


@pytest.mark.parametrize("api", APIS)
def test_what_streams_generates_and_what_generates_is_bounded_and_charged(api):
    """Else a stream would have no output to count, or an output no bound to reserve."""
    shape = APIS[api]
    assert shape.generates or not shape.streams
    assert bool(shape.bounds) == shape.generates
    assert shape.charged or not shape.generates
    assert set(shape.needs) <= set(shape.prompts)
    assert shape.several in {None, *shape.prompts}
    assert shape.end == "done" or shape.streams
