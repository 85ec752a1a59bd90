"""`sluiceway apply`: make the store say of plans, organizations and teams what a file says.

Law: what is about to change is shown first, and each change is made only to the version that was shown. A step that is
refused ends the run, with what was done and what was not; run again, it goes on from there.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from gateway.cli import tables
from gateway.cli.admin_api import AdminApi, Document, admin_options, as_seen, connect, path_to
from gateway.cli.diffing import ORGANIZATION, TEAM, Kept, Outlook, Step, Target, outlook
from gateway.cli.editing import line
from gateway.cli.teams import team_path, teams
from gateway.config.mistakes import ConfigError
from gateway.config.tenants import read_tenants

_SIGNS = {"create": ("+", "green"), "update": ("~", "yellow"), "delete": ("-", "red")}


@click.command("apply")
@click.option("-f", "--file", "path", required=True, type=click.Path(path_type=Path), help="The tenants file.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--prune", is_flag=True, help="Delete from the store what the file does not have.")
@admin_options
def command(*, path: Path, dry_run: bool, prune: bool, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Make the store say of plans, organizations and teams what FILE says; keys are never touched.

    \b
        plans:
          gold: {tokens_per_minute: 100000}
        organizations:
          acme: {plan: gold, models: [mistral-*], teams: {research: {local_only: true}}}

    Nobody's change is overwritten: what somebody else changes meanwhile stops the run. Run twice, the second changes
    nothing.
    """  # noqa: D301 - click's mark for lines to leave as they are
    wanted = _wanted(path)
    api = connect(url, admin_key_file)
    ahead = outlook(wanted, dict(_stored(api)), prune=prune)
    if not as_json:
        _show(ahead)
    done, refused = (0, None) if dry_run else _do(api, ahead, aloud=not as_json)
    if as_json:
        tables.as_json(_told(ahead, done, None if refused is None else refused.message))
    elif refused is None:
        click.echo(_summed(ahead, dry_run=dry_run))
    if refused is not None:
        raise click.ClickException(_stopped(ahead, done, refused))


def _wanted(path: Path) -> dict[Target, Document]:
    try:
        tenants = read_tenants(path, os.environ)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be read: {error.strerror}") from error
    except ConfigError as error:
        for mistake in error.mistakes:
            click.echo(str(mistake), err=True)
        click.echo(f"{tables.count(len(error.mistakes), 'mistake')} in {path}; nothing was changed", err=True)
        sys.exit(1)
    return {
        **{Target("plan", (name,)): body for name, body in tenants.plans.items()},
        **{Target("organization", (name,)): body for name, body in tenants.organizations.items()},
        **{Target("team", parts): body for parts, body in tenants.teams.items()},
    }


def _stored(api: AdminApi) -> Iterator[tuple[Target, Kept]]:
    """Yield what the store has of plans, organizations and teams, which is not what the gateway's file has."""
    for plan in api.each(path_to("plans"), "plans"):
        if plan.get("source") == "store":
            yield Target("plan", (plan["name"],)), Kept(plan["plan"], plan["version"])
    for one in api.each(path_to("organizations"), "organizations"):
        if one.get("source") == "store":
            yield Target("organization", (one["name"],)), _kept(one, ORGANIZATION)
    for one in teams(api, None):
        if one.get("source") == "store":
            yield Target("team", (one["organization"], one["name"])), _kept(one, TEAM)


def _kept(one: Document, usual: Document) -> Kept:
    return Kept({name: one[name] for name in usual if name in one}, one["version"])


def _do(api: AdminApi, ahead: Outlook, *, aloud: bool) -> tuple[int, click.ClickException | None]:
    """Make the changes, in order, up to the first that is refused; return how many were made, and the refusal."""
    for number, step in enumerate(ahead.steps):
        try:
            _make(api, step)
        except click.ClickException as error:
            return number, error
        if aloud:
            click.echo(f"done: {step}")
    return len(ahead.steps), None


def _make(api: AdminApi, step: Step) -> None:
    target = step.target
    path = team_path(*target.parts) if target.kind == "team" else path_to(f"{target.kind}s", *target.parts)
    method = "DELETE" if step.action == "delete" else "PUT"
    api.tell(method, path, body=step.body, headers=as_seen(step.version))


def _show(ahead: Outlook) -> None:
    """Print what is about to change, in colour where somebody looks."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    for step in ahead.steps:
        sign, colour = _SIGNS[step.action]
        console.print(Text(f"{sign} {step.target}", style=colour))
        for change in step.changes:
            said = {"create": f"{change.field}: {tables.said(change.field, change.after)}", "update": line(change)}
            if step.action in said:
                console.print(Text(f"    {said[step.action]}"))
    for target in ahead.kept:
        console.print(Text(f"= {target} is kept: only the store has it; --prune deletes it", style="dim"))


def _summed(ahead: Outlook, *, dry_run: bool) -> str:
    if not ahead.steps:
        return f"Nothing to change: {_records(ahead)} as the file says."
    kinds = {action: sum(step.action == action for step in ahead.steps) for action in _SIGNS}
    made = [f"{number} {f'to {did}' if dry_run else f'{did}d'}" for did, number in kinds.items() if number]
    return f"{', '.join(made)}; {_records(ahead)} right already.{' Nothing was changed: --dry-run.' if dry_run else ''}"


def _records(ahead: Outlook) -> str:
    return f"{tables.count(ahead.right, 'record')} {'is' if ahead.right == 1 else 'are'}"


def _stopped(ahead: Outlook, done: int, refused: click.ClickException) -> str:
    failed, *rest = ahead.steps[done:]
    made = f"Done: {done} of {tables.count(len(ahead.steps), 'step')}"
    left = f"; not tried: {', '.join(map(str, rest))}" if rest else ""
    why = refused.message.rstrip(".")
    return f"cannot {failed}: {why}. {made}{left}. Mend it and run this again: it goes on from there."


def _told(ahead: Outlook, done: int, refused: str | None) -> dict[str, Any]:
    """Return the run as one JSON object."""
    return {
        "steps": [
            {
                "action": step.action,
                "kind": step.target.kind,
                "name": step.target.name,
                "changes": msgspec.to_builtins(step.changes),
                "done": number < done,
            }
            for number, step in enumerate(ahead.steps)
        ],
        "kept": [{"kind": target.kind, "name": target.name} for target in ahead.kept],
        "right": ahead.right,
        "refused": refused,
    }
