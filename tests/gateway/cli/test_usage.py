import json


async def test_usage_is_a_table_with_sums(sluiceway, books):
    books.totals["acme"] = [("key1", "m/[b]large", 1200, 34_000, 5600, 78), ("key2", "small", 1, 2, 3, 0)]
    lines = (await sluiceway("usage", "--org", "acme")).stdout.splitlines()
    rows = [line.split() for line in lines]
    assert rows[0] == ["key", "model", "requests", "prompt", "tokens", "completion", "tokens", "estimated", "tokens"]
    assert ["key1", "m/[b]large", "1,200", "34,000", "5,600", "78"] in rows
    assert ["key2", "small", "1", "2", "3", "0"] in rows
    assert ["all", "1,201", "34,002", "5,603", "78"] in rows


async def test_usage_as_json_is_the_admin_apis_answer(sluiceway, books):
    books.totals["acme"] = [("key1", "m", 1, 2, 3, 4)]
    assert json.loads((await sluiceway("usage", "--org", "acme", "--json")).stdout) == {
        "organization": "acme",
        "totals": [
            {
                "key": "key1",
                "model": "m",
                "requests": 1,
                "prompt_tokens": 2,
                "completion_tokens": 3,
                "estimated_tokens": 4,
            }
        ],
    }


async def test_an_organization_without_usage_is_told_in_words(sluiceway):
    assert (await sluiceway("usage", "--org", "nobody")).stdout == "nobody has used nothing yet\n"


async def test_a_wrong_organization_is_told_with_the_rule(run, url):
    result = await run("usage", "--org", "a b", SLUICEWAY_URL=url)
    assert result.exit_code == 1
    assert result.stderr == "Error: organization: must be 1 to 64 letters, digits, dots, underscores or hyphens\n"
