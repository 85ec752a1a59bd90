"""What is measured, scaled by and alarmed of, held to a gateway that runs."""

import asyncio
import re
import shlex

import httpx
import pytest

from gateway import server
from gateway.attempts import CUT
from gateway.cli import COMMANDS, main
from gateway.config.settings import StoreSettings
from gateway.workers.merging import OWN
from policies.rejections import Reason
from tests.gateway.harness import settings
from tests.helm.charts import EXAMPLES, NAMESPACE, merged, named, notes, render, value_files
from tests.parts.gateway import STORE_DEADLINE
from tests.parts.scripted import ScriptedServer

pytestmark = pytest.mark.ci

every_file = pytest.mark.parametrize("file", value_files(), ids=lambda file: file.stem)
SCRAPED = {"namespace", "pod", "service"}
"""Labels that the Prometheus operator gives to what a ServiceMonitor has scraped."""

CLOSED = {"reason": set(Reason), "cause": {CUT}}
"""Values of labels that a selector may name."""


async def measured(folder):
    """Run a gateway; return its answer to `/metrics`, and the labels of each sample that it could tell."""
    store = StoreSettings("embedded", folder / "data", deadline=STORE_DEADLINE)
    async with ScriptedServer() as upstream:
        started = await server.start(settings(folder, {"a": upstream}, store=store))
        try:
            async with httpx.AsyncClient(base_url=started.operations_url) as operations:
                assert [(await operations.get(path)).status_code for path in ("/livez", "/readyz")] == [200, 200]
                text = (await operations.get("/metrics")).text
            metrics = started.gateway.services.metrics.registry._collector_to_names
            return text, {name: set(metric._labelnames) for metric, names in metrics.items() for name in names}
        finally:
            await started.stop()


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Tell the labels of every sample that a running gateway or a supervisor has, by its name."""
    text, labels = asyncio.run(measured(tmp_path_factory.mktemp("gateway")))
    of_backends = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) - labels.keys()
    assert all(name.startswith(("sluiceway_backend_", "sluiceway_engine_")) for name in of_backends)
    return labels | {name: {"backend"} for name in of_backends} | {name: {"worker"} for name in OWN}


def expressions(objects):
    """Yield every PromQL expression of a render."""
    for item in objects.all("PrometheusRule"):
        yield from (rule["expr"] for group in item["spec"]["groups"] for rule in group["rules"])
    for item in objects.all("ScaledObject"):
        yield from (trigger["metadata"]["query"] for trigger in item["spec"]["triggers"])


def selectors(expression):
    """Return the selectors of an expression; ValueError where it is none that Prometheus would take."""
    import promql_parser  # the default lane reads this file without it

    found = []

    def visit(part):
        if isinstance(part, promql_parser.VectorSelector):
            found.append(part)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


WATCHED = ["watched", "workers", "keda", "mistral-medium"]


@pytest.mark.parametrize("name", WATCHED)
def test_every_expression_asks_for_what_a_gateway_tells(name, known):
    """A metric that is misspelt is no error to Prometheus: the alarm never rings and nothing is scaled."""
    asked = [selector for expression in expressions(render(named(name))) for selector in selectors(expression)]

    assert asked
    for selector in asked:
        told = selector.name.removesuffix("_bucket")
        assert told in known, f"no gateway tells {selector.name}"
        for label in selector.matchers.matchers:
            assert label.name in known[told] | SCRAPED | {"cluster"}, f"{selector.name} has no label {label.name}"
            assert set(label.value.split("|")) <= CLOSED.get(label.name, {label.value})


@pytest.mark.parametrize("name", WATCHED)
def test_what_an_alarm_is_told_by_is_a_label_of_its_metric(name, known):
    """`by (backend)` of a metric without such a label would make one alarm of all, without a name."""
    for expression in expressions(render(named(name))):
        by = {word for words in re.findall(r"by \(([^)]*)\)", expression) for word in words.replace(",", " ").split()}
        labels = set().union(*(known[selector.name.removesuffix("_bucket")] for selector in selectors(expression)))

        assert by <= labels | SCRAPED | {"le"}


@pytest.mark.parametrize("name", ["hpa", "redis-cluster"])
def test_what_kubernetes_scales_by_is_told_by_every_gateway(name, known):
    """Without labels: an average over pods is of one figure a pod."""
    metrics = render(named(name)).one("HorizontalPodAutoscaler")["spec"]["metrics"]

    assert [known[of["pods"]["metric"]["name"]] for of in metrics] == [set(), set()]


def test_a_fault_in_an_expression_is_found():
    """By the parser, which knows what each function takes."""
    for broken in ("sum(rate(sluiceway_requests_total[5m])", "rate(sluiceway_requests_total)", "max by pod (x)"):
        with pytest.raises(ValueError, match=r".+"):
            selectors(broken)


@pytest.mark.parametrize("name", ["watched", "mistral-medium"])
def test_series_are_those_of_this_release(name):
    """By namespace and by the Service that is scraped: two releases in one Prometheus do not ring for one another."""
    objects = render(named(name))
    (service,) = (item for item in objects.all("Service") if item["metadata"]["name"].endswith("-operations"))
    own = {("namespace", NAMESPACE), ("service", service["metadata"]["name"])}

    for expression in expressions(objects):
        for selector in selectors(expression):
            if "cost" not in selector.name:  # our own further rule
                assert own <= {(label.name, label.value) for label in selector.matchers.matchers}


def rules(objects):
    """Return the alerts of a render by name."""
    return {
        rule["alert"]: rule
        for item in objects.all("PrometheusRule")
        for group in item["spec"]["groups"]
        for rule in group["rules"]
    }


def test_alarms_say_what_to_do_and_know_their_bounds():
    """And none tells of workers where there are none."""
    watched, workers = rules(render(named("watched"))), rules(render(named("workers")))

    assert len(watched) >= 10
    assert all(
        len(rule["annotations"]["description"]) > 80 for name, rule in watched.items() if name != "SluicewayCostly"
    )
    assert {rule["labels"]["severity"] for rule in watched.values()} == {"info", "warning", "critical"}
    assert watched["SluicewayFirstTokenSlow"]["expr"].endswith("> 2.5")
    assert watched["SluicewayCallsWait"]["expr"].endswith("> 10")
    assert workers.keys() - watched.keys() == {"SluicewayWorkersEnd"}
    for kind in ("PrometheusRule", "ServiceMonitor"):
        assert render(named("watched")).one(kind)["metadata"]["labels"]["release"] == "prometheus"


def test_whoever_reads_that_workers_end_is_not_led_to_the_memory_limit():
    """On cgroup v2 a pod that is out of memory ends whole, its supervisor included, and no worker is counted."""
    told = rules(render(named("workers")))["SluicewayWorkersEnd"]["annotations"]["description"]

    assert "OOMKilled" in told
    assert "mostly" not in told


def commands(text):
    """Return the words of each `sluiceway` command that a text tells, without what is not literal."""
    joined = text.replace("\\\n", " ")
    told = re.findall(r"`sluiceway ([^`]+)`", joined) + re.findall(
        r"^.*(?:^|\s)sluiceway ([a-z]+ .*)$", joined, re.MULTILINE
    )
    return [shlex.split(command) for command in told]


@every_file
def test_each_command_that_is_told_exists(file):
    """In NOTES and in alarms: whoever is woken at night copies it."""
    said = notes(file) + "\n".join(rule["annotations"]["description"] for rule in rules(render(file)).values())
    told = commands(said)

    assert len(told) >= 2
    for words in told:
        assert words[0] in COMMANDS
        command = main.get_command(None, words[0])
        if len(words) > 1 and hasattr(command, "commands"):
            assert words[1] in command.commands
            command = command.commands[words[1]]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options


WARNINGS = {
    "least": set(),
    "bundled": {"valkey.enabled is for trials"},
    "trial": {"valkey.enabled is for trials", "one replica"},
    "single": {"the embedded store is in the pod", "one replica", "shutdown.cutLongerCalls"},
    "hpa": {"nobody serves custom.metrics.k8s.io"},
    "mistral-medium": set(),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_whoever_installs_it_is_warned_of_what_it_does_not_keep(name):
    """And of nothing else: a warning that is always there is not read."""
    said = notes(named(name), values={"image": {"repository": "registry.example.com/sluiceway"}})
    warned = re.findall(r"^WARNING: ([^:,\n]*?)(?=[:,.]? |$)", said, re.MULTILINE)

    assert said.count("WARNING") == len(WARNINGS[name]), warned
    assert all(f"WARNING: {text}" in said or f"WARNING: {text}" in said.replace("\n", " ") for text in WARNINGS[name])


def test_an_image_that_most_nodes_cannot_pull_is_told_of():
    """None is published: by the values' own name it is only where somebody has built it or put it."""
    warning = "WARNING: image.repository names no registry"

    assert f"{warning}, so nodes that do not have sluiceway:" in notes(named("least"))
    assert warning not in notes(named("mirrored"))


def test_a_command_in_an_example_names_an_image_that_can_be_pulled():
    """It is copied as it stands."""
    installs = [
        line for path in EXAMPLES.glob("*.yaml") for line in path.read_text().splitlines() if "helm install" in line
    ]

    assert installs
    assert [line for line in installs if "--set image.repository=registry.example.com/sluiceway" not in line] == []


def test_whoever_comes_by_a_proxy_unseen_is_told_of():
    """Without `trusted_proxies` every caller has the proxy's address."""
    values = merged(named("ingress"), "config", "listen", value={})

    assert "config.listen.trusted_proxies" in notes(values=values)
    assert "config.listen.trusted_proxies" not in notes(named("ingress"))


def test_a_route_to_a_gateway_that_speaks_tls_is_told_what_it_lacks():
    """An HTTPRoute cannot say that its backends speak TLS: its Gateway would speak plain text to them."""
    values = merged(named("tls"), "httpRoute", value={"enabled": True, "parentRefs": [{"name": "public"}]})

    assert "add a BackendTLSPolicy for the\nService gate-sluiceway" in notes(values=values)
    assert "BackendTLSPolicy" not in notes(named("tls")) + notes(named("route"))


def test_notes_lead_to_the_address_that_callers_use():
    """The ingress' or the route's where there is one, else a forwarded port."""
    assert "https://llm.example.com/v1/models" in notes(named("ingress"))
    assert "https://llm.example.com/v1/models" in notes(named("route"))
    assert "port-forward service/gate-sluiceway 8600:8600" in notes(named("least"))
