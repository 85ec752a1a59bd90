"""`sluiceway apply`: make the store say of plans, organizations and teams what a file says.

Law: what is about to change is shown first, and each change is made only to the version that was shown. A step that is
refused ends the run, with what was done and what was not; run again, it goes on from there. Only a deletion that the
gateway says must not be, such as of a team with live keys, ends nothing: the record is kept, with the reason.
"""

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from gateway.cli import tables
from gateway.cli.admin_api import AdminApi, Document, RefusedError, admin_options, as_seen, connect, path_to
from gateway.cli.diffing import ORGANIZATION, TEAM, Kept, Outlook, Step, Target, outlook
from gateway.cli.editing import line
from gateway.cli.foretelling import refused_deletions
from gateway.cli.naming import names_places, unknown_backends, unknown_models
from gateway.cli.teams import team_path, teams
from gateway.config.mistakes import ConfigError
from gateway.config.tenants import read_tenants

STDIN = Path("-")

_SIGNS = {"create": ("+", "green"), "update": ("~", "yellow"), "delete": ("-", "red")}


class _There(msgspec.Struct):
    """What a gateway has: its backends, and the names of models that it serves."""

    backends: list[Document]
    served: list[str]


class Run(msgspec.Struct):
    """What became of the steps, by their numbers: made, or refused with a reason; and what ended them early.

    Of a dry run: what would be refused, as far as that can be foretold.
    """

    done: set[int]
    kept: dict[int, str]
    stopped: click.ClickException | None = None

    @property
    def whole(self) -> bool:
        """Say whether nothing was refused."""
        return self.stopped is None and not self.kept


@click.command("apply")
@click.option(
    "-f", "--file", "path", required=True, type=click.Path(path_type=Path), help="The tenants file; - for stdin."
)
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
    content, name = _content(path)
    try:
        api = connect(url, admin_key_file)
        plans = list(api.each(path_to("plans"), "plans"))
    except click.ClickException:
        _wanted(content, name, None)  # what is wrong with the file is told all the same
        raise
    wanted = _wanted(content, name, [str(plan.get("name")) for plan in plans])
    _warn(api, wanted)
    stored = dict(_stored(api, plans))
    ahead = outlook(wanted, stored, prune=prune)
    if not as_json:
        _show(ahead)
    run = _foretold(api, ahead, stored, plans) if dry_run else _do(api, ahead, aloud=not as_json)
    if dry_run and not as_json:
        for number, why in run.kept.items():
            click.echo(f"would be kept: {ahead.steps[number].target}: {why}")
    if as_json:
        tables.as_json(_told(ahead, run))
    elif run.whole:
        click.echo(_summed(ahead, dry_run=dry_run))
    if not run.whole:
        raise click.ClickException(_would_refuse(ahead, run) if dry_run else _refused(ahead, run))


def _content(path: Path) -> tuple[bytes, str]:
    """Return what the file holds, and its name in messages."""
    if path == STDIN:
        return sys.stdin.buffer.read(), "standard input"
    try:
        return path.read_bytes(), str(path)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be read: {error.strerror}") from error


def _wanted(content: bytes, name: str, plans: Collection[str] | None) -> dict[Target, Document]:
    """Return what the file wants; tell every mistake in it, and end there, where it has one.

    `plans`: as of `read_tenants`.
    """
    try:
        tenants = read_tenants(content, name, os.environ, plans)
    except ConfigError as error:
        for mistake in error.mistakes:
            click.echo(str(mistake), err=True)
        click.echo(f"{tables.count(len(error.mistakes), 'mistake')} in {name}; nothing was changed", err=True)
        sys.exit(1)
    return {
        **{Target("plan", (name,)): body for name, body in tenants.plans.items()},
        **{Target("organization", (name,)): body for name, body in tenants.organizations.items()},
        **{Target("team", parts): body for parts, body in tenants.teams.items()},
    }


def _warn(api: AdminApi, wanted: dict[Target, Document]) -> None:
    """Warn of backends and models that are not there."""
    if any(names_places(body) for target, body in wanted.items() if target.kind != "plan"):
        there = api.ask("GET", path_to("backends"), _There)
        unknown = unknown_backends(wanted, (str(one.get("name")) for one in there.backends))
        for warning in (*unknown, *unknown_models(wanted, there.served)):
            click.echo(f"Warning: {warning}", err=True)


def _stored(api: AdminApi, plans: Iterable[Document]) -> Iterator[tuple[Target, Kept]]:
    """Yield what the store has of plans, organizations and teams, which is not what the gateway's file has."""
    for plan in plans:
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


def _do(api: AdminApi, ahead: Outlook, *, aloud: bool) -> Run:
    """Make the changes, in order, up to the first that is refused, but for deletions of what must stay."""
    run = Run(set(), {})
    for number, step in enumerate(ahead.steps):
        try:
            _make(api, step)
        except click.ClickException as error:
            if not (step.action == "delete" and isinstance(error, RefusedError) and error.status == 409):
                run.stopped = error
                return run
            run.kept[number] = error.message
            said = f"kept: {step.target}: {error.message}"
        else:
            run.done.add(number)
            said = f"done: {step}"
        if aloud:
            click.echo(said)
    return run


def _foretold(api: AdminApi, ahead: Outlook, stored: Mapping[Target, Kept], plans: Sequence[Document]) -> Run:
    """Return what would become of deletions that the gateway would refuse; nothing is done."""
    if not any(step.action == "delete" for step in ahead.steps):
        return Run(set(), {})
    of_file = [str(plan.get("name")) for plan in plans if plan.get("overrides") or plan.get("source") != "store"]
    return Run(set(), refused_deletions(ahead, stored, list(api.each("/keys", "keys")), of_file))


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
        more = "" if target in ahead.suspended else "; --prune deletes it"
        console.print(Text(f"= {target} is kept: {_why(ahead, target)}{more}", style="dim"))


def _why(ahead: Outlook, kept: Target) -> str:
    return "it is suspended" if kept in ahead.suspended else "only the store has it"


def _summed(ahead: Outlook, *, dry_run: bool) -> str:
    if not ahead.steps:
        return f"Nothing to change: {_records(ahead)} as the file says."
    kinds = {action: sum(step.action == action for step in ahead.steps) for action in _SIGNS}
    made = [f"{number} {f'to {did}' if dry_run else f'{did}d'}" for did, number in kinds.items() if number]
    return f"{', '.join(made)}; {_records(ahead)} right already.{' Nothing was changed: --dry-run.' if dry_run else ''}"


def _records(ahead: Outlook) -> str:
    return f"{tables.count(ahead.right, 'record')} {'is' if ahead.right == 1 else 'are'}"


def _refused(ahead: Outlook, run: Run) -> str:
    """Return in one line what was done and what was not."""
    untried = ahead.steps[len(run.done) + len(run.kept) :]
    failed = ""
    if run.stopped is not None:
        failed, untried = f"cannot {untried[0]}: {run.stopped.message.rstrip('.')}. ", untried[1:]
    made = f"Done: {len(run.done)} of {tables.count(len(ahead.steps), 'step')}"
    kept = f"; kept: {', '.join(str(ahead.steps[number].target) for number in run.kept)}" if run.kept else ""
    left = f"; not tried: {', '.join(map(str, untried))}" if untried else ""
    return f"{failed}{made}{kept}{left}. Mend it and run this again: it goes on from there."


def _would_refuse(ahead: Outlook, run: Run) -> str:
    """Return in one line how much of it would be done."""
    steps = len(ahead.steps)
    kept = ", ".join(str(ahead.steps[number].target) for number in run.kept)
    made = f"Would do: {steps - len(run.kept)} of {tables.count(steps, 'step')}; would keep: {kept}"
    return f"{made}. Nothing was changed: --dry-run."


def _told(ahead: Outlook, run: Run) -> dict[str, Any]:
    """Return the run as one JSON object. `refused` is what ended it early; a deletion that was refused is `kept`."""
    kept = [(target, _why(ahead, target)) for target in ahead.kept]
    kept += [(ahead.steps[number].target, why) for number, why in run.kept.items()]
    return {
        "steps": [
            {
                "action": step.action,
                "kind": step.target.kind,
                "name": step.target.name,
                "changes": msgspec.to_builtins(step.changes),
                "done": number in run.done,
            }
            for number, step in enumerate(ahead.steps)
        ],
        "kept": [{"kind": target.kind, "name": target.name, "why": why} for target, why in kept],
        "right": ahead.right,
        "refused": None if run.stopped is None else run.stopped.message,
    }
