import asyncio

import pytest

from gateway import clock
from gateway.identity import last_used as module
from gateway.identity.last_used import LastUsed, last_used
from gateway.store.door import Store, StoreDown
from tests.gateway.identity.support import Time, come


async def test_the_last_use_of_each_is_told_in_one_command(store):
    """However often and by however many it was used."""
    wall = Time(1_700_000_000.9)
    used = LastUsed(store, wall)
    for _ in range(3):
        for name in ("k1", "k2", "corp:ann@example.org"):
            used.touch(name)
        wall.now += 10
    before = store.round_trips
    await used.flush()

    assert store.round_trips == before + 1
    assert await last_used(store, ["k2", "nobody", "corp:ann@example.org"]) == [1_700_000_020, None, 1_700_000_020]
    assert await last_used(store, []) == []


async def test_nothing_used_is_nothing_told(store):
    """An idle gateway does not ask the store for anything."""
    used = LastUsed(store)
    used.touch("k1")
    await used.flush()
    before = store.round_trips
    await used.flush()

    assert store.round_trips == before


async def test_what_the_store_did_not_take_is_told_next_time_and_what_came_since_goes_before(store, tmp_path):
    """A store that is away must not cost what it is to know."""
    wall = Time(100)
    gone = Store(f"unix://{tmp_path}/nothing")
    used = LastUsed(gone, wall)
    used.touch("k1")
    used.touch("k2")
    await used.flush()
    wall.now = 200
    used.touch("k2")
    used._store = store
    await used.flush()

    assert await last_used(store, ["k1", "k2"]) == [100, 200]
    await gone.close()


async def test_what_waits_is_bounded(store, tmp_path, monkeypatch):
    """With the store away for a day, as many as are told at once."""
    monkeypatch.setattr(module, "REMEMBERED", 3)
    gone = Store(f"unix://{tmp_path}/nothing")
    used = LastUsed(gone, Time(7))
    for _ in range(2):
        for number in range(5):
            used.touch(f"k{number}")
        await used.flush()

    assert len(used._used) == 3
    with pytest.raises(StoreDown):
        await last_used(gone, ["k1"])
    await gone.close()


async def test_it_is_told_every_minute_and_at_the_end(store, monkeypatch):
    """A telling that is under way at the end is not lost."""
    monkeypatch.setattr(module, "EVERY", 0.01)
    used = LastUsed(store, Time(7))
    used.start()
    used.touch("k1")
    await come(lambda: not used._used)
    used.touch("k2")
    await used.close()

    assert await last_used(store, ["k1", "k2"]) == [7, 7]
    assert not [task for task in asyncio.all_tasks() if "last use" in task.get_name()]


async def test_many_are_told_in_parts_and_one_that_is_used_meanwhile_is_told_again(store, monkeypatch):
    """A command must not hold up the store, and no use may be lost."""
    monkeypatch.setattr(module, "TOGETHER", 2)
    wall = Time(7)
    used = LastUsed(store, wall)
    for number in range(5):
        used.touch(f"k{number}")
    before = store.round_trips
    flushing = clock.spawn(used.flush(), "flush")
    await asyncio.sleep(0)
    wall.now = 8
    used.touch("k0")
    await flushing

    assert store.round_trips == before + 3
    assert list(used._used) == ["k0"]
    await used.flush()
    assert await last_used(store, ["k0", "k4"]) == [8, 7]
