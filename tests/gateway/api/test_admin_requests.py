import pytest

from tests.gateway.api.support import error, record

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


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"local_only": false, "local_only": true}', "local_only"),
        (b'{"local_only": true, "local\\u005fonly": true}', "local_only"),
        (b'{"metadata": {"a": "1", "b": "2", "a": "3"}}', "a"),
        (b'{"meters": {"models": {"m": {"tokens_per_day": 5, "tokens_per_day": 50}}}}', "tokens_per_day"),
    ],
)
async def test_a_member_that_stands_twice_is_refused_by_its_name(admin, body, name):
    """Whoever checked it with a reader that takes the first would find the last in force."""
    told = error(await admin.put(ACME, content=body), 400)
    assert f"the member '{name}' twice" in told["message"]
    assert (await admin.get("/audit")).json()["lines"] == []


async def test_one_name_in_two_objects_is_no_fault_and_long_numbers_are_read_once(admin):
    meters = b'{"tokens_per_day": 50, "models": {"m": {"tokens_per_day": 5}, "n": {"tokens_per_day": 5}}}'
    assert record(await admin.put(ACME, content=b'{"meters": ' + meters + b"}"), 201)
    error(await admin.put("/plans/gold", content=b'{"tokens_per_day": 1' + b"0" * 5000 + b"}"), 400)


async def test_an_endless_name_is_not_told_whole(admin):
    name = b"x" * 30_000
    told = error(await admin.put("/plans/gold", content=b'{"' + name + b'": 1, "' + name + b'": 1}'), 400)
    assert len(told["message"]) < 200
