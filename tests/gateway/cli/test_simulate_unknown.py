from pathlib import Path

import pytest

from gateway.cli.simulate_fleet import fleet_of
from gateway.config import load
from policies.simulation.hardware import MACHINES

FILE = """\
backends:
  hosted: {{kind: nvidia, base_url: http://h/v1, api_key: x, requests_per_minute: 9{hosted}}}
  gpu: {{kind: vllm, base_url: http://a/v1, max_in_flight: 8{own}}}
models:
  big:
    deployments:
      - {{backend: gpu, model: m{place}}}
      - {{backend: hosted, model: m, price: {{input: 1.5, output: 7.5{price}}}}}
    routing: {{max_wait: 5{routing}}}
{model}
  small: {{deployments: [{{backend: gpu, model: s}}]}}
{plans}
"""
NOTHING = dict.fromkeys(("hosted", "own", "place", "price", "routing", "model", "plans"), "")


@pytest.fixture
def left_out(tmp_path):
    """Return what is told of a file with these lines in it."""

    def left_out(**lines):
        path = tmp_path / "gateway.yaml"
        path.write_text(FILE.format(**NOTHING | lines))
        asked = {"model": "big", "hardware": MACHINES["4xH100"], "replicas": None}
        return fleet_of(load(path, {}), Path("gateway.yaml"), **asked).left_out

    return left_out


def test_what_is_simulated_is_not_told(left_out):
    """Limits of both, prices, and how long calls wait."""
    assert left_out() == ()


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ({"model": "    fallbacks: [small]"}, "fallbacks"),
        ({"model": "    deadlines: {total: 60}"}, "deadlines"),
        ({"place": ", modalities: [text, image]"}, "modalities (every place sees images)"),
        ({"place": ", context_window: 9000"}, "context windows"),
        ({"place": ", weight: 3"}, "weights"),
        ({"place": ", price: {input: 1, output: 1}"}, "prices of your own machines"),
        ({"price": ", cached_input: 0.1"}, "cached_input (the hosted endpoint never caches)"),
        ({"price": ", reasoning: 9"}, "the price of reasoning"),
        ({"routing": ", priority: low"}, "priority (of calls that wait any may be next)"),
        ({"own": ", requests_per_minute: 100"}, "requests_per_minute of your own machines"),
        ({"own": ", max_connections: 4"}, "max_connections"),
        ({"hosted": ", max_in_flight: 4"}, "max_in_flight of the hosted endpoint"),
        ({"plans": "plans: {hasty: {routing: {value_of_time: 1}}}"}, "the routing that plans wish for"),
    ],
)
def test_what_is_not_simulated_is_told(left_out, lines, told):
    """A simulation that left something out in silence would be believed too far."""
    assert left_out(**lines) == (told,)
