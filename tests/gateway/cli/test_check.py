import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import COMMANDS, main

REPOSITORY = Path(__file__).parents[3]
RIGHT = """\
backends:
  a: {kind: vllm, base_url: http://h/v1}
  b: {kind: openai, base_url: http://h/v1, api_key: "${CHECK_TEST_KEY}"}
models:
  m: {deployments: [{backend: a, model: m}, {backend: b, model: m}]}
plans: {gold: {concurrent_requests: 3}}
organizations: {acme: {plan: gold}}
"""


@pytest.fixture
def check(tmp_path):
    """Run `sluiceway check` over a text."""

    def run(text, env=None):
        path = tmp_path / "sluiceway.yaml"
        path.write_text(text)
        return CliRunner().invoke(main, ["check", "--config", str(path)], env=env)

    return run


def python(*arguments, path=REPOSITORY):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(path)},
    ).stdout


def test_a_right_file_is_summed_up(check):
    result = check(RIGHT, {"CHECK_TEST_KEY": "hunter2"})
    assert result.exit_code == 0
    assert "2 backends, 1 model with 2 deployments, 2 plans, 1 organization" in result.stdout
    assert "hunter2" not in result.output


def test_a_right_file_without_models_serves_what_its_backends_list(check):
    result = check("backends: {gpu: {kind: vllm, base_url: http://h/v1}}\n")
    assert result.exit_code == 0
    assert "1 backend, every model that they list, 1 plan, 0 organizations" in result.stdout


def test_every_mistake_is_one_line_and_their_count_is_apart(check, tmp_path):
    result = check(RIGHT.replace("vllm", "vlm").replace("concurrent_requests: 3", "concurrent_requests: 0"))
    assert result.exit_code == 1
    file = tmp_path / "sluiceway.yaml"
    lines = result.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{file}:{line}" for line in (2, 3, 6)]
    assert "backends.a.kind: 'vlm' is not known here; write one of openai, " in lines[0]
    assert result.stderr == f"3 mistakes in {file}\n"


def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path):
    for path, reason in ((tmp_path / "absent.yaml", "No such file"), (tmp_path, "Is a directory")):
        result = CliRunner().invoke(main, ["check", "--config", str(path)])
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith(f"sluiceway: {path} cannot be read: {reason}")
        assert len(result.stderr.splitlines()) == 1


def test_the_file_must_be_named():
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 2
    assert "--config" in result.stderr


@pytest.mark.parametrize("options", [["sluiceway.yaml"], ["--config", "sluiceway.yaml"]])
def test_the_file_is_named_with_its_option_or_without(check, tmp_path, monkeypatch, options):
    """One of both."""
    wrong = check("backends: {}\n")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["check", *options])
    twice = CliRunner().invoke(main, ["check", "sluiceway.yaml", "--config", "sluiceway.yaml"])

    assert (result.exit_code, len(result.stdout.splitlines())) == (1, len(wrong.stdout.splitlines()))
    assert (twice.exit_code, "give one of them" in twice.stderr) == (2, True)


@pytest.mark.parametrize("words", [[], ["keys"], ["keys", "create"], ["check"]])
def test_help_has_a_short_name_everywhere(words):
    """As people try it first."""
    short, whole = (CliRunner().invoke(main, [*words, option]) for option in ("-h", "--help"))

    assert (short.exit_code, short.stdout) == (0, whole.stdout)


def test_help_lists_every_command_with_its_line():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name, (_, line) in COMMANDS.items():
        assert any(text.split(maxsplit=1) == [name, line] for text in result.stdout.splitlines())


HELP = """
import sys
from gateway.cli import main
main(["--help"], standalone_mode=False)
print("loaded", *sys.modules)
"""


def test_help_imports_no_command_and_no_heavy_library():
    loaded = python("-c", HELP).partition("loaded ")[2].split()
    assert "gateway.cli" in loaded
    assert not {"litestar", "redis", "rich", "yaml", "msgspec", "httpx"} & {name.partition(".")[0] for name in loaded}
    assert not {name for name in loaded if name.startswith("gateway.")} - {"gateway.cli"}


def test_a_command_that_is_not_there_is_refused():
    result = CliRunner().invoke(main, ["chekc"])
    assert result.exit_code == 2
    assert "No such command 'chekc'" in result.stderr


def test_the_version_is_the_distributions(tmp_path):
    metadata = tmp_path / "sluiceway-9.8.7.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: sluiceway\nVersion: 9.8.7\n")
    told = python("-c", "from gateway.cli import main; main(['--version'])", path=f"{tmp_path}:{REPOSITORY}")
    assert told == "sluiceway, version 9.8.7\n"
