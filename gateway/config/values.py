"""How single values are read: words, numbers in a range, addresses, credentials.

Law: a reader returns the value in the unit the gateway works in, or raises MisreadError with what would be right. URLs
and credentials are never shown in a message, since either may hold a secret.
"""

import re
import ssl
from collections.abc import Callable, Collection
from decimal import Decimal
from hashlib import sha256
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, parse_qs, urlsplit
from zoneinfo import available_timezones

import yaml

from gateway.config import amounts
from gateway.config.mistakes import At, MisreadError
from gateway.config.reading import Read, Reading, nearest
from gateway.files import opening

N = TypeVar("N", int, Decimal)

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_NUMBERS = re.compile(r"\d+(?:\.\d+){3}", re.ASCII)  # an address, or nothing
_DATABASE = re.compile(r"/?[0-9]{0,5}")
_NODES = re.compile(
    r"rediss?\+(?P<kind>sentinel|cluster)://([^@/?#]*@)?(?P<nodes>[^@/?#]*)(?P<path>/[^?#]*)?(\?(?P<query>[^#]*))?(?P<rest>.*)"
)
_NODE = re.compile(r"(\[(?P<v6>[^]:]*:[^]]*)\]|(?P<name>[^]:[]+))(:(?P<port>[0-9]{1,5}))?")
_MASTER = re.compile(r"/[A-Za-z0-9._-]+(/[0-9]{1,5})?")
_SENTINEL = "redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB"
_CLUSTER = "redis+cluster://HOST:PORT,HOST:PORT"
_STORES = f"write embedded, redis://HOST:PORT/DB, rediss://HOST:PORT/DB, unix:///PATH, {_SENTINEL} or {_CLUSTER}"

_USUAL = {"http": 80, "https": 443}

ANY_ORIGIN = "*"
"""What stands for the origin of every page."""

LEAST_ADMIN_KEY = 16
"""Characters of an admin key, at least."""

STAND_IN = "a-secret-that-was-not-read"
"""What stands for each secret where none is read."""


def text(reading: Reading, node: yaml.Node, _at: At) -> str:
    """Read any text but the empty one."""
    word = reading.word(node)
    if not word.text.strip():
        raise MisreadError("is empty", "give it a value, or remove the line")
    return word.text


def one_of(options: Collection[str]) -> Read[str]:
    """Read one of a few words."""
    remedy = f"write one of {', '.join(options)}"

    def read(reading: Reading, node: yaml.Node, _at: At) -> str:
        word = reading.word(node)
        if word.text not in options:
            raise MisreadError(f"{word.shown} is not known here", remedy)
        return word.text

    return read


def whole(low: int, high: int, unit: str = "a whole number") -> Read[int]:
    """Read a whole number from `low` to `high`; `unit` says in the remedy what it counts."""
    return _between(amounts.whole, low, high, f"write {unit} from {low:,} to {high:,}")


def size(high: int) -> Read[int]:
    """Read a size of up to `high` bytes."""
    return _between(amounts.size, 1, high, f"write a size such as 32MiB, 10MB or plain bytes, from 1 to {high:,}")


def usd(parse: Callable[[str], int], most: int, unit: str) -> Read[int]:
    """Read dollars into the whole unit that `parse` makes of them, up to `most` dollars."""
    return _between(parse, 0, parse(str(most)), f"write USD {unit} from 0 to {most:,}, such as 1.5")


def budget(most: int) -> Read[int]:
    """Read dollars of a budget, at least a nano-dollar, into nano-dollars, up to `most` of them."""
    return _between(amounts.nano_dollars, 1, most, f"write USD, more than 0 and up to {amounts.usd(most)}, such as 25")


def decimal(low: str, high: str, unit: str) -> Read[float]:
    """Read a decimal number from `low` to `high`."""
    least, most = Decimal(low), Decimal(high)
    exact = _between(amounts.decimal, least, most, f"write {unit} from {least:,} to {most:,}")

    def read(reading: Reading, node: yaml.Node, at: At) -> float:
        return float(exact(reading, node, at))

    return read


def _between(parse: Callable[[str], N], low: N, high: N, remedy: str) -> Read[N]:
    """Read what `parse` understands (ValueError: it does not), from `low` to `high`."""

    def read(reading: Reading, node: yaml.Node, _at: At) -> N:
        word = reading.word(node)
        try:
            amount = parse(word.text)
        except ValueError as error:
            raise MisreadError(f"{word.shown} {error}", remedy) from None
        if not low <= amount <= high:
            raise MisreadError(f"{word.shown} is out of range", remedy)
        return amount

    return read


def host(reading: Reading, node: yaml.Node, _at: At) -> str:
    """Read an IP address or a host name to listen on."""
    word = reading.word(node)
    if not _is_host(word.text):
        raise MisreadError(f"{word.shown} is no address", "write an IP address or a host name, such as 127.0.0.1")
    return word.text


def network(reading: Reading, node: yaml.Node, _at: At) -> str:
    """Read an address, or a range of them in CIDR notation."""
    word = reading.word(node)
    remedy = "write an address or a range such as 10.0.0.0/8 or fd00::/8, without bits beyond its length"
    try:
        ip_network(word.text)
    except ValueError:
        raise MisreadError(f"{word.shown} is no range of addresses", remedy) from None
    return word.text


def path(reading: Reading, node: yaml.Node, at: At) -> Path:
    """Read a path; a relative one starts at the file's folder."""
    name = text(reading, node, at)
    if name.startswith("~"):
        raise MisreadError("begins with ~, which means nothing here", "write ${HOME} in its place")
    return reading.folder / name


def authorities(reading: Reading, node: yaml.Node, at: At) -> Path:
    """Read the path of a PEM file with at least one certificate."""
    source = path(reading, node, at)
    reading.files[source] = ""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(opening(source))
        reading.files[source] = sha256(source.read_bytes()).hexdigest()
    except ssl.SSLError:
        message = f"its file {source} holds no certificates"
    except OSError as error:
        message = f"its file {source} cannot be read: {error.strerror}"
    else:
        if context.cert_store_stats()["x509"]:
            return source
        message = f"its file {source} holds no certificates"
    raise MisreadError(message, "name a readable PEM file with the certificate of each authority to trust")


def web_url(reading: Reading, node: yaml.Node, _at: At) -> str:
    """Read an http or https URL without credentials, query or fragment; trailing slashes are dropped."""
    return url_of(reading.word(node).text)


def url_of(written: str) -> str:
    """Return such a URL without its trailing slashes. Raises MisreadError where it is none."""
    parts = _web(written)
    if "@" in parts.netloc:
        raise MisreadError("holds credentials", "take them out of the URL; a key belongs into `api_key`")
    if "?" in written or "#" in written:
        raise MisreadError("has a query or a fragment", "end the URL before ? and #")
    return written.rstrip("/")


def origin(reading: Reading, node: yaml.Node, _at: At) -> str:
    """Read the origin of a web page, as browsers tell it, or `*` for all of them."""
    written = reading.word(node).text
    if written == ANY_ORIGIN:
        return written
    remedy = "write it as browsers tell it: https://HOST or https://HOST:PORT, in small letters, with nothing behind it"
    if "*" in written:
        raise MisreadError("has a * in it, which stands for nothing", "write each origin, or '*' alone for all of them")
    if written == "null":
        raise MisreadError("is what every page without an origin tells", "write the origins of pages that have one")
    parts = _web(written, remedy)
    if "@" in parts.netloc:
        raise MisreadError("holds credentials", remedy)
    if any(mark in written.partition("://")[2] for mark in "/?#"):
        raise MisreadError("goes on behind its host, as no origin does (a slash is enough)", remedy)
    if written != written.lower():
        raise MisreadError("has capital letters, which no browser tells", remedy)
    if parts.netloc.endswith(":") or parts.port == _USUAL[parts.scheme]:
        raise MisreadError("names the usual port, which no browser tells", remedy)
    if parts.port is not None and not written.endswith(f":{parts.port}"):
        right = f"{written.rpartition(':')[0]}:{parts.port}"
        raise MisreadError("has zeros before its port, which no browser tells", f"write {right}")
    return written


def trusted_url(but: str) -> Read[str]:
    """Read a URL, exactly as it stands, whose answers cannot be forged on the way: https, or http on this machine.

    `but`: the marks that it must not hold.
    """

    def read(reading: Reading, node: yaml.Node, _at: At) -> str:
        written = reading.word(node).text
        parts = _web(written)
        if "@" in parts.netloc:
            raise MisreadError("holds credentials", "take them out of the URL")
        if any(mark in written for mark in but):
            raise MisreadError("has a query or a fragment", f"end the URL before {' and '.join(but)}")
        if parts.scheme == "http" and not _is_here(parts.hostname or ""):
            why = "has no TLS, so whoever is on the way could sign tokens"
            raise MisreadError(why, "write https://, or an address of this machine")
        return written

    return read


def _web(written: str, remedy: str = "write http://HOST:PORT/PATH or https://HOST/PATH") -> SplitResult:
    """Return the parts of an http or https URL. Raises MisreadError, with `remedy`, where it is none."""
    parts = _split(written)
    if parts.scheme not in {"http", "https"}:
        raise MisreadError("does not begin with http:// or https://", remedy)
    if not _is_host(parts.hostname or ""):
        raise MisreadError("names no valid host", remedy)
    return parts


def store_url(reading: Reading, node: yaml.Node, _at: At) -> str:
    """Read where the store is: `embedded` or a URL of Redis, which may hold a password."""
    if not reading.secrets:
        return STAND_IN
    word = reading.word(node)
    if word.text == "embedded":
        return word.text
    several = _NODES.fullmatch(word.text)
    if several:
        _check_nodes(several)
        return word.text
    parts = _split(word.text)
    if parts.scheme in {"redis", "rediss"}:
        if not _is_host(parts.hostname or ""):
            raise MisreadError("names no valid host", _STORES)
        if not _DATABASE.fullmatch(parts.path):
            raise MisreadError("has a path that is no database number", _STORES)
    elif parts.scheme != "unix":
        raise MisreadError("is no store", _STORES)
    elif not parts.path.strip("/"):
        raise MisreadError("names no socket", _STORES)
    return word.text


def _check_nodes(url: re.Match[str]) -> None:
    """Raise MisreadError where a URL of Sentinels or of a Cluster is none."""
    remedy = f"write {_SENTINEL if url['kind'] == 'sentinel' else _CLUSTER}"
    for node in url["nodes"].split(","):
        found = _NODE.fullmatch(node)
        if not found or not _is_host(found["v6"] or found["name"]) or not 0 < int(found["port"] or 1) < 1 << 16:
            raise MisreadError("has a node that is no HOST:PORT", remedy)
    if url["rest"]:
        raise MisreadError("has a fragment", remedy)
    if url["kind"] == "sentinel" and not _MASTER.fullmatch(url["path"] or ""):
        raise MisreadError("does not end with a master's name and perhaps a database number", remedy)
    if url["kind"] == "cluster" and url["path"] not in {None, "/", "/0"}:
        raise MisreadError("has a path, but a cluster has no databases", remedy)
    if url["kind"] == "cluster" and parse_qs(url["query"]).get("db", ["0"]) != ["0"]:
        raise MisreadError("has a db, but a cluster has no databases", remedy)


def truth(reading: Reading, node: yaml.Node, _at: At) -> bool:
    """Read `true` or `false`."""
    word = reading.word(node)
    if word.text not in {"true", "false"}:
        raise MisreadError(f"{word.shown} is neither true nor false", "write true or false")
    return word.text == "true"


def time_zone(reading: Reading, node: yaml.Node, _at: At) -> str:
    """Read the IANA name of a time zone."""
    word = reading.word(node)
    zones = sorted(available_timezones())
    if word.text not in zones:
        remedy = nearest(word.text, zones, "write an IANA name such as Europe/Berlin")
        raise MisreadError(f"{word.shown} is no time zone", remedy)
    return word.text


def admin_key(reading: Reading, node: yaml.Node, at: At) -> str:
    """Read a credential that opens everything, so nobody may guess it."""
    value = secret(reading, node, at)
    if len(value) < LEAST_ADMIN_KEY:
        raise MisreadError(
            f"has fewer than {LEAST_ADMIN_KEY} characters, which can be guessed",
            "make a long one, such as by `openssl rand -hex 24`, or remove the line for one that `serve` makes",
        )
    return value


def secret(reading: Reading, node: yaml.Node, at: At) -> str:
    """Read a credential: text, mostly a `${VAR}`, or `{file: PATH}`, whose content is stripped."""
    remedy = 'write "${VAR}" or {file: PATH}'
    if isinstance(node, yaml.MappingNode) and [key.value for key, _ in node.value] != ["file"]:
        raise MisreadError("is a mapping without the one key `file`", remedy)
    if not reading.secrets:
        return STAND_IN
    if isinstance(node, yaml.MappingNode):
        source = path(reading, node.value[0][1], at)
        reading.files[source] = ""
        value = _file_content(source)
    else:
        value = reading.word(node).text
    if not value:
        raise MisreadError("is empty", remedy)
    if not value.isascii() or not value.isprintable() or " " in value:
        raise MisreadError("holds what no credential may: a space, a line break or a letter outside ASCII", remedy)
    return value


def _file_content(source: Path) -> str:
    """Return the stripped text of a secret's file. Raises MisreadError when it cannot be read."""
    try:
        return opening(source).read_text("utf-8").strip()
    except OSError as error:
        message = f"its file {source} cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        message = f"its file {source} is not UTF-8 text"
    raise MisreadError(message, "name a readable file that holds the credential alone")


def _split(url: str) -> SplitResult:
    """Return the parts of a URL. Raises MisreadError when it is none, or its port is no port."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = None, 0
    if parts is None or port == 0 or " " in url:
        raise MisreadError("is not a valid URL", "write SCHEME://HOST:PORT/PATH, with a port from 1 to 65535")
    return parts


def _is_here(name: str) -> bool:
    """Say whether `name` is this machine itself."""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _is_host(name: str) -> bool:
    """Say whether `name` is an IP address or looks like a host's name."""
    if _HOST.fullmatch(name) and not _NUMBERS.fullmatch(name):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
