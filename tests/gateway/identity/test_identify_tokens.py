"""Who bears a token: what its issuer says, under what the store and the file say of its tenants."""

import hashlib

import pytest
from msgspec.structs import replace

from gateway.config.settings import Issuer
from gateway.identity import identify as module
from gateway.identity.issuers import Issuers, Verified
from gateway.identity.last_used import LastUsed
from gateway.identity.records import OrganizationRecord, TeamRecord, TokenRecord
from policies.domain import Principal
from policies.rejections import Reason
from policies.subjects import Mapping, Subject
from tests.fakes.identity_provider import IdentityProvider
from tests.gateway.identity.support import bearer, come, put
from tests.gateway.identity.world import FORGED, HERE, Badges, identities

TOKEN = b"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"
ANN = Subject("acme", "research", "corp:ann", "ann", frozenset({"inference"}))
BADGE = Verified("corp", ANN, 2_000_000_000.0, "jti-1", "standard", cut=True)
BAN = TokenRecord(token=f"corp/{hashlib.sha256(b'jti-1').hexdigest()}", seconds=60)


@pytest.fixture
def badges():
    badges = Badges()
    badges.good[TOKEN] = BADGE
    return badges


@pytest.fixture
def known(registry, feed, badges):
    return identities(registry, feed, issuers=badges)


async def who(known, credential=TOKEN):
    return await known.identify(bearer(credential), HERE)


def recalled(known, credential=TOKEN):
    return known.cached(bearer(credential), HERE)


async def test_a_good_token_names_its_subject(known):
    """With the plan of its issuer, its own end, and what becomes of streams then."""
    principal = await who(known)

    assert (principal.organization, principal.team, principal.key) == ("acme", "research", "corp:ann")
    assert [level.id for level in principal.levels] == ["org", "team:research", "key:corp:ann"]
    assert [bool(level.meters) for level in principal.levels] == [True, False, True]
    assert (principal.expires, principal.cut, principal.scopes) == (2_000_000_000.0, True, {"inference"})


async def test_a_known_token_is_decided_in_memory(known, badges, store):
    """And always as the same principal."""
    assert recalled(known) is None
    principal = await who(known)
    before = store.round_trips
    for _ in range(10):
        assert recalled(known) is principal
        assert await who(known) is principal
    assert store.round_trips == before
    assert badges.verified == 1


@pytest.mark.parametrize(
    "credential", [b"a.b", b"a.b.c.d", b"..", b"a.b.", b".b.c", b"a.b.c=", b"a b.c.d", b"\xff.a.b", b"x" * 9000]
)
async def test_what_is_not_three_parts_is_no_token(known, badges, credential):
    """No issuer is asked about it."""
    rejection = recalled(known, credential)
    assert rejection.reason is Reason.BAD_KEY
    assert "sw_" in rejection.message
    assert badges.verified == 0


async def test_a_token_that_its_issuer_does_not_know_is_refused_in_its_words(known, store):
    """And reads nothing of the store: strangers cannot make it work."""
    assert await who(known, TOKEN[:-1]) is FORGED
    assert store.round_trips == 0


async def test_a_token_whose_signer_is_gone_is_refused_at_once(known, badges):
    """Whatever we remember of its subject."""
    assert isinstance(await who(known), Principal)
    del badges.good[TOKEN]
    assert recalled(known) is FORGED


async def test_a_revoked_token_is_refused_as_soon_as_it_is_told(known, registry, badges):
    """That one only: another of the same subject is as good as before."""
    other = TOKEN + b"2"
    badges.good[other] = replace(BADGE, jti="jti-2")
    principal = await who(known, other)
    assert isinstance(await who(known), Principal)
    await put(registry, BAN)
    await come(lambda: recalled(known) is None)

    rejection = await who(known)
    assert rejection.reason is Reason.BAD_KEY
    assert "revoked" in rejection.message
    assert recalled(known) is rejection
    assert recalled(known, other) is principal


async def test_a_token_that_was_revoked_before_it_came_is_refused(known, registry):
    """At a gateway that was started since."""
    await put(registry, BAN)
    assert (await who(known)).reason is Reason.BAD_KEY


async def test_a_token_without_a_name_of_its_own_cannot_be_revoked(registry, feed, badges):
    """Nothing is asked about it."""
    badges.good[TOKEN] = replace(BADGE, jti=None)
    known = identities(registry, feed, issuers=badges)
    await put(registry, BAN)
    assert isinstance(await who(known), Principal)
    assert "token" not in known._mirror._kept


@pytest.mark.parametrize(
    "record",
    [
        OrganizationRecord(name="acme", state="suspended"),
        TeamRecord(organization="acme", name="research", state="suspended"),
        TeamRecord(organization="acme", name="research", plan="gone"),
    ],
)
async def test_what_is_said_of_its_tenants_holds_for_a_token(known, registry, record):
    """A token is no way around a suspension."""
    assert isinstance(await who(known), Principal)
    await put(registry, record)
    await come(lambda: recalled(known) is None)

    assert (await who(known)).reason is Reason.NOT_ALLOWED


async def test_the_tokens_kept_are_bounded(known, badges, monkeypatch):
    """Whoever gets a new one each minute does not fill the memory."""
    monkeypatch.setattr(module, "TOKENS_REMEMBERED", 5)
    for number in range(20):
        badges.good[TOKEN + b"%d" % number] = replace(BADGE, expires=float(number))
        await who(known, TOKEN + b"%d" % number)

    assert len(known._tokens) == 5
    assert recalled(known, TOKEN + b"19") is not None
    assert recalled(known, TOKEN + b"0") is None
    assert isinstance(await who(known, TOKEN + b"0"), Principal)


async def test_the_last_use_of_a_subject_is_noted(registry, feed, badges, store):
    """Under its key, whatever its token."""
    used = LastUsed(store)
    known = identities(registry, feed, issuers=badges, last_used=used)
    await who(known)
    assert list(used._used) == ["corp:ann"]


async def test_an_api_key_is_never_taken_for_a_token(known, badges):
    """What begins with `sw_` is ours."""
    assert (await who(known, b"sw_a.b.c")).reason is Reason.BAD_KEY
    assert badges.verified == 0


async def test_a_real_issuers_token_is_taken_by_its_mapping(registry, feed):
    """The whole way: its keys over HTTP, its claims, and the file's word on the organization."""
    async with IdentityProvider() as provider:
        mapping = Mapping(organization_claim=("org",), organizations=frozenset({"acme"}), team="research")
        issuer = Issuer(name="corp", issuer=provider.issuer, audience=("sluiceway",), mapping=mapping)
        issuers = Issuers([issuer])
        await issuers.start()
        known = identities(registry, feed, issuers=issuers)
        token = provider.token(org="acme", sub="ann", aud="sluiceway")
        principal = await who(known, token)
        assert (principal.organization, principal.team, principal.key) == ("acme", "research", "corp:ann")
        assert recalled(known, token) is principal
        assert (await who(known, provider.token(org="globex", sub="ann", aud="sluiceway"))).reason is Reason.BAD_KEY
        await issuers.close()
