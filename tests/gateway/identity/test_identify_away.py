"""Who is calling while the store is away: those whom memory knows and whose plans are kept, and for a while only."""

import asyncio

import pytest
from msgspec.structs import replace

from gateway.config.settings import STANDARD, Organization
from gateway.identity.changes import FRESH, Feed
from gateway.identity.keys import new_key
from gateway.identity.mirror import TRUST
from gateway.identity.records import OrganizationRecord
from gateway.identity.registry import Registry
from gateway.store.door import Store
from policies.domain import Principal
from policies.rejections import Reason
from tests.gateway.identity.support import bearer, come, made, put
from tests.gateway.identity.world import HERE, LOCAL, LOCAL_ORGANIZATIONS, forged, identities
from tests.parts import stores

GRACE = 600.0


class House:
    """One gateway whose store can be taken away and given back; `known` is what it knows of its callers."""

    def __init__(self, registry, listening, time, **settings):
        self.registry, self.store, self.time = registry, registry._store, time
        self.feed = Feed(listening, now=time)
        usual = {"plans": LOCAL, "organizations": LOCAL_ORGANIZATIONS, "when_down": "local", "grace": GRACE}
        self.known = identities(registry, self.feed, now=time, **usual | settings)

    async def start(self):
        await self.feed.start()

    async def lose(self, gone):
        """Lose the store for good, a moment after the feed's last answer."""
        await self.feed.close()
        self.registry._store = gone
        self.time.now += FRESH

    def back(self):
        self.registry._store = self.store

    async def who(self, credential, address=HERE):
        return await self.known.identify(bearer(credential), address)

    def recalled(self, credential):
        return self.known.cached(bearer(credential), HERE)


@pytest.fixture
async def gone(tmp_path):
    store = Store(f"unix://{tmp_path}/nothing")
    yield store
    await store.close()


@pytest.fixture
def house(registry, listening, time):
    return House(registry, listening, time)


@pytest.fixture
async def key(registry):
    return (await made(registry, plan="standard"))[1]


async def test_a_known_caller_is_served_for_the_grace_from_when_the_store_was_missed(house, key, gone):
    """By plans that say local; the store is asked twice a second, not once a call."""
    await house.start()
    principal = await house.who(key)
    missed = house.time.now
    await house.lose(gone)
    while house.time.now < missed + GRACE - TRUST:
        assert house.recalled(key) is None
        assert await house.who(key) is principal
        house.time.now += TRUST / 2
        assert house.recalled(key) is principal
        house.time.now += TRUST / 2
    house.time.now = missed + GRACE - 0.01
    assert await house.who(key) is principal
    house.time.now = missed + GRACE
    assert house.recalled(key) is None
    assert (await house.who(key)).reason is Reason.STORE_DOWN


async def test_a_record_that_the_feed_vouched_for_is_as_new_as_its_last_word(house, key, gone):
    """It was read days ago and has been true until the store was missed."""
    await house.start()
    principal = await house.who(key)
    asked = house.feed._store.round_trips
    house.time.now += 3 * 24 * 3600
    await come(lambda: house.feed._store.round_trips > asked + 2)
    assert house.recalled(key) is principal
    await house.lose(gone)

    house.time.now += GRACE / 2
    assert await house.who(key) is principal


async def test_a_record_that_nobody_vouched_for_is_as_old_as_its_read(house, key, gone):
    """The key may have been revoked long since, and nobody has called with it here to find out."""
    principal = await house.who(key)
    house.time.now += GRACE - 10
    house.registry._store = gone
    assert await house.who(key) is principal
    house.time.now += 10

    assert (await house.who(key)).reason is Reason.STORE_DOWN


async def test_what_the_feed_has_told_of_is_not_lent(house, registry, gone):
    """That the key was revoked has come; that it could not be read any more is no reason to serve it."""
    await house.start()
    stored, key = await made(registry, plan="standard")
    assert isinstance(await house.who(key), Principal)
    await put(registry, replace(stored.record, revoked=True))
    await come(lambda: house.recalled(key) is None)
    await house.lose(gone)

    assert (await house.who(key)).reason is Reason.STORE_DOWN


async def test_a_change_that_is_told_ends_what_was_lent(house, key, gone):
    """The feed may be back before the records can be read."""
    await house.start()
    assert isinstance(await house.who(key), Principal)
    await house.lose(gone)
    assert isinstance(await house.who(key), Principal)
    house.known._mirror._told("team", "acme/research", 1_000_000)

    assert house.recalled(key) is None
    assert (await house.who(key)).reason is Reason.STORE_DOWN


@pytest.mark.parametrize(
    "caller", [lambda key: new_key()[1], forged, lambda key: key], ids=["unknown", "wrong secret", "never seen"]
)
async def test_nobody_is_called_an_impostor(house, key, registry, gone, caller):
    """What was no good may be good by now, as after a rotation: 503, never 401."""
    await house.start()
    if caller is forged:
        assert isinstance(await house.who(key), Principal)
        assert (await house.who(forged(key))).reason is Reason.BAD_KEY
    await house.lose(gone)
    for _ in range(2):
        rejection = await house.who(caller(key))
        assert rejection.reason is Reason.STORE_DOWN
        assert rejection.shape.status == 503
        assert rejection.retry_after_us == 1_000_000


async def test_what_is_no_key_at_all_is_so_without_a_store(house, gone):
    """Nobody has to be asked."""
    await house.lose(gone)
    assert (await house.who("sk-proj-abc")).reason is Reason.BAD_KEY
    assert (await house.known.identify([], HERE)).reason is Reason.NO_KEY


@pytest.mark.parametrize("why", ["revoked", "suspended", "ended", "network", "unknown"])
async def test_a_refusal_of_before_is_not_repeated(house, registry, gone, why):
    """Memory without proof says yes or nothing."""
    await house.start()
    terms = {
        "revoked": {"revoked": True},
        "suspended": {"state": "suspended"},
        "ended": {"expires": 1},
        "network": {"networks": ()},
        "unknown": {},
    }
    key = new_key()[1] if why == "unknown" else (await made(registry, **terms[why]))[1]
    assert (await house.who(key)).reason is not Reason.STORE_DOWN
    await house.lose(gone)

    assert (await house.who(key)).reason is Reason.STORE_DOWN


@pytest.mark.parametrize(
    ("plan", "stance", "reason"),
    [
        (None, "deny", Reason.STORE_DOWN),
        (None, "local", None),
        ("deny", "local", Reason.STORE_DOWN),
        ("local", "deny", None),
    ],
)
async def test_the_plans_stance_goes_before_the_stores(registry, listening, time, key, gone, plan, stance, reason):  # noqa: PLR0917 - three are of the table
    """As it does for what the ledger admits."""
    plans = {"standard": replace(STANDARD, when_down=plan)}
    organizations = {"acme": Organization(plan=plans["standard"], teams={})}
    house = House(registry, listening, time, plans=plans, organizations=organizations, when_down=stance)
    await house.start()
    await house.who(key)
    await house.lose(gone)

    assert getattr(await house.who(key), "reason", None) is reason


async def test_no_grace_is_none(registry, listening, time, key, gone):
    """A house may want every revocation in force within the second, whatever becomes of the store."""
    house = House(registry, listening, time, grace=0.0)
    await house.start()
    await house.who(key)
    await house.lose(gone)

    assert (await house.who(key)).reason is Reason.STORE_DOWN


async def test_when_the_store_is_back_what_it_says_counts(house, key, registry, gone):
    """Within half a second, whatever was lent."""
    await house.start()
    principal = await house.who(key)
    await house.lose(gone)
    assert await house.who(key) is principal
    house.back()
    await put(registry, OrganizationRecord(name="acme", state="suspended"))
    house.time.now += TRUST

    assert (await house.who(key)).reason is Reason.NOT_ALLOWED


async def test_a_caller_who_came_while_the_store_was_away_is_served_when_it_is_back(house, key, gone):
    """Nothing of the failure is remembered."""
    house.registry._store = gone
    assert (await house.who(key)).reason is Reason.STORE_DOWN
    house.back()

    assert isinstance(await house.who(key), Principal)


async def test_a_store_that_dies_and_comes_back_is_missed_and_found(tmp_path):
    """The same with a real one, its silence and a real clock."""
    async with stores.one(tmp_path) as server:
        store, listening = Store(server.url, deadline=2.0), Store(server.url, deadline=0.8)
        feed = Feed(listening)
        settings = {"plans": LOCAL, "organizations": LOCAL_ORGANIZATIONS, "when_down": "local"}
        known = identities(registry := Registry(store), feed, **settings)
        await feed.start()
        stored, key = await made(registry, plan="standard")
        principal = await known.identify(bearer(key), HERE)
        server.pause()
        await come(lambda: not feed.trusted)
        assert await known.identify(bearer(key), HERE) is principal
        server.go_on()
        await come(lambda: feed.trusted and store.down is None)
        await put(registry, replace(stored.record, revoked=True))
        await asyncio.sleep(TRUST)
        assert (await known.identify(bearer(key), HERE)).reason is Reason.BAD_KEY
        await feed.close()
        await store.close()
        await listening.close()
