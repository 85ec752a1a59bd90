"""The two ways to settings: from a file, or built in.

Law: a file yields settings or all of its mistakes, never something in between, and either tells which files it depends
on. The digest is of the file's bytes, so two gateways that tell the same digest run the same file.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import UNSET

from gateway.config.checks import check
from gateway.config.compiling import compile_file
from gateway.config.document import compose
from gateway.config.lists import section
from gateway.config.mistakes import At, ConfigError
from gateway.config.reading import Reading
from gateway.config.schema import FileRow
from gateway.config.settings import STANDARD, Backend, Limits, Listen, Settings, StoreSettings, Telemetry
from gateway.files import opening

HOSTED_URL = "https://integrate.api.nvidia.com/v1"
"""The hosted NVIDIA endpoint."""

DIGEST = 12
"""Hex digits of a configuration's digest."""


def load(path: Path, environ: Mapping[str, str], *, secrets: bool = True) -> Settings:
    """Return the settings of the file at `path`, variables filled in from `environ`.

    Without `secrets` no credential is read, nor the store's URL, which may hold one: for whoever connects to nothing.
    Raises ConfigError with every mistake in the file, and OSError when there is no file to read.
    """
    content = opening(path).read_bytes()
    reading = Reading(str(path), path.parent, environ, secrets=secrets)
    root = compose(content, str(path), "name at least one backend under `backends:`")
    file = reading.attempt(section(FileRow), root, At(1, ""))
    files = {path: None, **dict.fromkeys(reading.files)}
    if file is not UNSET:
        files |= dict.fromkeys(_pair(file))
        check(file, reading.tell)
        if not reading.mistakes:
            return compile_file(file, path.parent, _digest(content), tuple(files), reading.files)
        # A list that is good is looked at by whoever follows its replicas; one that is not, by whoever reads the file.
        files |= dict.fromkeys(backend.list for backend in file.backends.values() if backend.list is not None)
    raise ConfigError(tuple(sorted(reading.mistakes)), tuple(files))


def _pair(file: FileRow) -> tuple[Path, ...]:
    """Return the files of the callers' certificate, if they are told."""
    tls = file.listen.tls
    return () if tls is None else tuple(one for key, one in (("cert", tls.cert), ("key", tls.key)) if tls.given(key))


def builtin(environ: Mapping[str, str], data_dir: Path) -> Settings:
    """Return the settings of a gateway without a file: an embedded store in `data_dir`, and the plan `standard`.

    The hosted endpoint is a backend when NVIDIA_API_KEY is set; local engines are for the caller to find.
    """
    key = environ.get("NVIDIA_API_KEY", "").strip()
    backends = (Backend("hosted", "nvidia", HOSTED_URL, key),) if key else ()
    return Settings(
        listen=Listen("127.0.0.1", 8600),
        operations=Listen("127.0.0.1", 8601),
        admin_key=None,
        store=StoreSettings("embedded", data_dir),
        limits=Limits(),
        backends=backends,
        models=None,
        plans={STANDARD.name: STANDARD},
        organizations={},
        telemetry=Telemetry(),
        digest=_digest(msgspec.json.encode(["builtin", [backend.name for backend in backends], STANDARD])),
    )


def _digest(content: bytes) -> str:
    """Return the short name of a configuration."""
    return sha256(content).hexdigest()[:DIGEST]
