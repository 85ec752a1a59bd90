"""The real llama.cpp HTTP server, in a child process of its own.

Law: what a test learns about the engine comes from the engine. `tokens_predicted_total` grows when a call ends, and
then by all that was made for it, cut or not; so the truth about a cut call is read once the engine is idle.
"""

import asyncio
import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import httpx

_ROOT = Path(__file__).resolve().parents[2]
_METRIC = re.compile(r"^llamacpp:(\w+) (\S+)$", re.MULTILINE)


class LlamaServer:
    """One replica. `context` is the tokens of one call; the engine is given that much for each of `parallel` slots.

    `port` 0: any that is free. It answers there from before its model is loaded.

    Use it as an async context manager, or call `start` and `stop` from a fixture that outlives one event loop.
    """

    def __init__(
        self,
        model: Path,
        *,
        alias: str = "tiny",
        context: int = 8192,
        parallel: int = 4,
        embeddings: bool = False,
        port: int = 0,
    ) -> None:
        self.alias = alias
        self.url = ""
        options = {"model": model, "alias": alias, "ctx": context * parallel, "parallel": parallel, "port": port}
        self._command = [sys.executable, "-m", "tests.parts.llamacpp_main"]
        self._command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._command += ["--embeddings"] * embeddings
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, timeout: float = 30.0) -> Self:
        """Start the engine and return once it listens (`url`). Raise RuntimeError with its log if it does not."""
        with tempfile.TemporaryFile() as log:
            pipe = subprocess.PIPE
            self._child = subprocess.Popen(
                self._command, cwd=_ROOT, env=_environment(), stdin=pipe, stdout=pipe, stderr=log
            )
            ready, _, _ = select.select([self._child.stdout], [], [], timeout)
            line = self._child.stdout.readline() if ready else b""
            if not line:
                self.stop()
                log.seek(0)
                raise RuntimeError(f"llama.cpp did not start in {timeout} s: {log.read().decode(errors='replace')}")
        self.url = json.loads(line)["url"]
        return self

    def stop(self) -> None:
        """End the engine, whatever state it is in. A second call does nothing."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child.stdin.close()
            self._child.stdout.close()
            self._child = None

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self.stop)

    @property
    def pid(self) -> int:
        """The engine's process."""
        return self._child.pid

    def kill(self) -> None:
        """Kill the engine's process at once, as a crash does: its sockets are closed by the kernel."""
        self._child.send_signal(signal.SIGKILL)
        self._child.wait()

    def suspend(self) -> None:
        """Stop the process without ending it: connections are still accepted by the kernel, nothing is answered."""
        self._child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended process go on."""
        self._child.send_signal(signal.SIGCONT)

    async def metrics(self) -> dict[str, float]:
        """Read the engine's own counters, by their names without the prefix: `tokens_predicted_total` and so on."""
        return {name: float(value) for name, value in _METRIC.findall((await self._get("/metrics")).text)}

    async def slots(self) -> list[dict[str, Any]]:
        """Read what each slot is doing."""
        return (await self._get("/slots")).json()

    async def generating(self) -> int:
        """Count the tokens made so far for the calls that are running now."""
        busy = [slot for slot in await self.slots() if slot["is_processing"]]
        return sum(part["n_decoded"] for slot in busy for part in slot.get("next_token", ()))

    async def idle(self) -> bool:
        """Say whether the engine has nothing to do: no call running, none waiting for a slot."""
        now = await self.metrics()
        return now["requests_processing"] + now["requests_deferred"] == 0

    async def wait_idle(self, within: float = 30.0, every: float = 0.01) -> float:
        """Wait until the engine is idle, asking it every so many seconds; return how many that took, or TimeoutError.

        While it reads a prompt the engine looks whether the caller is still there only after a second in which it
        answered nobody, these questions included: after a cut in prefill ask `every=1.2`, or it never notices.
        """
        start = time.monotonic()
        async with asyncio.timeout(within):
            while not await self.idle():  # noqa: ASYNC110 - only the engine knows
                await asyncio.sleep(every)
        return time.monotonic() - start

    async def generated(self) -> int:
        """Wait for idleness, then count the output tokens this process ever made, those of cut calls included."""
        await self.wait_idle()
        return int((await self.metrics())["tokens_predicted_total"])

    async def _get(self, path: str) -> httpx.Response:
        """Ask the engine something about itself; a new client each time, so that any event loop may ask."""
        async with httpx.AsyncClient(base_url=self.url, verify=False, trust_env=False) as client:
            return (await client.get(path)).raise_for_status()


def _environment() -> dict[str, str]:
    """Lend the engine an OpenMP of its own where the system has none: its wheel brings all but that."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        library = Path(sysconfig.get_path("purelib")) / "cmeel.prefix" / "lib"
        return {**os.environ, "LD_LIBRARY_PATH": str(library)}
    return dict(os.environ)
