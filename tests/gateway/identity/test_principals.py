import pytest

from gateway.config.settings import STANDARD, Organization
from gateway.identity.directory import KeyRecord
from gateway.identity.principals import principal
from policies.domain import Level, Meter, MeterKind, Plan, Principal
from policies.rejections import Reason

SMALL = Plan("small", (Meter(MeterKind.REQUESTS_PER_MINUTE, limit=5, burst=5),))
HARSH = Plan("harsh", (Meter(MeterKind.TOKENS_IN_ALL, limit=5, burst=5),), overrun="cut", when_down="deny")
PLANS = {"standard": STANDARD, "small": SMALL, "harsh": HARSH}


def record(*, plan=None, organization="acme", team="research", revoked=False):
    return KeyRecord("0123456789ab", b"", organization, team, "ci", plan, 1, revoked)


def test_a_principal_has_three_levels_each_with_the_meters_of_its_own_plan():
    organizations = {"acme": Organization(plan=STANDARD, teams={"research": SMALL}, time_zone="Europe/Berlin")}
    assert principal(record(plan="small"), PLANS, organizations) == Principal(
        organization="acme",
        team="research",
        key="0123456789ab",
        name="ci",
        levels=(
            Level("organization", "org", STANDARD.meters),
            Level("team", "team:research", SMALL.meters),
            Level("key", "key:0123456789ab", SMALL.meters),
        ),
        time_zone="Europe/Berlin",
    )


def test_a_level_takes_overrun_and_stance_from_its_plan_and_the_stance_else_from_the_store():
    organizations = {"acme": Organization(plan=SMALL, teams={})}
    levels = principal(record(plan="harsh"), PLANS, organizations, "local").levels
    assert levels == (
        Level("organization", "org", SMALL.meters, "finish", "local"),
        Level("team", "team:research", (), "finish", "local"),
        Level("key", "key:0123456789ab", HARSH.meters, "cut", "deny"),
    )


@pytest.mark.parametrize(
    "organizations",
    [
        {},
        {"other": Organization(plan=STANDARD, teams={"research": STANDARD})},
        {"acme": Organization(plan=None, teams={"other": STANDARD})},
        {"acme": Organization(plan=None, teams={"research": None})},
    ],
)
def test_a_level_that_no_plan_binds_has_no_meters(organizations):
    found = principal(record(), PLANS, organizations)
    assert [level.meters for level in found.levels] == [(), (), ()]
    assert [level.when_down for level in found.levels] == ["deny", "deny", "deny"]
    assert found.time_zone == "UTC"


def test_a_revoked_key_is_refused_as_a_bad_key():
    assert principal(record(revoked=True), PLANS, {}).reason is Reason.BAD_KEY


def test_a_plan_that_left_the_file_refuses_the_key_and_says_what_to_mend():
    rejection = principal(record(plan="gold"), PLANS, {})
    assert rejection.reason is Reason.NOT_ALLOWED
    assert rejection.shape.status == 403
    assert "0123456789ab" in rejection.message
    assert "'gold'" in rejection.message
    assert "`plans:`" in rejection.message
