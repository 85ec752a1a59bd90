import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from gateway.api import admin_books
from gateway.ledger import audit, hours, reports
from tests.gateway.api.support import error
from tests.gateway.ledger.written import HOUR_US, NOW_US, Written, account

pytestmark = pytest.mark.asyncio(loop_scope="module")

SUMS = {
    "input_tokens": 0,
    "cached_input_tokens": 0,
    "output_tokens": 0,
    "reasoning_tokens": 0,
    "estimated_tokens": 0,
    "usd": "0",
}


@pytest_asyncio.fixture(loop_scope="module")
async def books(store, monkeypatch):
    monkeypatch.setattr(admin_books.clock, "wall", lambda: NOW_US / 1e6)
    monkeypatch.setattr(audit, "PAUSE", 0)
    books = Written(store, "acme")
    await books.begin()
    return books


async def usage(admin, **params):
    answer = await admin.get("/usage", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_usage_is_told_by_key_and_model_of_thirty_days(admin, books):
    await books.settle(NOW_US - 29 * 24 * HOUR_US, input=10, cached=4, output=5, reasoning=2, money=1_234_000_001)
    await books.settle(NOW_US, estimated=True, input=1, money=-4_000_000_000)
    await books.settle(NOW_US - 32 * 24 * HOUR_US, input=1)
    told = {
        "calls": 2,
        "input_tokens": 11,
        "cached_input_tokens": 4,
        "output_tokens": 5,
        "reasoning_tokens": 2,
        "estimated_tokens": 1,
        "usd": "-2.765999999",
    }
    report = await usage(admin, organization="acme")
    now = datetime.fromtimestamp(NOW_US // 10**6, UTC).replace(minute=0, second=0)
    assert datetime.fromisoformat(report.pop("until")) == now.replace(hour=now.hour + 1)
    assert datetime.fromisoformat(report.pop("since")) == now - timedelta(days=30, hours=-1)
    assert report == {"by": ["key", "model"], "rows": [{"key": "k1", "model": "m", **told}], "total": told}
    assert list(report["rows"][0]) == ["key", "model", *told]


async def test_without_an_organization_all_are_told_and_keys_with_theirs(admin, books, store):
    other = Written(store, "globex")
    await other.begin()
    for each in (books, other):
        await each.settle(NOW_US, input=1)
    report = await usage(admin)
    assert report["by"] == ["organization", "key", "model"]
    assert [row["organization"] for row in report["rows"]] == ["acme", "globex"]
    assert (await usage(admin, by="model"))["rows"] == [{"model": "m", "calls": 2, **SUMS, "input_tokens": 2}]
    assert (await usage(admin, by="team,organization"))["by"] == ["team", "organization"]
    assert (await usage(admin, by="team", organization="acme"))["by"] == ["team"]


async def test_days_and_dates_are_those_of_the_organization(admin, store, books):
    globex = Written(store, "globex")
    midnight = NOW_US // (24 * HOUR_US) * 24 * HOUR_US
    await globex.settle(midnight - 6 * HOUR_US, input=1)
    await globex.settle(midnight - 5 * HOUR_US, input=10)
    today = datetime.fromtimestamp(midnight / 1e6, UTC).date().isoformat()
    report = await usage(admin, organization="globex", by="day", since=today)
    assert [(row["day"], row["input_tokens"]) for row in report["rows"]] == [(today, 10)]
    assert (await usage(admin, organization="globex", by="day"))["total"]["input_tokens"] == 11


async def test_a_stored_time_zone_takes_the_place_of_the_files(admin, store, books):
    """As it does for the meters that count by the day."""
    globex = Written(store, "globex")
    await globex.begin()
    midnight = NOW_US // (24 * HOUR_US) * 24 * HOUR_US
    await globex.settle(midnight - 5 * HOUR_US, input=1)
    today = datetime.fromtimestamp(midnight / 1e6, UTC).date()
    for zone, day in (("Asia/Kolkata", today), ("UTC", today - timedelta(days=1))):
        body = {"time_zone": zone}
        assert await admin.put("/organizations/globex", json=body, headers={"if-match": "*"} if day != today else {})
        for asked in ({"organization": "globex"}, {}):
            report = await usage(admin, by="organization,day", **asked)
            assert [row["day"] for row in report["rows"] if row["organization"] == "globex"] == [day.isoformat()]


async def test_what_nobody_used_is_an_empty_report(admin, books):
    report = await usage(admin, organization="nobody")
    assert report["rows"] == []
    assert report["total"] == {"calls": 0, **SUMS}
    assert (await usage(admin))["rows"] == []


@pytest.mark.parametrize(
    ("params", "param", "told"),
    [
        *(({"by": by}, "by", "each once") for by in ("", "team,", "team,team", "colour", "team;key", "key," * 24)),
        ({"by": "x" * 101}, "by", "each once"),
        *(
            ({"since": since}, "since", "such as 30d")
            for since in ("", "soon", "\x00", "30m", "9" * 40 + "d", "x" * 50)
        ),
        *(({"until": until}, "until", "such as 30d") for until in ("", "now", "0000-00-00", "0001-01-01T00:00+14:00")),
        ({"since": "1d", "until": "2d"}, "since", "not before the end"),
        ({"since": "0d"}, "since", "not before the end"),
        ({"since": "2024-01-01", "until": "2024-02-01"}, "since", "400 days"),
        ({"since": "2900-01-01", "until": "2900-02-01"}, "since", "400 days"),
        *(({"organization": name}, "organization", "64 letters") for name in ("", "a/b", "*", "acme\n", "x" * 65)),
    ],
)
async def test_a_wrong_question_is_told_with_what_would_be_right(admin, books, params, param, told):
    message = error(await admin.get("/usage", params=params), 400)
    assert message["param"] == param
    assert told in message["message"]
    if param == "organization":
        assert error(await admin.get("/ledger/check", params=params), 400)["param"] == "organization"


async def test_any_span_of_time_is_read_in_bounded_pieces(admin, books, monkeypatch):
    await books.settle(NOW_US - 399 * 24 * HOUR_US, input=1)
    asked, read = [], hours.read

    def noted(store, organization, within):
        asked.append(len(within))
        return read(store, organization, within)

    monkeypatch.setattr(hours, "read", noted)
    report = await usage(admin, organization="acme", since="0001-01-01", until="9999-12-31")
    assert report["total"]["input_tokens"] == 1
    assert asked == [400 * 24 + 1]


async def test_a_report_of_too_many_rows_is_refused(admin, books, monkeypatch):
    monkeypatch.setattr(reports, "MOST_ROWS", 2)
    for number in range(3):
        await books.settle(NOW_US, of=account(key=f"k{number}"), input=1)
    told = error(await admin.get("/usage"), 400)
    assert (told["param"], told["message"][:34]) == ("by", "by: a report has at most 2 rows; a")
    assert len((await usage(admin, by="team"))["rows"]) == 1


async def test_the_audit_tells_differences_and_what_cannot_be_told(admin, books, store):
    other = Written(store, "globex")
    await other.begin()
    await books.settle(NOW_US, input=5, money=9)
    await books.level("key:k1", {"budget_in_all|m": [10, NOW_US, NOW_US], "concurrent_requests": [0, []]})
    await other.level("org", {"tokens_in_all": [5, NOW_US - 500 * 24 * HOUR_US, NOW_US]})
    difference = {
        "organization": "acme",
        "level": "key:k1",
        "meter": "budget_in_all",
        "model": "m",
        "when": "now",
        "unit": "nano_dollars",
        "counted": 10,
        "owed": 0,
        "recorded": 9,
        "reserved": 0,
        "difference": 1,
        "why": None,
    }
    found = (await admin.get("/ledger/check")).json()
    assert (found["organizations"], found["meters"]) == (2, 3)
    assert found["differences"] == [difference]
    (unchecked,) = found["unchecked"]
    assert (unchecked["organization"], unchecked["meter"], unchecked["unit"]) == ("globex", "tokens_in_all", "tokens")
    assert unchecked["why"] == audit.GONE
    found = (await admin.get("/ledger/check", params={"organization": "acme"})).json()
    assert (found["organizations"], found["meters"], found["differences"]) == (1, 2, [difference])
    found = (await admin.get("/ledger/check", params={"organization": "nobody"})).json()
    assert found == {"organizations": 1, "meters": 0, "differences": [], "unchecked": []}


async def test_an_organization_of_which_only_counters_are_left_is_audited_too(admin, store, monkeypatch):
    monkeypatch.setattr(audit, "PAUSE", 0)
    await Written(store, "lost").level("org", {"concurrent_requests": [1, []]})
    (found,) = (await admin.get("/ledger/check")).json()["differences"]
    assert (found["organization"], found["difference"], found["unit"]) == ("lost", 1, "slots")


async def test_the_books_are_read_by_one_at_a_time(admin, books, monkeypatch):
    """Whoever asks often waits for himself, and callers do not wait for him."""
    reading, most = 0, 0
    real = reports.usage

    async def slow(*arguments):
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await asyncio.sleep(0.01)
        reading -= 1
        return await real(*arguments)

    monkeypatch.setattr(reports, "usage", slow)
    assert {answer.status_code for answer in await asyncio.gather(*(admin.get("/usage") for _ in range(5)))} == {200}
    assert most == 1


async def test_every_kind_of_measure_has_a_unit():
    assert set(admin_books.UNITS) == set(admin_books.Measure)
