"""Values that cannot be: refused before anything is installed, each with its place and what would be right."""

import re
from pathlib import Path

import pytest
import yaml

from tests.helm.charts import CHART, merged, named, template

pytestmark = pytest.mark.ci

REFUSED = yaml.safe_load(Path(__file__).with_name("refusals.yaml").read_text())


def refused(values, *files):
    """Return what helm says to `values` over those of files; AssertionError where it takes them."""
    ended = template(*files, values=values)
    assert ended.code != 0, "these values were taken"
    assert ended.output == ""
    return ended.errors


def mistakes(refusal):
    """Return the lines of the chart's own refusal of what `refusals.yaml` has."""
    said = refused(refusal["values"], *([] if refusal.get("alone") else [named("least")]))
    return [line.removeprefix("- ") for line in said.splitlines() if line.startswith("- ")]


WRONG = [
    # A name that there is not, at each level.
    ({"replica": 3}, "", "additional properties 'replica' not allowed"),
    ({"image": {"name": "x"}}, "/image", "additional properties 'name' not allowed"),
    ({"image": {"pullSecrets": [{"nme": "x"}]}}, "/image/pullSecrets/0", "'nme' not allowed"),
    ({"config": {"backend": {}}}, "/config", "additional properties 'backend' not allowed"),
    ({"adminKey": {"existingSecret": {"secret": "x"}}}, "/adminKey/existingSecret", "'secret' not allowed"),
    ({"adminKey": {"value": "a-key-in-plain-text"}}, "/adminKey", "'value' not allowed"),
    ({"store": {"uri": "redis://a"}}, "/store", "'uri' not allowed"),
    ({"store": {"existingSecret": {"keys": "a"}}}, "/store/existingSecret", "'keys' not allowed"),
    ({"secretEnv": {"A": {"name": "a", "key": "b", "optional": True}}}, "/secretEnv/A", "'optional' not allowed"),
    ({"valkey": {"persistence": {}}}, "/valkey", "'persistence' not allowed"),
    ({"valkey": {"image": {"digests": ""}}}, "/valkey/image", "'digests' not allowed"),
    ({"shutdown": {"preStop": 3}}, "/shutdown", "'preStop' not allowed"),
    ({"probes": {"readyness": {}}}, "/probes", "'readyness' not allowed"),
    ({"probes": {"liveness": {"httpGet": {}}}}, "/probes/liveness", "'httpGet' not allowed"),
    ({"autoscaling": {"enabled": True}}, "/autoscaling", "'enabled' not allowed"),
    ({"autoscaling": {"hpa": {"cpu": 80}}}, "/autoscaling/hpa", "'cpu' not allowed"),
    ({"autoscaling": {"keda": {"threshold": 80}}}, "/autoscaling/keda", "'threshold' not allowed"),
    ({"podDisruptionBudget": {"enable": True}}, "/podDisruptionBudget", "'enable' not allowed"),
    ({"topologySpread": {"maxSkew": 2}}, "/topologySpread", "'maxSkew' not allowed"),
    ({"networkPolicy": {"egress": []}}, "/networkPolicy", "'egress' not allowed"),
    ({"service": {"ports": []}}, "/service", "'ports' not allowed"),
    ({"ingress": {"host": "a"}}, "/ingress", "'host' not allowed"),
    ({"ingress": {"tls": [{"secret": "a"}]}}, "/ingress/tls/0", "'secret' not allowed"),
    ({"httpRoute": {"hosts": []}}, "/httpRoute", "'hosts' not allowed"),
    ({"serviceMonitor": {"path": "/"}}, "/serviceMonitor", "'path' not allowed"),
    ({"prometheusRule": {"rules": []}}, "/prometheusRule", "'rules' not allowed"),
    ({"serviceAccount": {"automount": True}}, "/serviceAccount", "'automount' not allowed"),
    # A wrong sort of value.
    ({"replicas": "three"}, "/replicas", "got string, want integer"),
    ({"replicas": 2.5}, "/replicas", "want integer"),
    ({"workers": True}, "/workers", "got boolean, want integer"),
    ({"config": "backends: {}"}, "/config", "got string, want object"),
    ({"config": {"backends": ["a"]}}, "/config/backends", "got array, want object"),
    ({"config": {"models": {"a": "b"}}}, "/config/models/a", "got string, want object"),
    ({"rolloutOnConfigChange": "yes"}, "/rolloutOnConfigChange", "got string, want boolean"),
    ({"env": {"A": 1}}, "/env/A", "got number, want string"),
    ({"secretEnv": {"A": "plain"}}, "/secretEnv/A", "got string, want object"),
    ({"adminKey": {"existingSecret": "admin"}}, "/adminKey/existingSecret", "got string, want object"),
    ({"shutdown": {"grace": "15m"}}, "/shutdown/grace", "got string, want number"),
    ({"podLabels": {"a": 1}}, "/podLabels/a", "got number, want string"),
    ({"networkPolicy": {"from": {}}}, "/networkPolicy/from", "got object, want array"),
    ({"ingress": {"hosts": "a.example.com"}}, "/ingress/hosts", "got string, want array"),
    ({"extraVolumes": [{}]}, "/extraVolumes/0", "missing property 'name'"),
    ({"extraVolumeMounts": [{"name": "a"}]}, "/extraVolumeMounts/0", "missing property 'mountPath'"),
    ({"extraObjects": [3]}, "/extraObjects/0", "got number"),
    ({"secretEnv": {"A": {"name": "a"}}}, "/secretEnv/A", "missing property 'key'"),
    # Out of range, or not one of those that there are.
    ({"replicas": 0}, "/replicas", "minimum: got 0, want 1"),
    ({"workers": 0}, "/workers", "minimum: got 0, want 1"),
    ({"workers": 1000}, "/workers", "maximum: got 1,000, want"),
    ({"bindAddress": "localhost"}, "/bindAddress", "does not match pattern"),
    ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy", "value must be one of 'Always', 'IfNotPresent'"),
    ({"image": {"digest": "latest"}}, "/image/digest", "does not match pattern"),
    ({"image": {"tag": "a b"}}, "/image/tag", "does not match pattern"),
    ({"env": {"a-b": "c"}}, "", "invalid propertyName 'a-b'"),
    ({"store": {"url": "http://redis"}}, "/store/url", "does not match pattern"),
    ({"shutdown": {"pause": -1}}, "/shutdown/pause", "minimum: got -1, want 0"),
    ({"shutdown": {"grace": 100000}}, "/shutdown/grace", "maximum: got 100,000, want 86,400"),
    ({"probes": {"readiness": {"periodSeconds": 0}}}, "/probes/readiness/periodSeconds", "minimum: got 0, want 1"),
    ({"autoscaling": {"hpa": {"openCalls": 0}}}, "/autoscaling/hpa/openCalls", "minimum: got 0, want 1"),
    ({"autoscaling": {"keda": {"serverAddress": "prom"}}}, "/autoscaling/keda/serverAddress", "does not match pattern"),
    ({"podDisruptionBudget": {"maxUnavailable": "half"}}, "/podDisruptionBudget/maxUnavailable", "oneOf"),
    ({"topologySpread": {"whenUnsatisfiable": "Never"}}, "/topologySpread/whenUnsatisfiable", "value must be one of"),
    ({"networkPolicy": {"storePorts": [70000]}}, "/networkPolicy/storePorts/0", "maximum: got 70,000, want 65,535"),
    ({"service": {"type": "ExternalName"}}, "/service/type", "value must be one of"),
    ({"service": {"port": 0}}, "/service/port", "minimum: got 0, want 1"),
    ({"ingress": {"hosts": ["https://a"]}}, "/ingress/hosts/0", "does not match pattern"),
    ({"serviceMonitor": {"interval": "often"}}, "/serviceMonitor/interval", "does not match pattern"),
    ({"prometheusRule": {"firstToken": 0}}, "/prometheusRule/firstToken", "exclusiveMinimum: got 0, want 0"),
]


@pytest.mark.parametrize(("values", "where", "told"), WRONG, ids=[f"{where or '/'} {told}" for _, where, told in WRONG])
def test_a_value_that_the_schema_does_not_know_is_refused_with_its_path(values, where, told):
    """Whoever mistyped it learns so now, and not from a gateway that runs without it."""
    said = refused(values, named("least"))

    assert any(line.lstrip(" -").startswith(f"at '{where}'") and told in line for line in said.splitlines()), said


@pytest.mark.parametrize("refusal", REFUSED, ids=[refusal["told"].partition(";")[0] for refusal in REFUSED])
def test_values_that_do_not_go_together_are_refused_in_one_sentence(refusal):
    """That one and no other: what is wrong, where, and what would be right."""
    assert mistakes(refusal) == [refusal["told"]]


def test_every_mistake_is_told_at_once():
    """Not one after the other, an upgrade each."""
    values = {
        "adminKey": {"existingSecret": {"name": ""}},
        "store": {"existingSecret": {"name": ""}},
        "podDisruptionBudget": {"maxUnavailable": 0},
        "config": {"backends": {"gpu": {"api_key": "x"}}},
    }

    assert [line.partition(":")[0] for line in mistakes({"values": values})] == [
        "adminKey.existingSecret.name",
        "config.backends.gpu.api_key",
        "store",
        "podDisruptionBudget.maxUnavailable",
    ]


ROOM = ["1400Mi", "1.4Gi", "1468006400", 1468006400, "1.5e9", "2G", "1T", "1468006400000m", "1Ei", None]
LITTLE = ["1399Mi", "1.3Gi", "1468006399", 1468006399, "1.4e9", "1400M", "1400000Ki", "1468006399999m", "1.3E9", 0.5]


@pytest.mark.parametrize("memory", ROOM + LITTLE, ids=str)
def test_memory_that_holds_no_four_workers_is_refused(memory):
    """However it is written; a pod without a limit has the node's."""
    values = {"workers": 4, "resources": {"limits": {"memory": memory}}}

    if memory in ROOM:
        assert template(named("least"), values=values).code == 0
    else:
        (told,) = mistakes({"values": values})
        assert told.startswith("resources.limits.memory: ")


def test_a_proxy_that_something_goes_by_is_taken():
    """A backend that says so, or the traces; NO_PROXY alone changes nothing."""
    proxy = {"env": {"HTTPS_PROXY": "http://proxy.example.com:3128", "NO_PROXY": ".svc"}}
    backend = merged(named("least"), "config", "backends", "gpu", "transport", value="httpx")
    traces = merged(named("least"), "config", "telemetry", value={"otlp_endpoint": "https://otlp.example.com"})

    for values in (backend | proxy, traces | proxy, merged(named("least"), "env", value={"NO_PROXY": ".svc"})):
        assert template(values=values).code == 0


def sentences():
    """Yield every sentence of the templates that refuses, as a pattern of what it says."""
    for line in (CHART / "templates" / "_mistakes.tpl").read_text().splitlines():
        if line.startswith("- "):
            fixed = re.split(r"\s*{{-.*?-}}\s*|{{.*?}}", line.removeprefix("- "))
            yield ".*".join(map(re.escape, fixed))


def test_every_sentence_that_refuses_has_been_seen():
    """A new one comes with a test; and there is one place that refuses."""
    told = [refusal["told"] for refusal in REFUSED]
    places = {path.name: path.read_text() for path in CHART.glob("templates/**/*.*")}

    assert len(list(sentences())) >= 20
    assert [pattern for pattern in sentences() if not any(re.fullmatch(pattern, line) for line in told)] == []
    assert [name for name, text in places.items() if re.search(r"({{-? *|[|(] *)(fail|required)\b", text)] == [
        "validate.yaml"
    ]
