import structlog

from gateway.config.settings import Backend
from gateway.upstream.fleet import LACKS_SECONDS, Fleet, Home, Live, Ticket
from policies.dialects import DIALECTS
from policies.failures import OFF_SECONDS, Failure, FailureKind
from tests.policies.builders import deployment, model


def live():
    return Live("gpu-a/m", DIALECTS["vllm"])


def test_three_failures_eject_and_an_answer_brings_back():
    """As the snapshot shows."""
    one = live()
    for _ in range(3):
        one.failed(Failure(FailureKind.RESET, "x"), "chat", 0.0, probe=False)
    assert one.snapshot(deployment(), 1.0).ejected
    one.answered("chat")
    assert not one.snapshot(deployment(), 1.0).ejected


def test_the_first_failure_of_a_kind_is_told_with_its_reason_and_its_call():
    """And then once a minute: an operator wants the reason, not the flood."""
    one = live()
    with structlog.testing.capture_logs() as told:
        for moment, kind in ((0.0, "connect"), (1.0, "connect"), (2.0, "reset"), (61.0, "connect")):
            failure = Failure(FailureKind(kind), "certificate verify failed")
            one.failed(failure, "chat", moment, probe=False, request_id=f"req_{moment:g}")

    entries = [entry for entry in told if entry["event"] == "an attempt failed"]
    assert [(entry["kind"], entry["request_id"]) for entry in entries] == [
        ("connect", "req_0"),
        ("reset", "req_2"),
        ("connect", "req_61"),
    ]
    assert entries[0]["detail"] == "certificate verify failed"


def test_a_429_never_ejects():
    """Nor does a caller's fault."""
    one = live()
    for kind in (FailureKind.RATE_LIMITED, FailureKind.CALLER, FailureKind.CONTEXT_OVERFLOW) * 5:
        one.failed(Failure(kind, "x"), "chat", 0.0, probe=False)

    assert not one.snapshot(deployment(), 0.0).ejected


def test_an_operators_fault_switches_off_for_a_while_and_a_410_for_good():
    """With its reason."""
    one, gone = live(), live()
    one.failed(Failure(FailureKind.CREDENTIALS, "the upstream answered 401", 401), "chat", 0.0, probe=False)
    gone.failed(Failure(FailureKind.MODEL_GONE, "the upstream answered 410", 410), "chat", 0.0, probe=False)

    assert one.snapshot(deployment(), OFF_SECONDS - 1).off == "the upstream answered 401"
    assert one.snapshot(deployment(), OFF_SECONDS + 1).off is None
    assert gone.snapshot(deployment(), 1e9).retired
    assert not one.snapshot(deployment(), 1.0).retired


def test_an_api_that_is_not_there_is_remembered():
    """For that API only."""
    one = live()
    one.failed(Failure(FailureKind.UNSUPPORTED, "x", 501), "embeddings", 0.0, probe=False)

    assert one.snapshot(deployment(), 0.0).lacks == {"embeddings"}
    assert one.snapshot(deployment(), LACKS_SECONDS).lacks == frozenset()
    one.answered("embeddings")
    assert one.snapshot(deployment(), 0.0).lacks == frozenset()


def test_a_ticket_holds_the_load_from_the_moment_of_routing():
    """Calls routed at the same moment must see one another; closing twice is closing once."""
    one = live()
    ticket = Ticket(one, 100, 0.0)
    behind = Ticket(one, 50, 0.0)
    assert (one.in_flight, one.queued_tokens, behind.ahead) == (2, 150, 150)
    ticket.leave_queue()
    assert (one.in_flight, one.queued_tokens) == (2, 50)
    for _ in range(2):
        ticket.close()
        behind.close()
    assert (one.in_flight, one.queued_tokens) == (0, 0)


def test_exactly_one_ticket_is_the_probe():
    """The others see the deployment as ejected."""
    one = live()
    for _ in range(3):
        one.failed(Failure(FailureKind.RESET, "x"), "chat", 0.0, probe=False)

    assert [Ticket(one, 1, 100.0).probe for _ in range(3)] == [True, False, False]
    assert one.snapshot(deployment(), 100.0).ejected


def test_two_models_on_one_upstream_model_keep_their_own_facts():
    """Windows, modalities and prices are the deployment's, load and health the engine's."""
    one = live()

    assert one.snapshot(deployment(window=5), 0.0).deployment.context_window == 5
    assert one.snapshot(deployment(window=9), 0.0).deployment.context_window == 9


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

    assert (b"authorization", b"Bearer nvapi-1") in home.headers
    assert (b"accept-encoding", b"identity") in home.headers
    assert (b"nvcf-poll-seconds", b"60") in home.headers
    await home.transport.aclose()
