import asyncio

import pytest

from gateway.identity.fence import VERSION
from gateway.identity.records import (
    Author,
    DrainRecord,
    Former,
    KeyRecord,
    OrganizationRecord,
    PlanRecord,
    TeamRecord,
    TokenRecord,
)
from gateway.identity.registry import AUDIT, CHANGES, Conflict, Lacking, Registry

ANN = Author("admin key", "10.0.0.9", "req-1")
ACME = OrganizationRecord(name="acme", plan="standard")


@pytest.fixture
def registry(store):
    return Registry(store)


def key(name, organization="acme"):
    return KeyRecord(key_id=name, organization=organization, team="t", name="n", digest="aa", created=1)


async def made(registry, *records):
    return [await registry.put(record, ANN, action="create", expected=0) for record in records]


@pytest.mark.parametrize(
    "record",
    [
        ACME,
        TeamRecord(organization="acme", name="t", models=("m*",), local_only=True, metadata={"owner": "ann"}),
        KeyRecord(key_id="k", organization="a", team="t", name="n", digest="d", former=Former("e", 9), created=1),
        PlanRecord(name="p", plan={"requests_per_minute": {"limit": 5, "enforce": False}}),
        DrainRecord(backend="gpu@10.0.0.1:8000", reason="a new driver"),
        TokenRecord(token="corp/ab", seconds=60),
    ],
)
async def test_a_record_is_read_as_it_was_written(registry, record):
    """Every kind, all fields."""
    version = await registry.put(record, ANN, action="create", expected=0)

    stored = await registry.get(type(record), record.id)

    assert (stored.record, stored.version) == (record, version)


async def test_every_change_has_the_next_number(registry):
    """Of whatever kind: gateways tell by a missing number that they have missed something."""
    versions = await made(registry, ACME, key("k"), DrainRecord(backend="b"))

    assert versions == [1, 2, 3]
    assert await registry.remove(ACME, ANN, expected=1) == 4


@pytest.mark.parametrize("lost", [(VERSION,), (VERSION, CHANGES), (VERSION, AUDIT)])
async def test_a_number_is_never_given_twice(registry, store, lost):
    """Though the counter were lost, and a stream with it: what is new must never look old."""
    await made(registry, ACME, key("k"))
    await store.send(("DEL", *lost))

    assert await made(registry, key("l")) == [3]
    assert (await registry.audit(limit=1))[0].version == 3


async def test_two_admins_cannot_overwrite_each_other(registry):
    """The second one's picture is old, and it is told which version is there."""
    (version,) = await made(registry, ACME)
    await registry.put(ACME, ANN, action="update", expected=version)

    with pytest.raises(Conflict) as refused:
        await registry.put(ACME, ANN, action="update", expected=version)

    assert refused.value.version == 2


async def test_of_many_at_once_exactly_one_wins(registry):
    """The version is compared where it is written."""
    (version,) = await made(registry, ACME)

    tries = [registry.put(ACME, ANN, action="update", expected=version) for _ in range(20)]
    ends = await asyncio.gather(*tries, return_exceptions=True)

    assert sorted(map(type, ends), key=str) == [Conflict] * 19 + [int]


async def test_what_is_there_is_not_made_again_and_what_is_not_is_not_removed(registry):
    """A refused change leaves no trace."""
    await made(registry, ACME)

    with pytest.raises(Conflict):
        await registry.put(ACME, ANN, action="create", expected=0)
    with pytest.raises(Conflict):
        await registry.remove(key("k"), ANN, expected=None)

    assert [line.version for line in await registry.audit()] == [1]


async def test_a_record_is_written_only_where_those_that_it_requires_are_there(registry):
    """In the script itself, so that none of them can go between the look and the writing."""
    team = TeamRecord(organization="acme", name="t")
    requires = [(OrganizationRecord, "acme"), (TeamRecord, team.id)]
    await made(registry, ACME)

    with pytest.raises(Lacking) as refused:
        await registry.put(key("k"), ANN, action="create", expected=0, requires=requires)
    assert refused.value.needed == (TeamRecord, "acme/t")
    assert await registry.get(KeyRecord, "k") is None
    assert len(await registry.audit()) == 1

    await registry.put(team, ANN, action="create", expected=0, requires=requires[:1])
    await registry.put(key("k"), ANN, action="create", expected=0, requires=requires)
    assert [one.record.id for one in await registry.every(KeyRecord, organization="acme")] == ["k"]
    with pytest.raises(Conflict):
        await registry.put(key("k"), ANN, action="create", expected=0, requires=[(PlanRecord, "gone")])


async def test_lists_are_in_the_order_of_names_a_page_at_a_time(registry):
    """However they were made."""
    await made(registry, *(OrganizationRecord(name=name) for name in ("c", "a", "e", "b", "d")))

    pages, after = [], None
    while True:
        page = await registry.page(OrganizationRecord, after=after, limit=2)
        pages.append([stored.record.name for stored in page.records])
        after = page.cursor
        if after is None:
            break

    assert pages == [["a", "b"], ["c", "d"], ["e"]]
    assert [stored.record.name for stored in await registry.every(OrganizationRecord)] == list("abcde")


async def test_keys_and_teams_are_listed_by_organization(registry):
    """One whose name begins like another's is another."""
    await made(registry, key("k1"), key("k2", "acme2"), key("k3"))
    await made(registry, *(TeamRecord(organization=name, name="t") for name in ("acme", "acme-x", "acme0", "acm")))

    keys = await registry.page(KeyRecord, organization="acme")
    teams = await registry.page(TeamRecord, organization="acme")

    assert [stored.record.id for stored in keys.records] == ["k1", "k3"]
    assert [stored.record.id for stored in teams.records] == ["acme/t"]
    assert (await registry.existing(["k1", "nobody", "k2"]))[1] == {"k1", "k2"}


async def test_what_was_removed_is_in_no_list(registry):
    """Nor among its organization's keys."""
    await made(registry, key("k1"), key("k2"))

    await registry.remove(key("k1"), ANN, expected=1)

    assert [stored.record.id for stored in (await registry.page(KeyRecord, organization="acme")).records] == ["k2"]
    assert (await registry.existing(["k1"]))[1] == frozenset()


async def test_a_revoked_token_is_remembered_until_it_ends(registry, store):
    """And in no list, where it would stay for ever."""
    token = TokenRecord(token="corp/ab", seconds=60)
    await made(registry, token)

    (left,) = await store.send(("TTL", f"sw:{{~id}}:token:{token.id}"))

    assert 0 < left <= 60
    assert await registry.every(TokenRecord) == []


async def test_the_audit_tells_who_did_what(registry):
    """The newest first, with what is now otherwise and nothing else."""
    (version,) = await made(registry, ACME)
    changed = OrganizationRecord(name="acme", plan="lab")
    await registry.put(changed, Author("key abc"), action="update", expected=version, before=ACME)
    await registry.remove(changed, ANN, expected=None)

    last, update, create = await registry.audit()

    assert (create.action, create.who) == ("create", "admin key")
    assert (create.address, create.request_id) == ("10.0.0.9", "req-1")
    assert (update.kind, update.name, update.who) == ("organization", "acme", "key abc")
    assert (update.before, update.after) == ({"plan": "standard"}, {"plan": "lab"})
    assert (last.action, last.after) == ("delete", {})
    assert last.at >= update.at >= create.at > 1_700_000_000_000
    assert [line.version for line in await registry.audit(before=3, limit=1)] == [2]


async def test_the_audit_hides_digests(registry):
    """That one changed is told, what it is is not."""
    old, new = key("k"), KeyRecord(key_id="k", organization="acme", team="t", name="n", digest="bb", created=1)
    (version,) = await made(registry, old)

    await registry.put(new, ANN, action="rotate", expected=version, before=old)

    assert (await registry.audit(limit=1))[0].before == {"digest": "***"}
    assert (await registry.audit(limit=1))[0].after == {"digest": "***"}


async def test_gateways_are_told_of_every_change(registry, store):
    """In one stream, whose entries' ids are the numbers."""
    await made(registry, ACME, key("k"))

    (entries,) = await store.send(("XRANGE", CHANGES, "-", "+"))

    assert [entry[0] for entry in entries] == [b"1-0", b"2-0"]


async def test_a_store_that_lost_the_script_is_given_it_again(registry, store):
    """As after a restart."""
    await made(registry, ACME)
    await store.send(("SCRIPT", "FLUSH"))

    assert await made(registry, key("k")) == [2]
