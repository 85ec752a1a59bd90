"""How many gateways there are: by Kubernetes, by KEDA, and never too few at once."""

import pytest
import yaml

from tests.helm.charts import merged, named, render, value_files
from tests.helm.live import OWNED, cluster
from tests.helm.pods import gateway
from tests.helm.test_watching import selectors
from tests.parts.helm import PACKAGES

pytestmark = pytest.mark.ci

every_file = pytest.mark.parametrize("file", value_files(), ids=lambda file: file.stem)


@pytest.mark.parametrize("name", ["hpa", "redis-cluster"])
def test_kubernetes_scales_on_calls_and_on_those_that_wait(name):
    """Not on CPU: a gateway is full of streams that wait for tokens."""
    objects, values = render(named(name)), yaml.safe_load(named(name).read_text())["autoscaling"]["hpa"]
    spec = objects.one("HorizontalPodAutoscaler")["spec"]
    targets = {of["pods"]["metric"]["name"]: of["pods"]["target"]["averageValue"] for of in spec["metrics"]}

    assert targets["sluiceway_open_calls"] == str(values["openCalls"])
    assert targets["sluiceway_waiting_calls"] == str(values.get("waitingCalls", 100))
    assert (spec["minReplicas"], spec["maxReplicas"]) == (values["minReplicas"], values["maxReplicas"])
    assert spec["scaleTargetRef"]["name"] == objects.one("Deployment")["metadata"]["name"]
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 600
    unasked = merged(named("hpa"), "autoscaling", "hpa", "waitingCalls", value=0)
    (metric,) = render(values=unasked).one("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "sluiceway_open_calls"


@pytest.mark.parametrize(
    ("name", "metrics"),
    [("mistral-medium", ["sluiceway_open_calls"]), ("keda", ["sluiceway_open_calls", "sluiceway_waiting_calls"])],
)
def test_keda_scales_on_open_calls(name, metrics):
    """Which have those that wait among them, so that no call is counted twice; or on a query of one's own."""
    objects, values = render(named(name)), yaml.safe_load(named(name).read_text())["autoscaling"]["keda"]
    spec = objects.one("ScaledObject")["spec"]
    (trigger,) = spec["triggers"]

    assert [selector.name for selector in selectors(trigger["metadata"]["query"])] == metrics
    assert trigger["metadata"]["threshold"] == str(values.get("openCalls", 200))
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (values["minReplicas"], values["maxReplicas"])
    assert spec["scaleTargetRef"]["name"] == objects.one("Deployment")["metadata"]["name"]
    assert trigger.get("authenticationRef", {}).get("name") == values.get("authenticationRef")


@every_file
def test_from_two_pods_on_they_are_spread_and_guarded(file):
    """By itself, and where an autoscaler says how many: then the chart says no number of its own."""
    objects, values = render(file), yaml.safe_load(file.read_text())
    (deployment,) = (item for item in objects.all("Deployment") if item["spec"]["template"] is gateway(objects))
    scalers = [scaler for scaler in values.get("autoscaling", {}).values() if scaler.get("enabled")]
    least = scalers[0]["minReplicas"] if scalers else values.get("replicas", 2)
    spread = gateway(objects)["spec"].get("topologySpreadConstraints", [])

    assert ("replicas" in deployment["spec"]) is not bool(scalers)
    assert len(list(objects.all("PodDisruptionBudget"))) == (least >= 2)
    assert [of["topologyKey"] for of in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"] * (
        least >= 2
    )
    assert {of["whenUnsatisfiable"] for of in spread} <= {
        values.get("topologySpread", {}).get("whenUnsatisfiable", "ScheduleAnyway")
    }


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.helm)
@pytest.mark.parametrize(
    ("name", "live", "told"),
    [("hpa", 7, 7), ("mistral-medium", 2, 2), ("hpa", None, None), ("least", 7, 2)],
    ids=["Kubernetes", "KEDA", "a first install", "no autoscaler"],
)
def test_an_upgrade_leaves_an_autoscaled_fleet_as_large_as_it_is(name, live, told, package):
    """A number that is in one manifest and not in the next becomes one pod: as when an autoscaler is turned on."""
    objects = render(named(name))
    (deployment,) = (item for item in objects.all("Deployment") if item["spec"]["template"] is gateway(objects))
    metadata = {"name": deployment["metadata"]["name"], **OWNED}
    there = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"replicas": live}}

    with cluster(objects, [] if live is None else [there]) as url:
        upgraded = render(named(name), cluster=url, package=package)

    assert upgraded.one("Deployment")["spec"].get("replicas") == told


def test_a_budget_is_the_one_that_was_asked_for():
    """One of the two numbers, a count or a share; gateways that serve nobody never hold up a drain."""
    budgets = {name: render(named(name)).one("PodDisruptionBudget")["spec"] for name in ("least", "hpa", "keda")}

    assert [budgets[name].get("maxUnavailable") for name in budgets] == [1, None, "25%"]
    assert [budgets[name].get("minAvailable") for name in budgets] == [None, "50%", None]
    assert {budget["unhealthyPodEvictionPolicy"] for budget in budgets.values()} == {"AlwaysAllow"}


def test_switches_off_are_off():
    """Neither budget nor spread, whatever the number of pods."""
    values = {"podDisruptionBudget": {"enabled": False}, "topologySpread": {"enabled": False}}
    objects = render(named("workers"), values=values)

    assert list(objects.all("PodDisruptionBudget")) == []
    assert "topologySpreadConstraints" not in gateway(objects)["spec"]
