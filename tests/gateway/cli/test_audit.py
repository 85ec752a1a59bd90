import json

from tests.gateway.cli.cells import cells


async def test_changes_are_told_with_who_made_them_and_what_they_changed(sluiceway):
    """The newest first."""
    await sluiceway("orgs", "set", "acme", "--plan", "silver")
    await sluiceway("orgs", "set", "acme", "--plan", "standard")
    await sluiceway("orgs", "rm", "acme")
    told = cells((await sluiceway("audit")).stdout)

    assert told[0] == ["when (UTC)", "who", "from", "did", "to", "change"]
    assert [row[1:5] for row in told[1:]] == [
        ["admin key", "127.0.0.1", did, "organization acme"] for did in ("delete", "update", "create")
    ]
    assert told[2][5] == "plan: silver -> standard"


async def test_as_many_are_told_as_are_asked_for(sluiceway, monkeypatch):
    """However many pages that takes, and no page more."""
    for number in range(7):
        await sluiceway("orgs", "set", f"o{number}")
    monkeypatch.setattr("gateway.cli.admin_api.PAGE", 2)

    for limit, names in ((1, ["o6"]), (4, ["o6", "o5", "o4", "o3"]), (50, [f"o{n}" for n in range(6, -1, -1)])):
        lines = json.loads((await sluiceway("audit", "--limit", str(limit), "--json")).stdout)
        assert [line["name"] for line in lines] == names


async def test_a_keys_secret_is_in_no_line(sluiceway):
    """Nor its digest."""
    made = json.loads((await sluiceway("keys", "create", "--org", "a", "--team", "b", "--name", "c", "--json")).stdout)
    await sluiceway("keys", "rotate", made["id"])
    told = (await sluiceway("audit")).stdout

    assert "rotate" in told
    assert "digest: *** -> ***" in told.replace('"', "") or "digest" in told
    assert made["key"][16:] not in told
