import pytest
from litestar.exceptions import ValidationException
from msgspec.structs import replace

from gateway.api import admin_key_terms
from gateway.api.admin_key_terms import KeyChange, NewKey, changed, check_key, made, moment, narrows
from gateway.identity.key_making import blank

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW = 1_700_000_000.5


@pytest.fixture(autouse=True)
def _still(monkeypatch):
    monkeypatch.setattr(admin_key_terms.clock, "wall", lambda: NOW)


def new(**fields):
    return made(NewKey(organization="acme", team="research", name="ci", **fields))


@pytest.mark.parametrize(
    ("told", "second"),
    [
        (1_700_000_001, 1_700_000_001),
        (253_402_300_799, 253_402_300_799),
        ("1h", 1_700_003_600),
        ("90d", 1_707_776_000),
        ("2w", 1_701_209_600),
        ("2030-01-31", 1_896_048_000),
        ("2030-01-31T12:00", 1_896_091_200),
        ("2030-01-31T12:00:00+02:00", 1_896_084_000),
        ("2030-01-31T12:00Z", 1_896_091_200),
    ],
)
async def test_a_moment_is_read(told, second):
    assert moment(told) == second


@pytest.mark.parametrize("told", [0, 1_700_000_000, "0d", "2023-11-14", "0001-01-01T00:00+14:00"])
async def test_a_key_ends_in_the_future_only(told):
    """One that is dead from the start is a mistake; a token that was is no harm to revoke."""
    assert moment(told) <= NOW
    with pytest.raises(ValidationException) as raised:
        new(expires=told)
    assert raised.value.extra[0] == {"key": "expires", "message": "must be in the future", "ours": True}


@pytest.mark.parametrize(
    "told",
    [
        253_402_300_800,
        "1m",
        "1.5d",
        "-1d",
        "٣d",
        "999999d",
        "2030-13-01",
        "9999-12-31T23:59:59-01:00",
        "",
        "never",
        "1800000000",
    ],
)
async def test_what_is_no_moment_is_refused(told):
    """Text of digits too: it may be seconds, or a date without its hyphens."""
    with pytest.raises(ValidationException, match="an ISO time"):
        moment(told)


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (("10.0.0.1",), ("10.0.0.1/32",)),
        (("10.0.0.0/8", "10.0.0.0/8"), ("10.0.0.0/8",)),
        (("FD00:0::/8", "::1"), ("fd00::/8", "::1/128")),
        (("0.0.0.0/0",), ("0.0.0.0/0",)),
        (("10.0.0.1", "10.0.0.1/32"), ("10.0.0.1/32",)),
    ],
)
async def test_networks_are_kept_in_one_spelling(told, kept):
    assert new(networks=told).networks == kept


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("10.0.0.1/8", "the range that holds it is 10.0.0.0/8"),
        ("fd00::1/8", "the range that holds it is fd00::/8"),
        ("10.0.0.0/33", "no address"),
        ("10.0.0/8", "no address"),
        ("10", "no address"),
        ("010.0.0.1", "no address"),
        ("all", "no address"),
        ("10.0.0.0/8/8", "no address"),
        ("10.0.0.0/", "no address"),
        ("10.0.0.0/255.0.0.0", "not plain"),
        ("10.0.0.0/0.255.255.255", "not plain"),
        ("fe80::1%eth0", "not plain"),
        (" 10.0.0.1", "no address"),
    ],
)
async def test_a_network_that_is_not_plainly_right_is_refused(told, why):
    with pytest.raises(ValidationException) as raised:
        new(networks=(told,))
    assert why in raised.value.extra[0]["message"]
    assert raised.value.extra[0]["key"] == "networks"


async def test_a_change_leaves_alone_what_it_does_not_tell():
    record = new(plan="small", networks=("10.0.0.1",), expires="1h")
    assert changed(record, KeyChange()) == record
    assert changed(record, KeyChange(networks=None, expires=None)) == new(plan="small")


async def test_a_plan_takes_the_place_of_meters_and_the_other_way_round():
    meters = {"requests_per_minute": 5}
    record = changed(new(plan="small"), KeyChange(meters=meters))
    assert (record.plan, record.meters) == (None, meters)
    record = changed(record, KeyChange(plan="small"))
    assert (record.plan, record.meters) == ("small", None)
    assert changed(record, KeyChange(meters=None)).plan == "small"
    both = changed(record, KeyChange(plan="small", meters=meters))
    assert (both.plan, both.meters) == ("small", meters), "which is refused, since nobody can know what was meant"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        (KeyChange(name=" "), "name"),
        (KeyChange(name="a\tb"), "name"),
        (KeyChange(scopes=("inference", "inference")), "scopes"),
        (KeyChange(plan="small", meters={"requests_per_minute": 5}), "meters"),
        (KeyChange(plan="gold"), "plan"),
        (KeyChange(routing={}), "routing"),
        (KeyChange(routing={"policy": "best"}), "routing.policy"),
        (KeyChange(routing={"policy": "fastest", "value_of_time": 1}), "routing.value_of_time"),
        (KeyChange(routing={"policy": "weighted", "tpot_target": 1}), "routing.tpot_target"),
    ],
)
async def test_a_key_that_cannot_be_is_refused(parts, store, change, param):
    with pytest.raises(ValidationException) as raised:
        await check_key(parts, changed(blank("acme", "research", "ci"), change), None)
    assert raised.value.extra[0]["key"] == param


async def test_a_change_takes_the_place_of_all_wishes(app):
    """As of every field; so does the page tell, for the command line adds them to one another."""
    before = replace(blank("acme", "research", "ci"), routing={"policy": "fastest", "ttft_target": 1})
    assert changed(before, KeyChange(routing={"priority": "low"})).routing == {"priority": "low"}

    change = app.openapi_schema.to_schema()["paths"]["/admin/v1/keys/{key_id}"]["patch"]
    schema = change["requestBody"]["content"]["application/json"]["schema"]
    (told, _) = schema["properties"]["routing"]["anyOf"]
    assert "takes the place of all the wishes that the key has" in told["description"]


async def test_a_change_that_tells_where_calls_may_go_is_known():
    """To nothing too: that opens more, and may shut another level's."""
    assert all(map(narrows, (KeyChange(models=None), KeyChange(backends=("a",)), KeyChange(local_only=False))))
    assert not narrows(KeyChange(name="x", plan=None, scopes=("admin:read",)))


async def test_wishes_that_do_not_change_are_not_judged_again(parts, store):
    """A check that is new keeps nobody from suspending a key."""
    before = replace(blank("acme", "research", "ci"), routing={"policy": "fastest", "value_of_time": 1})
    assert await check_key(parts, changed(before, KeyChange(state="suspended")), before) == ()
    assert changed(before, KeyChange(routing=None)).routing is None
