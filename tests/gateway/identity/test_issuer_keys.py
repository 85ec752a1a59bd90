import asyncio

import pytest

from gateway.config.settings import Issuer
from gateway.identity import issuer_keys
from gateway.identity.issuer_keys import ABSENT_FOR, ABSENT_REMEMBERED, EVERY, KEPT, LONGEST, IssuerKeys, is_safe
from gateway.identity.tokens import UNKNOWN_KID
from gateway.tls import server_context
from policies.rejections import Reason
from policies.subjects import Mapping
from policies.tokens import Refused
from tests.fakes.identity_provider import CONFIGURATION, JWKS, IdentityProvider, new_key
from tests.fakes.tests.asking import until
from tests.parts.certificates import self_signed

BOTH = [CONFIGURATION, JWKS]


class Clock:
    def __init__(self):
        self.at = 1000.0

    def __call__(self):
        return self.at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def keys(idp, clock):
    """Keys that nobody fetches in the background."""
    found = IssuerKeys(issuer_of(idp), clock)
    yield found
    await found.close()


def issuer_of(idp, **changes):
    usual = {"name": "corp", "issuer": idp.issuer, "audience": ("us",), "mapping": Mapping(organization="a", team="b")}
    return Issuer(**(usual | changes))


async def refusal(keys, kid="k1"):
    with pytest.raises(Refused) as caught:
        await keys.having(kid)
    return caught.value.rejection


async def test_keys_are_where_the_issuer_says(idp, keys):
    """And are asked for once."""
    assert "k1" in (await keys.having("k1")).names
    await keys.having("k1")
    await keys.having(None)

    assert idp.asked == BOTH


async def test_keys_are_where_the_operator_says(idp, clock):
    """An issuer without a configuration, or one that is reached by another address."""
    idp.instead["/keys.json"] = (200, b'{"keys": []}')
    keys = IssuerKeys(issuer_of(idp, issuer="https://corp.example", jwks_url=f"{idp.url}/keys.json"), clock)

    await keys.having(None)

    assert idp.asked == ["/keys.json"]


@pytest.mark.parametrize("path", ["/realms/acme", "/tenant/v2.0/", "/"])
async def test_the_configuration_is_below_the_issuers_own_path(idp, clock, path):
    """OpenID Connect Discovery 4: one slash at the end is not doubled, and stays in the name."""
    issuer = idp.url + path
    idp.instead[path.removesuffix("/") + CONFIGURATION] = (
        200,
        f'{{"issuer": "{issuer}", "jwks_uri": "{idp.url}{JWKS}"}}'.encode(),
    )

    assert "k1" in (await IssuerKeys(issuer_of(idp, issuer=issuer), clock).having("k1")).names


@pytest.mark.parametrize(
    "told",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": "http://evil.example/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "https:///keys"},
        {"jwks_uri": "http://[/"},
        {"jwks_uri": 7},
    ],
    ids=str,
)
async def test_a_configuration_that_is_not_right_brings_no_keys(idp, keys, told):
    """Discovery 4.3: that of another issuer would let that one sign; and keys over plain http are anybody's."""
    idp.configuration = told

    assert (await refusal(keys)).reason is Reason.ISSUER_DOWN
    assert idp.asked == [CONFIGURATION]


async def test_keys_over_a_plain_line_are_not_even_asked_for(idp, keys):
    """The address is reached here, but it is none of those that stand for this machine alone."""
    idp.configuration = {"jwks_uri": f"http://0.0.0.0:{idp.port}{JWKS}"}

    assert (await refusal(keys)).reason is Reason.ISSUER_DOWN
    assert idp.asked == [CONFIGURATION]


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (path, answer)
        for path in BOTH
        for answer in [(404, b"{}"), (302, b""), (500, b""), (200, b""), (200, b"<html>"), (200, b"[]"), (200, b"7")]
    ],
)
async def test_junk_is_no_answer_and_takes_nothing_away(idp, keys, clock, path, answer):
    """An error page in place of keys is an outage: callers are told to come again, and old keys stay good."""
    idp.instead[path] = answer
    assert (await refusal(keys)).reason is Reason.ISSUER_DOWN

    idp.instead.clear()
    clock.at += EVERY
    assert "k1" in (await keys.having("k1")).names

    idp.instead[path] = answer
    clock.at += EVERY
    assert (await refusal(keys, "k2")).reason is Reason.ISSUER_DOWN
    assert "k1" in (await keys.having("k1")).names


async def test_an_answer_without_end_is_cut(idp, keys):
    """It would fill the memory."""
    idp.instead[JWKS] = (200, b" " * LONGEST + b'{"keys": []}')

    assert (await refusal(keys)).reason is Reason.ISSUER_DOWN


async def test_an_issuer_that_never_was_reached_is_not_the_callers_fault(idp, keys, clock):
    """503 and when to come again, never 401: SDKs throw a key away that they are told is wrong."""
    idp.down = True
    first, second = await refusal(keys), await refusal(keys)

    assert (first.shape.status, second.shape.status) == (503, 503)
    assert 0 < second.retry_after_us <= EVERY * 1_000_000
    assert len(idp.asked) == 1, "asked once in five seconds"

    idp.down = False
    clock.at += EVERY
    assert "k1" in (await keys.having("k1")).names


async def test_a_new_key_is_looked_for_at_once(idp, keys, clock):
    """Issuers change keys when they like; nobody waits for the next round."""
    await keys.having("k1")
    clock.at += EVERY
    idp.rotate(new_key(), new_key(kid="k2", number=1))

    assert "k2" in (await keys.having("k2")).names
    assert idp.asked == BOTH * 2


async def test_however_many_unknown_keys_the_issuer_is_asked_once_in_five_seconds(idp, keys, clock):
    """Anybody can make up names of keys. Those that could not be looked for yet are told to come again."""
    await keys.having("k1")
    refusals = [await refusal(keys, f"made-up-{number}") for number in range(50)]
    assert {no.reason for no in refusals} == {Reason.ISSUER_DOWN}
    assert idp.asked == BOTH

    clock.at += EVERY
    refusals = await asyncio.gather(*(refusal(keys, f"made-up-{number}") for number in range(50)))
    assert refusals.count(UNKNOWN_KID) >= 1
    assert idp.asked == BOTH * 2


async def test_a_key_that_was_looked_for_is_refused_and_not_looked_for_again_soon(idp, keys, clock):
    """One caller with an old token must not send us to the issuer all day."""
    await keys.having("k1")
    clock.at += EVERY
    assert await refusal(keys, "gone") == UNKNOWN_KID
    clock.at += EVERY
    assert await refusal(keys, "gone") == UNKNOWN_KID
    assert idp.asked == BOTH * 2

    clock.at += ABSENT_FOR
    idp.rotate(new_key(kid="gone"))
    assert "gone" in (await keys.having("gone")).names


async def test_a_key_that_was_absent_is_good_as_soon_as_any_fetch_brings_it(idp, keys, clock):
    """Who looked for it in vain before does not matter."""
    await keys.having("k1")
    clock.at += EVERY
    assert await refusal(keys, "k2") == UNKNOWN_KID
    idp.rotate(new_key(), new_key(kid="k2", number=1), new_key(kid="k3", number=2))
    clock.at += EVERY
    await keys.having("k3")

    assert "k2" in (await keys.having("k2")).names


async def test_names_of_absent_keys_are_bounded(idp, keys, clock):
    """They are made up by whoever likes to."""
    await keys.having("k1")
    clock.at += EVERY
    for number in range(ABSENT_REMEMBERED + 10):
        keys._asked = clock.at
        keys._note_absent(f"made-up-{number}")

    assert len(keys._absent) == ABSENT_REMEMBERED
    assert "made-up-9" not in keys._absent


async def test_those_who_need_the_same_answer_share_a_question(idp, keys):
    """Also when the one who asked first leaves: the others still want it."""
    idp.held.clear()
    callers = [asyncio.ensure_future(keys.having("k1")) for _ in range(10)]
    await until(lambda: idp.asked)
    callers[0].cancel()
    idp.held.set()
    answers = await asyncio.gather(*callers, return_exceptions=True)

    assert isinstance(answers[0], asyncio.CancelledError)
    assert all("k1" in answer.names for answer in answers[1:])
    assert idp.asked == BOTH


async def test_an_answer_to_an_earlier_question_refuses_nobody(idp, keys, clock):
    """The issuer may have made its key after it was asked: nobody has looked for it yet."""
    idp.held.clear()
    first = asyncio.ensure_future(keys.having("k1"))
    await until(lambda: idp.asked)
    clock.at += 1.0
    later = asyncio.ensure_future(refusal(keys, "k2"))
    await asyncio.sleep(0)
    idp.held.set()

    assert "k1" in (await first).names
    assert (await later).reason is Reason.ISSUER_DOWN
    assert idp.asked == BOTH


async def test_an_issuer_that_does_not_answer_is_not_waited_for_long(idp, keys, monkeypatch):
    """A caller is worth an answer even where there is none."""
    monkeypatch.setattr(issuer_keys, "PATIENCE", 0.05)
    idp.held.clear()

    assert (await refusal(keys)).reason is Reason.ISSUER_DOWN


async def test_old_keys_are_kept_while_the_issuer_is_away_but_not_for_ever(idp, keys, clock):
    """Its outage must not be ours; a key that was withdrawn meanwhile must not be good for good."""
    held = (await keys.having("k1")).fingerprints
    idp.down = True
    clock.at += KEPT
    await refusal(keys, "k2")
    assert all(keys.holds(one) for one in held)

    clock.at += EVERY
    await refusal(keys, "k2")
    assert not any(keys.holds(one) for one in held)
    assert (await refusal(keys)).reason is Reason.ISSUER_DOWN


async def test_keys_are_fetched_in_the_background(idp, monkeypatch):
    """What is withdrawn ends without anybody asking; an outage of the issuer ends so too."""
    monkeypatch.setattr(issuer_keys, "REFRESH", 0.01)
    monkeypatch.setattr(issuer_keys, "RETRY", 0.01)
    idp.down = True
    keys = IssuerKeys(issuer_of(idp))
    keys.start()
    await until(lambda: len(idp.asked) > 2)
    idp.down = False
    (old,) = (await until_there(keys, "k1")).fingerprints
    assert keys.holds(old)

    idp.rotate(new_key(kid="k2", number=1))
    await until(lambda: not keys.holds(old))
    assert "k2" in (await keys.having("k2")).names
    await keys.close()


async def until_there(keys, kid):
    await until(lambda: keys._keys is not None)
    return await keys.having(kid)


async def test_an_empty_set_withdraws_all_keys(idp, keys, clock):
    """It is an answer: an issuer that lost its keys to a thief has no better one."""
    (old,) = (await keys.having("k1")).fingerprints
    idp.rotate()
    clock.at += EVERY

    assert await refusal(keys, "k2") == UNKNOWN_KID
    assert not keys.holds(old)


async def test_a_mistake_of_ours_ends_no_background(idp, monkeypatch):
    """The next round may do better, and callers get an answer."""
    monkeypatch.setattr(issuer_keys, "RETRY", 0.01)
    monkeypatch.setattr(issuer_keys, "read_keys", lambda document: 1 / 0)
    keys = IssuerKeys(issuer_of(idp))
    keys.start()

    assert (await refusal(keys)).reason is Reason.ISSUER_DOWN
    await until(lambda: idp.asked.count(JWKS) > 2)
    await keys.close()


async def test_an_issuer_of_the_house_is_known_by_the_houses_authority(tmp_path, clock):
    """Both its configuration and its keys come by https."""
    certificate, key = self_signed(tmp_path)
    async with IdentityProvider(tls=server_context(certificate, key)) as idp:
        assert "k1" in (await IssuerKeys(issuer_of(idp, ca=certificate), clock).having("k1")).names
        assert (await refusal(IssuerKeys(issuer_of(idp), clock))).reason is Reason.ISSUER_DOWN


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://corp.example/keys", True),
        ("http://127.0.0.1:8080/keys", True),
        ("http://localhost/keys", True),
        ("http://[::1]/keys", True),
        ("http://corp.example/keys", False),
        ("http://localhost.evil.example/keys", False),
        ("http://127.0.0.1@evil.example/keys", False),
        ("http://10.0.0.1/keys", False),
        ("https://", False),
        ("ftp://127.0.0.1/keys", False),
        ("//corp.example/keys", False),
        ("", False),
    ],
)
def test_keys_come_over_https_or_from_this_machine(url, safe):
    """Whoever sits on a plain line could send his own."""
    assert is_safe(url, local=True) is safe
    assert is_safe(url, local=False) is (safe and url.startswith("https:"))
