"""What stands between the bench's callers and its upstream: nothing, ourselves, and the field's proxies.

Law: each is a process of its own on one core, set up as its own documentation says for passing requests through to one
upstream, and ended by its pid. A proxy that is not installed is left out and said so.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import yaml

from tests.parts.gateway import GatewayProcess, write_config
from tests.parts.ports import free_port

CORE, REST = 0, 1
"""The core of whatever is measured, and the one of everything else."""

STARVED = 10.0
"""Seconds that the store may take: bound to one core beside others that are busy, it may not run for two of them."""

CHAT = "/v1/chat/completions"
WIDE = {"requests_per_minute": 60_000_000, "tokens_per_minute": 150_000_000, "concurrent_requests": 10_000}
NARROW = {"requests_per_minute": 1, "tokens_per_minute": 150_000_000, "concurrent_requests": 10_000}
LITELLM_KEY = "sk-0123456789abcdef0123456789abcdef0123456789abcdef"


def cpu_seconds(pids):
    """Return the processor time that these processes have used so far, in seconds."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident(pids):
    """Return the memory that these processes hold, in bytes."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * os.sysconf("SC_PAGE_SIZE")


def descendants(pid):
    """Return `pid` and the processes it started, and theirs."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in descendants(int(child)))]


@dataclass
class Site:
    """One thing to measure. `start`: coroutine function that returns the process; `started`: seconds to a first 200."""

    name: str
    url: str
    path: str = CHAT
    headers: dict = field(default_factory=dict)
    model: str = "m"
    command: list = field(default_factory=list)
    env: dict = field(default_factory=dict)
    gateway: GatewayProcess | None = None
    pids: list = field(default_factory=list)
    started: float = 0.0
    idle: int = 0
    process: subprocess.Popen | None = None

    async def start(self, folder):
        """Start it and wait for its first 200."""
        begun = time.monotonic()
        if self.command:
            with (folder / f"{self.name}.log").open("wb") as log:
                self.process = subprocess.Popen(  # noqa: ASYNC220 - a fork, before anything is measured
                    ["taskset", "--cpu-list", str(CORE), *self.command],
                    env={**os.environ, **self.env},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        if self.url:
            await self._answers(90)
        self.started = time.monotonic() - begun
        if self.process is not None:
            self.pids = descendants(self.process.pid)
        self.idle = resident(self.pids)

    async def _answers(self, within):
        body = {"model": self.model, "messages": [{"role": "user", "content": "hi"}]}
        async with asyncio.timeout(within), httpx.AsyncClient(trust_env=False, timeout=10) as client:
            while True:
                try:
                    answer = await client.post(self.url + self.path, json=body, headers=self.headers)
                    if answer.status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                if self.process is not None and self.process.poll() is not None:
                    raise RuntimeError(f"{self.name} ended with {self.process.returncode}; see its log")
                await asyncio.sleep(0.05)

    def stop(self):
        """End it and what it started."""
        if self.process is not None:
            for pid in descendants(self.process.pid):
                os.kill(pid, signal.SIGKILL)
            self.process.wait()


class Ours(Site):
    """Sluiceway itself, `telemetry` as its file's section says it; its store runs on the other core."""

    def __init__(self, name, upstream, folder, telemetry=None, transport="pooled"):
        home = folder / name
        home.mkdir()
        settings = {
            "backends": {"up": {"kind": "vllm", "base_url": f"{upstream}/v1", "transport": transport}},
            "models": {"m": {"deployments": [{"backend": "up", "model": "m", "modalities": ["text", "image"]}]}},
            "plans": {"wide": WIDE, "narrow": NARROW},
            "store": {"url": "embedded", "data_dir": str(home / "data"), "deadline": STARVED},
            **({"telemetry": telemetry} if telemetry else {}),
        }
        self.gateway = GatewayProcess(write_config(home, settings))
        super().__init__(name, self.gateway.url, gateway=self.gateway)

    async def start(self, folder):
        """Start it, make its keys, and wait for its first 200 (the key is made before the clock stops)."""
        begun = time.monotonic()
        os.sched_setaffinity(0, {CORE})
        try:
            await self.gateway.start()
        finally:
            os.sched_setaffinity(0, {REST})
        self.headers = {"authorization": f"Bearer {await self.gateway.create_key(plan='wide')}"}
        self.unknown = {"authorization": "Bearer sw_" + "0" * 60}
        self.narrow = {"authorization": f"Bearer {await self.gateway.create_key(team='n', name='n', plan='narrow')}"}
        await self._answers(30)
        self.started = time.monotonic() - begun
        self.pids = [self.gateway.pid]
        for pid in descendants(self.gateway.pid)[1:]:
            os.sched_setaffinity(pid, {REST})
        await asyncio.sleep(0.5)
        self.idle = resident(self.pids)

    def stop(self):
        self.gateway.kill()


def _nginx(upstream, folder):
    port = free_port()
    root = folder / "nginx"
    root.mkdir()
    (root / "nginx.conf").write_text(f"""
worker_processes 1; daemon off; pid {root}/pid; error_log {root}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
  uwsgi_temp_path {root}/u; scgi_temp_path {root}/s; client_max_body_size 64m; client_body_buffer_size 8m;
  keepalive_requests 100000000;
  upstream up {{ server {upstream.removeprefix("http://")}; keepalive 2048; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}
  }}
}}
""")
    return Site("nginx", f"http://127.0.0.1:{port}", command=["nginx", "-p", str(root), "-c", str(root / "nginx.conf")])


def _rust_router(name, arguments, level, upstream):
    port, other = free_port(), free_port()
    command = [*arguments, "--worker-urls", upstream, "--policy", "round_robin", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--prometheus-port", str(other), "--log-level", level]
    return Site(name, f"http://127.0.0.1:{port}", command=command)


def _vllm_router(upstream, folder):
    return _rust_router("vllm-router", ["vllm-router"], "warning", upstream)


def _sglang_router(upstream, folder):
    return _rust_router("sglang-router", ["sglang-router", "launch"], "warn", upstream)


def _envoy(upstream, folder):
    port = free_port()
    host, _, upstream_port = upstream.removeprefix("http://").partition(":")
    route = {"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s"}}
    types = "type.googleapis.com/envoy.extensions.filters"
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{types}.http.router.v3.Router"}}
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [router],
    }
    many = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), 10_000)
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    endpoint = {"address": {"socket_address": {"address": host, "port_value": int(upstream_port)}}}
    cluster = {
        "name": "up",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [many]},
        "load_assignment": {
            "cluster_name": "up",
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
    }
    path = folder / "envoy.yaml"
    static = {"listeners": [{"address": address, "filter_chains": [chain]}], "clusters": [cluster]}
    path.write_text(yaml.safe_dump({"static_resources": static}))
    command = ["envoy", "-c", str(path), "--concurrency", "1", "-l", "error", "--use-dynamic-base-id"]
    return Site("envoy", f"http://127.0.0.1:{port}", command=command)


def _litellm(upstream, folder):
    port = free_port()
    path = folder / "litellm.yaml"
    entry = {"model_name": "m", "litellm_params": {"model": "openai/m", "api_base": f"{upstream}/v1", "api_key": "x"}}
    path.write_text(yaml.safe_dump({"model_list": [entry], "general_settings": {"master_key": LITELLM_KEY}}))
    return Site(
        "litellm",
        f"http://127.0.0.1:{port}",
        headers={"authorization": f"Bearer {LITELLM_KEY}"},
        command=["litellm", "--config", str(path), "--host", "127.0.0.1", "--port", str(port)],
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )


PEERS = {
    "nginx": _nginx,
    "envoy": _envoy,
    "vllm-router": _vllm_router,
    "sglang-router": _sglang_router,
    "litellm": _litellm,
}
"""How each peer is set up; its name is its command's."""


def ours(upstream, folder):
    """Return ourselves: with a tenth of the calls traced (the one that is compared), and without traces."""
    traced = Ours("sluiceway", upstream, folder, telemetry={"otlp_endpoint": upstream, "sample": 0.1})
    return [traced, Ours("sluiceway-untraced", upstream, folder)]


def sites(wanted, upstream, folder, tell):
    """Return the wanted sites, without those that are not installed here."""
    found = [Site("direct", upstream)]
    for name, make in PEERS.items():
        if name not in wanted:
            continue
        if shutil.which(name) is None:
            tell(f"{name} is not installed here: left out")
        else:
            found.append(make(upstream, folder))
    return found + [site for site in ours(upstream, folder) if site.name in wanted]
