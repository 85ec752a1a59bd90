from typing import get_args

import pytest

from gateway.config.reading import keys_of
from gateway.config.routing import RoutingRow, WishesRow
from policies.terms import NO_WISHES, Policy, Priority, RoutingTerms, RoutingWishes

MODEL = """\
backends: {{gpu: {{kind: vllm, base_url: http://h/v1}}}}
models: {{m: {{deployments: [{{backend: gpu, model: m, price: {{input: 1, output: 1}}}}], routing: {{{}}}}}}}
"""


def test_the_keys_are_the_fields_that_routing_has():
    """Nothing can be wished that cannot be written, and nothing written that means nothing."""
    assert tuple(keys_of(WishesRow)) == RoutingWishes.__struct_fields__
    assert set(keys_of(RoutingRow)) == set(RoutingTerms.__struct_fields__)


def test_what_nobody_writes_is_the_gateways_own():
    """A default stands in one place."""
    assert RoutingRow().terms() == RoutingTerms()
    assert WishesRow().wishes() == NO_WISHES


@pytest.mark.parametrize(
    ("written", "terms"),
    [
        ("ttft_target: 2, tpot_target: 0.05", RoutingTerms(ttft_target=2.0, tpot_target=0.05)),
        ("value_of_time: 0, max_price: 0.25", RoutingTerms(value_of_time=0, max_price=250_000_000)),
        ("max_price: 10000, max_wait: 0.5", RoutingTerms(max_price=10_000 * 10**9, max_wait=0.5)),
        ("max_attempts: 1", RoutingTerms(max_attempts=1)),
        *((f"policy: {one}", RoutingTerms(policy=one)) for one in get_args(Policy)),
        *((f"priority: {one}", RoutingTerms(priority=one)) for one in get_args(Priority)),
    ],
)
def test_a_models_routing_is_what_the_file_says(settings_of, written, terms):
    """Seconds as they are, money in nano-dollars."""
    (model,) = settings_of(MODEL.format(written)).models
    assert model.routing == terms
