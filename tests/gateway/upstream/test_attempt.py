import pytest

from gateway.config.settings import Backend
from gateway.upstream.attempt import Attempt, AttemptFailed
from gateway.upstream.fleet import Fleet
from policies.failures import FailureKind
from tests.gateway.harness import eventually
from tests.parts.scripted import Bytes, Hang, Status
from tests.policies.builders import candidate, deployment


@pytest.fixture
async def fleet(first):
    fleet = Fleet()
    fleet.add(Backend("gpu-a", "vllm", f"{first.url}/v1"))
    yield fleet
    await fleet.close()


def attempt_on(fleet):
    chosen = candidate(deployment())
    return Attempt(fleet.homes["gpu-a"], fleet.live(chosen.deployment), chosen, 100)


async def test_an_answer_is_read_to_its_end(fleet, first):
    """And the load is held exactly as long."""
    first.enqueue([Status(200), Bytes(b"ab"), Bytes(b"cd")])
    attempt = attempt_on(fleet)
    await attempt.open("chat", b"{}", {})
    parts = []
    while (part := await attempt.read()) is not None:
        parts.append(part)

    assert b"".join(parts) == b"abcd"
    assert (attempt.live.in_flight, attempt.live.queued_tokens) == (1, 100)
    attempt.close()
    assert (attempt.live.in_flight, attempt.live.queued_tokens) == (0, 0)
    assert first.requests[0].path == "/v1/chat/completions"


async def test_closing_before_the_end_closes_the_connection_at_once(fleet, first):
    """The engine must stop."""
    first.enqueue([Status(200), Bytes(b"ab"), Hang()])
    attempt = attempt_on(fleet)
    await attempt.open("chat", b"{}", {})
    await attempt.read()
    attempt.close()

    assert await eventually(lambda: not first.connections, within=1.0)


async def test_a_refusal_carries_the_upstreams_own_answer(fleet, first):
    """Whole, with its type."""
    first.enqueue([Status(400, {"content-type": "text/x"}), Bytes(b"no")])
    attempt = attempt_on(fleet)
    with pytest.raises(AttemptFailed) as failed:
        await attempt.open("chat", b"{}", {})
    attempt.close()

    assert failed.value.failure.kind is FailureKind.CALLER
    passed = failed.value.passed
    assert (passed.status, passed.content_type, passed.body) == (400, "text/x", b"no")


async def test_the_first_content_ends_the_wait_in_the_queue_and_teaches(fleet):
    """The prompt is prefilled by then."""
    attempt = attempt_on(fleet)
    before = attempt.live.latency.predict(attempt.sent_at)[0]
    attempt.first_content()
    attempt.close()

    assert attempt.live.queued_tokens == 0
    assert attempt.live.latency.predict(attempt.first_at)[0] < before
