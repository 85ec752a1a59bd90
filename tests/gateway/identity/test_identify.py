import asyncio

import pytest
from msgspec.structs import replace

from gateway import clock
from gateway.identity import identify as module
from gateway.identity import mirror
from gateway.identity.changes import FRESH, Feed
from gateway.identity.keys import KEY_LENGTH, new_key
from gateway.identity.last_used import LastUsed
from gateway.identity.mirror import TRUST
from gateway.identity.records import OrganizationRecord, PlanRecord, TeamRecord
from gateway.identity.strangers import RATE
from policies.domain import Principal, Reach
from policies.rejections import Reason, Rejection
from tests.gateway.identity.support import bearer, come, made, put, remove
from tests.gateway.identity.world import HERE, forged, gateway, identities

ACME = OrganizationRecord(name="acme")
RESEARCH = TeamRecord(organization="acme", name="research")


@pytest.fixture
def known(registry, feed):
    return identities(registry, feed)


@pytest.fixture
async def stored(registry):
    """Make a key; give its record as stored, and the key."""
    return await made(registry, plan="standard")


@pytest.fixture
def key(stored):
    return stored[1]


async def who(known, credential, address=HERE):
    return await known.identify(bearer(credential), address)


def recalled(known, credential, address=HERE):
    return known.cached(bearer(credential), address)


def allowed(outcome):
    return isinstance(outcome, Principal)


async def test_a_good_key_names_its_principal(known, key):
    """All of it: who is billed, what it is held to, what it may do."""
    principal = await who(known, key)

    assert (principal.organization, principal.team, principal.name) == ("acme", "research", "ci")
    assert principal.key == key[3:15]
    assert [level.id for level in principal.levels] == ["org", "team:research", f"key:{key[3:15]}"]
    assert [bool(level.meters) for level in principal.levels] == [True, False, True]
    assert principal.scopes == {"inference"}
    assert principal.reach == Reach()
    assert principal.expires is None


async def test_a_known_key_is_decided_in_memory(known, key, store):
    """A call costs no round trip, and the same principal: for that very object the ledger has packed the meters."""
    assert recalled(known, key) is None
    principal = await who(known, key)
    before = store.round_trips
    for _ in range(100):
        assert recalled(known, key) is principal
        assert await who(known, key) is principal
    assert store.round_trips == before


@pytest.mark.parametrize(
    "headers",
    [
        lambda key: [(b"authorization", b"Bearer " + key)],
        lambda key: [(b"authorization", b"bearer " + key)],
        lambda key: [(b"authorization", b"BEARER   " + key + b" ")],
        lambda key: [(b"x-api-key", key)],
        lambda key: [(b"x-api-key", b" " + key + b"\t")],
        lambda key: [(b"x-api-key", b"leftover"), (b"authorization", b"Bearer " + key)],
        lambda key: [(b"authorization", b"Basic dXNlcjpwYXNz"), (b"x-api-key", key)],
        lambda key: [(b"authorization", b"Bearer "), (b"x-api-key", key)],
        lambda key: [(b"x-api-key", key), (b"x-api-key", b"another")],
    ],
)
async def test_a_key_is_taken_from_either_header(known, key, headers):
    """As clients of either API send it."""
    assert allowed(await known.identify(headers(key.encode()), HERE))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"host", b"gateway")],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer   ")],
        [(b"authorization", b"Basic dXNlcjpwYXNz")],
        [(b"x-api-key", b"")],
        [(b"api-key", b"sw_")],
    ],
)
async def test_no_key_is_told_where_to_put_one(known, headers):
    """The most usual mistake of all."""
    rejection = known.cached(headers, HERE)
    assert rejection.reason is Reason.NO_KEY
    assert "Authorization: Bearer" in rejection.message
    assert "x-api-key" in rejection.message
    assert await known.identify(headers, HERE) is rejection


@pytest.mark.parametrize("told", [b"Basic dXNlcjpwYXNz", b"Token abc", b"", b"Bearer", b"KEY"])
async def test_a_key_that_is_not_sent_as_bearer_is_told_so(known, key, told):
    """And only it: whoever sends no key at all, or none behind the word, has that word right."""
    value = told.replace(b"KEY", key.encode())
    rejection = await known.identify([(b"authorization", value)], HERE)
    assert rejection.reason is Reason.NO_KEY
    other = value.partition(b" ")[0] not in {b"", b"Bearer"}
    assert rejection.message.startswith("The authorization header does not begin with `Bearer `. ") is other
    assert key not in rejection.message


async def test_an_admin_key_is_told_apart_from_a_key_that_was_cut(known, store):
    """Whoever has just one of the two takes it for both."""
    secret = "0123456789abcdef" * 3
    rejection = await who(known, f"sw_admin_{secret}")
    assert rejection.reason is Reason.BAD_KEY
    assert rejection.message == (
        "This looks like an admin key, which calls no model and opens only its own gateway's admin API. "
        "For calls, make an API key with `sluiceway keys create`."
    )
    assert store.round_trips == 0


@pytest.mark.parametrize(
    "credential",
    [
        b"sk-proj-abc",
        b"sw_",
        b"\xff\xfe",
        b"a" * KEY_LENGTH,
        b"sw_" + b"0" * 100_000,
        b"sw_0123456789ab_" + b"0" * 49,
        b"eyJhbGciOiJub25lIn0.e30.",
        b"eyJhbGciOiJSUzI1NiJ9.e30.c2ln",
    ],
)
async def test_what_is_no_key_never_reads_the_store_and_is_not_echoed(known, store, credential):
    """A token is one where no issuer is configured."""
    rejection = await known.identify([(b"x-api-key", credential)], HERE)
    assert rejection.reason is Reason.BAD_KEY
    assert "sw_, 12 letters or digits, _, 49 letters or digits" in rejection.message
    assert credential.decode("latin-1")[:11] not in rejection.message or credential == b"sw_"
    assert store.round_trips == 0


async def test_a_wrong_secret_is_refused_and_leaves_the_right_one_alone(known, key, store):
    """The id of a key is no secret."""
    for credential in (forged(key), key[:-1], key + "0"):
        assert (await who(known, credential)).reason is Reason.BAD_KEY
    principal = await who(known, key)
    assert allowed(principal)
    before = store.round_trips
    assert recalled(known, forged(key)).reason is Reason.BAD_KEY
    assert recalled(known, key) is principal
    assert store.round_trips == before


def _key(**changes):
    async def change(registry, record):
        return await put(registry, replace(record, **changes))

    return change


def _put(new):
    async def change(registry, _):
        return await put(registry, new)

    return change


def _remove(old):
    async def change(registry, _):
        return await remove(registry, old)

    return change


ONE_A_MINUTE = {"requests_per_minute": 1}

CHANGES = {
    "revoked": (_key(revoked=True), Reason.BAD_KEY),
    "suspended": (_key(state="suspended"), Reason.NOT_ALLOWED),
    "ended": (_key(expires=1), Reason.BAD_KEY),
    "network": (_key(networks=("192.168.0.0/16",)), Reason.NOT_ALLOWED),
    "rotated": (_key(digest="00" * 32), Reason.BAD_KEY),
    "plan gone": (_key(plan="gone"), Reason.NOT_ALLOWED),
    "scopes": (_key(scopes=("admin:read",)), lambda found: found.scopes == {"admin:read"}),
    "no plan": (_key(plan=None), lambda found: not found.levels[2].meters),
    "own meters": (_key(plan=None, meters=ONE_A_MINUTE), lambda found: found.levels[2].meters[0].limit == 1),
    "models": (_key(models=("m",)), lambda found: found.reach.models == (("m",),)),
    "organization suspended": (_put(replace(ACME, state="suspended")), Reason.NOT_ALLOWED),
    "organization local": (_put(replace(ACME, local_only=True)), lambda found: found.reach.local_only),
    "organization's plan": (_put(replace(ACME, meters=ONE_A_MINUTE)), lambda found: len(found.levels[0].meters) == 1),
    "organization gone": (_remove(ACME), lambda found: found.levels[0].meters),
    "team suspended": (_put(replace(RESEARCH, state="suspended")), Reason.NOT_ALLOWED),
    "plan made": (
        _put(PlanRecord(name="standard", plan=ONE_A_MINUTE)),
        lambda found: [len(level.meters) for level in found.levels] == [1, 0, 1],
    ),
    "plan broken": (_put(PlanRecord(name="standard", plan={"wishes": 3})), Reason.NOT_ALLOWED),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_is_in_force_at_every_gateway_as_soon_as_it_is_told(valkey_url, stored, registry, name):
    """Within a second in any case; by the feed, at once."""
    change, expected = CHANGES[name]
    record, key = stored[0].record, stored[1]
    async with gateway(valkey_url) as (first, _), gateway(valkey_url) as (second, _):
        for known in (first, second):
            assert allowed(await who(known, key))
        await change(registry, record)
        for known in (first, second):
            await come(lambda known=known: recalled(known, key) is None or isinstance(recalled(known, key), Rejection))
            outcome = await who(known, key)
            if isinstance(expected, Reason):
                assert outcome.reason is expected
            else:
                assert expected(outcome)
            assert recalled(known, key) == outcome


async def test_a_stored_plan_that_is_removed_leaves_the_files(known, registry, feed, key):
    """Which it had taken the place of."""
    plan = PlanRecord(name="standard", plan=ONE_A_MINUTE)
    await put(registry, plan)
    assert len((await who(known, key)).levels[2].meters) == 1
    await remove(registry, plan)
    await come(lambda: recalled(known, key) is None)

    assert len((await who(known, key)).levels[2].meters) == 3


async def test_what_was_refused_is_allowed_as_soon_as_it_is_put_right(known, registry, feed, stored):
    """A refusal is no more lasting than a yes."""
    record, key = stored[0].record, stored[1]
    await put(registry, replace(record, state="suspended"))
    assert (await who(known, key)).reason is Reason.NOT_ALLOWED
    await put(registry, record)
    await come(lambda: recalled(known, key) is None)

    assert allowed(await who(known, key))


async def test_a_change_that_changes_nothing_for_the_caller_keeps_the_principal(known, registry, feed, stored):
    """The ledger has packed its meters for that very object."""
    record, key = stored[0].record, stored[1]
    principal = await who(known, key)
    await put(registry, replace(record, metadata={"owner": "ann"}))
    await come(lambda: recalled(known, key) is None)

    assert await who(known, key) is principal


async def test_a_gateway_whose_feed_is_cut_believes_nothing_for_more_than_a_second(registry, stored, listening, time):
    """Counted from the last question to which it had an answer; from then on, half a second from before each read."""
    record, key = stored[0].record, stored[1]
    feed = Feed(listening, now=time)
    known = identities(registry, feed, now=time)
    await feed.start()
    await feed.close()  # nothing comes any more, and nobody says so
    assert allowed(await who(known, key))
    await put(registry, replace(record, revoked=True))
    time.now += FRESH - 0.01
    assert allowed(recalled(known, key))
    time.now += 0.02
    assert recalled(known, key) is None
    assert (await who(known, key)).reason is Reason.BAD_KEY

    await put(registry, record)
    time.now += TRUST - 0.01
    assert recalled(known, key).reason is Reason.BAD_KEY
    time.now += 0.02
    assert allowed(await who(known, key))


async def test_a_cut_connection_costs_a_read_and_no_caller(known, registry, feed, store, key):
    """There may have been changes that nobody heard of."""
    principal = await who(known, key)
    await store.send(("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
    await come(lambda: feed.epoch > 1 and feed.trusted)
    await asyncio.sleep(TRUST)
    before = store.round_trips

    assert recalled(known, key) is None
    assert await who(known, key) is principal
    assert store.round_trips == before + 1
    assert recalled(known, key) is principal


async def test_callers_who_need_the_same_records_share_one_read(known, key, store):
    """However many come at once."""
    before = store.round_trips
    answers = await asyncio.gather(*(who(known, key) for _ in range(200)))

    assert all(answer is answers[0] for answer in answers)
    assert store.round_trips == before + 3  # is it known, its record, its tenants and plans


async def test_a_caller_who_leaves_does_not_take_the_others_read_along(known, key):
    """He leaves alone."""
    leaves, stays = (clock.spawn(who(known, key), "caller") for _ in range(2))
    await asyncio.sleep(0)
    leaves.cancel()

    assert allowed(await stays)
    assert not known._loading


async def test_an_unknown_key_is_remembered_until_it_is_made(known, registry, store, feed):
    """Ids are given out at random, but a backup may be read back."""
    key_id, key = new_key()
    assert (await who(known, key)).reason is Reason.BAD_KEY
    before = store.round_trips
    assert recalled(known, key).reason is Reason.BAD_KEY
    assert store.round_trips == before

    record, _ = await made(registry)
    digest = module.keys.digest(key.encode()).hex()
    await put(registry, replace(record.record, key_id=key_id, digest=digest))
    await come(lambda: recalled(known, key) is None)
    assert allowed(await who(known, key))


async def test_a_key_that_vanished_from_the_store_is_unknown(known, key, store, feed):
    """The store was emptied; nothing of it stays."""
    await who(known, key)
    await store.send(("FLUSHALL",))
    await come(lambda: feed.epoch > 1)
    await asyncio.sleep(TRUST)

    assert (await who(known, key)).reason is Reason.BAD_KEY
    assert not known._keys


async def test_a_flood_of_unknown_keys_costs_bounded_reads_and_memory_and_shuts_nobody_out(
    known, registry, store, monkeypatch
):
    """At most 200 questions a second; the record of a good key among them is read all the same."""
    monkeypatch.setattr(mirror, "STRANGERS_REMEMBERED", 1000)
    good = [(await made(registry, name=f"{number}"))[1] for number in range(5)]
    flood = [new_key()[1] for _ in range(5000)]
    reads, began = store.round_trips, clock.monotonic()
    for start in range(0, len(flood), 1000):
        callers = [*flood[start : start + 900], good[start // 1000], *flood[start + 900 : start + 1000]]
        answers = await asyncio.gather(*(who(known, caller) for caller in callers))
        assert allowed(answers[900])
        assert {answer.reason for answer in answers[:900]} == {Reason.BAD_KEY}
    took = clock.monotonic() - began
    # One question may go at once, the rest by the rate; each good key's record is read, once their tenants.
    assert store.round_trips - reads <= took * RATE + 1 + len(good) + 1
    assert len(known._mirror._absent_keys) <= 1000
    assert len(known._keys) == len(good)
    assert not known._loading
    assert not known._mirror._reading


async def test_a_crowd_beyond_one_question_is_asked_to_come_back_and_known_keys_pass(known, key, feed, monkeypatch):
    """Also one whose record has to be read again."""
    monkeypatch.setattr("gateway.identity.strangers.TOGETHER", 10)
    await who(known, key)
    feed.epoch += 1
    await asyncio.sleep(TRUST)
    assert recalled(known, key) is None
    lane = known._mirror._strangers
    lane._due = clock.monotonic() + 1.0  # the next question is not sent yet
    crowd = [clock.spawn(who(known, new_key()[1]), "stranger") for _ in range(30)]
    await come(lambda: len(lane._gathered) == 10)
    late = await who(known, new_key()[1])
    assert late.reason is Reason.OVERLOADED
    assert late.shape.status == 503
    assert late.retry_after_us > 0
    assert allowed(await who(known, key))
    assert {answer.reason for answer in await asyncio.gather(*crowd)} <= {Reason.BAD_KEY, Reason.OVERLOADED}


async def test_the_keys_kept_are_bounded(known, registry, monkeypatch):
    """The one read longest ago goes first."""
    monkeypatch.setattr(module, "REMEMBERED", 2)
    keys = [(await made(registry, name=f"{number}"))[1] for number in range(3)]
    for key in keys:
        await who(known, key)

    assert [recalled(known, key) is not None for key in keys] == [False, True, True]
    assert allowed(await who(known, keys[0]))


async def test_a_key_opens_from_its_networks_only(known, registry):
    """Whether its record is read or remembered."""
    _, key = await made(registry, networks=("10.0.0.0/8",))
    for _ in range(2):
        assert allowed(await who(known, key, "10.1.2.3"))
        assert (await who(known, key, "11.1.2.3")).reason is Reason.NOT_ALLOWED
        assert allowed(recalled(known, key, "::ffff:10.1.2.3"))


async def test_a_key_ends_without_anybody_telling(registry, feed, time):
    """Time passes in memory too."""
    _, key = await made(registry, expires=1_000_060)
    wall = type(time)(1_000_000.0)
    known = identities(registry, feed, wall=wall)
    assert (await who(known, key)).expires == 1_000_060
    wall.now += 60
    assert recalled(known, key).reason is Reason.BAD_KEY


async def test_the_last_use_of_good_keys_is_noted(registry, feed, store, key):
    """Not of those that were refused."""
    used = LastUsed(store)
    known = identities(registry, feed, last_used=used)
    await who(known, forged(key))
    await who(known, new_key()[1])
    assert not used._used
    await who(known, key)
    assert list(used._used) == [key[3:15]]


async def test_no_rejection_holds_the_key(known, registry, stored):
    """Rejections are logged and traced."""
    record, key = stored[0].record, stored[1]
    await put(registry, replace(record, revoked=True))
    for caller in (key, new_key()[1], forged(key), key[:-1]):
        rejection = await who(known, caller)
        assert caller[16:30] not in rejection.message
