import pytest

from gateway.identity import keys
from gateway.identity.key_making import TRIES, bare, blank, bring, create_key, rotate_key
from gateway.identity.records import Author, KeyRecord, OrganizationRecord, PlanRecord, TeamRecord
from gateway.identity.registry import Conflict, Lacking, Registry

ANN = Author("admin key")


@pytest.fixture
def registry(store):
    return Registry(store)


async def test_a_key_is_kept_as_its_digest(registry, store):
    """The key itself is nowhere in the store."""
    stored, key = await create_key(registry, ANN, blank("acme", "lab", "ci"))

    assert keys.parse(key) == stored.record.id
    assert stored.record.digest == keys.digest(key.encode()).hex()
    assert await registry.get(KeyRecord, stored.record.id) == stored
    (names,) = await store.send(("KEYS", "*"))
    kept = [await store.send(("DUMP", name)) for name in names]
    assert key[16:].encode() not in b"".join(value for (value,) in kept)


async def test_the_first_key_brings_its_organization_and_team(registry):
    """So that every tenant is listed; what they were told before stays."""
    await registry.put(OrganizationRecord(name="old", plan="lab"), ANN, action="create", expected=0)

    for organization in ("new", "old"):
        await create_key(registry, ANN, blank(organization, "lab", "ci"))

    assert (await registry.get(OrganizationRecord, "new")).record.plan is None
    assert (await registry.get(OrganizationRecord, "old")).record.plan == "lab"
    assert await registry.get(TeamRecord, "old/lab") is not None


class Removing(Registry):
    """A registry in which somebody removes the team just before a key of it is written, `times`."""

    def __init__(self, store, times):
        super().__init__(store)
        self.times = times
        self.tries = 0

    async def put(self, record, author, **terms):
        if isinstance(record, KeyRecord):
            self.tries += 1
            if self.tries <= self.times:
                await self.remove(TeamRecord(organization="acme", name="lab"), author, expected=None)
        return await super().put(record, author, **terms)


async def test_a_team_that_is_removed_while_its_key_is_made_is_made_again(store):
    """No key is left without the records of its tenants."""
    registry = Removing(store, 3)

    stored, _ = await create_key(registry, ANN, blank("acme", "lab", "ci"))

    assert (await registry.get(KeyRecord, stored.record.id), registry.tries) == (stored, 4)
    assert await registry.get(TeamRecord, "acme/lab") is not None


async def test_against_somebody_who_never_stops_removing_no_key_is_made(store):
    """A loop without an end would hold the caller for ever."""
    registry = Removing(store, 1000)

    with pytest.raises(Lacking):
        await create_key(registry, ANN, blank("acme", "lab", "ci"))

    assert registry.tries == TRIES
    assert await registry.every(KeyRecord) == []


async def test_what_else_a_key_requires_is_not_made(registry):
    """A plan that is gone is somebody's decision."""
    with pytest.raises(Lacking) as refused:
        await create_key(registry, ANN, blank("acme", "lab", "ci", "gold"), requires=[(PlanRecord, "gold")])

    assert refused.value.needed == (PlanRecord, "gold")
    assert await registry.every(KeyRecord) == []


async def test_a_record_brings_those_of_its_tenants_as_bare_as_can_be(registry):
    """A team its organization; an organization or a plan nothing."""
    team = TeamRecord(organization="acme", name="lab", plan="gold")

    assert await bring(registry, ANN, team) == ((OrganizationRecord, "acme"),)
    assert await bring(registry, ANN, OrganizationRecord(name="other")) == ()
    assert [one.record for one in await registry.every(OrganizationRecord)] == [OrganizationRecord(name="acme")]
    assert bare(team) == TeamRecord(organization="acme", name="lab")
    assert bare(OrganizationRecord(name="acme", plan="gold")) == OrganizationRecord(name="acme")
    assert bare(PlanRecord(name="gold", plan={})) is None


async def test_a_rotated_key_keeps_its_id_and_opens_for_a_while_with_the_old_secret(registry):
    """So its meters, its name and its place in the reports stay."""
    first, old = await create_key(registry, ANN, blank("acme", "lab", "ci"))

    second, new = await rotate_key(registry, ANN, first, 3600)

    assert keys.parse(new) == keys.parse(old) == second.record.id
    assert new != old
    assert second.record.former.digest == first.record.digest
    assert 3500 < second.record.former.until - second.record.created <= 3700


async def test_without_an_overlap_the_old_secret_opens_no_more(registry):
    """For a key that has leaked."""
    first, _ = await create_key(registry, ANN, blank("acme", "lab", "ci"))

    second, _ = await rotate_key(registry, ANN, first, 0)

    assert second.record.former is None
    with pytest.raises(Conflict):
        await rotate_key(registry, ANN, first, 0)
