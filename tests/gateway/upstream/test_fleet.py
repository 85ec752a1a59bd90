import pytest
import structlog

from gateway import clock
from gateway.config.settings import Backend
from gateway.upstream.fleet import LACKS_SECONDS, Fleet, Home, Live, Ticket
from policies.affinity import BLOCK, Beginning
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


def test_a_model_that_is_gone_for_good_stays_gone():
    """Though a call that was under way fails in a lesser way afterwards."""
    gone = live()
    gone.failed(Failure(FailureKind.MODEL_GONE, "x", 410), "chat", 0.0, probe=False)
    gone.failed(Failure(FailureKind.CREDENTIALS, "x", 401), "chat", 1.0, probe=False)

    assert gone.snapshot(deployment(), 1e9).retired


def test_a_good_answer_ends_what_a_refusal_began():
    """A 403 or a 404 may have been one call's own; a model that is gone for good stays gone."""
    one, gone = live(), live()
    one.failed(Failure(FailureKind.FORBIDDEN, "x", 403), "chat", 0.0, probe=False)
    gone.failed(Failure(FailureKind.MODEL_GONE, "x", 410), "chat", 0.0, probe=False)
    for each in (one, gone):
        each.answered("chat")

    assert one.snapshot(deployment(), 1.0).off is None
    assert gone.snapshot(deployment(), 1.0).retired


async def test_word_that_a_backend_is_back_ends_its_absence_and_no_limit():
    """A proxy's `retry-after: 3600` during a restart of minutes would else hold for the hour."""
    fleet = Fleet()
    home = fleet.add(Backend("gpu-a", "vllm", "http://127.0.0.1:1/v1"))
    one = fleet.live(deployment())
    one.failed(Failure(FailureKind.UNAVAILABLE, "x", 503, 3600.0), "chat", 0.0, probe=False)
    one.failed(Failure(FailureKind.RATE_LIMITED, "x", 429, 20.0), "chat", 0.0, probe=False)
    assert one.snapshot(deployment(), 0.0).frozen_for == 3600.0
    fleet.back(home, 0.0)

    assert one.snapshot(deployment(), 0.0).frozen_for == 20.0
    await fleet.close()


def test_a_limit_freezes_for_as_long_as_it_says_or_as_the_dialect_does():
    """And a good answer ends only what nobody asked for."""
    told, untold = live(), live()
    told.failed(Failure(FailureKind.RATE_LIMITED, "x", 429, 30.0), "chat", 0.0, probe=False)
    untold.failed(Failure(FailureKind.RATE_LIMITED, "x", 429), "chat", 0.0, probe=False)
    assert [one.snapshot(deployment(), 0.0).frozen_for for one in (told, untold)] == [30.0, DIALECTS["vllm"].freeze]
    for one in (told, untold):
        one.answered("chat")

    assert [one.snapshot(deployment(), 1.0).frozen_for for one in (told, untold)] == [29.0, 0.0]


def test_whoever_says_when_it_is_back_is_left_alone_and_not_ejected():
    """For three hours, if it says so, as the hosted endpoint does of a model that is off."""
    one = live()
    for _ in range(3):
        one.failed(Failure(FailureKind.UNAVAILABLE, "x", 503, 10_800.0), "chat", 0.0, probe=False)
    seen = one.snapshot(deployment(), 3600.0)

    assert (seen.ejected, seen.frozen_for) == (False, 7200.0)


def test_late_first_tokens_widen_the_spread():
    """By which a stream is waited for longer."""
    one = live()
    before = one.snapshot(deployment(), 0.0).ttft_spread
    one.latency.observe_first(0.0, 20.0, tokens_ahead=0)

    assert one.snapshot(deployment(), 0.0).ttft_spread > before


def test_an_api_that_is_not_there_is_remembered():
    """For that API only."""
    one = live()
    one.failed(Failure(FailureKind.UNSUPPORTED, "x", 501), "embeddings", 0.0, probe=False)

    assert one.snapshot(deployment(), 0.0).lacks == {"embeddings"}
    assert one.snapshot(deployment(), LACKS_SECONDS).lacks == frozenset()
    one.answered("embeddings")
    assert one.snapshot(deployment(), 0.0).lacks == frozenset()


def test_an_api_that_just_served_is_not_taken_for_missing(monkeypatch):
    """Some calls are a 501 or a 404 by what is in them: one caller must not turn an API off for all others."""
    one = live()
    monkeypatch.setattr(clock, "monotonic", lambda: 0.0)
    one.answered("chat")
    one.failed(Failure(FailureKind.UNSUPPORTED, "x", 501), "chat", LACKS_SECONDS - 1, probe=False)
    one.failed(Failure(FailureKind.UNSUPPORTED, "x", 501), "embeddings", LACKS_SECONDS - 1, probe=False)
    assert one.snapshot(deployment(), LACKS_SECONDS - 1).lacks == {"embeddings"}
    one.failed(Failure(FailureKind.UNSUPPORTED, "x", 501), "chat", LACKS_SECONDS, probe=False)

    assert one.snapshot(deployment(), LACKS_SECONDS).lacks == {"chat", "embeddings"}


@pytest.mark.parametrize(("status", "words"), [(401, "refused by the upstream"), (410, "gone for good")])
def test_an_operators_fault_is_told_once_a_minute_and_not_by_every_call(status, words):
    """Where it is the only deployment, every call meets it."""
    one, kind = live(), FailureKind.CREDENTIALS if status == 401 else FailureKind.MODEL_GONE
    with structlog.testing.capture_logs() as told:
        for moment in range(61):
            one.failed(Failure(kind, "x", status), "chat", float(moment), probe=False)

    errors = [entry["event"] for entry in told if entry["log_level"] == "error"]
    assert len(errors) == 2
    assert words in errors[0]


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


def test_what_a_call_has_prefilled_is_known_to_the_next_one():
    """Once there is an answer; a call that failed before has left nothing."""
    one, begins = live(), Beginning((1, 2, 3), 4 * BLOCK)
    failed = Ticket(one, 100, 0.0, begins)
    failed.close()
    assert one.snapshot(deployment(), 1.0, begins).cached == 0.0

    Ticket(one, 100, 1.0, begins).prefilled(1.5)

    assert one.snapshot(deployment(), 2.0, begins).cached == 0.75
    assert one.snapshot(deployment(), 2.0).cached == 0.0


async def test_a_backend_that_comes_back_has_an_empty_cache():
    """It was restarted, for all that anybody knows."""
    fleet, begins = Fleet(), Beginning((1, 2), 2 * BLOCK)
    home = fleet.add(Backend("gpu-a", "vllm", "http://127.0.0.1:9/v1"))
    one = fleet.live(deployment("gpu-a"))
    one.prefilled.note(begins, 0.0)

    fleet.back(home, 1.0)

    assert one.snapshot(deployment(), 1.0, begins).cached == 0.0
    await fleet.close()


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
    await home.transport.aclose()


@pytest.mark.parametrize(
    ("kind", "header"), [("vllm", (b"authorization", b"Bearer s3")), ("anthropic", (b"x-api-key", b"s3"))]
)
async def test_a_credential_goes_where_its_kind_looks_for_it(kind, header):
    """Once, and nowhere else."""
    home = Home(Backend("a", kind, "http://127.0.0.1:1/v1", api_key="s3"))

    assert [pair for pair in home.headers if b"s3" in pair[1]] == [header]
    await home.transport.aclose()


async def test_what_a_probe_found_is_in_the_snapshots_of_every_model_there():
    """With the reason, and gone with it."""
    fleet = Fleet()
    home = fleet.add(Backend("gpu-a", "vllm", "http://127.0.0.1:1/v1"))
    home.condition.down = "refused"
    (seen,) = fleet.snapshots(model(deployment()), 0.0)
    home.condition.down = None
    (after,) = fleet.snapshots(model(deployment()), 0.0)

    assert (seen.down, after.down, after.absent) == ("refused", None, None)
    await fleet.close()


async def test_a_connection_that_cannot_be_made_is_passed_on():
    """Whoever found the address looks whether it still is one."""
    told = []
    one = live()
    one.condition.unreached = lambda: told.append(1)
    for kind in (FailureKind.CONNECT, FailureKind.RESET, FailureKind.SILENCE):
        one.failed(Failure(kind, "x"), "chat", 0.0, probe=False)

    assert told == [1]


async def test_a_backend_that_leaves_and_returns_is_as_it_was():
    """A replica that restarts at its old address."""
    fleet = Fleet()
    backend = Backend("gpu-a", "vllm", "http://127.0.0.1:1/v1")
    home = fleet.add(backend)
    known = fleet.live(deployment())
    fleet.leave("gpu-a", until=10.0)
    assert fleet.present == []
    assert fleet.add(backend) is home
    assert await fleet.sweep(20.0) == []
    assert (fleet.present, fleet.live(deployment())) == ([home], known)
    await fleet.close()


async def test_a_drained_backend_takes_its_replicas_along():
    """Also those that are found later; and all come back together."""
    fleet, now = Fleet(), clock.monotonic()
    names = ["gpu", "gpu@10.0.0.1:8000", "cpu"]

    def drained():
        of = model(*(deployment(name) for name in fleet.homes))
        return [one.deployment.backend for one in fleet.snapshots(of, now) if one.drained]

    for name in names[:1] + names[2:]:
        fleet.add(Backend(name, "vllm", "http://127.0.0.1:9/v1"))
    fleet.drain(frozenset({"gpu"}))
    fleet.add(Backend(names[1], "vllm", "http://127.0.0.1:9/v1"))

    assert drained() == names[:2]
    fleet.drain(frozenset({names[1]}))
    assert drained() == names[1:2]
    fleet.drain(frozenset())
    assert drained() == []
    await fleet.close()
