"""Which deletions a gateway would refuse, told before they are tried.

Law: pure, and the gateway's own rules (`demand_unneeded` of each kind of record) over what it has told: a team stays
for its live keys, an organization for its teams and live keys, a plan for whoever is held to it. What others change
meanwhile nobody can foretell.
"""

from collections.abc import Iterable, Mapping, Sequence

from gateway.cli.diffing import Document, Kept, Outlook, Target

MOST_NAMED = 5
"""Holders of a plan that are named."""


def refused_deletions(
    ahead: Outlook, stored: Mapping[Target, Kept], keys: Sequence[Document], of_file: Iterable[str]
) -> dict[int, str]:
    """Return why each deletion of `ahead` that would be refused would be, by the number of its step.

    `stored`: what the store has; `keys`: all of the gateway's; `of_file`: the plans of its own file.
    """
    live = [key for key in keys if not key.get("revoked")]
    there = {target: kept.body for target, kept in stored.items()}
    there |= {step.target: step.body for step in ahead.steps if step.body is not None}
    known, found = frozenset(of_file), dict[int, str]()
    for number, step in enumerate(ahead.steps):
        if step.action == "delete":
            why = _needed(step.target, there, live, known)
            if why is None:
                del there[step.target]
            else:
                found[number] = why
    return found


def _needed(
    target: Target, there: Mapping[Target, Document], live: Sequence[Document], of_file: frozenset[str]
) -> str | None:
    """Return what a record is still needed for, None where it may go."""
    if target.kind == "plan":
        held = [str(other) for other, body in there.items() if other.kind != "plan" and body.get("plan") == target.name]
        held += [f"key {key.get('id')}" for key in live if key.get("plan") == target.name]
        return f"held to it: {_listed(held)}" if held and target.name not in of_file else None
    if target.kind == "team":
        keys = sum((key.get("organization"), key.get("team")) == target.parts for key in live)
        return f"it has keys that are not revoked: {keys}" if keys else None
    teams = sum(other.kind == "team" and other.parts[0] == target.name for other in there)
    keys = sum(key.get("organization") == target.name for key in live)
    return f"it has teams: {teams}, and keys that are not revoked: {keys}" if teams or keys else None


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
