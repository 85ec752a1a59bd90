"""What an issuer's settings mean together: whose tokens they are, who is told by them, and with which scopes.

Law: as `checks.py`: nothing that does nothing, nothing that could serve nobody. What could not be read is not judged
again.
"""

from collections.abc import Mapping

from gateway.config.issuers import SCOPES, IssuerRow
from gateway.config.mistakes import Tell, shown


def check_issuers(issuers: Mapping[str, IssuerRow], tell: Tell) -> None:
    """Tell issuers that are given twice, that name no tenant or two, and settings without what they govern."""
    lines: dict[str, int] = {}
    for row in issuers.values():
        if row.given("issuer") and row.issuer in lines:
            why = f"is the issuer of line {lines[row.issuer]} again"
            tell(row.spot("issuer"), why, "keep one of them; `audience` may be a list")
        lines.setdefault(row.issuer, row.spot("issuer").line)
        _tenant(row, "organization", tell)
        _tenant(row, "team", tell)
        _scopes(row, tell)
        _authorities(row, tell)
        for items in (row.audience, row.algorithms, row.organizations, row.scopes):
            known: set[str] = set()
            for item in items or ():
                if item.name in known:
                    tell(item.at, f"{shown(item.name)} is given twice", "keep one of them")
                known.add(item.name)


def _tenant(row: IssuerRow, level: str, tell: Tell) -> None:
    """Tell a level that nobody names, or two do, and a list of those that a fixed one can never be."""
    told = row.lines.keys() | row.wrong
    claimed = f"{level}_claim"
    if {level, claimed} <= row.lines.keys():
        why = f"contradicts `{level}`, which is the same for every token"
        tell(row.spot(claimed), why, "keep one of them")
    if not {level, claimed} & told:
        remedy = f"add `{level}: NAME`, or `{claimed}: CLAIM` where its tokens tell"
        tell(row.spot(level), f"is missing: nobody knows the {level} of its tokens", remedy)
    if level == "organization" and "organizations" in row.lines and claimed not in told:
        why = "does nothing: no claim names an organization"
        tell(row.spot("organizations"), why, f"add `{claimed}: CLAIM`, or remove the line")


def _scopes(row: IssuerRow, tell: Tell) -> None:
    """Tell scopes that are said in two ways, and values of no claim or of a scope's own name."""
    if {"scopes", "scopes_claim"} <= row.lines.keys():
        why = "contradicts `scopes_claim`, by which each token has its own"
        tell(row.spot("scopes"), why, "keep one of them")
    if "scope_values" in row.lines and "scopes_claim" not in row.lines:
        why = "does nothing: no claim tells scopes"
        tell(row.spot("scope_values"), why, "add `scopes_claim: CLAIM`, or remove the line")
    for value, item in row.scope_values.items():
        if value in SCOPES:
            tell(item.at, "is a scope of ours, which is taken as it is", "remove the line")


def _authorities(row: IssuerRow, tell: Tell) -> None:
    """Tell authorities that nobody is asked about."""
    key = "issuer" if row.jwks_url is None else "jwks_url"
    if "ca" in row.lines and row.given(key) and (row.jwks_url or row.issuer).startswith("http://"):
        tell(row.spot("ca"), f"does nothing: {key} has no TLS", "write https:// there, or remove the line")
