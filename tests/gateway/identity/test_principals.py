import pytest
import structlog
from msgspec.structs import replace

from gateway.config.mistakes import ConfigError, Mistake
from gateway.config.settings import STANDARD, Organization
from gateway.identity.issuers import Verified
from gateway.identity.principals import Compiler, Tenants, of_key, of_token, plans_named
from gateway.identity.records import KeyRecord, OrganizationRecord, PlanRecord, TeamRecord
from policies.domain import Level, Meter, MeterKind, Plan, Principal, Reach
from policies.rejections import Reason
from policies.subjects import Subject
from policies.terms import NO_WISHES, Origin, RoutingWishes, heard

SMALL = Plan("small", (Meter(MeterKind.REQUESTS_PER_MINUTE, limit=5, burst=5),))
HARSH = Plan("harsh", (Meter(MeterKind.TOKENS_IN_ALL, limit=5, burst=5),), overrun="cut", when_down="deny")
PLANS = {"standard": STANDARD, "small": SMALL, "harsh": HARSH}
NOBODY = Tenants(None, None, None)
KEY = KeyRecord(key_id="0123456789ab", organization="acme", team="research", name="ci", digest="", created=1)
ACME = OrganizationRecord(name="acme")
RESEARCH = TeamRecord(organization="acme", name="research")
FILE = Organization(plan=STANDARD, teams={"research": SMALL}, time_zone="Europe/Berlin")


def requests(name, document):
    """Read a plan of requests a minute, as far as these tests write them."""
    try:
        limit = document["requests_per_minute"]
    except KeyError:
        raise ConfigError((Mistake(0, "requests", "is no meter", "leave it out", name),)) from None
    wishes = RoutingWishes(**document.get("routing", {}))
    return Plan(name, (Meter(MeterKind.REQUESTS_PER_MINUTE, limit=limit, burst=limit),), wishes=wishes)


def compiled(*, key=KEY, organization=None, team=None, file=None, stored=(), when_down="deny", compile_plan=requests):
    bearer, tenants = of_key(key), Tenants(organization, team, file)
    known = dict.fromkeys(plans_named(bearer, tenants)) | {record.name: record for record in stored}
    return Compiler(PLANS, compile_plan, when_down).principal(bearer, tenants, known)


def limits(principal):
    return [[meter.limit for meter in level.meters] for level in principal.levels]


def test_a_principal_has_three_levels_each_with_the_meters_of_its_own_plan():
    """What the records leave open is as the file has it."""
    key = replace(KEY, plan="small", scopes=("inference", "admin:read"), expires=2_000_000_000)
    assert compiled(key=key, organization=ACME, team=RESEARCH, file=FILE) == Principal(
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
        scopes=frozenset({"inference", "admin:read"}),
        expires=2_000_000_000,
    )


def test_tenants_without_a_record_are_as_the_file_has_them():
    """A token may name an organization that nobody made a key for."""
    assert compiled(file=FILE) == compiled(organization=ACME, team=RESEARCH, file=FILE)


def test_a_level_takes_overrun_and_stance_from_its_plan_and_the_stance_else_from_the_store():
    """As the file's settings say."""
    levels = compiled(key=replace(KEY, plan="harsh"), file=Organization(SMALL, {}), when_down="local").levels
    assert levels == (
        Level("organization", "org", SMALL.meters, "finish", "local"),
        Level("team", "team:research", (), "finish", "local"),
        Level("key", "key:0123456789ab", HARSH.meters, "cut", "deny"),
    )


@pytest.mark.parametrize(
    "file",
    [None, Organization(plan=None, teams={"other": STANDARD}), Organization(plan=None, teams={"research": None})],
)
def test_a_level_that_no_plan_binds_has_no_meters(file):
    """Nothing is held to what nobody said."""
    found = compiled(file=file)
    assert limits(found) == [[], [], []]
    assert [level.when_down for level in found.levels] == ["deny", "deny", "deny"]
    assert found.time_zone == "UTC"


def test_a_record_goes_before_the_file():
    """Plan, meters of its own, and time zone."""
    organization = replace(ACME, plan="harsh", time_zone="Asia/Tokyo")
    team = replace(RESEARCH, meters={"requests_per_minute": 7})
    found = compiled(organization=organization, team=team, file=FILE)

    assert found.levels[0].meters == HARSH.meters
    assert limits(found)[1] == [7]
    assert found.time_zone == "Asia/Tokyo"


def test_a_stored_plan_takes_the_place_of_the_files_of_that_name_wherever_it_is_named():
    """By a record, by the file's organizations, and of the plan that is always there."""
    stored = [PlanRecord(name=name, plan={"requests_per_minute": 70}) for name in ("small", "standard")]
    found = compiled(key=replace(KEY, plan="standard"), organization=ACME, team=RESEARCH, file=FILE, stored=stored)

    assert limits(found) == [[70], [70], [70]]


def test_the_plans_to_look_for_are_those_that_bind():
    """A level with meters of its own has no plan; a record's plan hides the file's."""
    bearer = of_key(replace(KEY, plan="a", meters=None))
    assert plans_named(bearer, NOBODY) == ["a"]
    assert plans_named(bearer, Tenants(None, None, FILE)) == ["standard", "small", "a"]
    assert plans_named(bearer, Tenants(replace(ACME, plan="b"), replace(RESEARCH, meters={}), FILE)) == ["b", "a"]


@pytest.mark.parametrize(
    ("level", "what"), [("organization", "organization acme"), ("team", "team research"), ("key", "0123456789ab")]
)
def test_a_plan_that_is_nowhere_refuses_and_says_which_and_what_to_do(level, what):
    """It is never read as no limits."""
    records = {"organization": ACME, "team": RESEARCH, "key": KEY}
    records[level] = replace(records[level], plan="gold")
    rejection = compiled(**records)

    assert rejection.reason is Reason.NOT_ALLOWED
    assert rejection.shape.status == 403
    for word in (what, "'gold'", "put the plan back"):
        assert word in rejection.message


@pytest.mark.parametrize("own", [True, False])
def test_a_plan_that_cannot_be_read_refuses_and_says_why(own):
    """One that a newer gateway wrote, or that names what this one's file has no more."""
    document = {"wishes_per_minute": 3}
    organization = replace(ACME, meters=document) if own else replace(ACME, plan="odd")
    rejection = compiled(organization=organization, stored=[] if own else [PlanRecord(name="odd", plan=document)])

    assert rejection.reason is Reason.NOT_ALLOWED
    for word in ("organization acme", "meters of its own" if own else "'odd'", "requests: is no meter"):
        assert word in rejection.message


@pytest.mark.parametrize("level", ["organization", "team", "key"])
def test_what_is_suspended_is_refused_whatever_else_is_right(level):
    """With the words for whoever can mend it."""
    records = {"organization": ACME, "team": RESEARCH, "key": KEY}
    records[level] = replace(records[level], state="suspended")
    rejection = compiled(**records)

    assert rejection.reason is Reason.NOT_ALLOWED
    assert "suspended" in rejection.message
    assert (level in rejection.message) or "API key" in rejection.message


def test_what_any_level_forbids_is_forbidden():
    """Each level's list has to allow; none takes back what another one says."""
    found = compiled(
        key=replace(KEY, models=("a", "b*")),
        organization=replace(ACME, models=("*",), local_only=True),
        team=replace(RESEARCH, backends=("gpu-a",)),
    )

    assert found.reach == Reach(models=(("*",), ("a", "b*")), backends=(("gpu-a",),), local_only=True)
    assert compiled().reach == Reach()


def test_wishes_are_those_of_all_levels_each_narrower_than_the_one_before():
    """The plans of organization, team and key, whoever has them from where, and then the key's own."""
    wishes = [
        RoutingWishes(ttft_target=1.0, tpot_target=0.1, value_of_time=1, priority="low", max_price=5),
        RoutingWishes(tpot_target=0.2, value_of_time=2, priority="normal"),
        {"value_of_time": 3, "priority": "high", "max_price": 9},
        {"priority": "low", "policy": "pinned", "value_of_time": 0.000000004},
    ]
    file = Organization(replace(SMALL, wishes=wishes[0]), {"research": replace(SMALL, name="s", wishes=wishes[1])})
    key = replace(KEY, meters={"requests_per_minute": 5, "routing": wishes[2]}, routing=wishes[3])
    bearer, tenants = of_key(key), Tenants(None, None, file)
    found = Compiler({}, requests, "deny").principal(bearer, tenants, {"small": None, "s": None})

    assert found.wishes == RoutingWishes(
        ttft_target=1.0, value_of_time=4, tpot_target=0.2, max_price=5, policy="pinned", priority="low"
    )
    assert [voice.origin for voice in found.voices] == [
        Origin("organization", "small"),
        Origin("team", "s"),
        Origin("key"),
        Origin("key"),
    ]
    assert heard(found.voices) == found.wishes
    assert compiled().wishes is NO_WISHES
    assert compiled().voices == ()


def test_wishes_that_cannot_be_read_are_left_out_and_logged():
    """A newer gateway wrote them, and shares the store with older ones: it takes nobody's calls from these."""
    with structlog.testing.capture_logs() as told:
        found = compiled(key=replace(KEY, routing={"max_carbon": 5, "priority": "low"}))

    assert found.wishes == RoutingWishes(priority="low")
    (line,) = told
    assert (line["of"], line["why"]) == ("API key 0123456789ab", "max_carbon: is not a setting of routing")


def test_a_tokens_subject_wishes_what_its_plans_do():
    """Its issuer's plan counts as a key's."""
    bearer = of_token(Verified("corp", Subject("acme", "t", "corp:a", "a", frozenset()), 5.0, None, "p", cut=False))
    document = {"requests_per_minute": 1, "routing": {"policy": "fastest"}}
    known = {"p": PlanRecord(name="p", plan=document)}
    found = Compiler(PLANS, requests, "deny").principal(bearer, replace(NOBODY, organization=ACME), known)

    assert found.wishes == RoutingWishes(policy="fastest")


def test_a_tokens_subject_is_a_principal_like_any_other():
    """Its level is its subject's, with the plan of its issuer; it ends with the token."""
    subject = Subject("acme", "research", "corp:ann", "ann", frozenset({"admin:read"}))
    bearer = of_token(Verified("corp", subject, 2_000.5, "jti", "small", cut=True))
    known = replace(NOBODY, organization=OrganizationRecord(name="acme"))
    found = Compiler(PLANS, requests, "deny").principal(bearer, known, {"small": None})

    assert (found.organization, found.team, found.key, found.name) == ("acme", "research", "corp:ann", "ann")
    assert found.levels[2] == Level("key", "key:corp:ann", SMALL.meters)
    assert (found.scopes, found.expires, found.cut) == (frozenset({"admin:read"}), 2_000.5, True)


def test_a_token_of_an_organization_that_nobody_here_knows_is_refused():
    """It would have no limits at all; one that the file knows is known."""
    bearer = of_token(Verified("corp", Subject("acme", "t", "corp:a", "a", frozenset()), 5.0, None, None, cut=False))
    compiler = Compiler(PLANS, requests, "deny")

    refused = compiler.principal(bearer, NOBODY, {})

    assert refused.reason is Reason.NOT_ALLOWED
    assert "sluiceway orgs set acme" in refused.message
    assert compiler.principal(bearer, replace(NOBODY, file=Organization(None, {})), {}).organization == "acme"


def test_a_plan_of_the_store_is_read_once_for_all_who_have_it():
    """Thousands of keys may share it; a changed one is read anew."""
    read = []

    def reading(name, document):
        read.append(name)
        return requests(name, document)

    compiler = Compiler(PLANS, reading, "deny")
    first, second = ({"p": PlanRecord(name="p", plan={"requests_per_minute": limit})} for limit in (1, 2))
    bearer = of_key(replace(KEY, plan="p", meters=None))
    for stored in (first, first, second, second):
        found = compiler.principal(bearer, NOBODY, stored)

    assert read == ["p", "p"]
    assert limits(found)[2] == [2]


def test_meters_of_their_own_are_kept_apart():
    """Every organization has a level `org`."""
    compiler = Compiler(PLANS, requests, "deny")
    for name, limit in (("acme", 1), ("globex", 2), ("acme", 1)):
        organization = OrganizationRecord(name=name, meters={"requests_per_minute": limit})
        found = compiler.principal(of_key(replace(KEY, organization=name)), Tenants(organization, None, None), {})
        assert limits(found)[0] == [limit]
