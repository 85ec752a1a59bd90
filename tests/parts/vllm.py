"""A real vLLM, on the processor, from the venv that `tests.parts.engines` makes.

Law: `generation_tokens_total` counts what the scheduler has reported; once no call is running it is final, but for the
last tokens of a cut call, of which no report is made.
"""

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx

from tests.parts.engines import Engine
from tests.parts.gateway import Metrics, parse_metrics

_KV_CACHE = "1"
"""GiB."""

_GRAMMARS = '{"backend": "xgrammar", "disable_any_whitespace": true}'
"""A random model would fill every place where a grammar allows white space with as much as it may say."""


class VllmServer(Engine):
    """One replica, some 40 s away. `context`: tokens of a call; `embeddings`: it embeds and generates nothing."""

    def __init__(self, model: Path, *, alias: str = "tiny", context: int = 2048, embeddings: bool = False) -> None:
        self.alias = alias
        tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--structured-outputs-config", _GRAMMARS)
        pooling = ("--runner", "pooling", "--convert", "embed")
        super().__init__(
            "vllm",
            *("serve", str(model), "--served-model-name", alias, "--max-model-len", str(context)),
            *("--dtype", "float32", "--enforce-eager", "--max-num-seqs", "16"),
            *(pooling if embeddings else tools),
            env={
                "VLLM_NO_USAGE_STATS": "1",
                "VLLM_CPU_KVCACHE_SPACE": _KV_CACHE,
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            },
        )

    def kill_core(self) -> None:
        """Kill the process that generates, as a crash of it does; the one that serves HTTP outlives it by a moment."""
        names = {path.parent.name: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
        ours = [int(pid) for pid, name in names.items() if b"EngineCore" in name and os.getpgid(int(pid)) == self.pid]
        for pid in ours:
            os.kill(pid, signal.SIGKILL)

    async def metrics(self) -> Metrics:
        """Read the engine's own figures."""
        # A new client each time, so that any event loop may ask.
        async with httpx.AsyncClient(base_url=self.url, verify=False, trust_env=False) as client:
            return parse_metrics((await client.get("/metrics")).raise_for_status().text)

    async def running(self) -> int:
        """Count the calls that the engine works on or has waiting."""
        now = await self.metrics()
        return int(now.total("vllm:num_requests_running") + now.total("vllm:num_requests_waiting"))

    async def wait_idle(self, within: float = 30.0, every: float = 0.02) -> float:
        """Wait until no call runs or waits; return how many seconds that took, or raise TimeoutError."""
        start = time.monotonic()
        async with asyncio.timeout(within):
            while await self.running():  # noqa: ASYNC110 - only the engine knows
                await asyncio.sleep(every)
        return time.monotonic() - start

    async def generated(self) -> int:
        """Wait for idleness, then count the output tokens that this process has reported."""
        await self.wait_idle()
        return int((await self.metrics()).total("vllm:generation_tokens_total"))
