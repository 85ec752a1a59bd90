import json

from gateway.identity.records import Author, KeyRecord, OrganizationRecord
from tests.gateway.cli.cells import cells

NEW = ("keys", "create", "--org", "acme", "--team", "research", "--name", "ci")


async def test_an_organization_is_made_changed_and_shown(sluiceway, registry):
    """`set` changes what is given, and says so."""
    told = await sluiceway("orgs", "set", "acme", "--plan", "silver", "--model", "a", "--model", "b*")
    assert told.stdout == 'made acme\n  plan: (none) -> silver\n  models: (none) -> [a, "b*"]\n'
    told = await sluiceway("orgs", "set", "acme", "--state", "suspended", "--metadata", "owner=ann")
    assert told.stdout == "changed acme\n  state: active -> suspended\n  metadata.owner: (none) -> ann\n"

    record = (await registry.get(OrganizationRecord, "acme")).record
    assert record == OrganizationRecord(
        name="acme", plan="silver", models=("a", "b*"), state="suspended", metadata={"owner": "ann"}
    )
    shown = (await sluiceway("orgs", "show", "acme")).stdout.splitlines()
    assert {"name: acme", "plan: silver", 'models: [a, "b*"]', "state: suspended", "  owner: ann"} <= set(shown)


async def test_what_is_probably_a_mistake_is_told_beside_what_was_done(sluiceway):
    """On stderr, as of keys; as JSON in the record."""
    told = await sluiceway("orgs", "set", "acme", "--model", "mistral-smal", "--model", "small")
    named = await sluiceway("orgs", "set", "acme", "--plan", "silver")
    changed = json.loads((await sluiceway("orgs", "set", "acme", "--backend", "gp", "--json")).stdout)

    assert told.stdout.startswith("made acme\n")
    assert told.stderr == (
        "Warning: models: no model here is called mistral-smal, so that it allows nothing; "
        "did you mean `mistral-small`?\n"
    )
    assert named.stderr == ""
    assert "did you mean `gpu`?" in changed["warnings"][1]


async def test_what_is_so_already_is_not_written(sluiceway, registry):
    """The audit holds changes and nothing else."""
    await sluiceway("orgs", "set", "acme", "--plan", "silver")
    lines = len(await registry.audit())
    told = await sluiceway("orgs", "set", "acme", "--plan", "silver", "--no-local-only")

    assert told.stdout == "acme is so already: nothing was changed\n"
    assert len(await registry.audit()) == lines


async def test_an_organization_can_be_made_with_nothing_to_say_of_it(sluiceway, registry):
    """Its teams may be all that matters."""
    await sluiceway("orgs", "set", "acme")

    assert (await registry.get(OrganizationRecord, "acme")).record == OrganizationRecord(name="acme")


async def test_a_field_is_cleared_and_a_plan_gives_way_to_own_meters(sluiceway, registry):
    """As if nobody had ever said it."""
    await sluiceway("orgs", "set", "acme", "--plan", "silver", "--model", "a", "--time-zone", "Asia/Tokyo")
    meters = "tokens_per_day: 5"
    await sluiceway("orgs", "set", "acme", "--clear", "models", "--clear", "time-zone", "--meters", "-", stdin=meters)

    assert (await registry.get(OrganizationRecord, "acme")).record == OrganizationRecord(
        name="acme", meters={"tokens_per_day": 5}
    )


async def test_the_list_has_the_files_organizations_too(sluiceway):
    """With where each comes from."""
    await sluiceway("orgs", "set", "acme", "--backend", "gpu", "--local-only")
    told = cells((await sluiceway("orgs", "ls")).stdout)
    assert told[0] == ["organization", "plan", "models", "backends", "local only", "state", "from", "time zone"]
    assert told[1] == ["acme", "-", "-", "gpu", "yes", "active", "store", "UTC"]
    assert told[2] == ["filed", "silver", "-", "-", "no", "active", "file", "Europe/Berlin"]

    listed = json.loads((await sluiceway("orgs", "list", "--json")).stdout)
    assert [one["name"] for one in listed] == ["acme", "filed"]


async def test_a_change_of_what_only_the_file_has_copies_nothing_of_the_file(sluiceway, registry):
    """What the record leaves open stays as the file has it, also when the file changes."""
    assert (await sluiceway("orgs", "set", "filed")).stdout == "made filed\n"
    await sluiceway("orgs", "set", "filed", "--local-only")

    assert (await registry.get(OrganizationRecord, "filed")).record == OrganizationRecord(name="filed", local_only=True)


async def test_an_organization_is_removed_once_nobody_needs_it(sluiceway, refused, registry):
    """Its keys would otherwise belong to nobody."""
    key_id = json.loads((await sluiceway(*NEW, "--json")).stdout)["id"]
    assert "keys that are not revoked: 1" in await refused("orgs", "rm", "acme")
    await sluiceway("keys", "revoke", key_id)
    await sluiceway("teams", "rm", "acme", "research")

    assert (await sluiceway("orgs", "rm", "acme")).stdout == "removed acme\n"
    assert await registry.get(OrganizationRecord, "acme") is None
    assert "no organization acme" in await refused("orgs", "rm", "acme")


async def test_a_change_by_somebody_else_meanwhile_is_not_overwritten(refused, registry, monkeypatch):
    """Whoever was slower looks again."""
    author = Author("admin key")
    await registry.put(OrganizationRecord(name="acme"), author, action="create", expected=0)
    monkeypatch.setattr("gateway.cli.editing.as_seen", lambda version: {"if-match": f'"{version + 7}"'})
    told = await refused("orgs", "set", "acme", "--plan", "silver")

    assert "somebody else changed it meanwhile" in told
    assert "run this again" in told
    assert (await registry.get(OrganizationRecord, "acme")).record.plan is None


async def test_what_the_gateway_refuses_is_told_in_its_words(refused):
    """With what would be right."""
    assert "there is no plan 'gold'; known: silver, standard" in await refused("orgs", "set", "acme", "--plan", "gold")
    assert "Error: --time-zone: must be an IANA name" in await refused("orgs", "set", "acme", "--time-zone", "Mars")
    assert "sluiceway orgs ls" in await refused("orgs", "show", "nobody")


async def test_a_name_that_would_lead_elsewhere_is_refused(refused, registry):
    """`teams rm acme ..` would be the organization's own path."""
    await registry.put(OrganizationRecord(name="acme"), Author("admin key"), action="create", expected=0)
    for arguments in (("orgs", "rm", ".."), ("orgs", "show", ""), ("teams", "rm", "acme", ".."), ("keys", "show", ".")):
        assert "is no name" in await refused(*arguments)

    assert await registry.get(OrganizationRecord, "acme") is not None
    assert await registry.every(KeyRecord) == []
