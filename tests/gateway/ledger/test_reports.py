from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from gateway.ledger import reports
from gateway.ledger.records import Amounts
from gateway.ledger.reports import By, Row, moment, span
from gateway.store.door import Store
from tests.gateway.ledger.written import HOUR_US, NOW_US, Written, account

NOW = datetime.fromtimestamp(NOW_US / 1e6, UTC)
HOUR = NOW_US // HOUR_US
ALL = range(HOUR - 100, HOUR + 1)
UTC_ZONE = ZoneInfo("UTC")


@pytest.fixture
async def store(store_url):
    store = Store(store_url, deadline=5.0)
    yield store
    await store.close()


@pytest.fixture
def books(store, organization):
    return Written(store, organization)


@pytest.fixture
def usage(store, organization):
    """Report on the organization: {values: amounts}, and the sum."""

    async def usage(*by, within=ALL, zone=UTC_ZONE):
        report = await reports.usage(store, {organization: zone}, within, by)
        return {row.values: row.amounts for row in report.rows}, report.total

    return usage


async def test_usage_is_summed_by_what_is_asked_for(books, usage):
    all_of_it = {"input": 10, "cached": 4, "output": 5, "reasoning": 2, "money": 2**53 - 1}
    await books.settle(NOW_US, **all_of_it)
    await books.settle(NOW_US - 50 * HOUR_US, **all_of_it, estimated=True)
    await books.settle(NOW_US, of=account("research", "k2", "n"), deployment="nim/n", input=1)
    await books.settle(NOW_US, of=account("other", "k3", "m"), deployment="", output=3)
    assert await usage(By.TEAM, By.MODEL) == (
        {
            ("other", "m"): Amounts(1, 0, 0, 3),
            ("research", "m"): Amounts(2, 20, 8, 10, 4, 2**54 - 2, 15),
            ("research", "n"): Amounts(1, 1),
        },
        Amounts(4, 21, 8, 13, 4, 2**54 - 2, 15),
    )
    by_deployment, _ = await usage(By.DEPLOYMENT)
    assert {of: sums.calls for of, sums in by_deployment.items()} == {("",): 1, ("nim/n",): 1, ("vllm/m",): 2}
    by_key, _ = await usage(By.ORGANIZATION, By.KEY)
    assert set(by_key) == {(books.organization, key) for key in ("k1", "k2", "k3")}
    assert await usage() == ({(): Amounts(4, 21, 8, 13, 4, 2**54 - 2, 15)}, Amounts(4, 21, 8, 13, 4, 2**54 - 2, 15))


async def test_only_the_hours_that_are_meant_count(books, usage):
    for ago in (0, 1, 2, 3):
        await books.settle(NOW_US - ago * HOUR_US, input=10**ago)
    assert (await usage(within=range(HOUR - 2, HOUR)))[1].input == 110
    assert await usage(By.TEAM, within=range(HOUR - 90, HOUR - 80)) == ({}, Amounts())


async def test_what_failed_attempts_cost_is_the_platforms(books, usage):
    await books.settle(NOW_US, of=account("", "platform"), deployment="", what=3, input=7, money=9)
    await books.settle(NOW_US, of=account("platform", "platform"), input=1)
    rows, total = await usage(By.TEAM, By.KEY)
    assert rows == {("(platform)", "(platform)"): Amounts(0, 7, money=9), ("platform", "platform"): Amounts(1, 1)}
    assert total.input == 8


async def test_days_are_the_organizations_and_hours_are_utc(books, usage):
    midnight = NOW_US // (24 * HOUR_US) * 24 * HOUR_US
    day = datetime.fromtimestamp(midnight / 1e6, UTC)
    for number, moment_us in enumerate((midnight - 8 * HOUR_US, midnight - 8 * HOUR_US - 1, midnight - 1, midnight)):
        await books.settle(moment_us, input=10**number)
    within = range(HOUR - 48, HOUR + 1)
    yesterday, today = (day - timedelta(1)).date().isoformat(), day.date().isoformat()
    by_day, _ = await usage(By.DAY, within=within)
    assert {of: sums.input for of, sums in by_day.items()} == {(yesterday,): 111, (today,): 1000}
    by_day, _ = await usage(By.DAY, within=within, zone=ZoneInfo("Asia/Shanghai"))
    assert {of: sums.input for of, sums in by_day.items()} == {(yesterday,): 10, (today,): 1101}
    by_hour, _ = await usage(By.HOUR, within=within)
    assert by_hour[f"{yesterday}T16:00Z",].input == 1
    assert list(by_hour) == sorted(by_hour)


async def test_several_organizations_are_told_together_each_by_its_own_days(books, store, organization):
    other = Written(store, f"{organization}.x")
    midnight = NOW_US // (24 * HOUR_US) * 24 * HOUR_US
    for each in (books, other):
        await each.settle(midnight, input=1)
    zones = {organization: UTC_ZONE, other.organization: ZoneInfo("America/Los_Angeles")}
    report = await reports.usage(store, zones, ALL, [By.DAY, By.ORGANIZATION])
    today = datetime.fromtimestamp(midnight / 1e6, UTC).date()
    assert [row.values for row in report.rows] == [
        ((today - timedelta(1)).isoformat(), other.organization),
        (today.isoformat(), organization),
    ]
    assert (await reports.usage(store, zones, ALL, [By.MODEL])).rows == [Row(("m",), Amounts(2, 2))]


async def test_a_report_has_a_bounded_number_of_rows(books, usage, monkeypatch):
    monkeypatch.setattr(reports, "MOST_ROWS", 3)
    for number in range(3):
        await books.settle(NOW_US, of=account(key=f"k{number}"), input=1)
    assert len((await usage(By.KEY))[0]) == 3
    await books.settle(NOW_US, of=account(key="more"), input=1)
    with pytest.raises(reports.TooManyRows):
        await usage(By.KEY)
    assert len((await usage(By.TEAM))[0]) == 1


@pytest.mark.parametrize(
    ("told", "zone", "meant"),
    [
        ("12h", "UTC", NOW - timedelta(hours=12)),
        ("30d", "Asia/Kolkata", NOW - timedelta(days=30)),
        ("0d", "UTC", NOW),
        ("2w", "UTC", NOW - timedelta(days=14)),
        ("2026-07-01", "UTC", datetime(2026, 7, 1, tzinfo=UTC)),
        ("2026-07-01", "Asia/Kolkata", datetime(2026, 6, 30, 18, 30, tzinfo=UTC)),
        ("2026-07-01T12:00", "America/New_York", datetime(2026, 7, 1, 16, tzinfo=UTC)),
        ("2026-07-01T12:00:00+02:00", "America/New_York", datetime(2026, 7, 1, 10, tzinfo=UTC)),
        ("2026-07-01T12:00Z", "America/New_York", datetime(2026, 7, 1, 12, tzinfo=UTC)),
    ],
)
def test_a_moment_is_told_as_a_time_ago_or_by_the_calendar(told, zone, meant):
    assert moment(told, NOW, ZoneInfo(zone)) == meant


@pytest.mark.parametrize(
    "told",
    [
        *("", "30", "d", "-1d", "+1d", "1.5d", "30m", "1D", "٣d", "999999d", "1d ", "yesterday", "2026-13-01", "\x00"),
        *("0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00", "2026-07-01T12:00:00 02:00"),
    ],
)
def test_anything_else_is_no_moment(told):
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says, the caller is told the rule
        moment(told, NOW, UTC_ZONE)


def test_a_span_is_of_the_hours_that_begin_in_it_and_can_have_roll_ups():
    begins = datetime(2026, 7, 1, 10, tzinfo=UTC)
    first = int(begins.timestamp()) // 3600
    hour, minute = timedelta(hours=1), timedelta(minutes=1)
    assert span(begins, begins + hour, NOW) == range(first, first + 1)
    assert span(begins - minute, begins + minute, NOW) == range(first, first + 1)
    assert span(begins + minute, begins + hour + minute, NOW) == range(first + 1, first + 2)
    assert not span(begins + minute, begins + 2 * minute, NOW)
    ever = span(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), NOW)
    assert ever == range(HOUR + 1 - 400 * 24, HOUR + 2)
    assert not span(NOW + 5 * hour, NOW + 9 * hour, NOW)
    assert not span(NOW - timedelta(days=900), NOW - timedelta(days=800), NOW)
