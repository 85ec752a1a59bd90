import asyncio

import pytest

from gateway.config.settings import Backend
from gateway.upstream.attempt import Attempt, AttemptFailed
from gateway.upstream.fleet import Fleet
from policies.failures import Failure, FailureKind
from policies.live import Ticket
from policies.probing import Load
from tests.gateway.harness import eventually
from tests.parts.scripted import Bytes, Hang, Raw, Status
from tests.policies.builders import candidate, deployment


@pytest.fixture
async def fleet(first):
    fleet = Fleet()
    fleet.add(Backend("gpu-a", "vllm", f"{first.url}/v1"))
    yield fleet
    await fleet.close()


def attempt_on(fleet, choices=1):
    chosen = candidate(deployment())
    return Attempt(fleet.homes["gpu-a"], Ticket(fleet.live(chosen.deployment), 100, 0.0), chosen, choices)


async def test_an_answer_is_read_to_its_end(fleet, first):
    """And the load is held exactly as long."""
    first.enqueue([Status(200), Bytes(b"ab"), Bytes(b"cd")])
    attempt = attempt_on(fleet)
    await attempt.open("chat", b"{}", [], 60.0)
    parts = []
    while (part := await attempt.read()) is not None:
        parts.append(part)

    assert b"".join(parts) == b"abcd"
    assert (attempt.ticket.live.in_flight, attempt.ticket.live.queued_tokens) == (1, 100)
    attempt.close()
    assert (attempt.ticket.live.in_flight, attempt.ticket.live.queued_tokens) == (0, 0)
    assert first.requests[0].path == "/v1/chat/completions"


async def test_every_choice_of_a_call_is_one_that_the_engine_counts(fleet, first):
    """Else seven of eight would seem to be somebody's who calls past the gateways."""
    first.enqueue([Status(200), Bytes(b"ab")])
    home, attempt = fleet.homes["gpu-a"], attempt_on(fleet, choices=8)
    assert fleet.calls(home) == 1
    await attempt.open("chat", b"{}", [], 60.0)
    for _ in range(2):
        fleet.measured(home, Load(8.0, 0.0), fleet.calls(home))

    assert (fleet.calls(home), fleet.more(), home.condition.foreign) == (8, {"gpu-a/m": 7}, 0)
    attempt.close()
    attempt.close()
    assert (fleet.calls(home), fleet.more()) == (0, {})


async def test_closing_before_the_end_closes_the_connection_at_once(fleet, first):
    """The engine must stop."""
    first.enqueue([Status(200), Bytes(b"ab"), Hang()])
    attempt = attempt_on(fleet)
    await attempt.open("chat", b"{}", [], 60.0)
    await attempt.read()
    attempt.close()

    assert await eventually(lambda: not first.connections, within=1.0)


async def test_a_refusal_carries_the_upstreams_own_answer(fleet, first):
    """Whole, with its type."""
    first.enqueue([Status(400, {"content-type": "text/x"}), Bytes(b"no")])
    attempt = attempt_on(fleet)
    with pytest.raises(AttemptFailed) as failed:
        await attempt.open("chat", b"{}", [], 60.0)
    attempt.close()

    assert failed.value.failure.kind is FailureKind.CALLER
    passed = failed.value.passed
    assert (passed.status, passed.content_type, passed.body) == (400, "text/x", b"no")


async def test_the_first_content_ends_the_wait_in_the_queue_and_teaches(fleet):
    """The prompt is prefilled by then."""
    attempt = attempt_on(fleet)
    before = attempt.ticket.live.latency.pace(attempt.sent_at).fixed
    attempt.first_content()
    attempt.close()

    assert attempt.ticket.live.queued_tokens == 0
    assert attempt.ticket.live.latency.pace(attempt.first_at).fixed < before


async def test_a_probe_that_begins_to_answer_lets_the_next_call_follow(fleet):
    """A long stream as the probe would else keep a deployment that is well again to itself."""
    live = fleet.live(deployment())
    for _ in range(3):
        live.failed(Failure(FailureKind.RESET, "x"), "chat", -100.0, probe=False)
    attempt = attempt_on(fleet)
    assert live.snapshot(deployment(), 0.0).ejected
    attempt.first_content()

    assert not live.snapshot(deployment(), 0.0).ejected
    attempt.close()


async def test_no_first_content_teaches_how_long_it_takes_at_least(fleet):
    """Else a deployment that needs longer than it is given would never be given more."""
    attempt = attempt_on(fleet)
    latency = attempt.ticket.live.latency
    before = latency.pace(attempt.sent_at).fixed, latency.pace(attempt.sent_at).spread
    attempt.sent_at -= 10.0
    attempt.unheard()
    attempt.unheard()  # the first of its kind may be an outlier
    attempt.close()
    now = attempt.sent_at + 10.0

    assert latency.pace(now).fixed > 2 * before[0]
    assert latency.pace(now).spread > before[1]


@pytest.mark.parametrize(("patience", "told"), [(0.2, "1"), (59.2, "60"), (1000.0, "300")])
async def test_an_upstream_is_told_how_long_it_is_waited_for_where_it_wants_to_know(first, patience, told):
    """The hosted endpoint gives up when its caller does, after 300 s at most; no other kind is told."""
    fleet = Fleet()
    for name, kind in (("gpu-a", "nvidia"), ("gpu-b", "vllm")):
        fleet.add(Backend(name, kind, f"{first.url}/v1"))
        chosen = candidate(deployment(name, kind=kind))
        attempt = Attempt(fleet.homes[name], Ticket(fleet.live(chosen.deployment), 100, 0.0), chosen)
        await attempt.open("chat", b"{}", [], patience)
        attempt.close()
    await fleet.close()

    assert [dict(request.headers).get("nvcf-poll-seconds") for request in first.requests] == [told, None]


async def test_a_date_is_read_as_a_wait(fleet, first):
    """By the answer's own clock."""
    told = {"date": "Wed, 21 Oct 2026 07:28:00 GMT", "retry-after": "Wed, 21 Oct 2026 07:28:09 GMT"}
    first.enqueue([Status(429, told)])
    attempt = attempt_on(fleet)
    with pytest.raises(AttemptFailed) as failed:
        await attempt.open("chat", b"{}", [], 60.0)
    attempt.close()

    assert (failed.value.failure.kind, failed.value.failure.retry_after) == (FailureKind.RATE_LIMITED, 9.0)


async def test_an_answer_that_is_done_leaves_its_connection_for_the_next_call(fleet, first):
    """Its last bytes are read on the side; an upstream that lingers is not waited for."""
    for script in ([Status(200), Bytes(b"ab")], [Status(200), Bytes(b"ab"), Hang()]):
        first.enqueue(script)
        attempt = attempt_on(fleet)
        await attempt.open("chat", b"{}", [], 60.0)
        await attempt.read()
        attempt.done = True
        attempt.close()
        await asyncio.sleep(0.02)
        assert len(first.connections) == 1

    assert await eventually(lambda: not first.connections, within=2.0)


async def test_a_plain_answer_teaches_how_much_longer_all_of_it_took(fleet):
    """It does not tell when it began; an answer that is quicker than the prior's first token teaches too."""
    attempt = attempt_on(fleet)
    live = attempt.ticket.live
    before = live.latency.pace(attempt.sent_at)
    attempt.sent_at -= 10.2
    attempt.finished(101)
    attempt.close()
    pace = live.latency.pace(attempt.sent_at + 10.2)

    assert before.fixed < pace.fixed
    assert before.token < pace.token
    attempt.sent_at += 10.19
    for _ in range(20):
        attempt.finished(101)
    quick = live.latency.pace(attempt.sent_at + 5.0)
    assert quick.fixed < before.fixed
    assert quick.token < before.token


async def test_a_content_type_that_no_header_can_carry_is_replaced(fleet, first):
    """The answer is the caller's all the same."""
    first.enqueue([Raw("HTTP/1.1 200 OK\r\ncontent-type: text/\u201c\r\ncontent-length: 2\r\n\r\n{}".encode())])
    attempt = attempt_on(fleet)
    await attempt.open("chat", b"{}", [], 60.0)
    attempt.close()

    assert attempt.content_type == "application/octet-stream"
    assert attempt.written


@pytest.mark.parametrize(("secret", "hidden"), [("nvapi-0123456789abcdef", True), ("EMPTY", False)])
async def test_our_own_credential_is_in_no_answer(first, secret, hidden):
    """Services repeat a key that they refuse; whoever reads the answer must not learn it. `EMPTY` is no secret."""
    fleet = Fleet()
    fleet.add(Backend("gpu-a", "vllm", f"{first.url}/v1", secret))
    said, stars = f"Incorrect API key: {secret}, {secret}".encode(), b"*" * len(secret)
    first.enqueue([Status(200), Bytes(said)], [Status(400), Bytes(said[:30]), Bytes(said[30:])])

    whole, refused = attempt_on(fleet), attempt_on(fleet)
    await whole.open("chat", b"{}", [], 60.0)
    answer = await whole.read()
    with pytest.raises(AttemptFailed) as failed:
        await refused.open("chat", b"{}", [], 60.0)

    expected = said.replace(secret.encode(), stars) if hidden else said
    assert answer == failed.value.passed.body == expected
    whole.close()
    refused.close()
    await fleet.close()
