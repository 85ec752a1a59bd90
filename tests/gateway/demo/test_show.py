import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from gateway.demo.fleet import ROOT
from tests.parts.ports import free_port


@contextlib.contextmanager
def demo(*flags: str) -> Iterator[subprocess.Popen]:
    """Run the demo, and end it with the block: one that did not do what a test wants would go on for good."""
    code = "from gateway.cli import main; main(['demo', *__import__('sys').argv[1:]])"
    command = [sys.executable, "-c", code, *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def sluiceway(*words: str, **said: str) -> str:
    """Run a command of an operator who has `said` in the environment; return what it prints."""
    command = [sys.executable, "-c", "from gateway.cli import main; main()", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **said})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def port():
    return free_port()


def test_the_tour_is_as_promised_and_tells_so_in_one_json_object(port):
    with demo("--once", "--json", "--port", str(port)) as process:
        out, err = process.communicate(timeout=90)
    told = json.loads(out)
    assert process.returncode == 0, (told, err)
    assert told["ok"]
    assert all(step["ok"] for step in told["steps"])
    assert told["calls_served"] > told["streams_served"] > 0
    assert told["attempts"]["2"] > 0
    assert told["refusing_meter"] == "requests_per_minute"
    assert told["charged_tokens_after_leaving"] >= told["seen_tokens_when_leaving"] > 0
    assert 0 < told["first_200_seconds"] < 10


def test_without_failover_the_same_tour_fails_at_the_kill(port):
    with demo("--once", "--json", "--no-failover", "--port", str(port)) as process:
        out, err = process.communicate(timeout=90)
    told = json.loads(out)
    assert process.returncode == 1, (told, err)
    failed = {step["name"]: step["ok"] for step in told["steps"]}
    assert failed["serve"]
    assert not failed["failover"]
    assert set(told["attempts"]) == {"1"}


def test_it_stays_up_for_whoever_watches_until_ctrl_c(port):
    with demo("--port", str(port)) as process:
        printed = ""
        while "FILE has" not in printed:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            printed += line
        assert [line[:5] for line in printed.splitlines()].count("ok   ") == 4
        key = re.search(r"Your key: (\S+)", printed).group(1)
        body = {"model": "mistral-medium-3.5", "max_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]}
        headers = {"authorization": f"Bearer {key}"}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, headers=headers, timeout=30)
        assert answer.status_code == 200
        exported, *commands = re.findall(r"^  (?:export|sluiceway) (.*)$", printed, re.MULTILINE)
        said = dict(pair.split("=", 1) for pair in shlex.split(exported))
        told = [sluiceway(*shlex.split(command), **said) for command in commands]
        assert len(told) == 2
        assert "simulated-gpu-a" in told[0]
        assert "simulated-gpu-b/" in told[1]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err == ""
