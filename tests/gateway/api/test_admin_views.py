import pytest
from msgspec.structs import replace

from gateway.api.admin_parts import ModelOut
from gateway.api.admin_views import DUE, GONE, backends_seen
from gateway.config.settings import Backend
from gateway.upstream.catalog import Catalog
from gateway.upstream.fleet import Fleet
from policies.breaker import THRESHOLD
from policies.failures import OFF_SECONDS, Failure, FailureKind
from policies.probing import Told
from tests.policies.builders import deployment, model

REFUSED = Failure(FailureKind.CREDENTIALS, "the upstream answered 401", 401)


@pytest.fixture
async def fleet():
    fleet = Fleet()
    fleet.add(Backend("a", "vllm", "http://127.0.0.1:9/v1"))
    yield fleet
    await fleet.close()


CATALOG = Catalog([model(replace(deployment("a"), model=name), name=name) for name in ("sim", "sims")])


def lives(fleet):
    return [fleet.live(one.deployments[0]) for one in CATALOG.models]


def seen(fleet, now=1.0):
    (view,) = backends_seen(fleet, CATALOG, now)
    return view


async def test_a_backend_that_refuses_every_call_does_not_look_healthy(fleet):
    """Though its probes are well: with why, and for how long more, of all models at once where it is the same."""
    fleet.homes["a"].condition.probed = True
    assert (seen(fleet).up, seen(fleet).why, seen(fleet).out) == (True, None, ())
    for live in lives(fleet):
        live.failed(REFUSED, "chat", 0.0, probe=False)

    view = seen(fleet)
    assert view.up is True
    assert view.why == "sim, sims off: the upstream answered 401 (for 5 min more)"
    assert view.out[0] == ModelOut("sim", "off: the upstream answered 401", OFF_SECONDS - 1)
    assert seen(fleet, OFF_SECONDS).why is None


async def test_what_makes_a_backend_that_is_up_doubtful_is_told_beside_it(fleet):
    """Until calls have found more."""
    condition = fleet.homes["a"].condition
    condition.probed, condition.doubt = True, "GET /models answered 404"
    assert (seen(fleet).up, seen(fleet).why) == (True, "GET /models answered 404")
    for live in lives(fleet):
        live.failed(REFUSED, "chat", 0.0, probe=False)

    assert seen(fleet).why.startswith("sim, sims off: ")


async def test_what_differs_from_model_to_model_is_told_of_each(fleet):
    """Off, frozen, ejected."""
    one, other = lives(fleet)
    one.failed(REFUSED, "chat", 0.0, probe=False)
    other.failed(Failure(FailureKind.RATE_LIMITED, "x", 429, retry_after=9.0), "chat", 0.0, probe=False)
    told = seen(fleet).why
    assert told == "sim off: the upstream answered 401 (for 5 min more); sims asked to be left alone (for 8 s more)"

    for _ in range(3):
        other.failed(Failure(FailureKind.RESET, "x"), "chat", 10.0, probe=False)
    assert seen(fleet, 11.0).why.endswith("; sims ejected: its last calls failed (a call tries it again in 9 s)")


async def test_of_one_that_is_ejected_it_is_told_when_it_is_tried_again(fleet):
    """Each pause is twice the one before; while a call tries it, nobody knows."""
    live, _ = lives(fleet)
    reset, why = Failure(FailureKind.RESET, "x"), "sim ejected: its last calls failed"
    for _ in range(THRESHOLD):
        live.failed(reset, "chat", 0.0, probe=False)
    assert seen(fleet, 0.5).out == (ModelOut("sim", "ejected: its last calls failed", 10),)
    assert seen(fleet, 9.5).why == f"{why} (a call tries it again in 1 s)"
    assert seen(fleet, 10.0).out == (ModelOut("sim", DUE, None),)
    assert live.breaker.sent(10.0)
    assert seen(fleet, 11.0).why == f"{why}, and is tried again just now"
    live.failed(reset, "chat", 12.0, probe=True)
    assert seen(fleet, 12.0).out[0].seconds == 20

    live.breaker.turn = 3.0
    assert seen(fleet, 12.0).out[0].seconds == 23
    for _ in range(5):
        live.breaker.turn = 0.0
        live.breaker.due(13.0)
        assert live.breaker.sent(13.0)
        live.failed(reset, "chat", 13.0, probe=True)
    assert seen(fleet, 13.0).why == f"{why} (a call tries it again in 5 min)"
    live.answered("chat", 14.0)
    assert seen(fleet, 14.0).out == ()


async def test_models_that_a_backends_list_lacks_are_marked(fleet):
    """Once it has told one."""
    assert seen(fleet).unlisted == ()
    fleet.homes["a"].condition.told = Told(("sim",))

    assert (seen(fleet).models, seen(fleet).unlisted) == (("sim", "sims"), ("sims",))


async def test_that_it_is_down_or_gone_comes_before_what_calls_found(fleet):
    """Nothing else is to be mended first; programs are told all of it."""
    for live in lives(fleet):
        live.failed(REFUSED, "chat", 0.0, probe=False)
    fleet.homes["a"].condition.down = "refused"
    assert (seen(fleet).why, len(seen(fleet).out)) == ("refused", 2)
    fleet.drain(frozenset({"a"}))
    fleet.leave("a", 99.0)

    assert (seen(fleet).why, seen(fleet).drained) == (GONE, True)
