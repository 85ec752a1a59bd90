import json

from gateway.identity import keys

NEW = ("keys", "create", "--org", "acme", "--team", "research", "--name", "ci")


async def test_create_prints_the_key_alone_on_stdout_and_a_note_on_stderr(sluiceway, directory):
    result = await sluiceway(*NEW)
    key_id = keys.parse(result.stdout.removesuffix("\n"))
    assert (await directory.get(key_id)).name == "ci"
    assert result.stderr.count("\n") == 1
    assert "not shown again" in result.stderr
    assert f"sluiceway keys revoke {key_id}" in result.stderr
    assert result.stdout.strip() not in result.stderr


async def test_create_as_json_tells_all_of_it(sluiceway):
    made = json.loads((await sluiceway(*NEW, "--plan", "standard", "--json")).stdout)
    assert list(made) == ["id", "key", "organization", "team", "name", "plan"]
    assert keys.parse(made["key"]) == made["id"]
    del made["id"], made["key"]
    assert made == {"organization": "acme", "team": "research", "name": "ci", "plan": "standard"}


async def test_list_shows_every_key_with_its_state_and_no_secret(sluiceway):
    first = json.loads((await sluiceway(*NEW, "--plan", "standard", "--json")).stdout)
    second = json.loads((await sluiceway(*NEW[:-1], "[red]nightly", "--json")).stdout)
    await sluiceway("keys", "revoke", first["id"])
    shown = (await sluiceway("keys", "list")).stdout
    lines = {line.split()[0]: line for line in shown.splitlines()}
    assert lines[first["id"]].split()[1:5] == ["acme", "research", "ci", "standard"]
    assert lines[first["id"]].rstrip().endswith("revoked")
    assert lines[second["id"]].split()[1:5] == ["acme", "research", "[red]nightly", "-"]
    assert lines[second["id"]].rstrip().endswith("active")
    assert first["key"][16:] not in shown
    assert second["key"][16:] not in shown


async def test_a_narrow_terminal_cuts_no_id(run, url, sluiceway):
    made = json.loads((await sluiceway(*NEW, "--json")).stdout)
    shown = await run("keys", "list", SLUICEWAY_URL=url, COLUMNS="80")
    assert made["id"] in shown.stdout


async def test_list_as_json_follows_every_page_of_one_organization(sluiceway, directory, monkeypatch):
    mine = {(await directory.create("acme", "research", f"{number}", None))[0].id for number in range(5)}
    await directory.create("globex", "ops", "cron", None)
    monkeypatch.setattr("gateway.cli.keys.PAGE", 2)
    listed = json.loads((await sluiceway("keys", "list", "--org", "acme", "--json")).stdout)
    assert [key["id"] for key in listed] == sorted(mine)
    assert all(set(key) == {"id", "organization", "team", "name", "plan", "created", "revoked"} for key in listed)
    assert len(json.loads((await sluiceway("keys", "list", "--json")).stdout)) == 6


async def test_revoke_refuses_the_key_from_then_on(sluiceway, directory):
    record, _ = await directory.create("acme", "research", "ci", None)
    assert (await sluiceway("keys", "revoke", record.id)).stdout == f"revoked {record.id}\n"
    assert (await directory.get(record.id)).revoked
    assert json.loads((await sluiceway("keys", "revoke", record.id, "--json")).stdout) == {
        "id": record.id,
        "revoked": True,
    }


async def test_revoking_an_unknown_key_fails_in_one_line(run, url):
    for key_id in ("000000000000", "a/b", "..", "é"):
        result = await run("keys", "revoke", key_id, SLUICEWAY_URL=url)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1


async def test_what_the_gateway_refuses_is_told_in_its_words(run, url):
    result = await run(*NEW, "--plan", "gold", SLUICEWAY_URL=url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: plan: there is no plan 'gold'; known: standard\n"
