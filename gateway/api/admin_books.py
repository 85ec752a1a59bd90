"""The admin API's routes for the books: what was used, and whether counters agree with it.

Law: the books are read one reader at a time, in bounded pieces; an answer's size is bounded by what is refused.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter
from msgspec import UNSET, Struct, UnsetType, convert

from gateway import clock
from gateway.api.admin_answers import noes, wrong
from gateway.api.admin_fields import NAME, RULES
from gateway.api.admin_parts import Parts
from gateway.identity.records import OrganizationRecord
from gateway.ledger import audit, reports
from gateway.ledger.ledger import ORGANIZATIONS
from gateway.ledger.records import Amounts
from gateway.ledger.reports import By
from policies.limits import usd
from policies.meters import SORTS, Measure

AnyOrganization = Annotated[
    str | None, QueryParameter(pattern=NAME, description="Only this organization; all of them without it.")
]
Dimensions = Annotated[
    str | None,
    QueryParameter(
        max_length=100,
        description="What rows are told by: organization, team, key, model, deployment, day, hour, with commas. "
        "Without it key and model; where no organization is named, each with its own.",
    ),
]
Since = Annotated[str, QueryParameter(max_length=40, description="From when: 30d, 12h, 2w ago, a date or an ISO time.")]
Until = Annotated[str | None, QueryParameter(max_length=40, description="Until when, likewise; now without it.")]

UNITS: dict[Measure, Literal["requests", "tokens", "nano_dollars", "slots"]] = {
    Measure.REQUESTS: "requests",
    Measure.INPUT: "tokens",
    Measure.OUTPUT: "tokens",
    Measure.TOKENS: "tokens",
    Measure.MONEY: "nano_dollars",
    Measure.SLOTS: "slots",
}


class UsageRow(Struct, frozen=True, kw_only=True):
    """What was used by all that have these values; those that nobody asked for are left out.

    Team and key are `(platform)` for what failed attempts cost, which no organization pays. `deployment` is a backend
    as the file names it, all its replicas together, and the model's name there; "" where none served. A day is one in
    the organization's time zone, an hour the UTC time at which it begins.
    `cached_input_tokens` are of the input, `reasoning_tokens` of the output; `estimated_tokens` of both were counted by
    us, because no upstream told. `usd` is exact.
    """

    organization: str | UnsetType = UNSET
    team: str | UnsetType = UNSET
    key: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    deployment: str | UnsetType = UNSET
    day: str | UnsetType = UNSET
    hour: str | UnsetType = UNSET
    calls: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    estimated_tokens: int
    usd: str


class UsageReport(Struct, frozen=True):
    """Usage of whole hours from `since` to `until` (UTC), in the order of the values of `by`, and the sum of all."""

    since: str
    until: str
    by: list[str]
    rows: list[UsageRow]
    total: UsageRow


class Counted(Struct, frozen=True):
    """A counter that is not as its books: `counted` should be `owed` + `recorded` + `reserved`, in `unit`.

    `when`: the count that runs, or that of the period before. `model`: the only one it counts, null for all.
    `difference`: how much more is counted. `why`: why it cannot be told whether that is right, null where it is wrong.
    """

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


class Audit(Struct, frozen=True):
    """What an audit found. `unchecked` are neither right nor wrong: what they would be held against is gone."""

    organizations: int
    meters: int
    differences: list[Counted]
    unchecked: list[Counted]


READ_AT_ONCE = 500
"""Organizations in one round trip: more would hold up the loop for longer than 10 ms."""


class _Desk:
    """What both routes need."""

    def __init__(self, parts: Parts) -> None:
        self.store = parts.store
        self.one_at_a_time = asyncio.Lock()
        self._registry = parts.registry
        self._parts = parts

    async def zone(self, organization: str | None) -> tzinfo:
        """Return the time zone of an organization, and UTC for all together."""
        return UTC if organization is None else (await self.zones([organization]))[organization]

    async def zones(self, organizations: Sequence[str]) -> dict[str, tzinfo]:
        """Return the time zone of each, which is its record's, else the file's, else UTC."""
        zones: dict[str, tzinfo] = {}
        for begin in range(0, len(organizations), READ_AT_ONCE):
            names = organizations[begin : begin + READ_AT_ONCE]
            found = await self._registry.several([(OrganizationRecord, name) for name in names])
            for name, one in zip(names, found, strict=True):
                zones[name] = ZoneInfo((one and one.record.time_zone) or self._zone_of_file(name))
        return zones

    async def organizations(self) -> list[str]:
        """Return every organization that ever called."""
        (names,) = await self.store.send(["SMEMBERS", ORGANIZATIONS])
        return sorted(name.decode() for name in names)

    def _zone_of_file(self, organization: str) -> str:
        known = self._parts.organizations.get(organization)
        return "UTC" if known is None else known.time_zone


def book_routes(parts: Parts) -> list[HTTPRouteHandler]:
    """Build the routes that read the books."""
    desk = _Desk(parts)
    return [_usage(desk), _check(desk)]


def _usage(desk: _Desk) -> HTTPRouteHandler:
    @get(
        "/usage",
        summary="Usage",
        description="Calls, tokens and USD of the last 400 days, as the ledger has settled them, by whole hours. "
        "What failed attempts cost is in it, on the account `(platform)`.",
        responses=noes("A parameter is wrong, or the report would be too long."),
    )
    async def usage(
        organization: AnyOrganization = None, by: Dimensions = None, since: Since = "30d", until: Until = None
    ) -> UsageReport:
        dimensions = _dimensions(by, organization)
        within = _span(since, until, await desk.zone(organization))
        async with desk.one_at_a_time:
            names = [organization] if organization else await desk.organizations()
            try:
                report = await reports.usage(desk.store, await desk.zones(names), within, dimensions)
            except reports.TooManyRows as error:
                rule = f"a report has at most {reports.MOST_ROWS} rows; ask by less, or for a shorter time"
                raise wrong("by", rule) from error
        names = [one.value for one in dimensions]
        return UsageReport(
            since=reports.start(within.start).isoformat(),
            until=reports.start(within.stop).isoformat(),
            by=names,
            rows=[_row(names, row.values, row.amounts) for row in report.rows],
            total=_row([], (), report.total),
        )

    return usage


def _check(desk: _Desk) -> HTTPRouteHandler:
    @get(
        "/ledger/check",
        summary="Audit of the ledger",
        description="Compares every counter of slots, of tokens and USD a period and in all, with the records and the "
        "open reservations. Calls may go on meanwhile.",
        responses=noes("A parameter is wrong."),
    )
    async def check(organization: AnyOrganization = None) -> Audit:
        async with desk.one_at_a_time:
            levels = await audit.levels_of(desk.store, organization)
            names = [organization] if organization else sorted({*levels, *await desk.organizations()})
            zones = await desk.zones(names)
            found = [await audit.check(desk.store, name, levels.get(name, []), zones[name]) for name in names]
        return Audit(
            organizations=len(found),
            meters=sum(one.meters for one in found),
            differences=[_counted(one.organization, line) for one in found for line in one.differences],
            unchecked=[_counted(one.organization, line) for one in found for line in one.unchecked],
        )

    return check


def _dimensions(told: str | None, organization: str | None) -> list[By]:
    """Read `by`. Teams and keys of several organizations are told with theirs. Raises `ValidationException`."""
    try:
        dimensions = [By.KEY, By.MODEL] if told is None else [By(name) for name in told.split(",")]
    except ValueError as error:
        raise wrong("by", RULES["by"]) from error
    if len(set(dimensions)) < len(dimensions):
        raise wrong("by", RULES["by"])
    of_one = {By.TEAM, By.KEY} & set(dimensions)
    if organization is None and of_one and By.ORGANIZATION not in dimensions:
        return [By.ORGANIZATION, *dimensions]
    return dimensions


def _span(since: str, until: str | None, zone: tzinfo) -> range:
    """Read the hours that are meant. Raises `ValidationException`."""
    now = datetime.fromtimestamp(clock.wall(), UTC)
    begin = _moment("since", since, now, zone)
    end = now if until is None else _moment("until", until, now, zone)
    if begin >= end:
        raise wrong("since", f"is {begin:%Y-%m-%d %H:%M}, which is not before the end, {end:%Y-%m-%d %H:%M} (UTC)")
    within = reports.span(begin, end, now)
    if not within:
        raise wrong(
            "since", "no hour that can have usage begins from then to the end: it is kept by whole hours, for 400 days"
        )
    return within


def _moment(param: str, told: str, now: datetime, zone: tzinfo) -> datetime:
    try:
        return reports.moment(told, now, zone)
    except ValueError as error:
        raise wrong(param, RULES[param]) from error


def _row(by: Sequence[str], values: Sequence[str], amounts: Amounts) -> UsageRow:
    sums = {
        "calls": amounts.calls,
        "input_tokens": amounts.input,
        "cached_input_tokens": amounts.cached,
        "output_tokens": amounts.output,
        "reasoning_tokens": amounts.reasoning,
        "estimated_tokens": amounts.estimated,
        "usd": usd(amounts.money).removesuffix(" USD"),
    }
    return convert(dict(zip(by, values, strict=True)) | sums, UsageRow)


def _counted(organization: str, line: audit.Line) -> Counted:
    return Counted(
        organization=organization,
        level=line.name.level,
        meter=line.name.kind.value,
        model=line.name.model,
        when=line.name.when,
        unit=UNITS[SORTS[line.name.kind].measure],
        counted=line.counted,
        owed=line.owed,
        recorded=line.recorded,
        reserved=line.reserved,
        difference=line.difference,
        why=line.why,
    )
