import pytest

from tests.gateway.api.support import error

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACME = "/organizations/acme"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"local_only": "true"}', "local_only"),
        (b'{"local_only": 1}', "local_only"),
        (b'{"models": "null"}', "models"),
        (b'{"models": {"0": "a"}}', "models"),
        (b'{"models": ["a", 5]}', "models"),
        (b'{"metadata": {"": "x"}}', "metadata"),
        (b'{"metadata": {"x": null}}', "metadata"),
        (b'{"colour": 1}', None),
        (b"{", None),
        (b"", None),
        (b"\xff", None),
        (b'{"state": "\xff"}', None),
        (b'{"meters": ' + b'{"a":' * 10_000, None),
    ],
)
async def test_nothing_is_taken_for_what_it_is_not(admin, body, param):
    """`"null"` for null would open every model."""
    assert error(await admin.put(ACME, content=body), 400)["param"] == param


async def test_of_two_members_of_one_name_the_last_counts(admin):
    """As in every JSON reader that callers may have checked it with."""
    answer = await admin.put(ACME, content=b'{"local_only": false, "local_only": true}')
    assert answer.json()["local_only"] is True
