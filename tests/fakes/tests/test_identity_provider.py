import asyncio
import time

import jwt
import pytest

from tests.fakes.identity_provider import IdentityProvider, new_key


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_another_client_takes_its_tokens(algorithm):
    """PyJWT's own client of key sets, which knows nothing of us."""
    async with IdentityProvider(algorithm) as idp:
        token = idp.token().decode()
        client = jwt.PyJWKClient(f"{idp.url}/jwks", headers={"connection": "close"})

        key = await asyncio.to_thread(client.get_signing_key_from_jwt, token)
        told = jwt.decode(token, key, algorithms=[algorithm], audience="sluiceway", issuer=idp.issuer)

        assert (told["sub"], told["exp"] > time.time()) == ("ada", True)
        assert idp.asked == ["/jwks"]


def test_keys_are_made_once():
    """An RSA key takes a tenth of a second."""
    assert new_key().private is new_key(kid="other").private
    assert new_key().private is not new_key(number=1).private
