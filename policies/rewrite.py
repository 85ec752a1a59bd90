"""Rebuild a body for one deployment, and say what became of the caller's wishes.

Law: every value that is kept goes byte for byte; the engine sees exactly the members that were checked, each once. Only
what the dialect names is dropped, renamed, mapped or added, and no wish is changed in silence.
"""

import re

import msgspec
from msgspec import Raw

from policies.dialects import Dialect, Names
from policies.dialects.mistral_common import DROPS, EFFORTS, Effort
from policies.domain import API, Deployment, InferenceRequest
from policies.wishes import slighted, wished

Changes = tuple[str, ...]
"""What was changed of a caller's wishes, each as `MEMBER: what`, in plain ASCII."""

MOST_CHANGES = 8
"""Changes that are told one by one: they go into a header."""

_encode = msgspec.json.encode
_members = msgspec.json.Decoder(dict[str, Raw])
_word = msgspec.json.Decoder(str).decode
_TRUE = Raw(b"true")
_ASKED: frozenset[API] = frozenset({"chat", "completions"})
"""The APIs whose streams tell usage when `stream_options` asks; the others always do, and know no `include_usage`."""
_PLAIN = re.compile(r"[\w.]{1,40}: (?:dropped|ignored|\w+ -> \w+)", re.ASCII)
_NOTHING: dict[str, bytes] = {}


def rewrite(request: InferenceRequest, deployment: Deployment, dialect: Dialect) -> tuple[bytes, Changes]:
    """Return the body that `deployment` is sent for `request`, and what it changes of the caller's wishes."""
    api = request.api
    members = request.members.copy()
    changes: list[str] = []
    if api in dialect.renames:
        _rename(members, dialect.renames[api])
    unwanted, keeps = dialect.drops, dialect.keeps.get(api)
    if deployment.tokenizer == "mistral":
        unwanted |= DROPS
        if api in EFFORTS:
            _map_effort(members, EFFORTS[api], changes)
    if keeps is not None or not unwanted.isdisjoint(members):
        _drop(members, unwanted, keeps, changes)
    if api in dialect.slights:
        changes += (f"{name}: ignored" for name in slighted(request, dialect) if name in members)
    members["model"] = Raw(_encode(deployment.model))
    if request.stream and api in _ASKED and dialect.usage == "include_usage":
        members["stream_options"] = _with_usage(members.get("stream_options"))
    for name, value in dialect.adds.get(api, _NOTHING).items():
        members.setdefault(name, Raw(value))
    return _join(members), _told(changes) if changes else ()


def _rename(members: dict[str, Raw], renames: dict[str, str]) -> None:
    """Call members what the engine calls them; of two that become one, the one that was renamed counts."""
    for name, known in renames.items():
        value = members.pop(name, None)
        if value is not None and (known not in members or bytes(value) != b"null"):
            members[known] = value


def _drop(members: dict[str, Raw], unwanted: Names, keeps: Names | None, changes: list[str]) -> None:
    """Take out what the engine refuses; that usage is not asked for changes nothing, as it is told then unasked."""
    for name in [name for name in members if name in unwanted or (keeps is not None and name not in keeps)]:
        value = members.pop(name)
        if name != "stream_options" and wished(name, value):
            changes.append(f"{name}: dropped")


def _map_effort(members: dict[str, Raw], effort: Effort, changes: list[str]) -> None:
    """Say the effort in a word that the model knows; what is no such word is left to the engine to refuse."""
    outer = members.get(effort.member)
    if outer is None:
        return
    try:
        inner = {} if effort.key is None else _members.decode(outer)
        asked = _word(outer if effort.key is None else inner[effort.key])
        known = effort.words[asked]
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        return
    name = effort.member if effort.key is None else f"{effort.member}.{effort.key}"
    changes.append(f"{name}: dropped" if known is None else f"{name}: {asked} -> {known}")
    if effort.key is None:
        members[effort.member] = Raw(_encode(known))
        return
    if known is None:
        del inner[effort.key]
    else:
        inner[effort.key] = Raw(_encode(known))
    members[effort.member] = Raw(_join(inner))


def _told(changes: list[str]) -> Changes:
    """Return the changes that fit a header: of plain names, and not too many."""
    plain = [change for change in changes if _PLAIN.fullmatch(change)][:MOST_CHANGES]
    others = len(changes) - len(plain)
    return (*plain, f"{others} more") if others else tuple(plain)


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
