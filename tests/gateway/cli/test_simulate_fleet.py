from pathlib import Path

import pytest

from gateway.cli.simulate_fleet import HOSTED_LIMIT, MOST_REPLICAS, FleetError, fleet_of, grown, hurried
from gateway.config import load
from policies.domain import Price
from policies.simulation.hardware import MACHINES

HARDWARE = MACHINES["4xH100"]
FILE = """\
backends:
  hosted: {kind: nvidia, base_url: http://h/v1, api_key: x}
  other: {kind: openai, base_url: http://o/v1, api_key: x, requests_per_minute: 500}
  gpu-a: {kind: vllm, base_url: http://a/v1, max_in_flight: 8}
  gpu-b: {kind: vllm, base_url: http://b/v1}
  many: {kind: vllm, base_url: http://c/v1, discover: dns}
models:
  big:
    deployments:
      - {backend: gpu-a, model: m, context_window: 9000}
      - {backend: gpu-b, model: m}
      - {backend: hosted, model: m, price: {input: 1.5, output: 7.5}}
      - {backend: other, model: m}
    routing: {max_wait: 5, policy: cheapest}
  spread: {aliases: [wide], deployments: [{backend: many, model: m}]}
  cloud: {deployments: [{backend: hosted, model: m, price: {input: 1, output: 1}}]}
  unpriced: {deployments: [{backend: gpu-a, model: m}, {backend: other, model: m}]}
  ruled: {deployments: [{backend: gpu-a, model: m}], routing: {policy: pinned}}
  drawn: {deployments: [{backend: gpu-a, model: m}], routing: {policy: weighted}}
"""


@pytest.fixture
def fleet(tmp_path):
    """Return what is simulated of the file."""

    def fleet(text=FILE, **otherwise):
        path = tmp_path / "gateway.yaml"
        path.write_text(text)
        asked = {"model": None, "hardware": HARDWARE, "replicas": None} | otherwise
        return fleet_of(load(path, {}), Path("gateway.yaml"), **asked)

    return fleet


def test_each_backend_of_ones_own_is_a_replica_with_its_bound(fleet):
    """What may be in flight there is the file's."""
    found = fleet()

    assert [machine.max_in_flight for machine in found.machines] == [8, None]
    assert {machine.hardware for machine in found.machines} == {HARDWARE}
    assert found.terms.max_wait == 5


def test_the_first_hosted_backend_has_its_price_and_limit(fleet):
    """The limit is that of a trial key where the file has none."""
    found = fleet()

    assert found.backend == "hosted"
    assert found.hosted.price == Price(1_500_000, 7_500_000)
    assert (found.hosted.per_minute, found.told) == (HOSTED_LIMIT, 0)
    told = fleet(FILE.replace("x}", "x, requests_per_minute: 9}"))
    assert (told.hosted.per_minute, told.told) == (9, 9)
    assert fleet(without=["hosted", "other"]).told == 0


def test_what_is_left_out_is_told(fleet):
    """Context windows, and hosted backends beyond the first."""
    assert fleet().left_out == ("context windows", "other: one hosted endpoint is simulated, the first")


def test_a_discovered_backend_is_one_replica_unless_it_is_said_how_many(fleet):
    """Nobody asks DNS for a simulation."""
    assert len(fleet(model="wide").machines) == 1
    assert "many stands for: one is taken" in fleet(model="spread").left_out[0]
    assert len(fleet(model="spread", replicas=5).machines) == 5
    assert fleet(model="spread", replicas=5).left_out == ()


def test_without_models_every_backend_serves_one(fleet):
    """Hosted ones without a price are refused all the same."""
    bare = FILE[: FILE.index("models:")]

    assert len(fleet(bare, without=["hosted", "other"]).machines) == 3
    with pytest.raises(FleetError, match="price of hosted is not known"):
        fleet(bare)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"model": "unpriced"}, "give its deployment a price"),
        ({"model": "unpriced"}, "--without other"),
        ({"model": "cloud"}, "--replicas 1"),
        ({"model": "nothing"}, "it has big, spread, cloud, unpriced, ruled, drawn"),
        ({"without": ["gpu-x"]}, "it has hosted, other, gpu-a, gpu-b, many"),
        ({"without": ["many"]}, "does not serve big anyway; those that do: gpu-a, gpu-b, hosted, other"),
        ({"without": ["gpu-a"], "replicas": 4}, "how many of the 4 are gpu-a's; .* --replicas 4 --replicas -1"),
        ({"without": ["gpu-a", "gpu-b"]}, "no replica of your own would be left of big"),
        ({"replicas": MOST_REPLICAS + 1}, "big would have 65 replicas of your own; 1 to 64 are simulated"),
    ],
)
def test_what_cannot_be_simulated_is_told_with_what_would_help(fleet, asked, words):
    """In the words of the file and the options."""
    with pytest.raises(FleetError, match=words):
        fleet(**asked)


def test_a_backend_that_is_left_out_is_gone(fleet):
    """Its replica, or the hosted endpoint."""
    assert fleet(without=["hosted", "other"]).hosted is None
    assert len(fleet(without=["gpu-b"]).machines) == 1


def test_the_hosted_endpoint_is_left_out_of_so_many_replicas(fleet):
    """It is none of them."""
    found = fleet(without=["hosted", "other"], replicas=4)

    assert found.hosted is None
    assert len(found.machines) == 4


def test_a_model_is_asked_for_only_where_the_file_has_models(fleet):
    """Or a slip of the pen would be answered with what every backend serves."""
    bare = FILE[: FILE.index("models:")]

    with pytest.raises(FleetError, match=r"--model big: gateway\.yaml has no `models`"):
        fleet(bare, model="big", without=["hosted", "other"])


def test_a_fleet_grows_and_shrinks(fleet):
    """Never to nothing, nor without bound."""
    found = fleet()

    assert len(grown(found, 2).machines) == 4
    assert grown(found, -1).machines == found.machines[:1]
    for more in (-2, 100):
        with pytest.raises(FleetError, match="1 to 64 are simulated"):
            grown(found, more)


def test_another_value_of_time_ends_a_policy_that_has_its_own(fleet):
    """As a key's would: under `cheapest` it would be without effect."""
    found = hurried(fleet(), 5)

    assert found.terms.value_of_time == 5
    assert found.terms.policy == "balanced"


@pytest.mark.parametrize(("model", "why"), [("ruled", "the order of the file"), ("drawn", "a draw by weight")])
def test_a_value_of_time_is_refused_where_none_is_asked(fleet, model, why):
    """Two equal columns would say that time is worth nothing."""
    with pytest.raises(FleetError, match=f"--value-of-time: {model} has .*{why}"):
        hurried(fleet(model=model), 5)
