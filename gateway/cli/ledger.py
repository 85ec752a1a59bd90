"""`sluiceway ledger check`: whether every counter is what the books add up to.

Law: exit 0: all that can be told agrees; 1: something differs; 2: it could not be found out.
"""

import sys
from decimal import Decimal
from itertools import groupby
from pathlib import Path

import click
import msgspec

from gateway.cli import tables
from gateway.cli.admin_api import connect, connection_options, json_option

READING = 600.0
"""Seconds that an audit of everything may take."""

NAMED = 3
"""Meters that are named of those that cannot be told for the same reason."""


class _Counted(msgspec.Struct):
    organization: str
    level: str
    meter: str
    model: str | None
    when: str
    unit: str
    counted: int
    owed: int
    recorded: int
    reserved: int
    difference: int
    why: str | None

    @property
    def name(self) -> str:
        """The meter, in words."""
        of = f" of {self.model}" if self.model else ""
        return f"{self.meter}{of}{' (the period before)' if self.when == 'before' else ''}"


class _Audit(msgspec.Struct):
    organizations: int
    meters: int
    differences: list[_Counted]
    unchecked: list[_Counted]


class _NotFoundOutError(click.ClickException):
    """What went wrong on the way, which says nothing of the counters."""

    exit_code = 2


@click.group("ledger")
def command() -> None:
    """Look into the ledger."""


@command.command("check")
@click.option("--org", help="Only this organization.  [default: all of them]")
@json_option
@connection_options
def check(*, org: str | None, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Compare every counter with the records and the open reservations; exit code 1 if one differs."""
    try:
        api = connect(url, admin_key_file)
        audit = api.ask("GET", "/ledger/check", _Audit, params={"organization": org}, timeout=READING)
    except click.ClickException as error:
        raise _NotFoundOutError(error.message) from error
    if as_json:
        tables.as_json(audit)
    else:
        _tell(audit)
    sys.exit(1 if audit.differences else 0)


def _tell(audit: _Audit) -> None:
    if audit.differences:
        _show(audit.differences)
    unknown = len({(one.organization, one.level, one.meter, one.model) for one in audit.unchecked})
    for why, group in groupby(sorted(audit.unchecked, key=lambda one: one.why or ""), lambda one: one.why):
        alike = list(group)
        names = [f"{one.organization} {one.level} {one.name}" for one in alike[:NAMED]]
        more = f" and {len(alike) - NAMED} more" if len(alike) > NAMED else ""
        click.echo(f"not told: {', '.join(names)}{more}: {why}")
    of = f"{tables.count(audit.meters, 'meter')} of {tables.count(audit.organizations, 'organization')}"
    if audit.differences:
        click.echo(f"{tables.count(len(audit.differences), 'difference')} in {of}")
    elif unknown:
        click.echo(f"{of}: all that can be told agree")
    else:
        click.echo(f"{of} agree")


def _show(differences: list[_Counted]) -> None:
    numbers = [tables.Column(name, right=True) for name in ("counted", "owed", "recorded", "reserved", "too much")]
    tables.table(("organization", "level", "meter", *numbers), map(_row, differences))


def _row(one: _Counted) -> tuple[str, ...]:
    numbers = (one.counted, one.owed, one.recorded, one.reserved, one.difference)
    return (one.organization, one.level, one.name, *(_amount(number, one.unit) for number in numbers))


def _amount(number: int, unit: str) -> str:
    """Return an amount as people read it: nano-dollars are told in USD, exactly."""
    return f"{Decimal(number).scaleb(-9).normalize():f} USD" if unit == "nano_dollars" else f"{number:,}"
