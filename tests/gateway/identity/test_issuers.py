import asyncio
import sys
import time

import pytest

from gateway.config.settings import ALGORITHMS, Issuer
from gateway.identity import issuers as deciding
from gateway.identity import tokens
from gateway.identity.issuer_keys import EVERY, KEPT
from gateway.identity.issuers import ISSUER, Issuers
from gateway.identity.tokens import UNKNOWN_KID
from policies.rejections import Reason
from policies.subjects import Mapping, Subject
from policies.tokens import EXPIRED
from tests.fakes.identity_provider import CONFIGURATION, JWKS, new_key

BOTH = [CONFIGURATION, JWKS]


class Clocks:
    """Both clocks, which only the test moves."""

    def __init__(self):
        self.passed = 0.0

    def now(self):
        return 1000.0 + self.passed

    def wall(self):
        return time.time() + self.passed


@pytest.fixture
def clocks():
    return Clocks()


@pytest.fixture
async def issuers(idp, clocks):
    """One issuer, whose keys nobody fetches in the background."""
    found = issuers_of(idp, clocks)
    yield found
    await found.close()


def issuers_of(idp, clocks, **changes):
    mapping = Mapping(organization_claim=("org",), team="research")
    usual = {"name": "corp", "issuer": idp.issuer, "audience": ("sluiceway",), "mapping": mapping}
    return Issuers([Issuer(**(usual | changes))], clocks.now, clocks.wall)


async def test_a_token_says_who_is_calling(idp, issuers):
    """Everything that the rest of the gateway wants to know of it, and nothing of the token itself."""
    claims = idp.claims(jti="t-1")

    verified = await issuers.verify(idp.keys[0].sign(claims).encode())

    assert (verified.issuer, verified.jti) == ("corp", "t-1")
    assert verified.subject == Subject("acme", "research", "corp:ada", "ada", frozenset({"inference"}))
    assert verified.expires == claims["exp"] + 30.0, "the leeway is in it"
    assert (verified.plan, verified.cut) == (None, False)


async def test_the_operator_says_what_its_subjects_get(idp, clocks):
    """A plan of their own, and whether a stream may outlive its token."""
    issuers = issuers_of(idp, clocks, plan="standard", on_expiry="cut")

    verified = await issuers.verify(idp.token())

    assert (verified.plan, verified.cut, verified.jti) == ("standard", True, None)


async def test_a_token_is_verified_once_and_then_remembered(idp, issuers):
    """The second call costs a digest; the object is the same, so that whoever keeps more by it may."""
    token = idp.token()
    assert issuers.recall(token) is None

    verified = await issuers.verify(token)

    assert issuers.recall(token) is verified
    assert issuers.recall(token[:-1]) is None
    assert idp.asked == BOTH


async def test_what_was_remembered_ends_with_the_token(idp, clocks, issuers):
    """To the second, leeway included, and without asking anybody."""
    token = idp.token(exp=int(clocks.wall()) + 60)
    verified = await issuers.verify(token)

    clocks.passed = verified.expires - clocks.wall() - 0.5
    assert issuers.recall(token) is verified
    clocks.passed += 1.0
    assert issuers.recall(token) == EXPIRED
    assert await issuers.verify(token) == EXPIRED


async def test_a_key_that_is_withdrawn_ends_its_tokens_at_once(idp, clocks, issuers):
    """Whatever is remembered: it may have been stolen. The tokens of the other keys go on."""
    stays = new_key("ES256", "k2", number=1)
    idp.rotate(*idp.keys, stays)
    both = issuers_of(idp, clocks, algorithms=("RS256", "ES256"))
    ends, goes_on = idp.token(), idp.token(stays)
    await both.verify(ends)
    kept = await both.verify(goes_on)

    idp.rotate(stays)
    clocks.passed = EVERY
    await both.verify(idp.token(new_key(kid="k3", number=3)))  # makes the gateway look

    assert both.recall(ends) is None
    assert await both.verify(ends) == UNKNOWN_KID
    assert both.recall(goes_on) is kept


async def test_a_withdrawn_key_is_no_longer_there_even_under_its_old_name(idp, clocks, issuers):
    """A key is its numbers, not its name."""
    token = idp.token()
    await issuers.verify(token)
    idp.rotate(new_key(number=1))
    clocks.passed = EVERY
    assert await issuers.verify(idp.token(header={"kid": "k9"})) == UNKNOWN_KID

    assert issuers.recall(token) is None
    assert await issuers.verify(token) == tokens.SIGNATURE


async def test_a_rotation_loses_no_caller(idp, clocks, issuers):
    """The old key stays in the set for a while, and both sign; a token by the new one is good at its first use."""
    old = idp.token()
    remembered = await issuers.verify(old)
    new = new_key(kid="k2", number=1)
    idp.rotate(idp.keys[0], new)
    clocks.passed = EVERY

    assert (await issuers.verify(idp.token(new))).subject.key == "corp:ada"
    assert issuers.recall(old) is remembered


async def test_an_outage_of_the_issuer_stops_nobody_whose_key_is_known(idp, clocks, issuers):
    """Also tokens that were never seen before; and who cannot be checked is told to come again."""
    await issuers.verify(idp.token())
    idp.down = True
    clocks.passed = 3600.0
    later = {"iat": int(clocks.wall()), "exp": int(clocks.wall()) + 60}

    assert (await issuers.verify(idp.token(sub="bob", **later))).subject.key == "corp:bob"
    unknown = await issuers.verify(idp.token(new_key(kid="k2", number=1), **later))
    assert (unknown.reason, unknown.shape.status) == (Reason.ISSUER_DOWN, 503)
    assert unknown.retry_after_us > 0


async def test_a_forged_token_asks_nobody_anything(idp, issuers):
    """What shape, header or issuer give away costs the issuer no question, and us no wait."""
    for bad in (b"a.b.c", idp.token(header={"alg": "HS256"}), idp.token(iss="https://evil.example")):
        assert (await issuers.verify(bad)).reason is Reason.BAD_KEY

    assert idp.asked == []


async def test_starting_waits_for_no_issuer(idp, clocks):
    """A gateway has callers with keys, too. Those with tokens wait for the fetch that is on its way."""
    idp.held.clear()
    issuers = issuers_of(idp, clocks)
    await issuers.start()
    waiting = asyncio.ensure_future(issuers.verify(idp.token()))
    await asyncio.sleep(0)
    assert not waiting.done()

    idp.held.set()
    assert (await waiting).subject.key == "corp:ada"
    assert idp.asked == BOTH
    await issuers.close()


async def test_closing_ends_what_was_begun(idp, clocks):
    """Also before anything was answered."""
    idp.held.clear()
    issuers = issuers_of(idp, clocks)
    await issuers.start()
    await issuers.close()

    assert not [task for task in asyncio.all_tasks() if "keys of corp" in task.get_name()]


async def test_without_issuers_nobody_is_one():
    """A file without `issuers:`."""
    issuers = Issuers([])
    await issuers.start()

    assert issuers.recall(b"a.b.c") is None
    assert (await issuers.verify(b"a.b.c")).reason is Reason.BAD_KEY
    await issuers.close()


async def test_memory_is_bounded_and_holds_no_tokens(idp, issuers, monkeypatch):
    """By the number of tokens, of which only digests are kept: a dump of it opens nothing."""
    monkeypatch.setattr(deciding, "REMEMBERED", 5)
    several = [idp.token(sub=f"user-{number}") for number in range(8)]
    for token in several:
        await issuers.verify(token)

    assert [issuers.recall(token) is not None for token in several] == [False] * 3 + [True] * 5
    assert not any(token in repr(issuers._known).encode() for token in several)
    assert all(sys.getsizeof(digest) < 100 for digest in issuers._known)


async def test_a_token_used_again_is_remembered_from_then_on(idp, issuers, monkeypatch):
    """The one verified longest ago goes first."""
    monkeypatch.setattr(deciding, "REMEMBERED", 2)
    one, two, three = (idp.token(sub=name) for name in ("a", "b", "c"))
    for token in (one, two, one, three):
        await issuers.verify(token)

    assert [issuers.recall(token) is not None for token in (one, two, three)] == [True, False, True]


def test_every_algorithm_that_the_file_may_name_has_keys():
    """One that had none would refuse every token, silently."""
    assert {name for names in tokens._FAMILIES.values() for name in names} == set(ALGORITHMS)


def changed(idp, **changes):
    mapping = Mapping(organization_claim=("org",), team="research")
    usual = {"name": "corp", "issuer": idp.issuer, "audience": ("sluiceway",), "mapping": mapping}
    return Issuer(**(usual | changes))


async def test_another_plan_of_an_issuer_holds_for_a_token_that_was_seen_and_no_keys_are_fetched(idp, issuers):
    """Its keys are where they were; what a token is worth is not."""
    token = idp.keys[0].sign(idp.claims()).encode()
    assert (await issuers.verify(token)).plan is None
    asked = len(idp.asked)
    issuers.take([changed(idp, plan="gold")])

    assert issuers.recall(token) is None
    assert (await issuers.verify(token)).plan == "gold"
    assert len(idp.asked) == asked


async def test_the_same_issuers_keep_every_token_that_was_seen(idp, issuers):
    """A file may change in anything else."""
    token = idp.keys[0].sign(idp.claims()).encode()
    verified = await issuers.verify(token)
    issuers.take([changed(idp)])

    assert issuers.recall(token) == verified


async def test_the_tokens_of_an_issuer_that_has_gone_are_refused_though_they_were_seen(idp, issuers):
    """And taken again when it is back."""
    token = idp.keys[0].sign(idp.claims()).encode()
    await issuers.verify(token)
    issuers.take([])
    assert issuers.recall(token) is None
    assert (await issuers.verify(token)) == ISSUER
    issuers.take([changed(idp)])

    assert (await issuers.verify(token)).subject.key == "corp:ada"


async def test_an_issuer_that_goes_while_a_token_is_verified_is_not_believed_and_nobody_is_cut(idp, issuers):
    """Whoever waits for its keys is told no; the fetch that he waits for ends by itself."""
    token = idp.keys[0].sign(idp.claims()).encode()
    verifying = asyncio.ensure_future(issuers.verify(token))
    await asyncio.sleep(0)
    issuers.take([])

    assert await verifying == ISSUER
    assert issuers.recall(token) is None


async def test_other_authorities_of_an_issuer_that_is_away_stop_nobody_whose_key_is_known(idp, clocks, issuers):
    """They are renewed when something is wrong, and so is an issuer away; it is asked by the new ones at once."""
    token = idp.token()
    await issuers.verify(token)
    idp.down = True
    issuers.take([changed(idp, ca_digest="other authorities")])
    asked = len(idp.asked)

    assert (await issuers.verify(token)).subject.key == "corp:ada"
    async with asyncio.timeout(5):
        while len(idp.asked) == asked:  # noqa: ASYNC110 - whoever asks is another task
            await asyncio.sleep(0.005)
    assert (await issuers.verify(idp.token(sub="bob"))).subject.key == "corp:bob"


async def test_by_other_authorities_a_key_is_trusted_no_longer_than_before(idp, clocks, issuers):
    """A day after it was last fetched, whoever has been asked since."""
    token = idp.token(exp=int(clocks.wall()) + 10 * int(KEPT))
    await issuers.verify(token)
    idp.down = True
    clocks.passed = KEPT - 10.0
    issuers.take([changed(idp, ca_digest="other authorities")])
    assert (await issuers.verify(token)).subject.key == "corp:ada"
    clocks.passed = KEPT + 10.0
    await issuers.verify(idp.token(new_key(kid="k9", number=2)))  # makes the gateway look

    assert (await issuers.verify(token)).reason is Reason.ISSUER_DOWN


async def test_what_other_authorities_bring_takes_the_place_of_what_was_known(idp, clocks, issuers):
    """A key that was withdrawn meanwhile is good no longer."""
    token = idp.token()
    await issuers.verify(token)
    idp.rotate(new_key(kid="k2", number=1))
    issuers.take([changed(idp, ca_digest="other authorities")])
    keys = issuers._issuers[idp.issuer][1]
    async with asyncio.timeout(5):
        while "k1" in keys.known[0].names:  # noqa: ASYNC110 - whoever asks is another task
            await asyncio.sleep(0.005)

    assert await issuers.verify(token) == UNKNOWN_KID
    await keys.having("k2")


@pytest.mark.parametrize("elsewhere", [{"name": "other"}, {"jwks_url": "http://127.0.0.1:9/keys.json"}])
async def test_an_issuer_whose_keys_are_elsewhere_now_is_believed_once_they_were_fetched(idp, issuers, elsewhere):
    """Those from before are another's, for all that is known."""
    await issuers.verify(idp.token())
    idp.down = True
    issuers.take([changed(idp, **elsewhere)])

    assert (await issuers.verify(idp.token())).reason is Reason.ISSUER_DOWN
