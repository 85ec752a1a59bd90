import hashlib
import time

import pytest

from gateway.identity.records import TokenRecord
from tests.gateway.api.support import error

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_token_is_remembered_until_nobody_would_take_it(admin, registry, store):
    ends = int(time.time()) + 1000
    for _ in range(2):
        answer = await admin.post("/tokens/revoke", json={"issuer": "sso", "jti": "abc", "expires": ends})
        assert (answer.status_code, answer.content) == (204, b"")
    name = f"sso/{hashlib.sha256(b'abc').hexdigest()}"
    kept = await registry.get(TokenRecord, name)
    assert abs(kept.record.seconds - 1300) <= 2
    (left,) = await store.send(("TTL", f"sw:{{~id}}:token:{name}"))
    assert abs(left - 1300) <= 3
    line = (await admin.get("/audit")).json()["lines"][0]
    assert (line["kind"], line["action"], line["name"]) == ("token", "revoke", name)


@pytest.mark.parametrize("expires", ["2h", "2999-01-01", "2999-01-01T00:00:00+02:00"])
async def test_its_end_may_be_told_as_a_time(admin, expires):
    body = {"issuer": "sso", "jti": "é" * 1024, "expires": expires}
    assert (await admin.post("/tokens/revoke", json=body)).status_code == 204


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("issuer", value) for value in ("", "other", "x" * 129, 5)),
        *(("jti", value) for value in ("", "x" * 1025, 5, None)),
        *(("expires", value) for value in (0, "0d", "soon", 10**12, None, "1999-01-01")),
    ],
)
async def test_a_wrong_field_is_named_with_its_rule(admin, field, value):
    body = {"issuer": "sso", "jti": "abc", "expires": "1h"} | {field: value}
    assert error(await admin.post("/tokens/revoke", json=body), 400)["param"] == field
