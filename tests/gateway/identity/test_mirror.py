import asyncio

import msgspec
import pytest

from gateway import clock
from gateway.identity import mirror as module
from gateway.identity.fence import HISTORY, fence, read_fence
from gateway.identity.keys import new_key
from gateway.identity.mirror import TRUST, Mirror
from gateway.identity.records import KeyRecord, OrganizationRecord, PlanRecord, TeamRecord, key_of
from gateway.identity.registry import Registry
from gateway.identity.strangers import Crowded
from gateway.store.door import Store, StoreDown
from tests.gateway.identity.support import come, made, put, remove

ACME = OrganizationRecord(name="acme")
SUSPENDED = OrganizationRecord(name="acme", state="suspended")
WANTED = (OrganizationRecord, "acme")


class Word:
    """A feed that says what it is told to say."""

    def __init__(self, history=b"", *, trusted=True):
        self.trusted, self.epoch, self.tell, self.history = trusted, 1, None, history

    def on_change(self, callback):
        self.tell = callback


class Held(Registry):
    """A registry whose answers are held back once they have been read, while `hold` is set; `answers` counts them."""

    def __init__(self, store):
        super().__init__(store)
        self.let_go, self.reads, self.answers, self.hold = asyncio.Event(), 0, 0, False

    async def fenced(self, wanted):
        self.reads += 1
        found = await super().fenced(wanted)
        return await self._held(found)

    async def existing(self, key_ids):
        return await self._held(await super().existing(key_ids))

    async def _held(self, found):
        self.answers += 1
        if self.hold:
            self.let_go.clear()
            await self.let_go.wait()
        return found


@pytest.fixture
async def word(store):
    """Speak for the very server that is read from."""
    (reply,) = await store.send(fence())
    return Word(read_fence(reply).history)


@pytest.fixture
def held(store):
    return Held(store)


@pytest.fixture
def mirror(held, word, time):
    return Mirror(held, word, now=time)


async def one(mirror, sort=OrganizationRecord, name="acme"):
    (entry,) = await mirror.fetch([(sort, name)])
    return entry.record


async def holding(mirror, held, *wanted):
    """Begin to fetch, and hold the answer that the store gave."""
    held.hold, answers = True, held.answers
    fetching = clock.spawn(mirror.fetch(wanted or [WANTED]), "fetch")
    await come(lambda: held.answers > answers)
    held.hold = False
    return fetching


async def test_a_record_is_read_once_while_the_feed_would_tell_of_a_change(mirror, held, word, time):
    """That is what makes a call cost no round trip, for days if need be."""
    await put(held, ACME)
    entry = (await mirror.fetch([WANTED]))[0]
    time.now += 1_000_000

    assert mirror.peek(*WANTED) is entry
    assert await one(mirror) == ACME
    assert held.reads == 1


@pytest.mark.parametrize("record", [SUSPENDED, None])
async def test_a_change_that_is_told_ends_what_was_known(mirror, held, word, record):
    """Of a record that is, and of one that is no more."""
    await put(held, ACME)
    entry = (await mirror.fetch([WANTED]))[0]
    version = await (put(held, record) if record else remove(held, ACME))
    word.tell("organization", "acme", version)

    assert entry.stale
    assert mirror.peek(*WANTED) is None
    assert await one(mirror) == record


async def test_the_absence_of_a_record_is_remembered_and_ends_when_it_is_made(mirror, held, word):
    """Most tenants of a small house have no records, and none of their calls may ask for them."""
    for sort, record in (
        (OrganizationRecord, ACME),
        (TeamRecord, TeamRecord(organization="acme", name="t")),
        (PlanRecord, PlanRecord(name="p", plan={})),
    ):
        assert await one(mirror, sort, record.id) is None
        reads = held.reads
        assert await one(mirror, sort, record.id) is None
        assert held.reads == reads
        word.tell(sort.kind, record.id, await put(held, record))
        assert await one(mirror, sort, record.id) == record


async def test_a_change_that_was_in_the_answer_already_ends_nothing(mirror, held, word):
    """The feed may tell later of what a read has seen."""
    version = await put(held, ACME)
    entry = (await mirror.fetch([WANTED]))[0]
    word.tell("organization", "acme", version)

    assert mirror.peek(*WANTED) is entry


@pytest.mark.parametrize(("before", "after"), [(ACME, SUSPENDED), (ACME, None), (None, SUSPENDED)])
async def test_a_read_that_a_change_overtakes_is_made_again(mirror, held, word, before, after):
    """An answer that was on its way when the change was told must not stay, and nobody must get it."""
    if before:
        await put(held, before)
    fetching = await holding(mirror, held)
    version = await (put(held, after) if after else remove(held, before))
    word.tell("organization", "acme", version)
    held.let_go.set()

    assert (await fetching)[0].record == after
    assert mirror.peek(*WANTED).record == after
    assert held.reads == 2


async def test_a_key_that_is_made_while_it_is_asked_for_is_found(mirror, held, word):
    """The question came first, so the answer is no; the feed knows better."""
    held.hold = True
    key_id, _ = new_key()
    fetching = clock.spawn(mirror.fetch([(KeyRecord, key_id)]), "fetch")
    await come(lambda: held.answers)
    record = KeyRecord(key_id=key_id, organization="acme", team="t", name="n", digest="aa", created=1)
    word.tell("key", key_id, await put(held, record))
    held.hold = False
    held.let_go.set()

    assert (await fetching)[0].record == record


async def test_what_was_read_before_an_epoch_is_read_again(mirror, held, word, time):
    """There may have been a change that nobody was told of."""
    await put(held, ACME)
    entry = (await mirror.fetch([WANTED]))[0]
    await put(held, SUSPENDED)
    word.epoch += 1
    time.now += TRUST

    assert not mirror.proven(entry)
    assert await one(mirror) == SUSPENDED


async def test_a_read_that_an_epoch_overtakes_is_of_the_epoch_before(mirror, held, word, time):
    """The change may lie between the read and the epoch's beginning."""
    await put(held, ACME)
    fetching = await holding(mirror, held)
    await put(held, SUSPENDED)
    word.epoch += 1
    held.let_go.set()
    await fetching
    time.now += TRUST

    assert await one(mirror) == SUSPENDED


async def test_without_the_feed_a_record_is_believed_for_half_a_second_from_before_its_read(mirror, held, word, time):
    """However slow the read was."""
    word.trusted = False
    await put(held, ACME)
    fetching = await holding(mirror, held)
    time.now += TRUST - 0.1
    held.let_go.set()
    await fetching
    time.now += 0.09
    assert mirror.peek(*WANTED) is not None
    time.now += 0.02
    assert mirror.peek(*WANTED) is None
    word.trusted = True
    assert mirror.peek(*WANTED) is not None


async def test_a_record_that_is_as_it_was_keeps_its_entry(mirror, held, word, time):
    """What was made of it stays good."""
    await put(held, ACME)
    entry = (await mirror.fetch([WANTED]))[0]
    generation = mirror.generation
    word.epoch += 1
    time.now += TRUST

    assert (await mirror.fetch([WANTED]))[0] is entry
    assert entry.epoch == 2
    assert mirror.generation == generation


async def test_all_who_need_a_record_share_a_read_and_what_is_wanted_meanwhile_goes_together(mirror, held):
    """Thousands of callers come back at once after an epoch."""
    await put(held, ACME)
    first = await holding(mirror, held)
    others = [clock.spawn(mirror.fetch([WANTED, (TeamRecord, f"acme/{i}")]), "fetch") for i in range(100)]
    await asyncio.sleep(0)
    held.let_go.set()

    assert {(await other)[0] for other in others} == set(await first)
    assert held.reads == 2


async def test_a_long_line_is_read_in_parts(mirror, held, monkeypatch):
    """One command too long would hold up everybody else."""
    monkeypatch.setattr(module, "TOGETHER", 10)
    entries = await mirror.fetch([(TeamRecord, f"acme/{number}") for number in range(95)])

    assert len(entries) == 95
    assert held.reads == 10


async def test_a_caller_who_leaves_takes_nobody_along(mirror, held):
    """The read is everybody's."""
    await put(held, ACME)
    leaves = await holding(mirror, held)
    stays = clock.spawn(mirror.fetch([WANTED]), "stays")
    await asyncio.sleep(0)
    leaves.cancel()
    held.let_go.set()

    assert (await stays)[0].record == ACME
    assert held.reads == 1


async def test_a_store_that_is_away_is_told_to_all_and_asked_again_by_the_next(tmp_path, word, held, store):
    """Nothing of the failure stays."""
    gone = Store(f"unix://{tmp_path}/nothing")
    mirror = Mirror(held, word)
    held._store = gone
    answers = await asyncio.gather(
        *(mirror.fetch([WANTED, (KeyRecord, new_key()[0])]) for _ in range(3)), return_exceptions=True
    )
    assert {type(answer) for answer in answers} == {StoreDown}
    assert mirror.peek(*WANTED) is None
    held._store = store
    assert await one(mirror) is None
    await gone.close()


async def test_a_record_that_nobody_can_read_fails_alone(mirror, held, store):
    """A newer gateway may write what this one does not understand."""
    await put(held, ACME)
    await store.send(("HSET", key_of("team", "acme/t"), "v", "7", "b", '{"state":"dozing"}'))
    good, bad = await asyncio.gather(
        mirror.fetch([WANTED]), mirror.fetch([(TeamRecord, "acme/t")]), return_exceptions=True
    )

    assert good[0].record == ACME
    assert isinstance(bad, StoreDown)
    assert "team acme/t" in str(bad)


async def test_a_key_that_was_known_waits_for_no_turn_among_strangers(mirror, held, word, monkeypatch):
    """Its record has changed, or the epoch has: its holder is no stranger."""
    stored, _ = await made(held)
    await one(mirror, KeyRecord, stored.record.id)
    monkeypatch.setattr("gateway.identity.strangers.TOGETHER", 0)
    crowd = clock.spawn(mirror.fetch([(KeyRecord, new_key()[0])]), "stranger")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(Crowded):
        await mirror.fetch([(KeyRecord, new_key()[0])])
    word.tell("key", stored.record.id, await put(held, stored.record))

    assert await one(mirror, KeyRecord, stored.record.id) == stored.record
    await crowd


async def test_a_key_that_was_just_made_waits_for_no_turn_among_strangers(mirror, held, word, monkeypatch):
    """Somebody has asked for its id before it was there; the feed has told of it since."""
    stored, _ = await made(held)
    await remove(held, stored.record)
    assert await one(mirror, KeyRecord, stored.record.id) is None
    monkeypatch.setattr(mirror._strangers, "exists", None)
    word.tell("key", stored.record.id, await put(held, stored.record))

    assert await one(mirror, KeyRecord, stored.record.id) == stored.record


async def test_what_is_remembered_is_bounded_and_what_is_forgotten_is_stale(mirror, held, monkeypatch):
    """Nobody hears of changes of what is forgotten, so whoever still holds it must not believe it."""
    monkeypatch.setattr(module, "REMEMBERED", 3)
    names = ["a", "b", "c", "d"]
    entries = [(await mirror.fetch([(OrganizationRecord, name)]))[0] for name in names]

    assert [entry.stale for entry in entries] == [True, False, False, False]
    assert [mirror.peek(OrganizationRecord, name) is not None for name in names] == [False, True, True, True]


async def test_strangers_are_bounded_by_themselves_and_push_no_key_out(mirror, held, monkeypatch):
    """Ids are free to make up."""
    monkeypatch.setattr(module, "STRANGERS_REMEMBERED", 20)
    stored, _ = await made(held)
    key = (KeyRecord, stored.record.id)
    await mirror.fetch([key])
    await asyncio.gather(*(mirror.fetch([(KeyRecord, new_key()[0])]) for _ in range(100)))

    assert mirror.peek(*key).record == stored.record
    assert len(mirror._absent_keys) == 20
    assert not mirror._reading
    assert not mirror._queue


async def test_a_key_that_vanished_is_no_longer_kept_among_keys(mirror, held, store, word):
    """A store that was emptied has no keys; its ids are strangers' again."""
    stored, _ = await made(held)
    key = (KeyRecord, stored.record.id)
    await mirror.fetch([key])
    await store.send(("FLUSHALL",))
    word.history = read_fence((await store.send(fence()))[0]).history
    word.tell("key", stored.record.id, 1000)

    assert (await mirror.fetch([key]))[0].record is None
    assert not mirror._kept["key"]
    assert list(mirror._absent_keys) == [stored.record.id]
    word.tell("key", stored.record.id, await put(held, stored.record))
    assert (await mirror.fetch([key]))[0].record == stored.record
    assert not mirror._absent_keys


async def test_one_number_for_two_changes_is_not_one_record(mirror, held, word, store, time):
    """A master that died may have given it to a change that is lost: what was read of that must not be believed."""
    await put(held, ACME)
    lost = (await mirror.fetch([WANTED]))[0]
    await store.send(("HSET", key_of("organization", "acme"), "b", msgspec.json.encode(SUSPENDED)))
    word.epoch += 1
    time.now += TRUST

    assert await one(mirror) == SUSPENDED
    assert lost.stale


@pytest.mark.parametrize("wanted", [WANTED, (KeyRecord, "a" * 12)])
async def test_what_another_server_says_is_not_believed(mirror, held, word, store, wanted):
    """After a failover one connection may still lead to the old master, which no change reaches any more."""
    await put(held, ACME)
    await store.send(("SET", HISTORY, "another"))

    with pytest.raises(StoreDown, match="another server"):
        await mirror.fetch([wanted])
    assert mirror.peek(*wanted) is None


async def test_what_was_read_while_nobody_could_tell_of_which_history_is_worth_half_a_second(
    mirror, word, store, time, held
):
    """It gains no proof by the feed's return."""
    await put(held, ACME)
    await store.send(("SET", HISTORY, "another"))
    word.trusted = False
    assert await one(mirror) == ACME
    word.trusted = True

    assert mirror.peek(*WANTED) is not None
    time.now += TRUST
    assert mirror.peek(*WANTED) is None
