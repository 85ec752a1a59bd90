import pytest

from gateway import clock
from gateway.identity.last_used import USED, LastUsed, last_used
from gateway.identity.records import Author, KeyRecord, OrganizationRecord
from gateway.identity.registry import AUDIT, CHANGES
from gateway.identity.retention import DAYS, Retention
from tests.gateway.identity.support import Time

ANN = Author("admin key")
DAY = 86_400


def key(name):
    return KeyRecord(key_id=name, organization="acme", team="t", name="n", digest="aa", created=1)


@pytest.fixture
def retention(store):
    return Retention(store)


async def write(store, *days_ago):
    """Write lines of the audit of that age, as `write.lua` does; their numbers follow one another."""
    now = int(clock.wall() * 1000)
    words = ("kind", "organization", "name", "acme", "action", "update", "who", "ann", "address", "", "request_id", "")
    await store.send(
        *(
            ("XADD", AUDIT, f"{number}-0", "at", round(now - ago * DAY * 1000), *words, "before", "{}", "after", "{}")
            for number, ago in enumerate(days_ago, 1)
        )
    )


async def lines(registry):
    """Return the numbers of the lines that are there."""
    return sorted(line.version for line in await registry.audit(limit=10_000))


async def test_a_line_of_the_audit_goes_when_it_is_400_days_old_and_no_sooner(store, registry, retention):
    """By its own time, not by how many came since."""
    await write(store, 500, 400.01, 399.99, 30, 0)

    assert await retention.step() == (2, 0)
    assert await lines(registry) == [3, 4, 5]
    assert await retention.step() == (0, 0)


async def test_what_registry_writes_is_of_an_age_that_retention_reads(store, registry, retention):
    """Nothing of today goes, and all but the last of it at no days."""
    for number in range(3):
        await registry.put(OrganizationRecord(name=f"o{number}"), ANN, action="create", expected=0)

    assert await retention.step() == (0, 0)
    assert await retention.step(days=-1) == (2, 0)
    assert await lines(registry) == [3]


async def test_the_last_line_stays_and_the_numbers_of_changes_go_on_from_it(store, registry, retention):
    """An audit that was emptied would take no number below its last, and a number may be given once only."""
    await write(store, 900, 800, 700)

    assert await retention.step() == (2, 0)
    assert await retention.step() == (0, 0)
    await store.send(("DEL", CHANGES))
    assert await registry.put(OrganizationRecord(name="acme"), ANN, action="create", expected=0) == 4
    assert await lines(registry) == [3, 4]
    assert await retention.step() == (1, 0)


async def test_one_step_takes_away_a_bounded_number_and_the_memory_with_it(store, registry, retention):
    """And the next ones the rest."""
    await write(store, *[500] * 3000, 1)
    (taken,) = await store.send(("MEMORY", "USAGE", AUDIT, "SAMPLES", 0))

    assert await retention.step() == (500, 0)
    gone = [await retention.step() for _ in range(6)]

    assert gone == [(500, 0)] * 5 + [(0, 0)]
    (left,) = await store.send(("MEMORY", "USAGE", AUDIT, "SAMPLES", 0))
    assert left < taken / 20


async def test_a_last_use_goes_with_its_key_and_a_subjects_after_400_days(store, registry, retention):
    """A key that is there keeps its own, however long ago it was: nobody should take it for one never used."""
    now = clock.wall()
    for name in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        await registry.put(key(name), ANN, action="create", expected=0)
    for days, names in {
        0: ["bbbbbbbbbbbb", "cccccccccccc", "corp:ann@example.org"],
        DAYS - 1: ["corp:ben"],
        DAYS + 1: ["aaaaaaaaaaaa", "corp:cid"],
    }.items():
        used = LastUsed(store, Time(now - days * DAY))
        for name in names:
            used.touch(name)
        await used.flush()

    assert await retention.step() == (0, 2)
    kept = ["aaaaaaaaaaaa", "bbbbbbbbbbbb", "corp:ann@example.org", "corp:ben"]
    assert None not in await last_used(store, kept)
    assert await last_used(store, ["cccccccccccc", "corp:cid"]) == [None, None]

    await registry.remove(key("aaaaaaaaaaaa"), ANN, expected=None)
    assert await retention.step() == (0, 1)


async def test_every_use_is_looked_at_within_some_steps(store, retention):
    """A step goes on where the one before ended, among those that stay, and at last begins anew."""
    now = int(clock.wall())
    await store.send(("HSET", USED, *(part for number in range(4000) for part in (f"corp:{number}", now))))
    for _ in range(2):
        await store.send(("HSET", USED, *(part for number in range(20) for part in (f"{number:012x}", now))))

        steps = [await retention.step() for _ in range(20)]

        assert sum(uses for _, uses in steps) == 20
        assert max(uses for _, uses in steps) < 20
    assert (await store.send(("HLEN", USED)))[0] == 4000
