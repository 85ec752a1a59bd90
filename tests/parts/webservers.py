"""Real web servers, each a process of its own on a free port of 127.0.0.1, all answering as `web_asgi` does.

Law: a server is ended by its own process id, and its log is shown when it does not start.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.parts.ports import free_port

_ROOT = Path(__file__).resolve().parents[2]
_APP = "tests.parts.web_asgi:app"


class WebServer:
    """One server of `kind` (a key of KINDS); over TLS where `certificates` (of `transports.certified`) are given."""

    def __init__(self, kind, folder, certificates=None):
        self.kind = kind
        self.port = free_port()
        self.certificates = certificates
        self.folder = folder
        self.behind = None
        self._process = None

    @property
    def url(self):
        """The server's root, by the name that its certificate is for."""
        return f"http{'s' if self.certificates else ''}://localhost:{self.port}"

    def start(self, within=30.0):
        """Start, and return once it listens."""
        if self.kind in PROXIES and self.behind is None:
            self.behind = WebServer("uvicorn-httptools", self.folder).start(within)
        with tempfile.TemporaryFile() as log:
            command = [*map(str, KINDS[self.kind](self))]
            self._process = subprocess.Popen(command, cwd=_ROOT, stdout=log, stderr=log)
            deadline = time.monotonic() + within
            while not self._listens():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    log.seek(0)
                    raise RuntimeError(f"{self.kind} did not start: {log.read().decode(errors='replace')}")
                time.sleep(0.02)
        return self

    def stop(self):
        """End it in order, or after two seconds at once."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        self._process.kill()
        self._process.wait()

    def close(self):
        """End it and what stands behind it."""
        self.stop()
        if self.behind is not None:
            self.behind.stop()

    def _listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _uvicorn(http):
    def command(server):
        words = [sys.executable, "-m", "uvicorn", _APP, "--host", "127.0.0.1", "--port", server.port, "--http", http]
        words += ["--log-level", "warning", "--timeout-graceful-shutdown", "1"]
        pem = server.certificates
        return words + (["--ssl-certfile", pem.certificate, "--ssl-keyfile", pem.key] if pem else [])

    return command


def _granian(server):
    words = [sys.executable, "-m", "granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", server.port]
    words += ["--no-ws", "--workers-kill-timeout", "1", "--log-level", "warning", _APP]
    pem = server.certificates
    return words + (["--ssl-certificate", pem.certificate, "--ssl-keyfile", pem.key] if pem else [])


def _aiohttp(server):
    pem = server.certificates
    return [sys.executable, "-m", "tests.parts.web_aiohttp", server.port, *([pem.both] if pem else [])]


_NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 512; }}
http {{
  access_log off; client_max_body_size 16m; keepalive_requests 10000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream app {{ server 127.0.0.1:{behind}; keepalive 32; }}
  server {{
    listen 127.0.0.1:{port}{tls};
    location / {{
      proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_set_header x-port $remote_port;
    }}
  }}
}}
"""


def _nginx(server):
    pem = server.certificates
    tls = f" ssl; ssl_certificate {pem.certificate}; ssl_certificate_key {pem.key}" if pem else ""
    text = _NGINX.format(folder=server.folder, behind=server.behind.port, port=server.port, tls=tls)
    path = server.folder / f"nginx-{server.port}.conf"
    path.write_text(text + ("user root;\n" if os.geteuid() == 0 else ""))
    return ["nginx", "-e", "stderr", "-p", server.folder, "-c", path]


_HAPROXY = """
defaults
  mode http
  option abortonclose
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend f
  bind 127.0.0.1:{port}{tls}
  http-request set-header x-port %[src_port]
  default_backend b
backend b
  server s 127.0.0.1:{behind}
"""


def _haproxy(server):
    tls = f" ssl crt {server.certificates.both}" if server.certificates else ""
    path = server.folder / f"haproxy-{server.port}.cfg"
    path.write_text(_HAPROXY.format(port=server.port, behind=server.behind.port, tls=tls))
    return ["haproxy", "-db", "-f", path]


PROXIES = {"nginx": _nginx, "haproxy": _haproxy}
"""Debian's; each stands in front of a uvicorn."""

KINDS = {
    "uvicorn-h11": _uvicorn("h11"),
    "uvicorn-httptools": _uvicorn("httptools"),
    "granian": _granian,
    "aiohttp": _aiohttp,
    **PROXIES,
}
"""Every kind of server and the command that starts it."""
