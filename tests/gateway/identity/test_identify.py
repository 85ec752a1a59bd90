import asyncio

import pytest
from msgspec.structs import replace

from gateway import clock
from gateway.config.settings import STANDARD, Organization
from gateway.identity import identify as module
from gateway.identity.directory import Directory
from gateway.identity.identify import STRANGER_TRUST, TRUST, Identities
from gateway.identity.keys import KEY_LENGTH, new_key
from gateway.identity.strangers import RATE
from gateway.store.door import Store
from policies.domain import Principal
from policies.rejections import Reason

PLANS = {"standard": STANDARD}
ORGANIZATIONS = {"acme": Organization(plan=STANDARD, teams={})}


class Time:
    """A clock that stands until it is moved."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def identities(directory, time):
    return Identities(directory, PLANS, ORGANIZATIONS, now=time)


@pytest.fixture
async def key(directory):
    return (await directory.create("acme", "research", "ci", "standard"))[1]


def bearer(key):
    return [(b"host", b"gateway"), (b"authorization", b"Bearer " + key.encode())]


async def test_a_good_key_names_its_principal(identities, key):
    principal = await identities.identify(bearer(key))
    assert isinstance(principal, Principal)
    assert (principal.organization, principal.team, principal.name) == ("acme", "research", "ci")
    assert principal.key == key[3:15]


async def test_a_known_key_is_decided_in_memory(identities, key, store):
    assert identities.cached(bearer(key)) is None
    principal = await identities.identify(bearer(key))
    before = store.round_trips
    for _ in range(100):
        assert identities.cached(bearer(key)) is principal
        assert await identities.identify(bearer(key)) is principal
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
async def test_a_key_is_taken_from_either_header(identities, key, headers):
    assert isinstance(await identities.identify(headers(key.encode())), Principal)


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
async def test_no_key_is_told_where_to_put_one(identities, headers):
    rejection = identities.cached(headers)
    assert rejection.reason is Reason.NO_KEY
    assert "Authorization: Bearer" in rejection.message
    assert "x-api-key" in rejection.message
    assert await identities.identify(headers) is rejection


@pytest.mark.parametrize(
    "credential",
    [b"sk-proj-abc", b"sw_", b"\xff\xfe", b"a" * KEY_LENGTH, b"sw_" + b"0" * 100_000, b"sw_0123456789ab_" + b"0" * 49],
)
async def test_a_malformed_key_never_reads_the_store_and_is_not_echoed(identities, store, credential):
    rejection = await identities.identify([(b"x-api-key", credential)])
    assert rejection.reason is Reason.BAD_KEY
    assert "sw_, 12 letters or digits, _, 49 letters or digits" in rejection.message
    assert credential.decode("latin-1")[:11] not in rejection.message or credential == b"sw_"
    assert store.round_trips == 0


async def test_a_wrong_checksum_never_reads_the_store(identities, store):
    _, key = new_key()
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
    assert identities.cached(bearer(wrong)).reason is Reason.BAD_KEY
    assert store.round_trips == 0


async def test_two_keys_are_two_principals(identities, directory, key):
    other = (await directory.create("globex", "ops", "cron", None))[1]
    assert (await identities.identify(bearer(key))).organization == "acme"
    assert (await identities.identify(bearer(other))).organization == "globex"
    assert (await identities.identify(bearer(key))).organization == "acme"


def forged(key):
    """Return a well-formed key with the id of `key` and another secret."""
    from gateway.identity.keys import _checksum

    _, other = new_key()
    body = key[:16] + other[16:-6]
    return body + _checksum(body)


async def test_a_wrong_secret_is_refused_and_leaves_the_right_one_alone(identities, key):
    assert (await identities.identify(bearer(forged(key)))).reason is Reason.BAD_KEY
    principal = await identities.identify(bearer(key))
    assert isinstance(principal, Principal)
    assert identities.cached(bearer(forged(key))).reason is Reason.BAD_KEY
    assert identities.cached(bearer(key)) is principal


async def test_a_revoked_key_is_refused_once_its_second_is_over(identities, directory, key, time):
    assert isinstance(await identities.identify(bearer(key)), Principal)
    await directory.revoke(key[3:15])
    time.now += TRUST - 0.01
    assert isinstance(identities.cached(bearer(key)), Principal)
    time.now += 0.01
    assert identities.cached(bearer(key)) is None
    rejection = await identities.identify(bearer(key))
    assert rejection.reason is Reason.BAD_KEY
    assert "revoked" in rejection.message


async def test_only_the_holder_of_the_secret_learns_that_a_key_was_revoked(identities, directory, key):
    await directory.revoke(key[3:15])
    assert "revoked" not in (await identities.identify(bearer(forged(key)))).message


async def test_trust_is_counted_from_before_the_read(directory, key, time):
    class Slow(Directory):
        async def get(self, key_id):
            record = await super().get(key_id)
            time.now += 0.4
            return record

    identities = Identities(Slow(directory._store), PLANS, ORGANIZATIONS, now=time)
    assert isinstance(await identities.identify(bearer(key)), Principal)
    time.now += 0.59
    assert identities.cached(bearer(key)) is not None
    time.now += 0.02
    assert identities.cached(bearer(key)) is None


async def test_a_revocation_is_in_force_within_a_second_of_real_time(directory, key):
    identities = Identities(directory, PLANS, ORGANIZATIONS)
    assert isinstance(await identities.identify(bearer(key)), Principal)
    await directory.revoke(key[3:15])
    revoked = clock.monotonic()
    for _ in range(500):
        if not isinstance(await identities.identify(bearer(key)), Principal):
            break
        await asyncio.sleep(0.01)
    assert clock.monotonic() - revoked < 1.5


async def test_a_key_whose_plan_left_the_file_is_forbidden(identities, directory):
    _, key = await directory.create("acme", "research", "ci", "gone")
    assert (await identities.identify(bearer(key))).reason is Reason.NOT_ALLOWED


async def test_callers_who_need_the_same_record_share_one_read(identities, key, store, time):
    answers = await asyncio.gather(*(identities.identify(bearer(key)) for _ in range(200)))
    assert all(answer is answers[0] for answer in answers)
    assert store.round_trips == 3  # create, "is it known?", its record
    time.now += TRUST
    await asyncio.gather(*(identities.identify(bearer(key)) for _ in range(200)))
    assert store.round_trips == 4


async def test_a_caller_who_leaves_does_not_take_the_others_read_along(identities, key):
    leaves = clock.spawn(identities.identify(bearer(key)), "leaves")
    stays = clock.spawn(identities.identify(bearer(key)), "stays")
    await asyncio.sleep(0)
    leaves.cancel()
    assert isinstance(await stays, Principal)


async def test_an_unknown_key_is_remembered_for_a_while(identities, store, time):
    _, key = new_key()
    assert (await identities.identify(bearer(key))).reason is Reason.BAD_KEY
    before = store.round_trips
    time.now += STRANGER_TRUST - 1
    assert identities.cached(bearer(key)).reason is Reason.BAD_KEY
    assert store.round_trips == before
    time.now += 1
    assert identities.cached(bearer(key)) is None


async def test_a_key_that_vanished_from_the_store_is_unknown(identities, key, store, time):
    await identities.identify(bearer(key))
    await store.send(("FLUSHALL",))
    time.now += TRUST
    assert (await identities.identify(bearer(key))).reason is Reason.BAD_KEY
    assert not identities._known


async def test_a_flood_of_unknown_keys_costs_bounded_reads_and_memory_and_shuts_nobody_out(
    identities, directory, store, monkeypatch
):
    monkeypatch.setattr(module, "STRANGERS_REMEMBERED", 1000)
    good = [(await directory.create("acme", "research", f"{number}", None))[1] for number in range(5)]
    flood = [new_key()[1] for _ in range(5000)]
    reads, began = store.round_trips, clock.monotonic()
    for start in range(0, len(flood), 1000):
        callers = [*flood[start : start + 900], good[start // 1000], *flood[start + 900 : start + 1000]]
        answers = await asyncio.gather(*(identities.identify(bearer(caller)) for caller in callers))
        assert isinstance(answers[900], Principal)
        assert {answer.reason for answer in answers[:900]} == {Reason.BAD_KEY}
    took = clock.monotonic() - began
    # One question may go at once, the rest by the rate; and each good key's record is read once.
    assert store.round_trips - reads <= took * RATE + 1 + len(good)
    assert len(identities._unknown) <= 1000
    assert len(identities._known) == len(good)
    assert not identities._reading


async def test_a_crowd_beyond_one_question_is_asked_to_come_back_and_known_keys_pass(
    identities, key, time, monkeypatch
):
    monkeypatch.setattr("gateway.identity.strangers.TOGETHER", 10)
    await identities.identify(bearer(key))
    time.now += TRUST
    crowd = [clock.spawn(identities.identify(bearer(new_key()[1])), "stranger") for _ in range(30)]
    for _ in range(3):
        await asyncio.sleep(0)
    late = await identities.identify(bearer(new_key()[1]))
    assert late.reason is Reason.OVERLOADED
    assert late.shape.status == 503
    assert late.retry_after_us > 0
    assert isinstance(await identities.identify(bearer(key)), Principal)
    assert {answer.reason for answer in await asyncio.gather(*crowd)} <= {Reason.BAD_KEY, Reason.OVERLOADED}


async def test_the_key_read_longest_ago_is_forgotten_first(identities, directory, monkeypatch):
    monkeypatch.setattr(module, "KEYS_REMEMBERED", 2)
    keys = [(await directory.create("acme", "research", f"{number}", None))[1] for number in range(3)]
    for key in keys:
        await identities.identify(bearer(key))
    assert identities.cached(bearer(keys[0])) is None
    assert isinstance(identities.cached(bearer(keys[1])), Principal)
    assert isinstance(identities.cached(bearer(keys[2])), Principal)


async def test_with_the_store_gone_nobody_is_called_an_impostor(tmp_path, key, directory, time):
    identities = Identities(directory, PLANS, ORGANIZATIONS, now=time)
    assert isinstance(await identities.identify(bearer(key)), Principal)
    gone = Store(f"unix://{tmp_path}/nothing")
    identities._directory._store = gone
    assert isinstance(await identities.identify(bearer(key)), Principal)
    time.now += TRUST
    for caller in (key, new_key()[1]):
        rejection = await identities.identify(bearer(caller))
        assert rejection.reason is Reason.STORE_DOWN
        assert rejection.shape.status == 503
        assert rejection.retry_after_us == 1_000_000
    assert not identities._unknown
    await gone.close()


async def test_when_the_store_is_back_callers_pass_again(tmp_path, key, directory, store, time):
    gone = Store(f"unix://{tmp_path}/nothing")
    directory._store = gone
    identities = Identities(directory, PLANS, ORGANIZATIONS, now=time)
    assert (await identities.identify(bearer(key))).reason is Reason.STORE_DOWN
    directory._store = store
    assert isinstance(await identities.identify(bearer(key)), Principal)
    await gone.close()


async def test_no_rejection_holds_the_key(identities, directory, key, time):
    await directory.revoke(key[3:15])
    unknown = new_key()[1]
    for caller in (key, unknown, forged(key), key[:-1]):
        rejection = await identities.identify(bearer(caller))
        assert caller[16:30] not in rejection.message


LOCAL = {"standard": replace(STANDARD, when_down="local")}
LOCAL_ORGANIZATIONS = {"acme": Organization(plan=LOCAL["standard"], teams={})}


@pytest.fixture
async def gone(tmp_path):
    store = Store(f"unix://{tmp_path}/nothing")
    yield store
    await store.close()


async def test_an_old_record_is_trusted_on_while_the_store_is_away_where_the_plans_say_local(
    key, directory, store, gone, time
):
    """For as long as that takes; when it is back, the next second's record counts."""
    identities = Identities(directory, LOCAL, LOCAL_ORGANIZATIONS, when_down="local", now=time)
    principal = await identities.identify(bearer(key))
    directory._store = gone
    for _ in range(100):
        time.now += TRUST
        assert identities.cached(bearer(key)) is None
        assert await identities.identify(bearer(key)) is principal
        time.now += TRUST / 2
        assert identities.cached(bearer(key)) is principal  # the store is asked once a second, not once a call
    assert (await identities.identify(bearer(forged(key)))).reason is Reason.BAD_KEY

    directory._store = store
    await directory.revoke(key[3:15])
    time.now += TRUST
    assert (await identities.identify(bearer(key))).reason is Reason.BAD_KEY


async def test_a_key_that_was_never_seen_is_not_trusted_while_the_store_is_away(key, directory, gone, time):
    identities = Identities(directory, LOCAL, LOCAL_ORGANIZATIONS, when_down="local", now=time)
    directory._store = gone

    for caller in (key, new_key()[1]):
        assert (await identities.identify(bearer(caller))).reason is Reason.STORE_DOWN


async def test_a_key_that_was_revoked_is_refused_as_before_but_not_on_an_old_record(key, directory, gone, time):
    """What was no good may be good by now: 503, never 401."""
    identities = Identities(directory, LOCAL, LOCAL_ORGANIZATIONS, when_down="local", now=time)
    await directory.revoke(key[3:15])
    assert (await identities.identify(bearer(key))).reason is Reason.BAD_KEY
    directory._store = gone
    time.now += max(TRUST, STRANGER_TRUST)

    assert (await identities.identify(bearer(key))).reason is Reason.STORE_DOWN


@pytest.mark.parametrize(
    ("plan", "stance", "reason"),
    [
        (None, "deny", Reason.STORE_DOWN),
        (None, "local", None),
        ("deny", "local", Reason.STORE_DOWN),
        ("local", "deny", None),
    ],
)
async def test_the_plans_stance_goes_before_the_stores(key, directory, gone, plan, stance, reason):  # noqa: PLR0917 - three are of the table
    plans, time = {"standard": replace(STANDARD, when_down=plan)}, Time()
    organizations = {"acme": Organization(plan=plans["standard"], teams={})}
    identities = Identities(directory, plans, organizations, when_down=stance, now=time)
    await identities.identify(bearer(key))
    directory._store = gone
    time.now += TRUST

    assert getattr(await identities.identify(bearer(key)), "reason", None) is reason


async def test_a_key_that_was_revoked_long_before_the_store_went_is_not_trusted_on_its_old_record(
    key, directory, store, gone, time
):
    """Nobody has called with it here since, so nobody has looked."""
    identities = Identities(directory, LOCAL, LOCAL_ORGANIZATIONS, when_down="local", now=time)
    assert isinstance(await identities.identify(bearer(key)), Principal)
    await directory.revoke(key[3:15])
    time.now += 3 * 24 * 3600
    directory._store = gone

    assert (await identities.identify(bearer(key))).reason is Reason.STORE_DOWN
