"""The rules of the house, as functions over source text: who may import whom, and how large things may grow.

The table of doors and ranks is the one of CONTRIBUTING.md.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("policies", "gateway")

PURE = frozenset(
    [
        "base64",
        "collections",
        "dataclasses",
        "datetime",
        "enum",
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "bisect",
        "itertools",
        "json",
        "math",
        "operator",
        "random",
        "re",
        "typing",
        "zlib",
    ]
)
"""What of the standard library the core may import: nothing that reaches outside or knows the time."""

DOORS = {
    "redis": ("gateway/store/",),
    "httpx": ("gateway/http.py", "gateway/upstream/", "gateway/cli/", "gateway/demo/"),
    "jwt": ("gateway/identity/tokens.py",),
    "opentelemetry": ("gateway/telemetry.py",),
    "prometheus_client": ("gateway/metrics.py",),
    "litestar": ("gateway/api/", "gateway/app.py"),
    "uvicorn": ("gateway/listener.py", "gateway/wire.py", "gateway/cycle.py"),
    "rich": ("gateway/cli/", "gateway/demo/"),
    "click": ("gateway/cli/",),
    "matplotlib": ("gateway/cli/simulate_plot.py",),
    "yaml": ("gateway/config/",),
    "time": ("gateway/clock.py",),
    "random": ("gateway/clock.py", "policies/"),
    "secrets": ("gateway/clock.py",),
}
"""Each library and the only places that may import it."""

RANKS = (
    ("clock", "errors", "files", "http", "logs", "store", "config", "forwarded", "tls"),
    ("identity", "ledger", "upstream", "telemetry", "metrics"),
    (
        "patience",
        "waiting",
        "cycle",
        "intake",
        "connections",
        "wire",
        "listener",
        "reply",
        "relay",
        "services",
        "planning",
        "places",
        "suspects",
        "growth",
        "continuing",
        "succession",
        "attempts",
    ),
    ("placing", "exchange", "upkeep", "following", "roll", "peers", "reloading"),
    ("api",),
    ("app",),
    ("server",),
    ("workers",),
    ("demo",),
    ("cli",),
)
"""The rooms of `gateway`, each importing only from those before it (or from its own rank, where that is one line)."""

APART = frozenset({"identity", "ledger", "upstream", "telemetry", "metrics"})
"""Rooms of one rank that do not know one another."""


def sources():
    """Every source file of the product."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(source):
    """Yield every module that `source` imports, dotted, wherever in the file it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(place, source):
    """Return what is wrong with `source` standing at `place` (its path from the root), in words."""
    found = []
    for module in imports(source):
        top = module.partition(".")[0]
        if place.startswith("policies/") and top not in PURE | {"msgspec", "policies"}:
            found.append(f"{place}: the core imports {module}")
        doors = DOORS.get(top)
        if doors is not None and not place.startswith(doors):
            found.append(f"{place}: imports {module}, whose door is {' or '.join(doors)}")
        if place.startswith("gateway/") and top == "gateway" and "." in module:
            found += _upward(place, module.split(".")[1])
    if place.startswith("policies/"):
        asynchronous = ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith
        found += [
            f"{place}:{node.lineno}: async in the core"
            for node in ast.walk(ast.parse(source))
            if isinstance(node, asynchronous)
        ]
    return sorted(set(found))


def _upward(place, room):
    here = place.split("/")[1].removesuffix(".py")
    if here in (room, "__init__") or room not in _rank:
        return []
    if _rank[room] > _rank[here] or (_rank[room] == _rank[here] and {here, room} <= APART):
        return [f"{place}: {here} imports {room}"]
    return []


_rank = {room: number for number, rooms in enumerate(RANKS) for room in rooms}


def functions(source):
    """Yield (name, lines) of every function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1
