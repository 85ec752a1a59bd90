"""A real `sluiceway serve` as a child process, driven only through its sockets and signals.

Law: the child gets nothing a user could not give it: a file, an environment, signals. Whatever a test did with it,
at its end no secret that it was given or gave out is in its log or in its files.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.identity.keys import CHECKSUM_LENGTH, SECRET_LENGTH
from tests.parts.ports import free_port

_ROOT = Path(__file__).resolve().parents[2]
ADMIN_KEY = "admin-key-of-the-tests"

STORE_DEADLINE = 2.0
"""Seconds that a store may take in tests that are not about slow stores: that a disk or core is busy is no news."""

TELLING = 8
"""Characters from which on a backend's key is looked for: a shorter one may be in anything."""

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def write_config(folder: Path, settings: Mapping[str, Any]) -> Path:
    """Write a configuration file; free ports, the admin key and a data folder are filled in where they are missing."""
    filled = {
        "listen": {"host": "127.0.0.1", "port": free_port()},
        "operations": {"host": "127.0.0.1", "port": free_port()},
        "admin_key": "${SLUICEWAY_ADMIN_KEY}",
        "store": {"url": "embedded", "data_dir": str(folder / "data"), "deadline": STORE_DEADLINE},
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
    """One gateway; an async context manager that waits for readiness and kills what is left at the end.

    Whenever it has ended, its log and its data folder are searched for the keys that its admin API made, for the admin
    key and for its backends' keys; one that is found is an AssertionError.
    """

    def __init__(self, config: Path, *, env: Mapping[str, str] | None = None) -> None:
        settings = yaml.safe_load(config.read_text())
        self.url = _address(settings["listen"])
        self.operations_url = _address(settings["operations"])
        self._command = [sys.executable, "-c", "from gateway.cli import main; main()", "serve", "--config", str(config)]
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", "SLUICEWAY_ADMIN_KEY": ADMIN_KEY, **(env or {})}
        self.data_dir = _from(config, settings.get("store", {}).get("data_dir", "data"))
        self.log = config.with_name(f"gateway-{settings['listen']['port']}.log")
        self.secrets: set[bytes] = {ADMIN_KEY.encode(), *_backend_keys(config, settings, self._env)}
        """What must be neither in its log nor in its files."""
        self._admin_url = self.operations_url if _is_apart(settings) else self.url
        self._earlier = b""  # what its lives before this one wrote
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The gateway's process."""
        return self._child.pid

    @property
    def output(self) -> str:
        """All it has written to its standard output and error so far."""
        return self.log.read_text(errors="replace")

    async def start(self, within: float = 60.0, *, page: str = "/readyz") -> Self:
        """Start it and return once `page` answers 200. Raise RuntimeError with its output if it does not."""
        self._spawn()
        try:
            async with asyncio.timeout(within):
                while not await self._answers(page):
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
        code = await asyncio.to_thread(self._child.wait, within)
        self.search()
        return code

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._child.kill()
        self._child.wait()
        self.search()

    def search(self) -> None:
        """Raise AssertionError if one of `secrets` is in anything that it has written."""
        texts = {"its log": self._earlier + self.log.read_bytes(), **contents(self.data_dir)}
        found = [(secret, place) for secret in self.secrets for place, text in texts.items() if secret in text]
        assert not found, f"secrets of the gateway were written: {found}"

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
        answer = await self.ask_admin(method, path, **request)
        if answer.is_error:
            raise RuntimeError(f"{method} /admin/v1{path} answered {answer.status_code}: {answer.text}")
        return answer.json() if answer.content else None

    async def ask_admin(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **request: Any
    ) -> httpx.Response:
        """Call the admin API and return its answer, whatever it is."""
        known = {"authorization": f"Bearer {self._env['SLUICEWAY_ADMIN_KEY']}", **(headers or {})}
        async with _client() as client:
            answer = await client.request(method, f"{self._admin_url}/admin/v1{path}", headers=known, **request)
        for made in re.findall(rb'"(sw_[0-9A-Za-z]+_[0-9A-Za-z]+)"', answer.content):
            self.secrets.add(secret_of(made.decode()).encode())
        return answer

    async def change(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Change a record as it is now, whatever its version. Raise RuntimeError on any error status."""
        answer = await self.ask_admin(method, path, json=body, headers={"if-match": "*"})
        if answer.is_error:
            raise RuntimeError(f"{method} /admin/v1{path} answered {answer.status_code}: {answer.text}")
        return answer

    async def metrics(self) -> Metrics:
        """Scrape the operations port."""
        async with _client() as client:
            answer = (await client.get(f"{self.operations_url}/metrics")).raise_for_status()
        return parse_metrics(answer.text)

    def _spawn(self) -> None:
        self._earlier += self.log.read_bytes() if self.log.exists() else b""
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                self._command, cwd=_ROOT, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def _answers(self, page: str) -> bool:
        async with _client() as client:
            try:
                return (await client.get(self.operations_url + page)).status_code == 200
            except httpx.TransportError:
                return False


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file below `folder`, by its path; one that is taken away meanwhile is left out."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                found[str(path)] = path.read_bytes()
    return found


def secret_of(key: str) -> str:
    """Return the part of an API key that nobody but its holder may know: without its name and its checksum."""
    return key[-SECRET_LENGTH - CHECKSUM_LENGTH : -CHECKSUM_LENGTH]


def parse_metrics(text: str) -> Metrics:
    """Read Prometheus' text format."""
    samples = Metrics()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{label}="{value}"' for label, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def _backend_keys(config: Path, settings: Mapping[str, Any], env: Mapping[str, str]) -> list[bytes]:
    """Return what the file says, or refers to, of its backends' keys."""
    told = [backend.get("api_key", "") for backend in (settings.get("backends") or {}).values()]
    keys = [
        _from(config, key["file"]).read_text().strip()
        if isinstance(key, dict)
        else _VARIABLE.sub(lambda name: env.get(name[1], ""), key)
        for key in told
    ]
    return [key.encode() for key in keys if len(key) >= TELLING]


def _from(config: Path, path: str) -> Path:
    return config.parent / path  # an absolute one stays as it is


def _is_apart(settings: Mapping[str, Any]) -> bool:
    return (settings.get("admin") or {}).get("on") == "operations"


def _address(where: Mapping[str, Any]) -> str:
    scheme = "https" if "tls" in where else "http"
    return f"{scheme}://{where['host']}:{where['port']}"


def _client() -> httpx.AsyncClient:
    # A new one each time, so that any event loop may ask; no TLS, whose set-up would cost more than the call.
    return httpx.AsyncClient(verify=False, trust_env=False, timeout=10)
