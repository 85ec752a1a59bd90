"""What a file may say of somebody whose tokens are taken, and what that compiles to.

Law: this page and `schema.py` are the reference of what a file may say. Nothing is guessed from a token: who signs,
with what, for whom, and which claims count is all in the file.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast, get_args

import yaml
from msgspec import UNSET, field

from gateway.config import values
from gateway.config.lists import TENANT, Item, mapped, name, names, one_or_more, words
from gateway.config.mistakes import At, MisreadError
from gateway.config.reading import Key, Reading, Row
from gateway.config.settings import ALGORITHMS, Issuer
from policies.domain import Scope
from policies.subjects import Mapping

SCOPES = get_args(Scope)

_NO_SECRETS = "is not taken: its key is a shared secret, so whoever checks tokens could make them"
_ALGORITHM = f"write one of {', '.join(ALGORITHMS)}"


def algorithm(reading: Reading, node: yaml.Node, _at: At) -> str:
    """Read the name of a signature that only the holder of a private key can make."""
    word = reading.word(node)
    if word.text.startswith("HS"):
        raise MisreadError(f"{word.shown} {_NO_SECRETS}", _ALGORITHM)
    if word.text not in ALGORITHMS:
        raise MisreadError(f"{word.shown} is not known here", _ALGORITHM)
    return word.text


def claim(reading: Reading, node: yaml.Node, at: At) -> tuple[str, ...]:
    """Read where a claim is: its name at the top, or a list of names, from the top down."""
    if not isinstance(node, yaml.SequenceNode):
        return (values.text(reading, node, at),)
    path = [reading.attempt(values.text, item, place) for item, place in reading.items(node, at)]
    if not path:
        raise MisreadError("is empty", "write the claim's name, or its path as [OUTER, INNER]")
    return tuple(part for part in path if part is not UNSET)


_SCOPE = values.one_of(SCOPES)


class IssuerRow(Row, frozen=True, kw_only=True):
    """One of `issuers`."""

    NOUN: ClassVar[str] = "an issuer"

    issuer: Annotated[str, Key(values.trusted_url("?#"), "add the `iss` of its tokens, exactly")] = ""
    audience: Annotated[
        tuple[Item, ...],
        Key(one_or_more(values.text, "name what its tokens are for"), "name what its tokens are for: their `aud`"),
    ] = ()
    algorithms: Annotated[
        tuple[Item, ...] | None, Key(words(algorithm, f"name some of {', '.join(ALGORITHMS)}, or remove the line"))
    ] = None
    jwks_url: Annotated[str | None, Key(values.trusted_url("#"))] = None
    ca: Annotated[Path | None, Key(values.authorities)] = None
    leeway: Annotated[float, Key(values.decimal("0", "300", "seconds"))] = 30.0
    plan: Annotated[str | None, Key(values.text)] = None
    on_expiry: Annotated[Literal["finish", "cut"], Key(values.one_of(["finish", "cut"]))] = "finish"
    organization: Annotated[str | None, Key(name(TENANT))] = None
    organization_claim: Annotated[tuple[str, ...] | None, Key(claim)] = None
    organizations: Annotated[
        tuple[Item, ...] | None, Key(names(TENANT, "name those that it may speak for, or remove the line for any"))
    ] = None
    team: Annotated[str | None, Key(name(TENANT))] = None
    team_claim: Annotated[tuple[str, ...] | None, Key(claim)] = None
    subject_claim: Annotated[tuple[str, ...], Key(claim)] = ("sub",)
    scopes: Annotated[tuple[Item, ...] | None, Key(words(_SCOPE, "add inference, or remove the line"))] = None
    scopes_claim: Annotated[tuple[str, ...] | None, Key(claim)] = None
    scope_values: Annotated[dict[str, Item], Key(mapped(_SCOPE, "add `VALUE: SCOPE`, or remove the line"))] = field(
        default_factory=dict
    )

    def compiled(self, called: str) -> Issuer:
        """Return the issuer, which the file calls `called`."""
        return Issuer(
            name=called,
            issuer=self.issuer,
            audience=_names(self.audience),
            algorithms=_names(self.algorithms) or ("RS256",),
            jwks_url=self.jwks_url,
            ca=self.ca,
            leeway=self.leeway,
            plan=self.plan,
            on_expiry=self.on_expiry,
            mapping=Mapping(
                organization=self.organization,
                organization_claim=self.organization_claim,
                organizations=None if self.organizations is None else frozenset(_names(self.organizations)),
                team=self.team,
                team_claim=self.team_claim,
                subject_claim=self.subject_claim,
                scopes=cast(frozenset[Scope], frozenset(_names(self.scopes) or ("inference",))),
                scopes_claim=self.scopes_claim,
                scope_values={value: cast(Scope, item.name) for value, item in self.scope_values.items()},
            ),
        )


def _names(items: tuple[Item, ...] | None) -> tuple[str, ...]:
    return tuple(item.name for item in items or ())
