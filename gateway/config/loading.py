"""The two ways to settings: from a file, or built in.

Law: a file yields settings or all of its mistakes, never something in between. The digest is of the file's bytes, so
two gateways that tell the same digest run the same file.
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

HOSTED_URL = "https://integrate.api.nvidia.com/v1"
"""The hosted NVIDIA endpoint."""

DIGEST = 12
"""Hex digits of a configuration's digest."""


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Return the settings of the file at `path`, variables filled in from `environ`.

    Raises ConfigError with every mistake in the file, and OSError when there is no file to read.
    """
    content = path.read_bytes()
    reading = Reading(str(path), path.parent, environ)
    root = compose(content, str(path), "name at least one backend under `backends:`")
    file = reading.attempt(section(FileRow), root, At(1, ""))
    if file is not UNSET:
        check(file, reading.tell)
        if not reading.mistakes:
            return compile_file(file, path.parent, _digest(content))
    raise ConfigError(tuple(sorted(reading.mistakes)))


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
