"""Every file of values, ours and the chart's examples: linted, rendered, and held to what a cluster takes."""

import difflib
from collections import Counter

import pytest
import yaml

from tests.helm import shapes
from tests.helm.charts import (
    CHART,
    EXAMPLES,
    KUBERNETES,
    NAMESPACE,
    RELEASE,
    VALUES,
    merged,
    named,
    read,
    render,
    template,
    value_files,
)
from tests.helm.leaves import leaves
from tests.helm.renew import COMMAND, KEPT, kept, rendered
from tests.parts.helm import HELM_3, helm

pytestmark = pytest.mark.ci

every_file = pytest.mark.parametrize("file", value_files(), ids=lambda file: file.stem)


def nulls(value, path=""):
    """Yield the path of every null in an object."""
    if value is None:
        yield path
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from nulls(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from nulls(inner, f"{path}[{number}]")


@every_file
def test_helm_finds_nothing_to_say_of_it(file):
    """Not even advice."""
    ended = helm("lint", "--strict", str(CHART), "--values", str(file))

    assert ended.code == 0, ended.output
    assert "[WARNING]" not in ended.output + ended.errors


@every_file
def test_each_object_is_what_every_supported_kubernetes_takes(file):
    """Strictly: a field that a version does not know is a mistake there. Foreign kinds have shapes of our own."""
    wrong = {
        version: [told for item in render(file) for told in shapes.faults(item, version)] for version in KUBERNETES
    }

    assert wrong == {version: [] for version in KUBERNETES}


@every_file
def test_it_renders_alike_on_every_supported_kubernetes_and_by_both_helms(file):
    """So what is checked of one render is true of all; the chart asks nothing of the cluster it comes to."""
    newest = template(file)

    assert template(file, kube_version=KUBERNETES[0]) == newest
    assert template(file, package=HELM_3) == newest


@every_file
def test_no_object_stands_twice_and_none_says_null(file):
    """Two objects of one name would overwrite one another; a null is a value that a template lost."""
    objects = render(file)
    names = Counter((item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in objects)

    assert [name for name, times in names.items() if times > 1] == []
    assert [path for item in objects for path in nulls(item, item["kind"])] == []


@every_file
def test_every_object_of_the_chart_says_whose_it_is(file):
    """By the labels that Kubernetes recommends, which tell it from what else is in the namespace."""
    extra = len(yaml.safe_load(file.read_text()).get("extraObjects", []))
    own = [item for item in read(template(file).output) if "helm.sh/chart" in item["metadata"].get("labels", {})]

    assert len(own) == len(render(file)) - extra
    for item in own:
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == RELEASE
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert item["metadata"].get("namespace", NAMESPACE) == NAMESPACE


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_render_is_what_the_chart_gives(name):
    """A change of it is seen by whoever reviews it."""
    before, now = kept(name).read_text(), rendered(name)
    told = difflib.unified_diff(
        before.splitlines(), now.splitlines(), f"{name}, kept", f"{name}, now", lineterm="", n=2
    )

    assert before == now, "\n".join([f"where this is meant: {COMMAND}", *told])


def test_a_cluster_older_than_the_oldest_is_refused():
    """Its API would refuse objects one by one, and leave the others."""
    assert "incompatible with Kubernetes" in template(named("least"), kube_version="1.28").errors
    assert KUBERNETES[0] in yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]


def test_every_value_has_been_tried_with_something_else_than_its_default():
    """A switch that no file turns has not been tested."""
    tried = [yaml.safe_load(file.read_text()) for file in value_files()]
    untried = [leaf.path for leaf in leaves() if not any(leaf.within(values, leaf.default) for values in tried)]

    assert len(value_files()) >= 12
    assert {file.parent for file in value_files()} == {VALUES, EXAMPLES}
    assert untried == []


def test_a_fault_in_an_object_is_found():
    """Else all of the above would prove nothing: a wrong type, an unknown field, and a kind that nobody knows."""
    broken = merged(named("least"), "podSecurityContext", value={"runAsUser": "root", "runAsUsr": 1})
    route = merged(named("route"), "httpRoute", "parentRefs", value=[{"nme": "public"}])
    alien = merged(named("least"), "extraObjects", value=[{"apiVersion": "x.io/v1", "kind": "Odd", "metadata": {}}])
    told = "\n".join(
        fault
        for values in (broken, route, alien)
        for item in render(values=values)
        for fault in shapes.faults(item, KUBERNETES[0])
    )

    assert "Deployment $.spec.template.spec.securityContext.runAsUser: 'root' is not of type" in told
    assert "('runAsUsr' was unexpected)" in told
    assert "HTTPRoute $.spec.parentRefs[0]: Additional properties are not allowed ('nme' was unexpected)" in told
    assert "Odd of x.io/v1: Kubernetes 1.29 knows no such kind" in told


def test_a_key_that_stands_twice_is_found():
    """A cluster's API refuses such an object."""
    with pytest.raises(yaml.YAMLError, match=r"twice in one mapping: \['a'\]"):
        read("a: 1\nb: {c: 1}\na: 2\n")


def test_a_field_is_taken_from_the_version_on_that_knows_it():
    """So that each version is held to its own schemas."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}
    pod["spec"] = {"containers": [], "hostnameOverride": "b"}

    assert [version for version in KUBERNETES if not shapes.faults(pod, version)] == ["1.34", "1.35", "1.36"]
