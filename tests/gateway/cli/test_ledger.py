import json

import pytest

from gateway.ledger import audit
from tests.gateway.ledger.written import HOUR_US, NOW_US, Written


@pytest.fixture
async def books(store, monkeypatch):
    monkeypatch.setattr(audit, "PAUSE", 0)
    books = Written(store, "acme")
    await books.begin()
    await books.settle(NOW_US, input=5, money=9)
    return books


@pytest.fixture
def check(run, url):
    async def check(*arguments):
        result = await run("ledger", "check", *arguments, SLUICEWAY_URL=url)
        return result.exit_code, result.stdout, result.stderr

    return check


async def test_what_agrees_is_one_line_and_exit_code_0(check, books):
    assert await check() == (0, "0 meters of 1 organization agree\n", "")
    await books.level("org", {"tokens_in_all": [5, NOW_US, NOW_US], "concurrent_requests": [0, []]})
    assert await check("--org", "acme") == (0, "2 meters of 1 organization agree\n", "")


async def test_differences_are_a_table_and_exit_code_1(check, books):
    await books.open(NOW_US, {"org": ["tokens_in_all"]}, tokens_in=2000)
    await books.level(
        "org", {"tokens_in_all": [2007, NOW_US, NOW_US], "budget_in_all|m": [2_000_000_009, NOW_US, NOW_US]}
    )
    code, told, _ = await check()
    assert code == 1
    rows = [line.split() for line in told.splitlines()]
    assert rows[0] == ["organization", "level", "meter", "counted", "owed", "recorded", "reserved", "too", "much"]
    assert ["acme", "org", "tokens_in_all", "2,007", "0", "5", "2,000", "2"] in rows
    money = ["2.000000009", "USD", "0", "USD", "0.000000009", "USD", "0", "USD", "2", "USD"]
    assert ["acme", "org", "budget_in_all", "of", "m", *money] in rows
    assert told.endswith("2 differences in 2 meters of 1 organization\n")


async def test_what_cannot_be_told_is_said_once_a_reason_and_is_no_difference(check, books):
    old = [1, NOW_US - 500 * 24 * HOUR_US, NOW_US]
    for number in range(5):
        await books.level(f"key:k{number}", {"tokens_in_all": old})
    code, told, _ = await check()
    assert code == 0
    named = ", ".join(f"acme key:k{number} tokens_in_all" for number in range(3))
    assert told.splitlines() == [
        f"not told: {named} and 2 more: {audit.GONE}",
        "5 meters of 1 organization: all that can be told agree",
    ]


async def test_the_audit_as_json_is_the_admin_apis_answer(check, books):
    await books.level("org", {"tokens_in_all": [6, NOW_US, NOW_US]})
    code, told, _ = await check("--json")
    assert code == 1
    found = json.loads(told)
    assert list(found) == ["organizations", "meters", "differences", "unchecked"]
    assert found["differences"][0]["difference"] == 1


async def test_what_could_not_be_found_out_is_exit_code_2(run, url):
    result = await run("ledger", "check", "--org", "a b", SLUICEWAY_URL=url)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("Error: --org: must be")
    result = await run("ledger", "check", SLUICEWAY_URL="http://127.0.0.1:9")
    assert result.exit_code == 2
    assert "nothing answers" in result.stderr
    assert (await run("ledger", "check", SLUICEWAY_ADMIN_KEY=None)).exit_code == 2
