"""A real load balancer before some gateways: Debian's haproxy, or its nginx, set as the README tells.

Law: connections to gateways are kept and used again for whoever comes, and no call is made twice, so that whatever a
gateway loses is lost for good and seen. Ended by its own process id.
"""

import asyncio
import contextlib
import csv
import os
import subprocess
from urllib.parse import urlsplit

from tests.parts.ports import free_ports

CHECK_EVERY = 0.5
"""Seconds between two looks at a gateway's readiness; two that fail take it out."""


class Balancer:
    """One process before `gateways` (of `tests.parts.gateway`); an async context manager. `url`: where it listens."""

    def __init__(self, folder, gateways):
        self.folder = folder
        self.gateways = gateways
        self.port, self._told_at = free_ports(2)
        self.url = f"http://127.0.0.1:{self.port}"
        self._process = None

    async def __aenter__(self):
        path, log = self.folder / "balancer.conf", self.folder / "balancer.log"
        path.write_text(self.text())
        with log.open("wb") as file:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it is ended by its pid
                self.command(path), stdout=file, stderr=file
            )
        async with asyncio.timeout(20):
            while not await self.takes(self.gateways):
                assert self._process.poll() is None, log.read_text()
                await asyncio.sleep(0.02)
        return self

    async def __aexit__(self, *error):
        self._process.kill()
        self._process.wait()

    def text(self):
        """Return the configuration."""
        raise NotImplementedError

    def command(self, path):
        """Return what starts it over the configuration at `path`."""
        raise NotImplementedError

    async def takes(self, gateways):
        """Say whether calls are sent to all of these gateways, as far as it tells."""
        raise NotImplementedError


_HAPROXY = """
global
  nbthread 1
  maxconn 8000
  stats socket ipv4@127.0.0.1:{told_at} level user
defaults
  mode http
  timeout connect 2s
  timeout client 90s
  timeout server 90s
  timeout check 2s
  retries 0
frontend callers
  bind 127.0.0.1:{port}
  default_backend gateways
backend gateways
  balance leastconn
  http-reuse always
  option httpchk GET /readyz
  http-check expect status 200
  default-server check inter {every}ms fall 2 rise 1
{servers}
"""


class HAProxy(Balancer):
    """With health checks. Without one retry, not even of a connection: by default it makes three of those."""

    def text(self):
        """Name a server a gateway, each checked on its operations port."""
        servers = [
            f"  server {_name(one)} 127.0.0.1:{urlsplit(one.url).port} port {urlsplit(one.operations_url).port}"
            for one in self.gateways
        ]
        every = round(CHECK_EVERY * 1000)
        return _HAPROXY.format(port=self.port, told_at=self._told_at, every=every, servers="\n".join(servers))

    def command(self, path):
        """Run in the foreground."""
        return ["haproxy", "-db", "-f", path]

    async def takes(self, gateways):
        """By its own word."""
        try:
            rows = await self.told()
        except OSError:
            return False
        return all(rows[_name(one)]["status"].startswith("UP") for one in gateways)

    async def told(self):
        """Return what it says of each server, by its name."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._told_at)
        writer.write(b"show stat\n")
        text = (await reader.read()).decode().removeprefix("# ")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return {row["svname"]: row for row in csv.DictReader(text.splitlines()) if row["pxname"] == "gateways"}


_NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_max_body_size 16m; keepalive_requests 100000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream gateways {{
    least_conn;
{servers}
    keepalive 256; keepalive_requests 100000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass http://gateways; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_read_timeout 90s;
    }}
  }}
}}
"""


class Nginx(Balancer):
    """Without health checks, which only the paid one has: it finds out by a refused connection, and goes elsewhere.

    A call whose connection was made is never made again: it is a POST.
    """

    def text(self):
        """Name the gateways; one that refuses connections is left alone for a second."""
        servers = [
            f"    server 127.0.0.1:{urlsplit(one.url).port} max_fails=1 fail_timeout=1s;" for one in self.gateways
        ]
        text = _NGINX.format(folder=self.folder, port=self.port, servers="\n".join(servers))
        return text + ("user root;\n" if os.geteuid() == 0 else "")

    def command(self, path):
        """Keep all of its files in the folder."""
        return ["nginx", "-e", "stderr", "-p", self.folder, "-c", path]

    async def takes(self, gateways):
        """Say whether it listens: of gateways it tells nothing."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return True


def _name(gateway):
    return f"gateway-{urlsplit(gateway.url).port}"


BALANCERS = {"haproxy": HAProxy, "nginx": Nginx}
"""Every kind."""
