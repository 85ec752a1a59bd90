"""`sluiceway usage`: what was used, by whom, of what, for how much.

Law: the numbers are the ledger's, through the admin API; nothing is computed here.
"""

import csv
import sys
from pathlib import Path

import click
import msgspec

from gateway.cli import tables
from gateway.cli.admin_api import AdminApi, admin_options, connect, path_to

READING = 120.0
"""Seconds that a report over many months may take."""

COLUMNS = (
    "calls",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "estimated_tokens",
    "usd",
)
"""What is told of each row, after what it is told by."""


class _Report(msgspec.Struct):
    since: str
    until: str
    by: list[str]
    rows: list[dict[str, str | int]]
    total: dict[str, str | int]


@click.command("usage")
@click.option("--org", help="Only this organization.  [default: all of them]")
@click.option(
    "--by",
    help="What to tell rows by: one or more of organization, team, key, model, deployment, day, hour, with commas.  "
    "[default: key,model]",
)
@click.option("--since", default="30d", show_default=True, help="From when: 30d, 12h or 2w ago, a date or an ISO time.")
@click.option("--until", help="Until when, likewise.  [default: now]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    help="How; --json is the same as json.  [default: table]",
)
@admin_options
def command(
    *,
    org: str | None,
    by: str | None,
    since: str,
    until: str | None,
    form: str | None,
    url: str,
    admin_key_file: Path | None,
    as_json: bool,
) -> None:
    """Show calls, tokens and USD, by team, key, model, deployment, day or hour."""
    if as_json and form not in {None, "json"}:
        raise click.UsageError(f"--json and --format {form} contradict each other: give one of them.")
    params = {"organization": org, "by": _in_full(by), "since": since, "until": until}
    api = connect(url, admin_key_file)
    report = api.ask("GET", "/usage", _Report, params=params, timeout=READING)
    if as_json or form == "json":
        tables.as_json(report)
    elif form == "csv":
        _write(report)
    elif report.rows:
        _show(report)
    else:
        click.echo(f"{org or 'nobody'} has used nothing from {report.since} to {report.until}{_stranger(api, org)}")


HEADINGS = {"organization": "org", "cached_input_tokens": "cached"}
"""What a table's narrow columns are called."""


def _in_full(by: str | None) -> str | None:
    """Return what rows are told by as the API calls it: columns and options say `org`."""
    return None if by is None else ",".join("organization" if name == "org" else name for name in by.split(","))


def _stranger(api: AdminApi, org: str | None) -> str:
    """Return what to add where an organization that has used nothing is not known at all."""
    if org is None or api.find(path_to("organizations", org)) is not None:
        return ""
    return "; there is no organization of that name either (see `sluiceway orgs ls`)"


def _write(report: _Report) -> None:
    """Write rows as CSV, without their sum, for programs."""
    names = [*report.by, *COLUMNS]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([row[name] for name in names] for row in report.rows)


def _show(report: _Report) -> None:
    names = [tables.Column(HEADINGS.get(name, name), footer="" if at else "all") for at, name in enumerate(report.by)]
    numbers = [
        tables.Column(
            HEADINGS.get(name, name.removesuffix("_tokens")), right=True, whole=True, footer=_number(report.total[name])
        )
        for name in COLUMNS
    ]
    tables.table([*names, *numbers], (_row(report, row) for row in report.rows))


def _row(report: _Report, row: dict[str, str | int]) -> tuple[str, ...]:
    return (*(str(row[name]) or "-" for name in report.by), *(_number(row[name]) for name in COLUMNS))


def _number(told: str | int) -> str:
    """Return a number with separators; money is told as text, exactly."""
    return told if isinstance(told, str) else f"{told:,}"
