import csv
import io
import json

import pytest

from gateway import clock
from tests.gateway.ledger.written import HOUR_US, Written, account

RULE = "must be 1 to 64 letters, digits, dots, underscores or hyphens"


@pytest.fixture
async def books(store):
    """Return books with three calls of this hour, and one of six weeks ago."""
    books = Written(store, "acme")
    now = int(clock.wall() * 1e6)
    await books.begin(now)
    used = {"input": 34_000, "cached": 1000, "output": 5600, "reasoning": 12, "money": 1_234_567_890_123}
    await books.settle(now, of=account("research", "key1", "m/[b]large"), **used)
    await books.settle(now, of=account("research", "key1", "m/[b]large"), estimated=True, input=78)
    await books.settle(now, of=account("ops", "key2", "small"), input=2, output=3, money=1)
    await books.settle(now - 42 * 24 * HOUR_US, of=account("ops", "key2", "small"), input=1_000_000)
    return books


def rows(text):
    return [line.split() for line in text.splitlines()]


async def test_usage_is_a_table_with_sums(sluiceway, books):
    told = rows((await sluiceway("usage", "--org", "acme")).stdout)
    assert told[0] == ["key", "model", "calls", "input", "cached", "output", "reasoning", "estimated", "usd"]
    assert ["key1", "m/[b]large", "2", "34,078", "1,000", "5,600", "12", "78", "1234.567890123"] in told
    assert ["key2", "small", "1", "2", "0", "3", "0", "0", "0.000000001"] in told
    assert ["all", "3", "34,080", "1,000", "5,603", "12", "78", "1234.567890124"] in told
    assert len(told) == 4


async def test_usage_is_told_by_what_is_asked_for_and_since_when(sluiceway, books, store):
    await Written(store, "globex").begin()
    told = rows((await sluiceway("usage", "--by", "team,model", "--since", "8w", "--until", "0h")).stdout)
    assert ["acme", "ops", "small", "2", "1,000,002", "0", "3", "0", "0", "0.000000001"] in told
    assert told[-1][0] == "all"
    assert len(told) == 4
    assert rows((await sluiceway("usage", "--since", "8w", "--until", "30d", "--by", "model")).stdout)[1:] == [
        ["small", "1", "1,000,000", "0", "0", "0", "0", "0"],
        ["all", "1", "1,000,000", "0", "0", "0", "0", "0"],
    ]


async def test_usage_as_csv_is_rows_without_a_sum(sluiceway, books):
    told = (await sluiceway("usage", "--org", "acme", "--by", "model,team", "--format", "csv")).stdout
    assert "\r" not in told
    assert list(csv.DictReader(io.StringIO(told))) == [
        {
            "model": model,
            "team": team,
            "calls": calls,
            "input_tokens": input_,
            "cached_input_tokens": cached,
            "output_tokens": output,
            "reasoning_tokens": reasoning,
            "estimated_tokens": estimated,
            "usd": usd,
        }
        for model, team, calls, input_, cached, output, reasoning, estimated, usd in (
            ("m/[b]large", "research", "2", "34078", "1000", "5600", "12", "78", "1234.567890123"),
            ("small", "ops", "1", "2", "0", "3", "0", "0", "0.000000001"),
        )
    ]


async def test_usage_as_json_is_the_admin_apis_answer(sluiceway, books):
    told = json.loads((await sluiceway("usage", "--org", "acme", "--by", "team", "--format", "json")).stdout)
    assert list(told) == ["since", "until", "by", "rows", "total"]
    assert [list(row)[0] for row in told["rows"]] == ["team", "team"]  # noqa: RUF015 - the first of each
    assert (told["total"]["calls"], told["total"]["usd"]) == (3, "1234.567890124")


async def test_usage_takes_json_as_every_other_command_does(sluiceway, run, url, books):
    """And not beside another form."""
    asked = ("usage", "--org", "acme", "--until", "0h")
    for more in ((), ("--format", "json")):
        told = json.loads((await sluiceway(*asked, "--json", *more)).stdout)
        assert told["total"] == json.loads((await sluiceway(*asked, "--format", "json")).stdout)["total"]

    both = await run(*asked, "--json", "--format", "csv", SLUICEWAY_URL=url)
    assert both.exit_code == 2
    assert "--json and --format csv contradict each other" in both.stderr


async def test_an_organization_without_usage_is_told_in_words_and_to_programs_as_a_header(sluiceway):
    told = (await sluiceway("usage", "--org", "nobody")).stdout
    assert told.startswith("nobody has used nothing from 20")
    assert told.endswith("; there is no organization of that name either (see `sluiceway orgs ls`)\n")
    assert told.count("\n") == 1
    await sluiceway("orgs", "set", "nobody")
    for known in ("nobody", "filed"):
        assert "no organization" not in (await sluiceway("usage", "--org", known)).stdout
    assert (await sluiceway("usage", "--format", "csv")).stdout.count("\n") == 1


async def test_a_deployment_that_there_is_not_is_a_dash(sluiceway, books):
    await books.settle(int(clock.wall() * 1e6), deployment="", input=1)
    assert ["-", "1", "1", "0", "0", "0", "0", "0"] in rows((await sluiceway("usage", "--by", "deployment")).stdout)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--org", "a b"), f"--org: {RULE}"),
        (("--by", "colour"), "--by: must be one or more of organization, team, key, model, deployment, day and hour"),
        (("--since", "soon"), "--since: must be a time ago, such as 30d, 12h or 2w, or a date or ISO time"),
        (("--since", "1d", "--until", "2d"), "--since: is 20"),
    ],
)
async def test_what_is_wrong_is_told_with_what_would_be_right(run, url, arguments, told):
    result = await run("usage", *arguments, SLUICEWAY_URL=url)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {told}")
    assert result.stderr.count("\n") == 1


async def test_another_format_is_refused_with_those_there_are(run, url):
    result = await run("usage", "--format", "xml", SLUICEWAY_URL=url)
    assert result.exit_code == 2
    assert "'table', 'csv', 'json'" in result.stderr


async def test_rows_are_told_by_org_as_the_option_and_the_column_call_it(sluiceway, books):
    """And by its whole name."""
    short, whole = [(await sluiceway("usage", "--by", f"model,{name}")).stdout for name in ("org", "organization")]

    assert short == whole
    assert rows(short)[0][:2] == ["model", "org"]
