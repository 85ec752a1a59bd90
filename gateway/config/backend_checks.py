"""What a backend's settings mean together: where it is, who is trusted, and with which key.

Law: as `checks.py`: nothing that does nothing, nothing that could serve nobody. A gateway that is its own backend would
call itself until all its places are taken: where the file shows it, it is a mistake; else the probes find it.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import SplitResult, urlsplit

from gateway.config.mistakes import ConfigError, Tell
from gateway.config.replicas import read_replicas
from gateway.config.schema import BackendRow, FileRow, ListenRow, OperationsRow
from gateway.files import opening
from policies.apis import APIS

USUAL = {"http": 80, "https": 443}
"""The port of a URL that names none."""

LOOPBACK: dict[int, IPv4Address | IPv6Address] = {4: IPv4Address("127.0.0.1"), 6: IPv6Address("::1")}
"""What `localhost` stands for, by IP version; also what a call to 0.0.0.0 or to :: reaches."""

EVERY_ADDRESS = {"0.0.0.0": {4}, "::": {4, 6}}  # noqa: S104 - it is read, not bound
"""Where to listen is to listen at all addresses of these IP versions."""


def check_backends(file: FileRow, tell: Tell) -> None:
    """Tell backends that are nowhere or in two ways somewhere, and keys and authorities that are missing or useless."""
    for backend in file.backends.values():
        _place(backend, tell)
        _discovery(file, backend, tell)
        if backend.given("base_url"):
            _version(backend, "base_url", backend.base_url, tell)
            _itself(file, backend, "base_url", backend.base_url, tell)
        if backend.probe_every is not None and 0 < backend.probe_every < 0.1:
            tell(
                backend.spot("probe_every"),
                "is so short that probes would cost something",
                "write 0, or 0.1 or more",
            )
        if "ca" in backend.lines and backend.base_url.startswith("http://"):
            tell(backend.spot("ca"), "does nothing: base_url has no TLS", "write https:// there, or remove the line")
        if backend.kind == "nvidia" and "api_key" not in backend.lines:
            tell(
                backend.spot("api_key"),
                "is missing: the hosted endpoint wants one",
                'add `api_key: "${NVIDIA_API_KEY}"`',
            )


def _place(backend: BackendRow, tell: Tell) -> None:
    """Tell a backend without a place, or with two."""
    lines = backend.lines
    if "list" in lines and "base_url" in lines:
        tell(backend.spot("base_url"), "does nothing: `list` says where the replicas are", "keep one of them")
    if "list" in lines and "discover" in lines:
        tell(backend.spot("discover"), "does nothing: `list` says where the replicas are", "keep one of them")
    if not {"base_url", "list"} & (lines.keys() | backend.wrong):
        remedy = "add the engine's URL, such as http://127.0.0.1:8000/v1"
        tell(backend.spot("base_url"), "is missing", remedy)


def _discovery(file: FileRow, backend: BackendRow, tell: Tell) -> None:
    """Tell a name that is none, and a list that cannot be used."""
    if backend.discover is not None and backend.given("base_url") and _is_address(backend.base_url):
        why = "does nothing: base_url names an address, which has no other"
        tell(backend.spot("discover"), why, "write the name that stands for all replicas there, or remove the line")
    if backend.list is None:
        return
    try:
        for url in read_replicas(opening(backend.list).read_bytes(), str(backend.list)):
            _version(backend, "list", url, tell)
            _itself(file, backend, "list", url, tell)
    except OSError as error:
        why = f"its file {backend.list} cannot be read: {error.strerror}"
        tell(backend.spot("list"), why, "name a readable file with one base URL a line")
    except ConfigError as error:
        for mistake in error.mistakes:
            why = f"its file {mistake.file}:{mistake.line} {mistake.message}"
            tell(backend.spot("list"), why, mistake.remedy)


def _version(backend: BackendRow, key: str, url: str, tell: Tell) -> None:
    """Tell a base URL that is one of a route, or that an engine would take for its own old API."""
    path = urlsplit(url).path.rstrip("/")
    route = next((shape.path for shape in APIS.values() if path.endswith(shape.path)), None)
    if route is not None:
        tell(backend.spot(key), f"ends with {route}, which is added by itself", "end it with /v1")
    elif backend.kind not in {"openai", ""} and not path.endswith("/v1"):
        tell(backend.spot(key), "does not end with /v1, where this kind has its API", "end it with /v1")


def _itself(file: FileRow, backend: BackendRow, key: str, url: str, tell: Tell) -> None:
    """Tell a base URL at an address where this gateway itself listens, as far as the file shows it."""
    if {"listen", "operations"} & file.wrong:
        return
    listens: dict[str, ListenRow | OperationsRow] = {"address": file.listen, "operations address": file.operations}
    for what, row in listens.items():
        if not {"host", "port"} & row.wrong and _reaches(urlsplit(url), row):
            tell(backend.spot(key), f"is this gateway's own {what}", "name an engine")


def _reaches(url: SplitResult, row: ListenRow | OperationsRow) -> bool:
    """Say whether a call to `url` from this machine surely comes to who listens there."""
    called, here = (url.hostname or "").lower(), row.host.lower()
    if (url.port or USUAL[url.scheme]) != row.port:
        return False
    families = EVERY_ADDRESS.get(here)
    if families is not None:
        return any(one.is_loopback and one.version in families for one in _addresses(called))
    return called == here or bool(_addresses(called) & _addresses(here))


def _addresses(host: str) -> frozenset[IPv4Address | IPv6Address]:
    """Return what a call to `host` surely reaches from this machine; nothing of a name but `localhost`."""
    if host == "localhost":
        return frozenset(LOOPBACK.values())
    try:
        one = ip_address(host)
    except ValueError:
        return frozenset()
    return frozenset({LOOPBACK[one.version] if one.is_unspecified else one})


def _is_address(url: str) -> bool:
    try:
        ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return False
    return True
