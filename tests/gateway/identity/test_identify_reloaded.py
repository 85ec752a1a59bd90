"""Who is calling once another file has taken the place of the one they were compiled by."""

import pytest
from msgspec.structs import replace

from gateway.config.settings import STANDARD, Organization
from gateway.identity.changes import FRESH, Feed
from gateway.identity.mirror import TRUST
from gateway.identity.records import OrganizationRecord, PlanRecord
from gateway.store.door import Store
from policies.domain import Meter, MeterKind, Plan, Principal
from policies.rejections import Reason
from tests.gateway.identity.support import bearer, made, put
from tests.gateway.identity.test_identify_tokens import BADGE, BAN, TOKEN
from tests.gateway.identity.world import (
    HERE,
    LOCAL,
    LOCAL_ORGANIZATIONS,
    ORGANIZATIONS,
    Badges,
    compile_plan,
    identities,
)

SMALL = Plan("small", (Meter(MeterKind.REQUESTS_PER_MINUTE, limit=5, burst=5),))
TIGHT = replace(SMALL, name="standard")
"""Another plan of the name that the callers here are held to."""

USUAL = {
    "plans": {"standard": STANDARD},
    "organizations": ORGANIZATIONS,
    "when_down": "deny",
    "grace": 600.0,
    "compile_plan": compile_plan,
}


@pytest.fixture
def known(registry, feed):
    return identities(registry, feed)


@pytest.fixture
async def key(registry):
    return (await made(registry))[1]


async def who(known, credential):
    return await known.identify(bearer(credential), HERE)


def recalled(known, credential):
    return known.cached(bearer(credential), HERE)


def meters(principal):
    return [level.meters for level in principal.levels]


async def test_a_changed_plan_holds_with_the_next_call_and_the_store_is_not_asked(known, key, store):
    """From the records in memory, once; then it is one and the same principal again."""
    before = await who(known, key)
    asked = store.round_trips
    known.take(**USUAL | {"organizations": {"acme": Organization(TIGHT, {})}, "plans": {"standard": TIGHT}})
    after = recalled(known, key)

    assert meters(before) == [STANDARD.meters, (), ()]
    assert meters(after) == [SMALL.meters, (), ()]
    assert recalled(known, key) is after
    assert store.round_trips == asked


async def test_whoever_is_held_to_the_same_stays_the_same_principal(known, key):
    """For that very object the ledger has packed the meters."""
    before = await who(known, key)
    known.take(**USUAL | {"plans": {"standard": STANDARD, "small": SMALL}})

    assert recalled(known, key) is before


async def test_a_plan_of_the_store_still_comes_before_the_new_files(known, registry, key):
    """One that the old file did not name has to be read first: it may be the store's."""
    await put(registry, PlanRecord(name="small", plan={"requests_per_minute": 3}))
    await who(known, key)
    organizations = {"acme": Organization(SMALL, {})}
    known.take(**USUAL | {"plans": {"standard": STANDARD, "small": SMALL}, "organizations": organizations})

    assert recalled(known, key) is None
    principal = await who(known, key)
    assert [meter.limit for meter in principal.levels[0].meters] == [3]
    assert recalled(known, key) is principal


async def test_an_organization_that_the_new_file_does_not_have_has_no_plan_of_it(known, key):
    """And one whose plan is gone is refused, as at a start on that file."""
    await who(known, key)
    known.take(**USUAL | {"organizations": {}})
    assert meters(recalled(known, key)) == [(), (), ()]


async def test_a_key_whose_plan_is_in_no_file_any_more_is_refused(known, registry):
    """Never read as no limits."""
    _, key = await made(registry, plan="small")
    known.take(**USUAL | {"plans": {"small": SMALL}})
    assert isinstance(await who(known, key), Principal)
    known.take(**USUAL)

    assert recalled(known, key).reason is Reason.NOT_ALLOWED


async def test_a_subject_is_compiled_anew_like_a_key_and_a_revoked_token_stays_revoked(registry, feed):
    """By what the token said."""
    badges = Badges()
    badges.good[TOKEN] = BADGE
    known = identities(registry, feed, issuers=badges)
    assert meters(await who(known, TOKEN)) == [STANDARD.meters, (), STANDARD.meters]
    known.take(**USUAL | {"organizations": {"acme": Organization(TIGHT, {})}, "plans": {"standard": TIGHT}})
    assert meters(recalled(known, TOKEN)) == [SMALL.meters, (), SMALL.meters]
    await put(registry, BAN)
    assert (await who(known, TOKEN)).reason is Reason.BAD_KEY
    known.take(**USUAL)

    assert recalled(known, TOKEN).reason is Reason.BAD_KEY


async def test_an_organizations_record_comes_before_the_new_file(known, registry, key):
    """What an admin has said of it holds whatever a file says."""
    await put(registry, OrganizationRecord(name="acme", plan="standard"))
    before = await who(known, key)
    known.take(**USUAL | {"organizations": {"acme": Organization(SMALL, {})}, "plans": {"standard": STANDARD}})

    assert recalled(known, key) is before


@pytest.fixture
async def gone(tmp_path):
    store = Store(f"unix://{tmp_path}/nothing")
    yield store
    await store.close()


class Outage:
    """A gateway that has known its callers before its store went away."""

    def __init__(self, registry, listening, time, **settings):
        self.time, self._registry, self._store = time, registry, registry._store
        self._feed = Feed(listening, now=time)
        self.known = identities(registry, self._feed, now=time, **settings)

    async def begin(self, key, gone):
        await self._feed.start()
        principal = await who(self.known, key)
        await self._feed.close()
        self._registry._store = gone
        self.time.now += FRESH
        return principal

    def back(self):
        self._registry._store = self._store
        self.time.now += TRUST


async def test_while_the_store_is_away_callers_go_on_by_what_they_had(registry, listening, time, gone, key):
    """What is left of new meters nobody could say, so that a new plan would shut them out."""
    local = {"plans": LOCAL, "organizations": LOCAL_ORGANIZATIONS, "when_down": "local"}
    outage = Outage(registry, listening, time, **local)
    before = await outage.begin(key, gone)
    tight = replace(TIGHT, when_down="local")
    new = {"plans": {"standard": tight}, "organizations": {"acme": Organization(tight, {})}, "when_down": "local"}
    outage.known.take(**USUAL | new)

    assert await who(outage.known, key) is before
    assert recalled(outage.known, key) is before
    outage.back()
    assert meters(await who(outage.known, key)) == [TIGHT.meters, (), ()]


async def test_a_file_that_now_says_local_serves_those_whom_the_old_one_shut_out(registry, listening, time, gone, key):
    """The one change that is made because the store is away."""
    outage = Outage(registry, listening, time)
    await outage.begin(key, gone)
    assert (await who(outage.known, key)).reason is Reason.STORE_DOWN
    outage.known.take(**USUAL | {"plans": LOCAL, "organizations": LOCAL_ORGANIZATIONS, "when_down": "local"})

    assert isinstance(await who(outage.known, key), Principal)
