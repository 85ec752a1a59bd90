"""What runs: each pod of the chart, how little it may do, and whether it asks the gateway what the gateway answers."""

import math
import re
import shutil

import pytest
import yaml

from gateway.api.guards import OPEN_PATHS
from gateway.cli import main
from gateway.config import load
from gateway.config.settings import Shutdown
from gateway.workers.crew import LAST
from tests.helm.charts import CHART, merged, named, render, value_files
from tests.helm.pods import container, environment, gateway, laid_out, pods, written

pytestmark = pytest.mark.ci

every_file = pytest.mark.parametrize("file", value_files(), ids=lambda file: file.stem)
SETTLING = 5
"""Seconds that are at least left once a supervisor has killed a worker that did not end in time."""


@every_file
def test_every_pod_may_do_as_little_as_there_is(file):
    """Its user is not root, nothing can be written but in its volumes, and Kubernetes is not for it to ask."""
    objects = render(file)

    for pod in pods(objects):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context.get("runAsUser", 10001) != 0  # without one, OpenShift gives it
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert not any("hostPath" in volume for volume in pod.get("volumes", []))
        for running in pod["containers"] + pod.get("initContainers", []):
            assert (
                running["securityContext"].items()
                >= {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }.items()
            )
            assert running["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in running["resources"]["limits"]
            assert ":" in running["image"].rpartition("/")[2]
            assert not running["image"].endswith(":latest")
    for account in objects.all("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_the_pods_are_more_than_the_gateways():
    """So that the rules above are held to by the trial's store and by `helm test` as well."""
    assert len(list(pods(render(named("bundled"))))) == 3


def test_an_upgrade_of_the_gateway_leaves_the_trials_store_alone(tmp_path):
    """Its data is in its pod: a template that named the gateway's or the chart's version would end it at an upgrade."""
    newer = shutil.copytree(CHART, tmp_path / "sluiceway")
    text = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(re.sub(r"(?m)^(version|appVersion): .*$", r'\1: "9.8.7"', text))
    before, after = render(named("bundled")), render(named("bundled"), chart=newer)
    store = before.one("Deployment", "trial-valkey")["spec"]

    assert after.one("Deployment", "trial-valkey")["spec"] == store
    assert store["template"]["metadata"]["labels"]["app.kubernetes.io/version"] == "9.0"
    assert gateway(after) != gateway(before)


def test_the_trials_store_may_be_of_any_tag():
    """A label takes fewer letters than a tag, and no dash at its end."""
    values = merged(named("bundled"), "valkey", "image", "tag", value="8.1_" + "x" * 58 + "-alpine")
    labels = render(values=values).one("Deployment", "trial-valkey")["spec"]["template"]["metadata"]["labels"]

    assert re.fullmatch(r"[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?", labels["app.kubernetes.io/version"])


@every_file
def test_probes_and_ports_are_the_gateways_own(file, tmp_path):
    """Each port that is named is one that the file has it listen on, and each path one that it answers to anybody."""
    objects = render(file)
    settings = load(laid_out(objects, tmp_path), environment(objects))
    running = container(objects)
    ports = {port["name"]: port["containerPort"] for port in running["ports"]}

    assert ports == {"callers": settings.listen.port, "operations": settings.operations.port}
    asked = {name: running[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {get["port"] for get in asked.values()} == {"operations"}
    assert asked["readiness"]["path"] == "/readyz"
    assert asked["startup"]["path"] == asked["liveness"]["path"] == "/livez"
    assert {get["path"] for get in asked.values()} <= OPEN_PATHS
    assert not any("scheme" in get for get in asked.values())  # the operations port speaks no TLS


@every_file
def test_the_command_is_one_that_the_gateway_knows(file):
    """Its arguments are read by the command itself, and none is a credential."""
    name, *arguments = container(render(file))["args"]
    command = main.get_command(None, name)
    given = command.make_context(name, list(arguments)).params

    assert str(given["config"]) == "/etc/sluiceway/sluiceway.yaml"
    assert given["data_dir"] is None
    assert given.get("workers") in (None, 1, yaml.safe_load(file.read_text()).get("workers"))


@every_file
def test_kubernetes_kills_only_what_has_had_its_pause_and_its_grace(file, tmp_path):
    """What is open then has been told, what was counted is settled, and a supervisor has ended those that hang."""
    objects = render(file)
    told = yaml.safe_load(written(objects))["shutdown"]
    stop = Shutdown(**told)
    least = math.ceil(stop.pause + stop.grace + LAST) + SETTLING

    assert gateway(objects)["spec"]["terminationGracePeriodSeconds"] >= least
    assert "lifecycle" not in container(objects)  # the pause is the gateway's own: the image has no shell to sleep in


@every_file
def test_the_pause_outlasts_what_the_readiness_probe_takes_to_notice(file):
    """Else calls would still be sent to a gateway that turns them away."""
    objects = render(file)
    probe, pause = container(objects)["readinessProbe"], yaml.safe_load(written(objects))["shutdown"]["pause"]

    assert pause > probe["periodSeconds"] * probe["failureThreshold"]


@every_file
def test_what_is_written_goes_to_volumes_of_the_pod(file):
    """The journal and /tmp: the root cannot be written. The file is a directory's mount, whose change is seen."""
    objects = render(file)
    mounts = {mount["mountPath"]: mount for mount in container(objects)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in gateway(objects)["spec"]["volumes"]}

    for place in (yaml.safe_load(written(objects))["store"]["data_dir"], "/tmp"):
        assert volumes[mounts[place]["name"]]["emptyDir"] == {}
    assert not any("subPath" in mount for mount in mounts.values())
    assert all(mount["name"] in volumes for mount in mounts.values())


def test_the_image_is_the_charts_own_version_by_itself():
    """And by digest, where one is named: no registry can then give another."""
    assert container(render(named("least")))["image"] == "sluiceway:0.1.0"
    mirrored = render(named("mirrored"))

    assert container(mirrored)["image"].startswith("registry.example.com:5000/team/sluiceway:1.2.3@sha256:0123")
    for pod in pods(mirrored):
        assert [secret["name"] for secret in pod["imagePullSecrets"]] == ["registry", "other-registry"]


def test_workers_are_asked_for_only_where_there_are_several():
    """One needs no supervisor."""
    assert "--workers" not in container(render(named("least")))["args"]
    arguments = container(render(named("workers")))["args"]

    assert arguments[arguments.index("--workers") + 1] == "4"


def test_openshift_gives_the_user():
    """A null takes a default away, and what is left still says non-root."""
    context = gateway(render(named("mirrored")))["spec"]["securityContext"]

    assert not {"runAsUser", "runAsGroup", "fsGroup"} & context.keys()
    assert context["runAsNonRoot"] is True


def test_a_pod_goes_where_it_is_told():
    """And carries what it is given, beside what is the chart's."""
    template, values = gateway(render(named("placed"))), yaml.safe_load(named("placed").read_text())

    for name in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert template["spec"][name] == values[name]
    assert template["metadata"]["labels"].items() >= values["podLabels"].items()
    assert template["metadata"]["annotations"].items() >= values["podAnnotations"].items()
    assert "checksum/config" in template["metadata"]["annotations"]


def test_the_account_is_made_or_named():
    """None is used that the chart neither made nor was told."""
    made, told = render(named("least")), render(named("mirrored"))

    assert gateway(made)["spec"]["serviceAccountName"] == made.one("ServiceAccount")["metadata"]["name"]
    assert list(told.all("ServiceAccount")) == []
    assert gateway(told)["spec"]["serviceAccountName"] == "gateways"


@pytest.mark.parametrize("release", ["gate", "sluiceway", "a" * 53])
def test_a_release_may_have_any_name(release):
    """Names are cut to what Kubernetes takes; those of one release differ, and all selectors still meet."""
    values = merged(named("bundled"), "fullnameOverride", value="")
    objects = render(values=values, release=release)

    assert all(len(item["metadata"]["name"]) <= 63 for item in objects)
    assert len({(item["kind"], item["metadata"]["name"]) for item in objects}) == len(objects)
    assert written(objects)
