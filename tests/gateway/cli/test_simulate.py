import gzip
import re
import sys

import pytest
from click.testing import CliRunner

from gateway.cli import main
from tests.gateway.cli.cells import cells

FILE = """\
backends:
  hosted: {kind: nvidia, base_url: http://h/v1, api_key: x, requests_per_minute: 36}
  gpu-a: {kind: vllm, base_url: http://a/v1}
  gpu-b: {kind: sglang, base_url: http://b/v1}
models:
  big:
    deployments:
      - {backend: gpu-a, model: m}
      - {backend: gpu-b, model: m}
      - {backend: hosted, model: m, price: {input: 1.5, output: 7.5}}
  small: {deployments: [{backend: gpu-b, model: s}]}
"""
SHORT = ("--calls", "120", "--seeds", "2")
MOONCAKE = '{"timestamp": %d, "input_length": 600, "output_length": 40, "hash_ids": [0, %d]}\n'


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "gateway.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture
def simulate(config):
    """Run `sluiceway simulate` over the file."""

    def run(*arguments):
        return CliRunner().invoke(main, ["simulate", "--config", str(config), *map(str, arguments)])

    return run


def figures(result):
    """Return the table as a dict: the figure's name and its cells."""
    assert result.exit_code == 0, result.output
    return {row[0]: row[1:] for row in cells(result.stdout) if len(row) > 1}


def test_the_fleet_of_the_file_is_simulated_as_it_is(simulate):
    """Without a change there is one column, and no talk of differences."""
    result = simulate(*SHORT)

    assert "big: 2 replicas of 8xH200, and hosted: 36 calls a minute, USD 1.5 / 7.5" in result.stdout
    assert "workload conversation" in result.stdout
    assert len(figures(result)["in time, %"]) == 1
    assert "difference" not in result.stdout


def test_what_was_assumed_is_told_with_every_answer(simulate):
    """A simulation that is believed too far does harm."""
    told = simulate(*SHORT).stdout

    assert "Nobody measured these machines" in told
    assert "25,000 tokens/s" in told
    assert "first token within max(2 s, prompt tokens / 5,000)" in told


def test_a_replica_more_meets_the_same_calls_and_serves_more_of_them_in_time(simulate):
    """The rate is the fleet's as it is: a larger one must not be given more work."""
    result = simulate("--load", 1.6, "--replicas", "+1", "--calls", 300, "--seeds", 3)
    before, after, difference = figures(result)["in time, %"]

    assert float(after) > float(before)
    assert re.fullmatch(r"\+[0-9.]+ \([+-][0-9.]+ to \+[0-9.]+\)", difference)
    assert "pays for itself" in result.stdout or "spares no money" in result.stdout


def test_the_same_question_has_the_same_answer(simulate):
    """The dice are the seed's."""
    assert simulate(*SHORT, "--replicas", "+1").stdout == simulate(*SHORT, "--replicas", "+1").stdout


def test_without_the_hosted_endpoint_nothing_is_paid(simulate):
    """And the load is still that of the fleet that there is."""
    result = simulate(*SHORT, "--load", 1.5, "--value-of-time", "0.05", "--without", "hosted")
    told = figures(result)

    assert "without hosted, 0.05 USD/s" in result.stdout
    assert float(told["cost of 1,000 calls, USD"][0]) > 0
    assert float(told["cost of 1,000 calls, USD"][1]) == 0


def test_another_policy_is_compared_over_the_fleet_as_it_is(simulate):
    """With the change beside it, if one is asked for."""
    result = simulate(*SHORT, "--policy", "random", "--policy", "lmetric", "--replicas", "+1")

    assert len(figures(result)["in time, %"]) == 7
    assert "by random" in result.stdout
    assert "by lmetric" in result.stdout


def test_how_many_replicas_there_are_can_be_said(simulate):
    """A backend that is discovered stands for any number."""
    result = simulate(*SHORT, "--replicas", 3, "--replicas", "+1", "--hardware", "4xH100", "--gateways", 2)

    assert "3 replicas of 4xH100" in result.stdout
    assert "2 gateways" in result.stdout
    assert "+1 replica" in result.stdout


def test_a_trace_is_told_by_its_content_and_may_be_compressed(simulate, tmp_path):
    """Whatever it is called."""
    path = tmp_path / "calls"
    path.write_bytes(gzip.compress("".join(MOONCAKE % (at * 100, at) for at in range(60)).encode()))
    result = simulate("--trace", path, "--seeds", 1)

    assert f"{path}: " in result.stdout
    assert "60 calls" in result.stdout
    assert "(one seed)" not in result.stdout
    assert "dice" not in result.stdout


def test_what_seeds_of_a_trace_say_is_told(simulate, tmp_path):
    """They all have its calls: an interval over dice alone must not be taken for one over days."""
    path = tmp_path / "calls"
    path.write_text("".join(MOONCAKE % (at * 100, at) for at in range(60)))
    asked = ("--seeds", 2, "--replicas", "+1")

    assert "only the dice of routing and of the hosted endpoint differ" in simulate("--trace", path, *asked).stdout
    assert "dice" not in simulate("--calls", 60, *asked).stdout


def test_a_bad_line_of_a_trace_is_told_with_its_number_and_what_would_be_right(simulate, tmp_path):
    """Exit 1, as for a file with mistakes."""
    path = tmp_path / "calls.jsonl"
    path.write_text(MOONCAKE % (0, 1) + "{}\n")
    result = simulate("--trace", path)

    assert result.exit_code == 1
    assert f"{path}:2: " in result.stderr
    assert '"hash_ids"' in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--replicas", "x"], "4 is how many there are, +1 is one more"),
        (["--replicas", "+1", "--replicas", "+2"], "one for how many more"),
        (["--replicas", "-2"], "--replicas -2 would make 0 of 2"),
        (["--value-of-time", "cheap"], "write USD such as 0.002"),
        (["--value-of-time", "-1"], "write USD such as 0.002"),
        (["--without", "gpu-z"], "it has hosted, gpu-a, gpu-b"),
        (["--model", "huge"], "it has big, small"),
        (["--model", "small", "--without", "gpu-b"], "no replica of your own would be left of small"),
        (["--model", "small", "--without", "gpu-a"], "does not serve small anyway; those that do: gpu-b"),
        (["--replicas", "4", "--without", "gpu-a"], "--replicas 4 --replicas -1"),
        (["--replicas", "999"], "1 to 64 are simulated"),
        (["--plot", "answer.pdf"], ".svg or .png"),
        (["--trace", "calls", "--workload", "code"], "give one of them"),
        (["--trace", "nowhere"], "nowhere cannot be read: No such file"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_would_be_right(simulate, arguments, words):
    """Before anything is simulated."""
    result = simulate(*arguments)

    assert result.exit_code == 2
    assert words in re.sub(r"\s+", " ", result.stderr)


def test_a_file_with_mistakes_is_told_as_check_tells_it(simulate, config):
    """Line by line."""
    config.write_text(FILE.replace("sglang", "sgl"))
    result = simulate()

    assert result.exit_code == 1
    assert result.stdout.startswith(f"{config}:4: backends.gpu-b.kind: ")


def test_no_secret_is_needed_and_check_still_wants_them_all(simulate, config):
    """Whoever asks what a replica more is worth need not be able to call one."""
    secrets = 'admin_key: "${NO_ADMIN_KEY}"\nstore: {url: "${NO_STORE}"}\n'
    config.write_text(secrets + FILE.replace("api_key: x", 'api_key: "${NO_API_KEY}"'))
    checked = CliRunner().invoke(main, ["check", "--config", str(config)])

    assert "hosted: 36 calls a minute" in simulate(*SHORT).stdout
    assert checked.exit_code == 1
    assert re.findall("the environment has no ([A-Z_]+)", checked.stdout) == ["NO_ADMIN_KEY", "NO_STORE", "NO_API_KEY"]


def test_a_file_that_is_not_there_is_exit_2(simulate, config):
    """Likewise."""
    config.unlink()

    assert simulate().exit_code == 2


@pytest.mark.parametrize("name", ["answer.png", "answer.svg"])
def test_the_answer_is_drawn(simulate, tmp_path, name):
    """For whoever has to be convinced."""
    path = tmp_path / name
    result = simulate(*SHORT, "--replicas", "+1", "--plot", path)

    assert f"drawn: {path}" in result.stdout
    assert path.stat().st_size > 5000


def test_a_picture_without_matplotlib_says_how_to_get_it(simulate, monkeypatch, tmp_path):
    """Before anything is simulated."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = simulate(*SHORT, "--plot", tmp_path / "answer.svg")

    assert result.exit_code == 2
    assert "pip install 'sluiceway[plot]'" in result.stderr
