import json
import re

import pytest
from msgspec.structs import replace

from gateway.identity.key_making import blank, create_key
from gateway.identity.records import Author, PlanRecord
from gateway.store.door import Store
from policies.reach import LEAVES
from policies.scoring import FIRST_TOKEN, IMPOSED
from tests.gateway.api.support import ASK
from tests.gateway.cli.cells import cells
from tests.house import ROOT

TITLES = [
    *("#", "deployment", "score USD", "money USD", "first token s", "own s", "imposed s", "risk s", "shadow USD"),
    *("cached", "why"),
]


@pytest.fixture
def body(tmp_path):
    """Return the place of a file with a call's body."""
    path = tmp_path / "request.json"
    path.write_text(json.dumps(ASK))
    return path


async def new_key(registry, **terms):
    _, key = await create_key(registry, Author("admin key"), replace(blank("acme", "team", "ci", None), **terms))
    return key


async def test_a_route_is_a_table_in_the_order_of_tries_and_a_sentence(sluiceway, body):
    """The best one first, each term with its unit."""
    head, terms, titles, first, second, because = cells((await sluiceway("explain", "--file", str(body))).stdout)

    assert head[0].startswith("mistral-small: about ")
    assert head[0].endswith("of output")
    by_default = ("policy balanced", "priority normal", "a second is worth 0.002 USD", "at most 3 attempts")
    assert terms == [", ".join(f"{one} (default)" for one in (*by_default, "waits up to 30 s"))]
    assert titles == TITLES
    assert [len(row) for row in (titles, first, second)] == [11, 11, 11]
    assert [first[:2], second[:2]] == [["1", "rack/small"], ["2", "openai/small"]]
    assert [first[3], second[3]] == ["0.000000", "unknown"]
    assert [first[-2:], second[-2:]] == [["0 %", "in time"], ["0 %", "in time"]]
    assert because == ["rack is first: what the call costs at openai is unknown."]


def test_the_pages_sample_adds_up():
    """It was printed by a gateway, whose score has its weights and its terms from one place."""
    page = (ROOT / "README.md").read_text()
    _, terms, titles, *rest = cells(re.search(r"\n```\n([^`]*\npolicy balanced [^`]*)```\n", page)[1])
    worth = float(re.search(r"a second is worth ([0-9.]+) USD", terms[0])[1])
    rows = [dict(zip(titles, row, strict=True)) for row in rest if len(row) == len(titles)]

    assert (titles, len(rows)) == (TITLES, 3)
    for row in rows:
        score, money, first, own, imposed, risk, shadow = (float(row[title]) for title in TITLES[2:9])
        seconds = FIRST_TOKEN * first + (own - first) + IMPOSED * imposed + risk
        rounding = 0.0005 * worth * (FIRST_TOKEN + 1 + IMPOSED + 1) + 2e-6
        assert score == pytest.approx(money + shadow + worth * seconds, abs=rounding), row["deployment"]
    assert rows == sorted(rows, key=lambda row: (row["why"] == "late", float(row["score USD"])))


async def test_what_is_dropped_is_told_with_its_reason(sluiceway, body, registry):
    """As a key's calls are kept from it; of a whole key no more than its id goes anywhere."""
    key = await new_key(registry, local_only=True, routing={"ttft_target": 2.5, "tpot_target": 0.1, "max_price": 1})
    told = cells((await sluiceway("explain", "--file", str(body), "--key", key)).stdout)

    for term in ("first token within 2.5 s (key)", "0.1 s an output token (key)", "at most 1 USD (key)"):
        assert f", {term}, " in told[1][0]
    assert [row[:2] for row in told[3:]] == [
        ["1", "rack/small"],
        ["dropped", "why"],
        ["openai/small", LEAVES],
        ["rack/small is the only one that can serve the call."],
    ]


async def test_small_money_is_told_without_an_exponent(sluiceway, run, url, body, registry):
    """In the terms and in the refusal alike, as `x-sluiceway-terms` tells it to callers."""
    key = await new_key(registry, routing={"max_price": 1e-7, "value_of_time": 0.00002})
    told = await run("explain", "--file", str(body), "--key", key, SLUICEWAY_URL=url)

    assert ", a second is worth 0.00002 USD (key), at most 0.0000001 USD (key), " in told.stdout
    assert "more than the call may cost (0.0000001 USD)" in told.stdout


async def test_a_term_of_a_plan_is_told_with_its_name(sluiceway, body, registry):
    """It is what an operator has to change."""
    slow = PlanRecord(name="slow", plan={"requests_per_minute": 600, "routing": {"priority": "low"}})
    await registry.put(slow, Author("admin key"), action="create", expected=0)
    key = await new_key(registry, plan="slow")
    told = (await sluiceway("explain", "--file", str(body), "--key", key)).stdout

    assert ", priority low (key's plan slow), " in told


async def test_a_model_that_is_named_takes_the_place_of_the_bodys(sluiceway, run, url, body):
    """A body from elsewhere, or from stdin, need not have one."""
    bare = json.dumps({"messages": ASK["messages"]})
    told = await sluiceway("explain", "--model", "small", "--file", "-", "--json", stdin=bare)
    other = await run("explain", "--model", "nothing", "--file", str(body), SLUICEWAY_URL=url)

    assert json.loads(told.stdout)["model"] == "mistral-small"
    assert other.exit_code == 1
    assert other.stdout == (
        "It would be refused with 404 model_not_found: The model 'nothing' does not exist. "
        "GET /v1/models lists what this key may use.\n"
    )


async def test_the_raw_answer_has_all_that_the_gateway_told(sluiceway, run, url, body):
    """And its exit code is that of the table."""
    whole = json.loads((await sluiceway("explain", "--file", str(body), "--json")).stdout)
    refused = await run("explain", "--model", "nothing", "--file", str(body), "--json", SLUICEWAY_URL=url)

    assert {"model", "candidates", "dropped", "terms", "because", "waits", "refusal"} <= set(whole)
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["refusal"]["status"] == 404


async def test_another_api_is_asked_by_its_name(sluiceway):
    """Its body is another one."""
    told = await sluiceway("explain", "--api", "completions", "--file", "-", stdin='{"model": "small", "prompt": "x"}')

    assert "rack/small" in told.stdout


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('{"model": "small",\n "messages": [}', 2, "malformed"),
        ('{\n"model":\n', 3, "truncated"),
        ("[]", 1, "is no JSON object"),
        ('{"temperature": NaN}', 1, "malformed"),
        ("[" * 100_000, 1, "recursion"),
        ("\n\n", 3, "truncated"),
    ],
)
async def test_what_is_no_body_is_told_with_its_line(refused, tmp_path, text, line, words):
    """And with what one looks like."""
    path = tmp_path / "odd.json"
    path.write_text(text)
    told = await refused("explain", "--file", str(path))

    assert f"{path}:{line}: " in told
    assert words in told
    assert 'a call\'s body is a JSON object, such as {"messages"' in told


async def test_text_that_is_no_text_is_refused(refused, tmp_path):
    """Whatever wrote it."""
    path = tmp_path / "odd.json"
    path.write_bytes(b'{"model": "\xff"}')

    assert f"{path}:1: " in await refused("explain", "--file", str(path))


async def test_a_file_that_is_not_there_is_told(refused, tmp_path):
    """With what to give instead."""
    told = await refused("explain", "--file", str(tmp_path / "nothing.json"))

    assert "nothing.json cannot be read: No such file or directory. Give --file, or - for stdin." in told


async def test_an_unknown_key_and_a_gateway_that_is_away_are_told(refused, body):
    """Each with its remedy."""
    unknown = await refused("explain", "--file", str(body), "--key", "0" * 12)
    away = await refused("explain", "--file", str(body), SLUICEWAY_URL="http://127.0.0.1:9")

    assert "there is no key 000000000000; `sluiceway keys ls` shows which there are" in unknown
    assert "Is `sluiceway serve` running there? Else give --url." in away


async def test_while_the_store_is_down_a_line_says_what_becomes_of_the_call(sluiceway, body, monkeypatch):
    """Beside the explanation, which is whole: so it ends well."""
    monkeypatch.setattr(Store, "down", "it sleeps")
    told = (await sluiceway("explain", "--file", body)).stdout.splitlines()

    assert told[-1].startswith("The store is down: the call would be refused with 503 store_unavailable")
    assert "would be refused" not in " ".join(told[:-1])
