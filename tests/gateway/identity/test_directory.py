import pytest

from gateway import clock
from gateway.identity import keys
from gateway.identity.directory import Directory
from gateway.store.door import Store, StoreDown


async def test_a_created_key_is_found_with_all_it_was_made_of(directory):
    before = int(clock.wall())
    record, key = await directory.create("acme", "research", "ci, nightly é", "standard")
    assert record.id == keys.parse(key)
    assert record.digest == keys.digest(key.encode())
    assert (record.organization, record.team, record.name) == ("acme", "research", "ci, nightly é")
    assert (record.plan, record.revoked) == ("standard", False)
    assert before <= record.created <= clock.wall()
    assert await directory.get(record.id) == record


async def test_a_key_without_a_plan_comes_back_without_one(directory):
    record, _ = await directory.create("acme", "research", "ci", None)
    assert (await directory.get(record.id)).plan is None


async def test_an_unknown_id_has_no_record(directory):
    assert await directory.get("0" * 12) is None


async def test_the_store_never_holds_the_secret(directory, store):
    _, key = await directory.create("acme", "research", "ci", None)
    (names,) = await store.send(("KEYS", "*"))
    held = [repr(names)]
    for name in names:
        (kind,) = await store.send(("TYPE", name))
        held.append(repr(await store.send(("HGETALL" if kind == b"hash" else "SMEMBERS", name))))
    secret = key.rpartition("_")[2]
    assert not any(secret in text or secret[:20] in text for text in held)


async def test_existing_tells_known_ids_from_unknown_ones_in_one_round_trip(directory, store):
    first, _ = await directory.create("acme", "research", "one", None)
    second, _ = await directory.create("other", "ops", "two", None)
    before = store.round_trips
    assert await directory.existing([first.id, "0" * 12, second.id]) == {first.id, second.id}
    assert store.round_trips == before + 1


async def test_a_revoked_key_keeps_its_record(directory):
    record, _ = await directory.create("acme", "research", "ci", None)
    assert await directory.revoke(record.id)
    assert (await directory.get(record.id)).revoked
    assert await directory.revoke(record.id)


async def test_revoking_an_unknown_id_leaves_nothing_behind(directory, store):
    assert not await directory.revoke("0" * 12)
    assert await store.send(("DBSIZE",)) == [0]


@pytest.mark.parametrize("limit", [1, 3, 7, 8])
async def test_pages_hold_every_key_once_in_order(directory, limit):
    made = {(await directory.create("acme", "research", f"{number}", None))[0].id for number in range(7)}
    cursor, seen, pages = None, [], 0
    for _ in range(10):
        page = await directory.list(None, cursor, limit)
        assert len(page.records) <= limit
        seen += [record.id for record in page.records]
        pages += 1
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == sorted(made)
    assert pages == -(-7 // limit)


async def test_a_list_of_one_organization_holds_its_keys_only(directory):
    mine = {(await directory.create("acme", "research", f"{number}", None))[0].id for number in range(3)}
    await directory.create("acme-2", "research", "not mine", None)
    page = await directory.list("acme", None, 100)
    assert {record.id for record in page.records} == mine
    assert page.cursor is None
    assert (await directory.list("nobody", None, 100)).records == ()


async def test_a_store_that_is_away_is_told_as_such(tmp_path):
    store = Store(f"unix://{tmp_path}/nothing")
    directory = Directory(store)
    for call in (
        directory.get("0" * 12),
        directory.existing(["0" * 12]),
        directory.list(None, None, 10),
        directory.revoke("0" * 12),
        directory.create("acme", "research", "ci", None),
    ):
        with pytest.raises(StoreDown):
            await call
    await store.close()
