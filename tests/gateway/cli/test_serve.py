import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from gateway.cli.serve import command
from tests.parts.certificates import self_signed
from tests.parts.gateway import ADMIN_KEY, GatewayProcess, write_config
from tests.parts.ports import free_port
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


@pytest.mark.parametrize("after", [0.1, 0.3, 0.6])
def test_a_stop_while_it_is_being_imported_is_heard(tmp_path, after):
    """A container's first process that does not listen for a signal never gets it, and is killed minutes later."""
    config = write_config(tmp_path, {"backends": {"a": {"kind": "vllm", "base_url": "http://127.0.0.1:9/v1"}}})
    env = {**os.environ, "SLUICEWAY_ADMIN_KEY": ADMIN_KEY}  # without it the process would end by itself
    child = subprocess.Popen(
        [*SERVE, "--config", str(config)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not _hears_sigterm(child.pid):
            assert child.poll() is None
        time.sleep(after)
        child.terminate()
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()


def test_nothing_swallows_a_stop_before_anything_has_begun():
    """An exception would end in whatever is being imported, or set up, as if it were that one's mistake."""
    swallowing = """
import signal
from gateway.cli import main
main.get_command(None, "serve")
try:
    signal.raise_signal(signal.SIGTERM)
except BaseException:
    pass
raise SystemExit(3)
"""
    assert subprocess.run([sys.executable, "-c", swallowing], timeout=30, check=False).returncode == 0


def _hears_sigterm(pid):
    """Say whether a process has a handler for it."""
    mask = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(mask.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [("lisen: {}\n", "1: lisen"), (None, "cannot be read")],
    ids=["a mistake", "no file"],
)
def test_what_check_refuses_serve_refuses(tmp_path, text, words):
    """With the same words, and exit code 2; the file is named as it is for `check`."""
    path = tmp_path / "gateway.yaml"
    if text is not None:
        path.write_text(text)

    for named in (["--config", str(path)], [str(path)]):
        done = subprocess.run([*SERVE, *named], capture_output=True, text=True, timeout=30, check=False)

        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_with_nothing_to_serve_it_says_what_to_do_and_leaves_nothing_behind(tmp_path, monkeypatch, workers):
    """One clear message, exit 2; whoever comes back with a file finds no key of a gateway that never was."""
    monkeypatch.setattr("gateway.upstream.scanning.USUAL_PORTS", ())  # somebody may be running an engine here
    monkeypatch.delenv("NVIDIA_API_KEY", raising=False)

    done = CliRunner().invoke(command, ["--data-dir", str(tmp_path / "data"), "--workers", workers])

    assert done.exit_code == 2
    assert "Nothing to serve" in done.stderr
    assert "NVIDIA_API_KEY" in done.stderr
    assert not any(tmp_path.iterdir())


def test_an_option_that_would_be_ignored_is_refused(tmp_path):
    """The file says where the store lives."""
    done = CliRunner().invoke(command, ["--config", "x.yaml", "--data-dir", str(tmp_path)])

    assert done.exit_code == 2
    assert "--data-dir goes without --config" in done.stderr


def shown(port):
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)


async def test_a_hangup_without_tls_ends_nothing(tmp_path):
    """A closed terminal sends it too; nor does one during the start."""
    async with ScriptedServer() as upstream:
        config = write_config(tmp_path, {"backends": {"a": {"kind": "vllm", "base_url": f"{upstream.url}/v1"}}})
        async with GatewayProcess(config) as gateway:
            os.kill(gateway.pid, signal.SIGHUP)
            await asyncio.sleep(0.2)

            assert (await gateway.metrics())["sluiceway_models"] == 1
            assert await gateway.terminate() == 0


async def test_a_hangup_shows_a_renewed_certificate_and_a_useless_one_changes_nothing(tmp_path):
    """No connection is lost for it, and a file at fault is named in the log."""
    pair = cert, _ = self_signed(tmp_path / "tls")
    async with ScriptedServer() as upstream:
        listen = {"host": "127.0.0.1", "port": free_port(), "tls": {"cert": "tls/cert.pem", "key": "tls/key.pem"}}
        backends = {"a": {"kind": "vllm", "base_url": f"{upstream.url}/v1"}}
        async with GatewayProcess(write_config(tmp_path, {"listen": listen, "backends": backends})) as gateway:

            async def hang_up(word, change):
                told = gateway.output.count(word)  # before: the watch reads it as well, as soon as it has begun
                change()
                gateway.send(signal.SIGHUP)
                async with asyncio.timeout(10):
                    while gateway.output.count(word) == told:  # noqa: ASYNC110 - another process's log
                        await asyncio.sleep(0.02)

            assert f"listens on https://127.0.0.1:{listen['port']}" in gateway.output
            assert await asyncio.to_thread(shown, listen["port"]) == cert.read_text()
            await hang_up("certificate renewed", lambda: self_signed(tmp_path / "tls"))
            renewed = cert.read_text()
            assert await asyncio.to_thread(shown, listen["port"]) == renewed
            await hang_up("the certificate in force stays", lambda: pair[1].write_text(""))
            assert f"{pair[1]} holds no private key" in gateway.output
            assert await asyncio.to_thread(shown, listen["port"]) == renewed
            assert await gateway.terminate() == 0
            assert "Traceback" not in gateway.output


def waits_to_read(pipe, held):
    """Say whether somebody has the pipe open to read it; from then on `held` keeps its other end, and says nothing."""
    with contextlib.suppress(OSError):
        held.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    return bool(held)


@pytest.mark.parametrize("workers", [1, 2], ids=["one", "workers"])
async def test_a_file_whose_reader_gets_no_answer_does_not_keep_a_process_that_was_told_to_stop(tmp_path, workers):
    """As at a network mount that hangs: a stop would else end in a kill, after all the time that it is given."""
    held = []
    (tmp_path / "key").write_text("key-of-the-backend")
    async with ScriptedServer() as upstream:
        backend = {"kind": "openai", "base_url": f"{upstream.url}/v1", "api_key": {"file": "key"}}
        gateway = GatewayProcess(write_config(tmp_path, {"backends": {"a": backend}}))
        gateway._command += ["--workers", str(workers)]
        try:
            async with gateway:
                os.mkfifo(tmp_path / "pipe")
                (tmp_path / "pipe").replace(tmp_path / "key")
                async with asyncio.timeout(10):
                    while not waits_to_read(tmp_path / "key", held):  # noqa: ASYNC110 - another process's reading
                        await asyncio.sleep(0.02)

                assert await gateway.terminate(20) == 0
                assert '"level": "error"' not in gateway.output
        finally:
            for each in held:
                os.close(each)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_stop_waits_only_for_calls(tmp_path, tls):
    """Whoever is idle, silent or half through a head is closed at once, with nothing in the log but the stop."""
    listen = {"host": "127.0.0.1", "port": free_port()}
    trust = None
    if tls:
        cert, key = self_signed(tmp_path / "tls")
        listen["tls"] = {"cert": str(cert), "key": str(key)}
        trust = ssl.create_default_context(cafile=cert)
    async with ScriptedServer() as upstream:
        backends = {"a": {"kind": "vllm", "base_url": f"{upstream.url}/v1"}}
        config = write_config(tmp_path, {"listen": listen, "backends": backends, "limits": {"body_deadline": 1}})
        async with GatewayProcess(config) as gateway:
            port = urlsplit(gateway.url).port
            silent = await asyncio.open_connection("127.0.0.1", port)
            begun = asyncio.get_running_loop().time()
            head = b"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer %s\r\ncontent-length: 99\r\n"
            callers = []
            for said in (b"GET /v1/models HTTP/1.1\r\n\r\n", head, head + b"\r\n{", b""):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
                writer.write(said % ((await gateway.create_key()).encode() if b"%s" in said else ()))
                callers.append((reader, writer))
            await callers[0][0].readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.2)
            try:
                assert await gateway.terminate() == 0
                assert asyncio.get_running_loop().time() - begun < 20
                assert b"body_timeout" in await callers[2][0].read()
                assert "Traceback" not in gateway.output
                assert '"level": "error"' not in gateway.output
            finally:
                for _, writer in (silent, *callers):
                    writer.close()


@pytest.mark.parametrize("workers", ["0", "65", "two"])
def test_a_number_of_workers_that_cannot_be_is_refused(workers):
    """Before anything is read."""
    done = CliRunner().invoke(command, ["--workers", workers])

    assert done.exit_code == 2
    assert "--workers" in done.stderr


async def test_one_worker_is_one_process_and_no_supervisor(tmp_path):
    """As without the option: nothing is between a signal and the gateway."""
    async with ScriptedServer() as upstream:
        config = write_config(tmp_path, {"backends": {"a": {"kind": "vllm", "base_url": f"{upstream.url}/v1"}}})
        gateway = GatewayProcess(config)
        gateway._command += ["--workers", "1"]
        async with gateway:
            assert "sluiceway_workers" not in await gateway.metrics()
            assert "workers" not in gateway.output
            assert await gateway.terminate() == 0
