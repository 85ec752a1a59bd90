"""The gateway's file as the chart writes it, read by the gateway itself."""

import os
import re

import pytest
import yaml
from click.testing import CliRunner

from gateway.cli import main
from gateway.config import load
from gateway.reloading import attainable
from tests.helm.charts import EXAMPLES, merged, named, render, value_files
from tests.helm.pods import ADMIN_KEY, STORE_URL, container, environment, gateway, laid_out, written

pytestmark = pytest.mark.ci

every_file = pytest.mark.parametrize("file", value_files(), ids=lambda file: file.stem)


@every_file
def test_the_gateway_finds_nothing_wrong_with_it(file, tmp_path, monkeypatch):
    """With the variables that the pod gives it and no others."""
    objects = render(file)
    path = laid_out(objects, tmp_path)
    for name in list(os.environ):
        monkeypatch.delenv(name)

    checked = CliRunner().invoke(main, ["check", "--config", str(path)], env=environment(objects))

    assert checked.exit_code == 0, checked.output


@every_file
def test_what_is_the_charts_is_as_it_says_and_the_rest_is_word_for_word(file, tmp_path):
    """Nothing of `config` is lost or changed on the way; numbers stay numbers, however large or small."""
    objects, values = render(file), yaml.safe_load(file.read_text())
    settings = load(laid_out(objects, tmp_path), environment(objects))
    found = yaml.safe_load(written(objects))
    owned = {"operations", "admin", "admin_key", "shutdown"}

    assert {*found} - owned - {"listen", "store"} == {*values["config"]} - {"listen", "store"}
    for name in {*values["config"]} - {"listen", "store"}:
        assert alike(found[name], values["config"][name]), name
    for name in ("listen", "store"):
        own = set(values["config"].get(name, {}))
        assert {key: found[name][key] for key in own} == values["config"].get(name, {})
        assert {*found[name]} - own == {"listen": {"host", "port"}, "store": {"url", "data_dir"}}[name]
    assert settings.admin_key == ADMIN_KEY
    assert settings.admin_on == "operations"
    assert settings.listen.host == settings.operations.host == values.get("bindAddress", "0.0.0.0")
    assert settings.shutdown.grace == values.get("shutdown", {}).get("grace", 900)


def alike(found, given):
    """Say whether two values are one, where a small number may be written as text: YAML would say 1e-06."""
    if isinstance(given, dict):
        return found.keys() == given.keys() and all(alike(found[key], given[key]) for key in given)
    if isinstance(given, list):
        return len(found) == len(given) and all(map(alike, found, given))
    return found == given or (isinstance(given, float) and float(found) == given)


def test_small_numbers_arrive(tmp_path):
    """Prices and the value of time are small: the gateway's file takes no powers of ten."""
    objects = render(named("tokens"))
    (model,) = load(laid_out(objects, tmp_path), environment(objects)).models

    assert re.search(r"\de[+-]?\d", written(objects)) is None
    assert model.deployments[0].price.input == 2  # pico-dollars a token: USD 0.000002 a million


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("least", STORE_URL),
        ("bundled", "redis://trial-valkey:6379/0"),
        ("single", "embedded"),
        ("cluster", "rediss+cluster://sluiceway:of-a-secret@redis-0.example.com:6380,redis-1.example.com:6380"),
        ("sentinels", "redis+sentinel://sentinel-0.valkey:26379,sentinel-1.valkey:26379/main/0"),
    ],
)
def test_the_store_is_the_one_that_was_named(name, url, tmp_path):
    """By a Secret, by the value, or the trial's own."""
    objects = render(named(name))

    assert load(laid_out(objects, tmp_path), environment(objects)).store.url == url


@every_file
def test_no_secret_is_in_any_object(file):
    """The chart makes none and is given none: what is secret comes from Secrets that exist."""
    objects = render(file)

    assert list(objects.all("Secret")) == []
    for variable in container(objects)["env"]:
        if re.search("KEY|PASS|TOKEN|SECRET|STORE_URL", variable["name"]):
            assert set(variable["valueFrom"]["secretKeyRef"]) == {"name", "key"}


@every_file
def test_each_variable_is_provided_once(file):
    """A name that stands twice would hide the first."""
    names = [variable["name"] for variable in container(render(file))["env"]]

    assert len(names) == len(set(names))


def checksum(values):
    """Return what the pods carry of the file: a change of it restarts them."""
    return gateway(render(values=values))["metadata"]["annotations"]["checksum/config"]


CHANGES = {
    "backends": {"other": {"kind": "vllm", "base_url": "http://other.engines.svc:8000/v1"}},
    "plans": {"lab": {"tokens_per_day": 1000}},
    "limits": {"open_calls": 10},
    "store.when_down": "local",
    "store.deadline": 1,
    "listen.trusted_proxies": ["10.0.0.0/8"],
    "listen.cors": ["https://app.example.org"],
    "telemetry": {"sample": 0.5},
}
AT_A_RESTART = {"store.deadline", "listen.trusted_proxies", "telemetry"}


@pytest.mark.parametrize("setting", CHANGES)
def test_the_pods_are_restarted_by_what_a_gateway_cannot_take_running(setting, tmp_path):
    """And by nothing else, but where every change is to restart them. The gateway itself says which are which."""
    before = yaml.safe_load(named("least").read_text())
    after = merged(named("least"), "config", *setting.split("."), value=CHANGES[setting])
    loaded = []
    for number, values in enumerate((after, before)):
        folder = tmp_path / str(number)
        folder.mkdir()
        objects = render(values=values)
        loaded.append(load(laid_out(objects, folder), environment(objects)))
    _, waiting = attainable(*loaded)

    assert bool(waiting) is (setting in AT_A_RESTART)
    assert (checksum(after) != checksum(before)) is (setting in AT_A_RESTART)
    assert checksum({**after, "rolloutOnConfigChange": True}) != checksum({**before, "rolloutOnConfigChange": True})


def test_another_certificate_restarts_nobody_and_the_first_one_does():
    """A file is read anew; whether there is TLS at all is of the socket."""
    plain, other = yaml.safe_load(named("tls").read_text()), yaml.safe_load(named("tls").read_text())
    del plain["config"]["listen"]
    other["config"]["listen"]["tls"]["cert"] = "/etc/callers-tls/other.crt"

    assert checksum(other) == checksum(yaml.safe_load(named("tls").read_text())) != checksum(plain)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("replicas",), 7),
        (("podLabels",), {"a": "b"}),
        (("service", "port"), 80),
        (("resources",), {}),
        (("env",), {"A": "b"}),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("every", [False, True], ids=["where it must", "at every change"])
def test_what_is_not_of_the_file_leaves_the_checksum(path, value, every):
    """A change of the number of pods restarts none."""
    before = {**yaml.safe_load(named("least").read_text()), "rolloutOnConfigChange": every}
    after = {**merged(named("least"), *path, value=value), "rolloutOnConfigChange": every}

    assert checksum(after) == checksum(before)


def test_the_same_values_give_the_same_pods():
    """Two renders of one file: else every upgrade would restart everything."""
    once, again = (gateway(render(named("workers"), namespace=name)) for name in ("models", "others"))

    assert once == again


def test_the_examples_are_those_that_are_promised():
    """Own replicas that spill over to the hosted endpoint, a cluster, Sentinels, a trial."""
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} >= {"mistral-medium", "redis-cluster", "sentinel", "trial"}
    example = yaml.safe_load(written(render(named("mistral-medium"))))
    (model,) = example["models"].values()
    first, second = (example["backends"][of["backend"]] for of in model["deployments"])

    assert first["kind"] == "vllm"
    assert first["discover"] == "dns"
    assert second["kind"] == "nvidia"
