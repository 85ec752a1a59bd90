import pytest
from msgspec.structs import replace

from gateway import clock
from gateway.planning import MOST_SESSION, plan, ranked
from gateway.upstream.catalog import Catalog
from policies.affinity import BLOCK, NONE
from policies.domain import Reach
from policies.rejections import Reason, Rejection
from policies.terms import RoutingWishes
from tests.gateway.harness import running

BODY = b'{"model":"alias","messages":[{"role":"user","content":"hi"}]}'
LONG = b'{"model":"m","messages":[{"role":"user","content":"%s"}]}' % (b"x" * 3 * BLOCK)


@pytest.fixture
async def gateway(tmp_path, first, second):
    async with running(tmp_path, {"a": first, "b": second}) as harness:
        yield harness


@pytest.fixture
async def who(gateway):
    return await gateway.who()


def planned(gateway, who, body=BODY, **headers):
    told = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return plan(gateway.services, who, "chat", body, told, clock.monotonic())


async def test_a_plan_says_what_a_call_is_and_may_be_ranked_again_and_again(gateway, who):
    """It takes nothing and gives nothing back."""
    found = planned(gateway, who)
    routes = [ranked(gateway.services, found, now) for now in (0.0, 1.0)]

    assert (found.request.model, found.model.name, found.begins) == ("m", "m", NONE)
    assert [[one.deployment.backend for one in each.order] for each in routes] == [["a", "b"]] * 2
    assert all(gateway.services.fleet.live(one).in_flight == 0 for one in found.model.deployments)


async def test_where_there_is_a_choice_the_beginning_of_a_long_prompt_is_known(gateway, who):
    """By the organization's own salt."""
    one = planned(gateway, who, LONG)
    other = planned(gateway, replace(who, organization="other"), LONG)

    assert one.begins.marks
    assert one.begins.marks != other.begins.marks


async def test_a_call_is_ranked_by_the_catalog_of_that_moment(gateway, who):
    """It may have waited since it was planned: replicas have come and gone, and their names may be others' by now."""
    found = planned(gateway, who)
    for kept in (found.model.deployments[1:], found.model.deployments[:1]):
        gateway.gateway._publish(Catalog([replace(found.model, deployments=kept)]))
        route = ranked(gateway.services, found, 0.0)
        assert tuple(one.deployment for one in route.order) == kept
    gateway.gateway._publish(Catalog([]))

    assert ranked(gateway.services, found, 0.0).reason is Reason.MODEL_NOT_FOUND


async def test_a_dry_run_remembers_nothing(gateway, who):
    """It is no call of that key."""
    services = gateway.services
    found = plan(services, who, "chat", BODY, {}, clock.monotonic(), dry=True)
    assert not services.estimates._pairs
    assert found.estimate == planned(gateway, who).estimate
    assert services.estimates._pairs


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"nonsense", Reason.BAD_BODY),
        (b'{"model":"none","messages":[{"role":"user","content":"hi"}]}', Reason.MODEL_NOT_FOUND),
    ],
)
async def test_what_cannot_be_understood_is_refused(gateway, who, body, reason):
    """Before anything is paid."""
    assert planned(gateway, who, body).reason is reason


async def test_a_session_is_its_keys_own_and_bounded(gateway, who):
    """By Vibe's header, another, or the body's member."""
    by_header = planned(gateway, who, x_affinity="s" * 1000).request.session
    by_other = planned(gateway, who, x_session_id="t").request.session

    assert by_header == f"{who.key}/{'s' * MOST_SESSION}"
    assert by_other == f"{who.key}/t"
    assert planned(gateway, who).request.session == ""


@pytest.mark.parametrize("nothing", [b"null", b'""'])
async def test_a_member_that_says_nothing_names_no_session(gateway, who, nothing):
    """Clients that write out what they leave open would else send all of a key's calls to one place."""
    named = planned(gateway, who, BODY[:-1] + b',"prompt_cache_key":"s"}').request.session
    unnamed = planned(gateway, who, BODY[:-1] + b',"prompt_cache_key":%s}' % nothing).request.session

    assert named == f'{who.key}/"s"'
    assert unnamed == ""


async def test_the_deadline_is_the_callers_or_the_models_and_the_tokens_end(gateway, who):
    """Whichever is first."""
    assert planned(gateway, who).deadlines.total == 900.0
    cut = replace(who, expires=0.0, cut=True)
    ended = planned(gateway, cut).deadlines

    assert ended.of_token
    assert isinstance(planned(gateway, who, x_request_timeout="never"), Rejection)


async def test_wishes_and_reach_are_its_callers(gateway, who):
    """Ranked as a call of theirs would be."""
    bounded = planned(gateway, replace(who, wishes=RoutingWishes(max_price=0)))
    barred = planned(gateway, replace(who, reach=Reach(models=(("other",),))))

    assert [one.deployment.backend for one in ranked(gateway.services, bounded, 0.0).order] == ["a"]
    assert barred.reason is Reason.NOT_ALLOWED


async def test_what_no_deployment_of_a_model_takes_is_told_with_the_models_that_would(gateway, who):
    """Of the catalog as it is now."""
    body = b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}'
    found = planned(gateway, who, body)
    (one, *_) = found.model.deployments
    seeing = replace(
        found.model, name="eyes", aliases=(), deployments=(replace(one, modalities=frozenset({"text", "image"})),)
    )
    gateway.gateway._publish(Catalog([found.model, seeing]))
    no = ranked(gateway.services, found, 0.0)

    assert (no.reason, no.param) == (Reason.BAD_MEMBER, "messages")
    assert no.message.endswith(" Models that would take it: eyes.")
