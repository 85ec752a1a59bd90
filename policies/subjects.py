"""Whom a token is about: its claims, read by the mapping of its issuer, become an organization, a team and a name.

Law: claims are the issuer's words, not ours: what is not exactly what the mapping asks for is refused and never
guessed at, and an organization counts only if the mapping lets this issuer speak for it. What is told of a refusal
names the operator's own settings and quotes nothing of the token.
"""

import base64
import hashlib
import re
from collections.abc import Mapping as Claims
from typing import Any, get_args

from msgspec import Struct

from policies.domain import Scope

OWN_SCOPES: dict[str, Scope] = {scope: scope for scope in get_args(Scope)}
"""Every scope there is, by its name."""

LONGEST_SUBJECT = 255
"""Characters of a `sub`: OpenID Connect Core 1.0, section 2, allows no more."""

NAME_SHOWN = 128
"""Characters of a subject's own name that are kept for people to read."""

_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,64}")
"""What an organization or a team may be called, as in the file and in the admin API."""

_PLAIN = re.compile(r"[A-Za-z0-9._@+-]{1,96}")
"""A `sub` that can stand in a key of the store and in a table as it is; `~`, which marks the others, is not in it."""

_DIGEST_DIGITS = 22
"""Base64url digits of a digest that are kept: 132 bits, too many for two subjects to be given the same."""


class Mapping(Struct, frozen=True, kw_only=True):
    """How one issuer's claims are read. A claim is the path to it: names from the top of the claims down.

    `organization` or else `organization_claim`: the organization itself, or where it is told. `organizations`: those
    that this issuer may speak for (None: any). `team`, `team_claim`: likewise. `scopes`: what every token has, unless
    `scopes_claim` tells: a list, or words with spaces between, each one a scope's own name or in `scope_values`.
    """

    organization: str | None = None
    organization_claim: tuple[str, ...] | None = None
    organizations: frozenset[str] | None = None
    team: str | None = None
    team_claim: tuple[str, ...] | None = None
    subject_claim: tuple[str, ...] = ("sub",)
    scopes: frozenset[Scope] = frozenset({"inference"})
    scopes_claim: tuple[str, ...] | None = None
    scope_values: dict[str, Scope] = {}


class Subject(Struct, frozen=True):
    """Whom a token is about. `key`: `ISSUER:SUB`, its account and level in the ledger; `name`: for people to read."""

    organization: str
    team: str
    key: str
    name: str
    scopes: frozenset[Scope]


def subject_of(issuer_name: str, claims: Claims[str, Any], mapping: Mapping) -> Subject | str:
    """Return whom `claims` are about, or else what is wrong with them: a clause about the token, for its bearer.

    `issuer_name`: the operator's name for the issuer, which keeps the subjects of two issuers apart. A `sub` that is
    not plain (letters, digits and ._@+-, at most 96) stands in the key as `~` and a part of its SHA-256.
    """
    organization = mapping.organization or _name(claims, mapping.organization_claim or (), "an organization")
    if not isinstance(organization, str):
        return organization.why
    if mapping.organizations is not None and organization not in mapping.organizations:
        return "its organization is not one that this issuer may speak for here"
    team = mapping.team or _name(claims, mapping.team_claim or (), "a team")
    if not isinstance(team, str):
        return team.why
    subject = _at(claims, mapping.subject_claim)
    if not isinstance(subject, str) or not 0 < len(subject) <= LONGEST_SUBJECT or not subject.isprintable():
        told = f"of 1 to {LONGEST_SUBJECT} printable characters"
        return f"its claim {_path(mapping.subject_claim)}, which says whom it is about, has to be a text {told}"
    scopes = mapping.scopes if mapping.scopes_claim is None else _scopes(claims, mapping.scopes_claim, mapping)
    if isinstance(scopes, _Wrong):
        return scopes.why
    return Subject(organization, team, f"{issuer_name}:{_plain(subject)}", subject[:NAME_SHOWN], scopes)


class _Wrong(Struct, frozen=True):
    why: str


def _name(claims: Claims[str, Any], path: tuple[str, ...], what: str) -> str | _Wrong:
    """Return the name at `path`: a text, or a list of that one text, as Keycloak tells a user's organization."""
    found = _at(claims, path)
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if isinstance(found, str) and _NAME.fullmatch(found):
        return found
    return _Wrong(f"its claim {_path(path)} has to name {what}, by 1 to 64 letters, digits or . _ -, and one only")


def _scopes(claims: Claims[str, Any], path: tuple[str, ...], mapping: Mapping) -> frozenset[Scope] | _Wrong:
    """Return the scopes told at `path`; nothing there means none, and words that mean nothing here are passed over."""
    found = _at(claims, path)
    words = found.split() if isinstance(found, str) else [] if found is None else found
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return _Wrong(f"its claim {_path(path)} has to be a list of texts, or one text with spaces between words")
    meanings = OWN_SCOPES | mapping.scope_values
    return frozenset(meanings[word] for word in words if word in meanings)


def _at(claims: Claims[str, Any], path: tuple[str, ...]) -> Any:  # noqa: ANN401 - a claim is any JSON value
    """Return the claim at `path`, None where there is none."""
    found: Any = claims
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _plain(subject: str) -> str:
    if _PLAIN.fullmatch(subject):
        return subject
    digest = base64.urlsafe_b64encode(hashlib.sha256(subject.encode()).digest())
    return "~" + digest[:_DIGEST_DIGITS].decode()


def _path(path: tuple[str, ...]) -> str:
    return " > ".join(f"`{name}`" for name in path)
