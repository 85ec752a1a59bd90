"""What `helm test` runs: its script as the chart has it, asking a gateway that runs and addresses where none does."""

import asyncio
import socket
import sys

import pytest

from gateway import server
from tests.gateway.harness import settings
from tests.helm.charts import named, render
from tests.parts.scripted import ScriptedServer

pytestmark = pytest.mark.ci


async def ran(*urls):
    """Run the script with the two URLs that it is to ask; return its exit code, what it said, and its errors."""
    (test,) = render(named("least")).all("Pod")
    (container,) = test["spec"]["containers"]
    assert container["command"] == ["python", "-I", "-c"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-c",
        container["args"][0],
        *urls,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, said.decode(), errors.decode()


async def test_it_is_content_with_a_gateway_that_runs(tmp_path):
    """Ready by the operations port, and closed to whoever shows no key by the callers'; not with the two exchanged."""
    async with ScriptedServer() as upstream:
        started = await server.start(settings(tmp_path, {"a": upstream}))
        try:
            code, said, errors = await ran(started.operations_url, started.url)
            exchanged, told, _ = await ran(started.url, started.operations_url)
        finally:
            await started.stop()

    assert (code, errors) == (0, ""), said
    assert exchanged == 1
    assert [line.partition(" answers ")[2] for line in told.splitlines()] == [
        "404, and 200 is wanted",
        "404, and 401 is wanted",
    ]


async def test_an_address_that_it_does_not_reach_is_told_in_a_sentence():
    """Of both, and no traceback: whoever reads it does not know Python."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    code, said, errors = await ran(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}")

    assert (code, errors) == (1, "")
    assert [line.partition(" is not reached")[0] for line in said.splitlines()] == [
        f"http://127.0.0.1:{port}/readyz",
        f"http://127.0.0.1:{port}/v1/models",
    ]
    assert all("NetworkPolicy" in line for line in said.splitlines())
