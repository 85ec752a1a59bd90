"""The files of a real `sluiceway serve` lie at a mount that hangs: no call notices, and its end comes as ever."""

import asyncio
import signal

import httpx
import pytest

from tests.gateway.workers.processes import Workers
from tests.parts.certificates import self_signed
from tests.parts.gateway import GatewayProcess, write_config
from tests.parts.hung import hanging
from tests.parts.ports import free_port
from tests.parts.scripted import ScriptedServer

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def config(folder, upstream):
    """Write a configuration that keeps its certificate and its replicas in files of their own."""
    cert, key = self_signed(folder)
    (folder / "replicas").write_text(f"{upstream.url}/v1\n")
    return write_config(
        folder,
        {
            "listen": {"host": "127.0.0.1", "port": free_port(), "tls": {"cert": str(cert), "key": str(key)}},
            "backends": {"rack": {"kind": "openai", "list": "replicas"}},
            "models": {"m": {"deployments": [{"backend": "rack", "model": "scripted"}]}},
        },
    )


def times_told(site, paths):
    """Return how often the log tells of each of the files that it does not answer, the least often first."""
    log = [line for line in site.output.splitlines() if '"a file does not answer"' in line]
    return sorted(sum(f'"{one}"' in line for line in log) for one in paths)


@pytest.mark.parametrize("workers", [1, 2])
async def test_files_that_hang_stop_neither_a_call_nor_the_end(tmp_path, workers):
    """Each is told once by whoever reads it, and what it said last stays; readiness and a metric tell it too."""
    async with ScriptedServer() as upstream:
        path = config(tmp_path, upstream)
        site = GatewayProcess(path) if workers == 1 else Workers(path, tmp_path / "pycache")
        paths = [str(tmp_path / name) for name in ("sluiceway.yaml", "replicas", "cert.pem")]
        once = [1, workers, workers]
        async with site, httpx.AsyncClient(base_url=site.url, verify=False, trust_env=False, timeout=20) as client:
            key = await site.create_key()
            with hanging(path, tmp_path / "replicas", tmp_path / "cert.pem"):
                site.send(signal.SIGHUP)
                told, asked = "", 0
                async with asyncio.timeout(60):
                    # Each worker looks at its replicas in its own time; readiness tells what any of them has found.
                    while not all(f"{one} " in told for one in paths) or asked < 20 or times_told(site, paths) < once:
                        answer = await client.post(
                            "/v1/chat/completions", json=ASK, headers={"authorization": f"Bearer {key}"}
                        )
                        assert answer.status_code == 200
                        asked += 1
                        told = (await client.get(f"{site.operations_url}/readyz")).text
                        await asyncio.sleep(0.1)
                assert f"the last good one stays ({path} cannot be read: no answer since 20" in told
                assert (await site.metrics()).total("sluiceway_config_stale") == workers

                assert await site.terminate() == 0
        assert times_told(site, paths) == once
        assert '"level": "error"' not in site.output
