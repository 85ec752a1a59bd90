import hashlib
import json

from gateway.identity.records import TokenRecord

NAMED = ("tokens", "revoke", "--issuer", "corp", "--jti", "a token")


async def test_a_token_is_revoked_by_its_issuer_and_its_jti(sluiceway, registry):
    """Until it would have ended by itself; twice is no error."""
    assert (await sluiceway(*NAMED, "--expires", "24h")).stdout == "revoked a token of corp\n"
    name = f"corp/{hashlib.sha256(b'a token').hexdigest()}"
    there = await registry.get(TokenRecord, name)
    assert 86_400 - 60 <= there.record.seconds <= 86_400 + 600

    told = (await sluiceway(*NAMED, "--expires", "4102444800", "--json")).stdout
    assert json.loads(told) == {"issuer": "corp", "jti": "a token", "revoked": True}
    assert (await registry.get(TokenRecord, name)).record.seconds > 86_400 * 365


async def test_an_unknown_issuer_and_what_is_no_time_are_told(refused):
    """With what would be right."""
    assert "known: corp" in await refused("tokens", "revoke", "--issuer", "crop", "--jti", "x", "--expires", "24h")
    assert "expires: " in await refused(*NAMED, "--expires", "soon")
