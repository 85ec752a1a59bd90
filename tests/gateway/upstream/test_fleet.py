from gateway.config.settings import Backend
from gateway.upstream.fleet import Fleet, Home, Live
from policies.dialects import DIALECTS
from policies.failures import OFF_SECONDS, Failure, FailureKind
from tests.policies.builders import deployment, model


def live():
    return Live(deployment(), DIALECTS["vllm"])


def test_three_failures_eject_and_an_answer_brings_back():
    """As the snapshot shows."""
    one = live()
    for _ in range(3):
        one.failed(Failure(FailureKind.RESET, "x"), "chat", 0.0)
    assert one.snapshot(1.0).ejected
    one.answered()
    assert not one.snapshot(1.0).ejected


def test_a_429_never_ejects():
    """Nor does a caller's fault."""
    one = live()
    for kind in (FailureKind.RATE_LIMITED, FailureKind.CALLER, FailureKind.CONTEXT_OVERFLOW) * 5:
        one.failed(Failure(kind, "x"), "chat", 0.0)

    assert not one.snapshot(0.0).ejected


def test_an_operators_fault_switches_off_for_a_while_and_a_410_for_good():
    """With its reason."""
    one, gone = live(), live()
    one.failed(Failure(FailureKind.CREDENTIALS, "the upstream answered 401", 401), "chat", 0.0)
    gone.failed(Failure(FailureKind.MODEL_GONE, "the upstream answered 410", 410), "chat", 0.0)

    assert one.snapshot(OFF_SECONDS - 1).off == "the upstream answered 401"
    assert one.snapshot(OFF_SECONDS + 1).off is None
    assert gone.snapshot(1e9).off is not None


def test_an_api_that_is_not_there_is_remembered():
    """For that API only."""
    one = live()
    one.failed(Failure(FailureKind.UNSUPPORTED, "x", 501), "embeddings", 0.0)

    assert one.snapshot(0.0).lacks == {"embeddings"}


def test_a_call_on_its_way_counts_as_load():
    """Those routed at the same moment must see one another."""
    one = live()
    one.expect(100)
    assert (one.snapshot(0.0).in_flight, one.snapshot(0.0).queued_tokens) == (1, 100)
    one.release(100)
    assert (one.snapshot(0.0).in_flight, one.snapshot(0.0).queued_tokens) == (0, 0)


async def test_a_backend_is_added_once_and_its_state_is_kept():
    """A rescan must not forget what was learned."""
    fleet = Fleet()
    home = fleet.add(Backend("gpu-a", "vllm", "http://127.0.0.1:1/v1"))

    assert fleet.add(Backend("gpu-a", "vllm", "http://127.0.0.1:1/v1")) is home
    assert fleet.live(deployment()) is fleet.live(deployment())
    assert [s.deployment for s in fleet.snapshots(model(deployment()), 0.0)] == [deployment()]
    await fleet.close()


async def test_an_upstream_gets_its_own_credential_and_what_its_dialect_sends():
    """Identity coding, so that usage can be read."""
    home = Home(Backend("hosted", "nvidia", "https://x/v1", "nvapi-1"))

    assert ("authorization", "Bearer nvapi-1") in home.headers
    assert ("accept-encoding", "identity") in home.headers
    assert ("nvcf-poll-seconds", "60") in home.headers
    await home.transport.aclose()
