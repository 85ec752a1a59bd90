"""A cluster's API, as far as helm asks it before it installs: which kinds there are, and which objects.

Law: nothing can be changed by it, and it decides nothing: what it is not given is not there.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from uuid import uuid4

from tests.helm.charts import KUBERNETES, NAMESPACE, RELEASE, Object

OWNED = {
    "labels": {"app.kubernetes.io/managed-by": "Helm"},
    "annotations": {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": NAMESPACE},
}
"""What the metadata of an object has that a release has installed."""

_ABSENT = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}


@contextmanager
def cluster(known: Iterable[Object], there: Iterable[Object]) -> Iterator[str]:
    """Serve a cluster that knows the kinds of the objects `known`, and in which those of `there` are; yield its URL.

    No two clusters ever have one URL, even at one port: helm remembers what it was told at each.
    """
    prefix = f"/{uuid4().hex}"
    answers = {prefix + path: told for path, told in (_kinds(known) | {_path(item): item for item in there}).items()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path.partition("?")[0])
            body = json.dumps(_ABSENT if found is None else found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{prefix}"
        finally:
            server.shutdown()
            serving.join()


def _plural(kind: str) -> str:
    return f"{kind.lower().removesuffix('y')}ies" if kind.endswith("y") else f"{kind.lower()}s"


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _path(item: Object) -> str:
    name = f"{_plural(item['kind'])}/{item['metadata']['name']}"
    return f"{_root(item['apiVersion'])}/namespaces/{NAMESPACE}/{name}"


def _kinds(known: Iterable[Object]) -> dict[str, Object]:
    """Return what the API tells of itself, by path: its version, its groups, and each group's kinds."""
    kinds: dict[str, set[str]] = {}
    for item in known:
        kinds.setdefault(item["apiVersion"], set()).add(item["kind"])
    groups = []
    for version in kinds:
        name, slash, number = version.rpartition("/")
        told = {"groupVersion": version, "version": number}
        groups += [{"name": name, "versions": [told], "preferredVersion": told}] if slash else []
    lists: dict[str, Object] = {
        _root(version): {
            "kind": "APIResourceList",
            "groupVersion": version,
            "resources": [
                {"name": _plural(kind), "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get"]}
                for kind in sorted(of)
            ],
        }
        for version, of in kinds.items()
    }
    return lists | {
        "/version": {"major": "1", "minor": KUBERNETES[-1][2:], "gitVersion": f"v{KUBERNETES[-1]}.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
    }
