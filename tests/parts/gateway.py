"""A real `sluiceway serve` as a child process, driven only through its sockets and signals.

Law: the child gets nothing a user could not give it: a file, an environment, signals.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

_ROOT = Path(__file__).resolve().parents[2]
ADMIN_KEY = "admin-key-of-the-tests"


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_config(folder: Path, settings: Mapping[str, Any]) -> Path:
    """Write a configuration file; free ports, the admin key and a data folder are filled in where they are missing."""
    filled = {
        "listen": {"host": "127.0.0.1", "port": free_port()},
        "operations": {"host": "127.0.0.1", "port": free_port()},
        "admin_key": "${SLUICEWAY_ADMIN_KEY}",
        "store": {"url": "embedded", "data_dir": str(folder / "data")},
        **settings,
    }
    path = folder / "sluiceway.yaml"
    path.write_text(yaml.safe_dump(filled, sort_keys=False))
    return path


class Metrics(dict[str, float]):
    """Samples by name and labels as Prometheus writes them, labels sorted: `name{backend="a",outcome="ok"}`."""

    def total(self, name: str, **labels: str) -> float:
        """Add up the samples of `name` that have these labels."""
        wanted = [f',{label}="{value}"' for label, value in labels.items()]
        return sum(
            value
            for sample, value in self.items()
            if sample.partition("{")[0] == name and all(part in sample.replace("{", ",", 1) for part in wanted)
        )


class GatewayProcess:
    """One gateway; an async context manager that waits for readiness and kills what is left at the end."""

    def __init__(self, config: Path, *, env: Mapping[str, str] | None = None) -> None:
        settings = yaml.safe_load(config.read_text())
        self.url = _address(settings["listen"])
        self.operations_url = _address(settings["operations"])
        self._command = [sys.executable, "-c", "from gateway.cli import main; main()", "serve", "--config", str(config)]
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", "SLUICEWAY_ADMIN_KEY": ADMIN_KEY, **(env or {})}
        self._log = config.with_name(f"gateway-{settings['listen']['port']}.log")
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The gateway's process."""
        return self._child.pid

    @property
    def output(self) -> str:
        """All it has written to its standard output and error so far."""
        return self._log.read_text(errors="replace")

    async def start(self, within: float = 15.0) -> Self:
        """Start it and return once /readyz answers 200. Raise RuntimeError with its output if it does not."""
        self._spawn()
        try:
            async with asyncio.timeout(within):
                while not await self._ready():
                    if self._child.poll() is not None:
                        raise RuntimeError(f"the gateway ended with {self._child.returncode}:\n{self.output}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            self.kill()
            raise RuntimeError(f"the gateway is not ready after {within} s:\n{self.output}") from None
        return self

    def send(self, number: int) -> None:
        """Send it a signal."""
        self._child.send_signal(number)

    async def terminate(self, within: float = 40.0) -> int:
        """Ask it to end (SIGTERM) and return its exit code. Raise TimeoutExpired if it goes on."""
        self._child.send_signal(signal.SIGTERM)
        return await self.ended(within)

    async def ended(self, within: float = 40.0) -> int:
        """Wait for its end and return its exit code. Raise TimeoutExpired."""
        return await asyncio.to_thread(self._child.wait, within)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._child.kill()
        self._child.wait()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *error: object) -> None:
        self.kill()

    async def create_key(
        self, organization: str = "acme", team: str = "research", name: str = "test", plan: str | None = None
    ) -> str:
        """Create a key through the admin API and return it."""
        asked = {"organization": organization, "team": team, "name": name, "plan": plan}
        return (await self.admin("POST", "/keys", json=asked))["key"]

    async def usage(self, organization: str = "acme") -> list[dict[str, Any]]:
        """Read what the ledger has settled for an organization: one row for each key and model."""
        return (await self.admin("GET", "/usage", params={"organization": organization}))["rows"]

    async def admin(self, method: str, path: str, **request: Any) -> Any:
        """Call the admin API and return its JSON. Raise RuntimeError, with the answer, on any error status."""
        headers = {"authorization": f"Bearer {self._env['SLUICEWAY_ADMIN_KEY']}"}
        async with _client() as client:
            answer = await client.request(method, f"{self.url}/admin/v1{path}", headers=headers, **request)
        if answer.is_error:
            raise RuntimeError(f"{method} /admin/v1{path} answered {answer.status_code}: {answer.text}")
        return answer.json() if answer.content else None

    async def metrics(self) -> Metrics:
        """Scrape the operations port."""
        async with _client() as client:
            answer = (await client.get(f"{self.operations_url}/metrics")).raise_for_status()
        return parse_metrics(answer.text)

    def _spawn(self) -> None:
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                self._command, cwd=_ROOT, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def _ready(self) -> bool:
        async with _client() as client:
            try:
                return (await client.get(f"{self.operations_url}/readyz")).status_code == 200
            except httpx.TransportError:
                return False


def parse_metrics(text: str) -> Metrics:
    """Read Prometheus' text format."""
    samples = Metrics()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{label}="{value}"' for label, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def _address(where: Mapping[str, Any]) -> str:
    scheme = "https" if "tls" in where else "http"
    return f"{scheme}://{where['host']}:{where['port']}"


def _client() -> httpx.AsyncClient:
    # A new one each time, so that any event loop may ask; no TLS, whose set-up would cost more than the call.
    return httpx.AsyncClient(verify=False, trust_env=False, timeout=10)
