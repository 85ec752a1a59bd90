import subprocess
import sys

import pytest
from click.testing import CliRunner

from gateway.cli.serve import command
from tests.parts.gateway import GatewayProcess, write_config
from tests.parts.scripted import ScriptedServer

SERVE = [sys.executable, "-c", "from gateway.cli import main; main()", "serve"]


async def test_serve_says_where_it_listens_and_ends_with_0(tmp_path):
    """On SIGTERM."""
    async with ScriptedServer() as upstream:
        config = write_config(tmp_path, {"backends": {"a": {"kind": "vllm", "base_url": f"{upstream.url}/v1"}}})
        async with GatewayProcess(config) as gateway:
            assert f"listens on {gateway.url}" in gateway.output
            assert "models:   scripted" in gateway.output
            assert await gateway.terminate() == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [("lisen: {}\n", "1: lisen"), (None, "cannot be read")],
    ids=["a mistake", "no file"],
)
def test_what_check_refuses_serve_refuses(tmp_path, text, words):
    """With the same words, and exit code 2."""
    path = tmp_path / "gateway.yaml"
    if text is not None:
        path.write_text(text)

    done = subprocess.run([*SERVE, "--config", str(path)], capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_with_nothing_to_serve_it_says_what_to_do(tmp_path, monkeypatch):
    """One clear message, exit 2."""
    monkeypatch.setattr("gateway.app.USUAL_PORTS", ())  # somebody may be running an engine here
    monkeypatch.delenv("NVIDIA_API_KEY", raising=False)

    done = CliRunner().invoke(command, ["--data-dir", str(tmp_path / "data")])

    assert done.exit_code == 2
    assert "Nothing to serve" in done.stderr
    assert "NVIDIA_API_KEY" in done.stderr


def test_an_option_that_would_be_ignored_is_refused(tmp_path):
    """The file says where the store lives."""
    done = CliRunner().invoke(command, ["--config", "x.yaml", "--data-dir", str(tmp_path)])

    assert done.exit_code == 2
    assert "--data-dir goes without --config" in done.stderr
