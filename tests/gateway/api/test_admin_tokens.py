import asyncio
import hashlib
import itertools
import time

import pytest

from gateway.identity.records import TokenRecord
from tests.gateway.api.support import error

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_token_is_remembered_until_nobody_would_take_it(admin, registry, store):
    ends = int(time.time()) + 1000
    answer = await admin.post("/tokens/revoke", json={"issuer": "sso", "jti": "abc", "expires": ends})
    assert (answer.status_code, answer.content) == (204, b"")
    name = f"sso/{hashlib.sha256(b'abc').hexdigest()}"
    kept = await registry.get(TokenRecord, name)
    assert abs(kept.record.seconds - 1300) <= 2
    (left,) = await store.send(("TTL", f"sw:{{~id}}:token:{name}"))
    assert abs(left - 1300) <= 3
    line = (await admin.get("/audit")).json()["lines"][0]
    assert (line["kind"], line["action"], line["name"]) == ("token", "revoke", name)


async def left(store, jti):
    """Return for how many seconds a token is refused."""
    (seconds,) = await store.send(("TTL", f"sw:{{~id}}:token:sso/{hashlib.sha256(jti.encode()).hexdigest()}"))
    return seconds


async def test_a_second_word_makes_no_ban_shorter(admin, store):
    """Nor does the same word twice write twice."""
    now = int(time.time())
    for ends in (now + 5000, now + 5000, now + 1000, now - 1000, now + 9000):
        await admin.post("/tokens/revoke", json={"issuer": "sso", "jti": "abc", "expires": ends})
        assert await left(store, "abc") > 5000
    assert await left(store, "abc") > 9000
    longer, first = (await admin.get("/audit")).json()["lines"]
    assert longer["before"] == {"seconds": first["after"]["seconds"]}
    assert longer["before"]["seconds"] < longer["after"]["seconds"]


async def test_of_many_words_at_once_the_longest_stays(admin, store):
    """Each is written over what its author saw, or looks again."""
    now = int(time.time())
    bodies = [{"issuer": "sso", "jti": "abc", "expires": now + 1000 * number} for number in (3, 9, 1, 7, 5, 8, 2)]
    answers = await asyncio.gather(*(admin.post("/tokens/revoke", json=body) for body in bodies))
    assert {answer.status_code for answer in answers} == {204}
    assert await left(store, "abc") > 9000
    lines = (await admin.get("/audit")).json()["lines"]
    for newer, older in itertools.pairwise(lines):
        assert newer["before"]["seconds"] == older["after"]["seconds"] < newer["after"]["seconds"]


@pytest.mark.parametrize("ago", [0, 200, 300, 10**9])
async def test_a_token_past_its_end_is_refused_for_as_long_as_any_leeway(admin, store, ago):
    """Within its issuer's leeway it is still taken; and one whose end is long ago does no harm."""
    body = {"issuer": "sso", "jti": "abc", "expires": int(time.time()) - ago}
    assert (await admin.post("/tokens/revoke", json=body)).status_code == 204
    assert 295 <= await left(store, "abc") <= 301


@pytest.mark.parametrize("expires", ["2h", "0d", "1999-01-01", "2999-01-01", "2999-01-01T00:00:00+02:00"])
async def test_its_end_may_be_told_as_a_time(admin, expires):
    body = {"issuer": "sso", "jti": "é" * 1024, "expires": expires}
    assert (await admin.post("/tokens/revoke", json=body)).status_code == 204


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("issuer", value) for value in ("", "other", "x" * 129, 5)),
        *(("jti", value) for value in ("", "x" * 1025, 5, None)),
        *(("expires", value) for value in ("soon", 10**12, None, -1, "")),
    ],
)
async def test_a_wrong_field_is_named_with_its_rule(admin, field, value):
    body = {"issuer": "sso", "jti": "abc", "expires": "1h"} | {field: value}
    assert error(await admin.post("/tokens/revoke", json=body), 400)["param"] == field
