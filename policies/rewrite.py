"""Rebuild a body for one deployment.

Law: every value that is kept goes byte for byte; the engine sees exactly the members that were checked, each once. Only
what the dialect names is dropped, renamed or added.
"""

import msgspec
from msgspec import Raw

from policies.dialects import Dialect
from policies.domain import Deployment, InferenceRequest

_encode = msgspec.json.encode
_members = msgspec.json.Decoder(dict[str, Raw])
_TRUE = Raw(b"true")


def rewrite(request: InferenceRequest, deployment: Deployment, dialect: Dialect) -> bytes:
    """Return the body that `deployment` is sent for `request`."""
    members = {dialect.renames.get(name, name): value for name, value in request.members.items()}
    for name in dialect.drops:
        members.pop(name, None)
    members["model"] = Raw(_encode(deployment.model))
    if request.stream and dialect.usage == "include_usage":
        members["stream_options"] = _with_usage(members.get("stream_options"))
    return _join(members)


def _with_usage(options: Raw | None) -> Raw:
    """Ask for the usage event beside whatever else the caller asked of the stream."""
    kept = _members.decode(options) if options is not None and bytes(options) != b"null" else {}
    kept["include_usage"] = _TRUE
    return Raw(_join(kept))


def _join(members: dict[str, Raw]) -> bytes:
    """Write the members, copying each value once: one may be an image of megabytes."""
    parts: list[bytes | Raw] = []
    for name, value in members.items():
        parts += (b",", _encode(name), b":", value)
    return b"".join((b"{", *parts[1:], b"}"))
