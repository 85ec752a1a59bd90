import pytest

from gateway.identity import keys
from gateway.identity.key_making import blank, create_key, rotate_key
from gateway.identity.records import Author, KeyRecord, OrganizationRecord, TeamRecord
from gateway.identity.registry import Conflict, Registry

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
