"""Ways in and ways out: what leads callers to a gateway, what a gateway may call, and whether selectors meet."""

import re

import pytest
import yaml

from gateway.config.settings import Limits
from policies.apis import PATHS
from policies.domain import Deadlines
from tests.helm.charts import merged, named, render, value_files
from tests.helm.pods import container, gateway

pytestmark = pytest.mark.ci

every_file = pytest.mark.parametrize("file", value_files(), ids=lambda file: file.stem)
NAMESPACE_NAME = "kubernetes.io/metadata.name"
COMPONENT = "app.kubernetes.io/component"
NAMES = "anywhere 53/TCP 53/UDP"
WAYS_OUT = {
    "least": [NAMES, "anywhere 26379/TCP 6379/TCP", "namespace engines"],
    "hpa": [NAMES, "anywhere 26379/TCP 6379/TCP", "this namespace 8000/TCP"],
    "bundled": [NAMES, "component trial-valkey 6379/TCP", "this namespace"],
    "cluster": ["10.20.0.0/16 6380/TCP", NAMES, "namespace engines"],
    "tls": [NAMES, "anywhere 6380/TCP", "namespace engines"],
    "watched": [NAMES, "anywhere 26379/TCP 6379/TCP", "namespace engines", "namespace observing"],
    "tokens": ["10.0.7.9/32 8000/TCP", "anywhere 4318/TCP 443/TCP 6390/TCP 8443/TCP", NAMES],
    "ways-out": [
        "192.0.2.0/24 3128/TCP",
        "192.0.2.7/32 8000/TCP",
        "2001:db8::7/128 8000/TCP",
        "anywhere 443/TCP 8443/TCP 9000/TCP",
        NAMES,
        "namespace engines 8000/TCP",
        "namespace others",
        "namespace stores",
        "this namespace",
    ],
    "mistral-medium": [
        NAMES,
        "anywhere 443/TCP",
        "anywhere 6380/TCP",
        "namespace engines 8000/TCP",
        "namespace monitoring",
    ],
    "redis-cluster": [NAMES, "namespace data 6379/TCP", "namespace models 8000/TCP"],
    "sentinel": [NAMES, "namespace data 26379/TCP 6379/TCP", "namespace models"],
}
"""What a gateway may call, by the file of values: names, the store, the backends, issuers, where traces go."""


def place(peer):
    """Return a peer of a policy in a word or two."""
    if "ipBlock" in peer:
        return peer["ipBlock"]["cidr"]
    if "namespaceSelector" in peer:
        return f"namespace {peer['namespaceSelector']['matchLabels'][NAMESPACE_NAME]}"
    labels = peer["podSelector"].get("matchLabels", {})
    return f"component {labels[COMPONENT]}" if labels else "this namespace"


def told(rule, side):
    """Return a rule of a policy in words: who, and by which ports; `side`: `to` or `from`."""
    ports = sorted(f"{port['port']}/{port['protocol']}" for port in rule.get("ports", []))
    return " ".join([*(sorted(map(place, rule.get(side, []))) or ["anywhere"]), *ports])


def policy(objects):
    """Return the policy of the gateways."""
    (found,) = (
        item["spec"]
        for item in objects.all("NetworkPolicy")
        if item["spec"]["podSelector"]["matchLabels"][COMPONENT] == "gateway"
    )
    return found


@pytest.mark.parametrize("name", WAYS_OUT)
def test_a_gateway_may_call_what_its_file_names_and_nothing_else(name):
    """Names outside the cluster by port alone; a Service by its namespace, its pods' own port where it is headless."""
    assert sorted(told(rule, "to") for rule in policy(render(named(name)))["egress"]) == sorted(WAYS_OUT[name])


@every_file
def test_no_rule_opens_more_than_it_says(file):
    """An empty rule would open everything, and a policy that leaves out a direction would not close it."""
    for item in render(file).all("NetworkPolicy"):
        assert item["spec"]["policyTypes"] == ["Ingress", "Egress"]
        for rule in item["spec"]["egress"]:
            assert rule.get("to") or rule["ports"]
            assert all(peer for peer in rule.get("to", []))
        for rule in item["spec"]["ingress"]:
            assert rule["ports"]
            assert all(peer for peer in rule.get("from", []))


def test_callers_come_to_one_port_and_operators_to_the_other():
    """By itself anybody may call; who may ask operations, and so the admin API, is told. `helm test` may ask both."""
    by_itself, narrowed = policy(render(named("least"))), policy(render(named("ingress")))
    watched = policy(render(named("watched")))

    assert [told(rule, "from") for rule in by_itself["ingress"]] == [
        "anywhere 8600/TCP",
        "component test namespace monitoring 8601/TCP",
    ]
    assert told(narrowed["ingress"][0], "from") == "component test namespace ingress 8600/TCP"
    assert watched["ingress"][1]["from"][1]["podSelector"] == {"matchLabels": {"app": "prometheus"}}
    emptied = merged(named("least"), "networkPolicy", "operationsFrom", value=[])
    assert told(policy(render(values=emptied))["ingress"][1], "from") == "component test 8601/TCP"


def test_the_trials_store_is_for_the_gateways_alone():
    """It has no password."""
    (store,) = (
        item["spec"] for item in render(named("bundled")).all("NetworkPolicy") if "valkey" in item["metadata"]["name"]
    )

    assert [told(rule, "from") for rule in store["ingress"]] == ["component gateway 6379/TCP"]
    assert store["egress"] == []


def test_no_policy_where_none_is_wanted():
    """Some clusters have their own."""
    assert list(render(named("single")).all("NetworkPolicy")) == []


def chosen(objects, labels):
    """Return the component of every pod template that a selector chooses."""
    templates = [item["spec"]["template"] for item in objects if "template" in item.get("spec", {})]
    templates += [item for item in objects if item["kind"] == "Pod"]
    carried = [template["metadata"]["labels"] for template in templates]
    return [these[COMPONENT] for these in carried if labels.items() <= these.items()]


@every_file
def test_each_selector_chooses_the_pods_of_its_component_and_no_others(file):
    """And is made of labels that no upgrade changes, because Kubernetes lets nobody change a selector."""
    objects = render(file)
    selectors = [(item, item["spec"]["selector"]["matchLabels"]) for item in objects.all("Deployment")]
    selectors += [(item, item["spec"]["selector"]["matchLabels"]) for item in objects.all("PodDisruptionBudget")]
    selectors += [(item, item["spec"]["podSelector"]["matchLabels"]) for item in objects.all("NetworkPolicy")]
    selectors += [
        (item, item["spec"]["selector"]) for item in objects.all("Service") if "app" not in item["spec"]["selector"]
    ]
    spread = gateway(objects)["spec"].get("topologySpreadConstraints", [])
    selectors += [(gateway(objects), constraint["labelSelector"]["matchLabels"]) for constraint in spread]

    for item, labels in selectors:
        component = item["metadata"]["labels"][COMPONENT]
        assert chosen(objects, labels) == ["gateway" if component == "operations" else component]
        assert {name.rpartition("/")[2] for name in labels} == {"name", "instance", "component"}


@every_file
def test_each_service_leads_to_a_port_that_its_pods_have(file):
    """Callers' and operations' are apart: whoever leads callers in cannot lead them to the admin API."""
    objects = render(file)
    ports = {port["name"] for port in container(objects)["ports"]}
    services = {
        item["metadata"]["labels"][COMPONENT]: [port["targetPort"] for port in item["spec"]["ports"]]
        for item in objects.all("Service")
        if COMPONENT in item["metadata"].get("labels", {})
    }

    assert services["gateway"] == ["callers"]
    assert services["operations"] == ["operations"]
    assert ports == {"callers", "operations"}
    (operations,) = (
        item for item in objects.all("Service") if item["metadata"].get("labels", {}).get(COMPONENT) == "operations"
    )
    assert operations["spec"]["type"] == "ClusterIP"


@pytest.mark.parametrize("name", ["watched", "mistral-medium"])
def test_what_is_scraped_is_the_operations_port(name):
    """The monitor chooses one Service, by a port that it has, in this namespace."""
    objects = render(named(name))
    monitor = objects.one("ServiceMonitor")["spec"]
    found = [
        item
        for item in objects.all("Service")
        if monitor["selector"]["matchLabels"].items() <= item["metadata"].get("labels", {}).items()
    ]
    (endpoint,) = monitor["endpoints"]

    assert [item["metadata"]["name"] for item in found] == ["gate-sluiceway-operations"]
    assert endpoint["port"] in {port["name"] for port in found[0]["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"


def ways_in(objects):
    """Yield the path, and the Service's name and port, of each way that leads callers in."""
    for item in objects.all("Ingress"):
        for rule in item["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                assert path["pathType"] == "Prefix"
                yield path["path"], path["backend"]["service"]["name"], path["backend"]["service"]["port"]["name"]
    for item in objects.all("HTTPRoute"):
        for rule in item["spec"]["rules"]:
            for match in rule["matches"]:
                assert match["path"]["type"] == "PathPrefix"
                yield match["path"]["value"], rule["backendRefs"][0]["name"], rule["backendRefs"][0]["port"]


@pytest.mark.parametrize(("name", "ways"), [("ingress", 2), ("route", 1), ("mistral-medium", 1), ("redis-cluster", 1)])
def test_callers_are_led_to_v1_and_nowhere_else(name, ways):
    """Neither the admin API nor the OpenAPI page is for them; what is asked elsewhere is for the cluster's own."""
    objects = render(named(name))
    service = objects.one("Service")
    (port,) = service["spec"]["ports"]
    found = list(ways_in(objects))

    assert len(found) == ways
    for path, to, by in found:
        assert path == "/v1"
        assert to == service["metadata"]["name"]
        assert by in (port["name"], port["port"])
    assert [asked for asked in PATHS if not asked.startswith("/v1/")] == ["/tokenize"]


def test_no_way_in_but_where_one_is_asked_for():
    """By itself a gateway is called from inside the cluster."""
    assert list(ways_in(render(named("least")))) == []
    assert render(named("least")).one("Service")["spec"]["type"] == "ClusterIP"


def test_streams_are_neither_held_back_nor_cut_on_the_way():
    """By ingress-nginx's annotations, and a route without a timeout; a body as large as the gateway takes passes."""
    asks = render(named("redis-cluster")).one("Ingress")["metadata"]["annotations"]
    nginx = {name.rpartition("/")[2]: value for name, value in asks.items()}
    (rule,) = render(named("route")).one("HTTPRoute")["spec"]["rules"]

    assert nginx["proxy-buffering"] == "off"
    assert int(nginx["proxy-read-timeout"]) >= Deadlines().total
    assert int(nginx["proxy-send-timeout"]) >= Deadlines().total
    assert int(nginx["proxy-body-size"].removesuffix("m")) << 20 >= Limits().body
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}


def test_a_gateway_that_speaks_tls_says_so():
    """Whoever leads callers in must know, and so must `helm test`."""
    spoken = {
        name: [port["appProtocol"] for item in render(named(name)).all("Service") for port in item["spec"]["ports"]]
        for name in ("least", "tls")
    }
    (test,) = render(named("tls")).all("Pod")

    assert spoken == {"least": ["http", "http"], "tls": ["https", "http"]}
    assert [url.partition(":")[0] for url in test["spec"]["containers"][0]["args"][1:]] == ["http", "https"]


def test_a_service_takes_what_a_cloud_wants():
    """Its kind, port, annotations, and the rest of its spec."""
    values = yaml.safe_load(named("tls").read_text())["service"]
    service = render(named("tls")).one("Service")

    assert service["metadata"]["annotations"] == values["annotations"]
    assert service["spec"]["type"] == values["type"]
    assert service["spec"]["externalTrafficPolicy"] == "Local"
    assert [port["port"] for port in service["spec"]["ports"]] == [values["port"]]


def test_helm_test_asks_services_that_there_are():
    """At their names and ports: else it would fail for no fault of the gateway's."""
    for name in ("least", "ingress", "bundled", "placed"):
        objects = render(named(name))
        (test,) = objects.all("Pod")
        urls = [re.fullmatch(r"https?://([^:]+):(\d+)", word) for word in test["spec"]["containers"][0]["args"][1:]]
        services = {
            (item["metadata"]["name"], port["port"])
            for item in objects.all("Service")
            for port in item["spec"]["ports"]
        }

        assert {(found[1], int(found[2])) for found in urls} <= services
        assert "helm.sh/hook" in test["metadata"]["annotations"]
