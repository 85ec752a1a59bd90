import json

import pytest

from gateway.cli.tables import scalar
from gateway.identity import keys
from gateway.identity.records import KeyRecord
from tests.gateway.cli.cells import cells

NEW = ("keys", "create", "--org", "acme", "--team", "research", "--name", "ci")


@pytest.fixture
def create(sluiceway):
    async def create(*options):
        return json.loads((await sluiceway(*NEW, *options, "--json")).stdout)

    return create


@pytest.fixture
def record(registry):
    async def record(key_id):
        return (await registry.get(KeyRecord, key_id)).record

    return record


async def test_create_prints_the_key_alone_on_stdout_and_a_note_on_stderr(sluiceway, record):
    """So that `KEY=$(sluiceway keys create ...)` works."""
    result = await sluiceway(*NEW, "--plan", "standard")
    key_id = keys.parse(result.stdout.removesuffix("\n"))
    assert (await record(key_id)).name == "ci"
    assert result.stderr.count("\n") == 1
    assert "not shown again" in result.stderr
    assert f"sluiceway keys revoke {key_id}" in result.stderr
    assert result.stdout.strip() not in result.stderr


async def test_create_as_json_tells_all_of_it(create):
    """The key too."""
    made = await create("--plan", "standard")
    assert keys.parse(made["key"]) == made["id"]
    told = {name: made[name] for name in ("organization", "team", "name", "plan")}
    assert told == {"organization": "acme", "team": "research", "name": "ci", "plan": "standard"}


async def test_create_takes_what_a_key_is_held_to(create, record):
    """Each option as the record has it."""
    made = await create(
        *("--expires", "4102444800", "--scope", "inference", "--scope", "admin:read", "--model", "a", "--model", "b*"),
        *("--backend", "gpu", "--network", "10.0.0.0/8", "--network", "::1/128", "--local-only", "--metadata", "on=ci"),
        *("--value-of-time", "0.01", "--max-price", "1", "--policy", "balanced"),
    )
    kept = await record(made["id"])
    assert (kept.expires, kept.scopes) == (4_102_444_800, ("inference", "admin:read"))
    assert (kept.models, kept.backends, kept.networks) == (("a", "b*"), ("gpu",), ("10.0.0.0/8", "::1/128"))
    assert (kept.local_only, kept.metadata) == (True, {"on": "ci"})
    assert kept.routing == {"value_of_time": 0.01, "max_price": 1, "policy": "balanced"}


async def test_what_is_probably_a_mistake_is_told_beside_the_key(sluiceway, create):
    """On stderr, so that the key is alone; as JSON in it."""
    told = await sluiceway(*NEW, "--model", "mistral-smal", "--model", "small")
    made = await create("--backend", "gp")
    changed = await sluiceway("keys", "set", made["id"], "--backend", "gpo")
    named = await sluiceway("keys", "set", made["id"], "--name", "other")

    assert keys.parse(told.stdout.removesuffix("\n"))
    assert told.stderr.splitlines()[0] == (
        "Warning: models: no model here is called mistral-smal, so that it allows nothing; "
        "did you mean `mistral-small`?"
    )
    assert "did you mean `gpu`?" in made["warnings"][0]
    assert changed.stderr.startswith("Warning: backends: no backend here is called gpo, ")
    assert named.stderr == ""


async def test_list_shows_every_key_with_its_state_and_no_secret(sluiceway, create):
    """Revoked ones too."""
    first = await create("--plan", "standard")
    second = json.loads((await sluiceway(*NEW[:-1], "[red]nightly", "--json")).stdout)
    third = await create("--expires", "90d")
    await sluiceway("keys", "revoke", first["id"])
    await sluiceway("keys", "set", third["id"], "--state", "suspended")
    shown = (await sluiceway("keys", "list")).stdout
    rows = {row[0]: row[1:] for row in cells(shown)}
    assert rows[first["id"]][:5] == ["acme", "research", "ci", "standard", "inference"]
    assert rows[second["id"]][:4] == ["acme", "research", "[red]nightly", "-"]
    assert [rows[made["id"]][-1] for made in (first, second, third)] == ["revoked", "active", "suspended"]
    assert rows[second["id"]][6:8] == ["-", "-"]
    assert not any(made["key"][16:] in shown for made in (first, second, third))


async def test_a_key_that_has_ended_is_shown_so(sluiceway, create, monkeypatch):
    """Nobody has to compare times."""
    await create("--expires", "4102444800")
    monkeypatch.setattr("gateway.cli.keys.clock.wall", lambda: 4_102_444_800.0)

    assert cells((await sluiceway("keys", "list")).stdout)[1][-1] == "expired"


async def test_a_narrow_terminal_cuts_no_id(run, url, create):
    """What is cut cannot be revoked."""
    made = await create()
    shown = await run("keys", "list", SLUICEWAY_URL=url, COLUMNS="80")

    assert made["id"] in shown.stdout


async def test_list_as_json_follows_every_page_of_one_organization(sluiceway, create, monkeypatch):
    """However many there are."""
    mine = [(await create())["id"] for _ in range(5)]
    await sluiceway("keys", "create", "--org", "globex", "--team", "ops", "--name", "cron")
    monkeypatch.setattr("gateway.cli.admin_api.PAGE", 2)
    listed = json.loads((await sluiceway("keys", "list", "--org", "acme", "--json")).stdout)
    assert [key["id"] for key in listed] == sorted(mine)
    assert not any("key" in key or "digest" in key for key in listed)
    assert len(json.loads((await sluiceway("keys", "ls", "--json")).stdout)) == 6


async def test_show_tells_one_key_in_words(sluiceway, create):
    """With times that people read."""
    made = await create("--expires", "4102444800", "--metadata", "site=b")
    shown = (await sluiceway("keys", "show", made["id"])).stdout
    assert {f"id: {scalar(made['id'])}", 'expires: "2100-01-01 00:00"', "  site: b"} <= set(shown.splitlines())
    assert made["key"][16:] not in shown
    assert json.loads((await sluiceway("keys", "show", made["id"], "--json")).stdout)["expires"] == 4_102_444_800


async def test_set_changes_what_is_given(sluiceway, create, record):
    """And nothing else; the key itself stays as it is."""
    made = await create("--plan", "standard", "--model", "a", "--metadata", "on=ci", "--expires", "90d")
    before = await record(made["id"])
    told = await sluiceway(
        *("keys", "set", made["id"], "--name", "nightly", "--clear", "models", "--metadata", "on=", "--metadata", "a=b")
    )
    assert told.stdout.splitlines()[0] == f"changed {made['id']}"
    assert "  name: ci -> nightly" in told.stdout.splitlines()
    after = await record(made["id"])
    assert (after.name, after.models, after.metadata) == ("nightly", None, {"a": "b"})
    assert (after.plan, after.expires, after.digest) == (before.plan, before.expires, before.digest)

    await sluiceway("keys", "set", made["id"], "--clear", "expires", "--meters", "-", stdin="tokens_per_day: 5")
    after = await record(made["id"])
    assert (after.expires, after.plan, after.meters) == (None, None, {"tokens_per_day": 5})
    again = await sluiceway("keys", "set", made["id"], "--name", "nightly")
    assert again.stdout == f"{made['id']} is so already: nothing was changed\n"


async def test_set_changes_one_wish_and_leaves_the_others(sluiceway, create, record):
    """And takes one away; the record shows them one a line."""
    made = await create("--value-of-time", "0.01", "--priority", "high")
    told = await sluiceway("keys", "set", made["id"], "--ttft-target", "2.5", "--clear", "value-of-time")
    assert told.stdout.startswith(f"changed {made['id']}\n  routing: ")
    assert (await record(made["id"])).routing == {"priority": "high", "ttft_target": 2.5}
    shown = (await sluiceway("keys", "show", made["id"])).stdout.splitlines()
    assert {"routing:", "  priority: high", "  ttft_target: 2.5"} <= set(shown)
    again = await sluiceway("keys", "set", made["id"], "--priority", "high")
    assert again.stdout == f"{made['id']} is so already: nothing was changed\n"
    await sluiceway("keys", "set", made["id"], "--clear", "priority", "--clear", "ttft-target")
    assert (await record(made["id"])).routing is None


async def test_rotate_prints_the_new_key_and_until_when_the_old_one_is_taken(sluiceway, create, record):
    """Under the same id."""
    made = await create()
    result = await sluiceway("keys", "rotate", made["id"], "--overlap", "2h")
    key = result.stdout.strip()
    assert keys.parse(key) == made["id"]
    assert key != made["key"]
    assert "the one before is taken until 20" in result.stderr
    kept = await record(made["id"])
    assert kept.digest == keys.digest(key.encode()).hex()
    assert kept.former.digest == keys.digest(made["key"].encode()).hex()

    told = await sluiceway("keys", "rotate", made["id"], "--overlap", "0", "--json")
    assert json.loads(told.stdout)["former_until"] is None
    assert (await record(made["id"])).former is None


async def test_revoke_refuses_the_key_from_then_on(sluiceway, create, record):
    """Twice is no error."""
    made = await create()
    assert (await sluiceway("keys", "revoke", made["id"])).stdout == f"revoked {made['id']}\n"
    assert (await record(made["id"])).revoked
    assert "state: revoked" in (await sluiceway("keys", "show", made["id"])).stdout.splitlines()
    assert json.loads((await sluiceway("keys", "revoke", made["id"], "--json")).stdout) == {
        "id": made["id"],
        "revoked": True,
    }


async def test_of_a_whole_key_only_its_id_is_told_to_anybody(sluiceway, create, record):
    """It is what people paste."""
    made = await create()
    assert (await sluiceway("keys", "revoke", made["key"])).stdout == f"revoked {made['id']}\n"
    assert (await record(made["id"])).revoked


async def test_revoking_an_unknown_key_fails_in_one_line(refused):
    """Whatever it is called."""
    for key_id in ("000000000000", "a/b", "..", "é"):
        await refused("keys", "revoke", key_id)


async def test_what_the_gateway_refuses_is_told_in_its_words(refused):
    """With what would be right."""
    assert "there is no plan 'gold'" in await refused(*NEW, "--plan", "gold")
    assert "did you mean `standard`?" in await refused(*NEW, "--plan", "standart")
    assert "--network: 'lan' is no address and no range of them; must be a list" in await refused(
        *NEW, "--network", "lan"
    )
    assert "expires: " in await refused(*NEW, "--expires", "2020-01-01")
    assert "Error: --max-price: '-1' is out of range" in await refused(*NEW, "--max-price", "-1")
    assert "Error: --value-of-time: does" in await refused(*NEW, "--policy", "fastest", "--value-of-time", "1")
    assert "Error: --ttft-target: does nothing" in await refused(*NEW, "--policy", "pinned", "--ttft-target", "1")
    assert "no key with this id" in await refused("keys", "set", "000000000000", "--name", "x")


async def test_a_duration_that_is_none_is_refused(run, url):
    """With one that is."""
    result = await run("keys", "rotate", "000000000000", "--overlap", "soon", SLUICEWAY_URL=url)
    assert result.exit_code == 2
    assert "write it as 90d, 12h, 30m or in seconds" in " ".join(result.stderr.split())
