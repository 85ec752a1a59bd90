import json

from gateway.identity.records import OrganizationRecord, TeamRecord
from tests.gateway.cli.cells import cells


async def test_a_team_is_made_with_its_organization_changed_and_shown(sluiceway, registry):
    """`set` changes what is given, and says so."""
    await sluiceway("teams", "set", "acme", "lab", "--plan", "silver")
    told = await sluiceway("teams", "set", "acme", "lab", "--local-only", "--clear", "plan")
    assert told.stdout == "changed acme/lab\n  plan: silver -> (none)\n  local_only: false -> true\n"

    assert (await registry.get(TeamRecord, "acme/lab")).record == TeamRecord(
        organization="acme", name="lab", local_only=True
    )
    assert await registry.get(OrganizationRecord, "acme") is not None
    shown = (await sluiceway("teams", "show", "acme", "lab")).stdout.splitlines()
    assert {"organization: acme", "name: lab", "local_only: true"} <= set(shown)


async def test_what_is_probably_a_mistake_is_told_beside_what_was_done(sluiceway):
    """On stderr, as of keys; as JSON in the record."""
    told = await sluiceway("teams", "set", "acme", "lab", "--model", "mistral-smal", "--model", "small")
    named = await sluiceway("teams", "set", "acme", "lab", "--plan", "silver")
    changed = json.loads((await sluiceway("teams", "set", "acme", "lab", "--backend", "gp", "--json")).stdout)

    assert told.stdout.startswith("made acme/lab\n")
    assert told.stderr == (
        "Warning: models: no model here is called mistral-smal, so that it allows nothing; "
        "did you mean `mistral-small`?\n"
    )
    assert named.stderr == ""
    assert "did you mean `gpu`?" in changed["warnings"][1]


async def test_teams_are_listed_of_one_organization_or_of_all(sluiceway):
    """Those of the gateway's file too."""
    await sluiceway("teams", "set", "acme", "lab", "--plan", "silver")
    await sluiceway("teams", "set", "acme", "ops")
    told = cells((await sluiceway("teams", "ls")).stdout)
    assert told[0] == ["organization", "team", "plan", "models", "backends", "local only", "state", "from"]
    assert told[1:] == [
        ["acme", "lab", "silver", "-", "-", "no", "active", "store"],
        ["acme", "ops", "-", "-", "-", "no", "active", "store"],
        ["filed", "desk", "-", "-", "-", "no", "active", "file"],
    ]
    listed = json.loads((await sluiceway("teams", "ls", "acme", "--json")).stdout)
    assert [(one["organization"], one["name"]) for one in listed] == [("acme", "lab"), ("acme", "ops")]


async def test_a_team_is_removed(sluiceway, refused, registry):
    """Once it has no keys that work."""
    await sluiceway("keys", "create", "--org", "acme", "--team", "lab", "--name", "ci")
    assert "keys that are not revoked: 1" in await refused("teams", "rm", "acme", "lab")
    await sluiceway("teams", "set", "acme", "ops")

    assert (await sluiceway("teams", "rm", "acme", "ops", "--json")).stdout == '{"name":"acme/ops","removed":true}\n'
    assert await registry.get(TeamRecord, "acme/ops") is None
    assert "no team ops" in await refused("teams", "rm", "acme", "ops")


async def test_an_unknown_organization_is_told(refused):
    """With where to look."""
    assert "no organization nobody" in await refused("teams", "ls", "nobody")
