"""Reports of usage: the roll-ups of a time, summed by whatever is asked for.

Law: whole hours, whole numbers; nothing is computed from prices again. A report has a bounded number of rows, and is
read in pieces.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum

from msgspec import Struct

from gateway.ledger import hours
from gateway.ledger.records import LETTERS, Amounts, Cell, cell
from gateway.store.door import Store

MOST_ROWS = 20_000
"""Rows of one report: some megabytes of answer."""

NOBODY = "(platform)"
"""How the operator's own account is shown, as team and as key: no team and no key can be called that."""

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


class By(StrEnum):
    """What rows can be told by. A day is one of the organization's; an hour belongs to the day in which it begins."""

    ORGANIZATION = "organization"
    TEAM = "team"
    KEY = "key"
    MODEL = "model"
    DEPLOYMENT = "deployment"
    DAY = "day"
    HOUR = "hour"


class TooManyRows(Exception):  # noqa: N818 - a fact of the question, not a fault
    """A report would have more than `MOST_ROWS` rows."""


class Row(Struct, frozen=True):
    """What was used by all that have these values, which are in the order that was asked for."""

    values: tuple[str, ...]
    amounts: Amounts


class Report(Struct, frozen=True):
    """Rows in the order of their values, and the sum of all."""

    rows: list[Row]
    total: Amounts


def moment(told: str, now: datetime, zone: tzinfo) -> datetime:
    """Return the moment that a caller means: `30d`, `12h` or `2w` before now, a date or an ISO time, by `zone`.

    Raises `ValueError`.
    """
    ago = re.fullmatch(r"([0-9]{1,5})([hdw])", told)
    try:
        if ago is not None:
            return now - int(ago[1]) * _UNITS[ago[2]]
        read = datetime.fromisoformat(told)
        return (read if read.tzinfo is not None else read.replace(tzinfo=zone)).astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{told} is before or after all time") from error


def span(since: datetime, until: datetime, now: datetime) -> range:
    """Return the hours that begin from `since` on and before `until` and can have roll-ups.

    So spans that follow one another share no hour.
    """
    first, last = -((EPOCH - since) // HOUR), -((EPOCH - until) // HOUR)
    newest = (now - EPOCH) // HOUR + 1
    return range(max(first, newest - hours.KEPT), min(last, newest + 1))


def start(hour: int) -> datetime:
    """Return when an hour begins."""
    return EPOCH + hour * HOUR


async def usage(store: Store, organizations: Mapping[str, tzinfo], within: range, by: Sequence[By]) -> Report:
    """Sum what `organizations` (each with its time zone) used in the hours `within`.

    Raises `TooManyRows`, `StoreDown`.
    """
    sums: dict[tuple[str, ...], list[int]] = {}
    for organization, zone in organizations.items():
        cells: dict[bytes, Cell] = {}
        rows: dict[bytes, list[int]] = {}
        latest: dict[By, str] = {}
        async for hour, fields in hours.read(store, organization, within):
            when = _when(hour, zone, by)
            if when != latest:
                rows, latest = {}, when
            for field, amount in fields.items():
                row = rows.get(field[:-1])
                if row is None:
                    of = cells.get(field[:-1])
                    if of is None:
                        of = cells[field[:-1]] = cell(field)
                    values = _who(organization, of) | when
                    row = rows[field[:-1]] = _row(sums, tuple(values[one] for one in by))
                row[LETTERS.index(field[-1])] += int(amount)
    total = [sum(column) for column in zip(*sums.values(), strict=True)]
    return Report([Row(values, Amounts(*sums[values])) for values in sorted(sums)], Amounts(*total))


def _row(sums: dict[tuple[str, ...], list[int]], values: tuple[str, ...]) -> list[int]:
    row = sums.get(values)
    if row is None:
        if len(sums) >= MOST_ROWS:
            raise TooManyRows
        row = sums[values] = [0] * len(LETTERS)
    return row


def _when(hour: int, zone: tzinfo, by: Sequence[By]) -> dict[By, str]:
    """Return the day and the hour, as far as they are asked for."""
    begins = start(hour)
    when = {}
    if By.DAY in by:
        when[By.DAY] = begins.astimezone(zone).date().isoformat()
    if By.HOUR in by:
        when[By.HOUR] = begins.strftime("%Y-%m-%dT%H:%MZ")
    return when


def _who(organization: str, of: Cell) -> dict[By, str]:
    """Return whatever else a field of a roll-up can be told by."""
    account = of.account
    return {
        By.ORGANIZATION: organization,
        By.TEAM: NOBODY if account.is_platform else account.team,
        By.KEY: NOBODY if account.is_platform else account.key,
        By.MODEL: account.model,
        By.DEPLOYMENT: of.deployment,
    }
