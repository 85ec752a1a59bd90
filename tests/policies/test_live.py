import pytest
from msgspec.structs import replace

from policies.affinity import BLOCK, Beginning
from policies.candidates import EJECTED
from policies.dialects import DIALECTS
from policies.failures import OFF_SECONDS, Failure, FailureKind
from policies.live import LACKS_SECONDS, Elsewhere, Live, Ticket, Withheld
from policies.probing import Load
from tests.policies.builders import deployment


def live(**more):
    return Live("gpu-a/m", DIALECTS["vllm"], **more)


def test_three_failures_eject_and_an_answer_brings_back():
    """As the snapshot shows."""
    one = live()
    for _ in range(3):
        one.failed(Failure(FailureKind.RESET, "x"), "chat", 0.0, probe=False)
    assert one.snapshot(deployment(), 1.0).ejected
    one.answered("chat", 1.0)
    assert not one.snapshot(deployment(), 1.0).ejected


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
        each.answered("chat", 1.0)

    assert one.snapshot(deployment(), 1.0).off is None
    assert gone.snapshot(deployment(), 1.0).retired


def test_a_limit_freezes_for_as_long_as_it_says_or_as_the_dialect_does():
    """And a good answer ends only what nobody asked for."""
    told, untold = live(), live()
    told.failed(Failure(FailureKind.RATE_LIMITED, "x", 429, 30.0), "chat", 0.0, probe=False)
    untold.failed(Failure(FailureKind.RATE_LIMITED, "x", 429), "chat", 0.0, probe=False)
    assert [one.snapshot(deployment(), 0.0).frozen_for for one in (told, untold)] == [30.0, DIALECTS["vllm"].freeze]
    for one in (told, untold):
        one.answered("chat", 1.0)

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
    before = one.snapshot(deployment(), 0.0).pace.spread
    one.latency.observe_first(0.0, 20.0, ahead=0)

    assert one.snapshot(deployment(), 0.0).pace.spread > before


def test_an_api_that_is_not_there_is_remembered():
    """For that API only."""
    one = live()
    one.failed(Failure(FailureKind.UNSUPPORTED, "x", 501), "embeddings", 0.0, probe=False)

    assert one.snapshot(deployment(), 0.0).lacks == {"embeddings"}
    assert one.snapshot(deployment(), LACKS_SECONDS).lacks == frozenset()
    one.answered("embeddings", 0.0)
    assert one.snapshot(deployment(), 0.0).lacks == frozenset()


def test_an_api_that_just_served_is_not_taken_for_missing():
    """Some calls are a 501 or a 404 by what is in them: one caller must not turn an API off for all others."""
    one = live()
    one.answered("chat", 0.0)
    one.failed(Failure(FailureKind.UNSUPPORTED, "x", 501), "chat", LACKS_SECONDS - 1, probe=False)
    one.failed(Failure(FailureKind.UNSUPPORTED, "x", 501), "embeddings", LACKS_SECONDS - 1, probe=False)
    assert one.snapshot(deployment(), LACKS_SECONDS - 1).lacks == {"embeddings"}
    one.failed(Failure(FailureKind.UNSUPPORTED, "x", 501), "chat", LACKS_SECONDS, probe=False)

    assert one.snapshot(deployment(), LACKS_SECONDS).lacks == {"chat", "embeddings"}


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


def test_what_others_say_is_added_to_what_is_own():
    """And what the engine counts beyond all of them is somebody's who calls past the gateways."""
    one = live()
    Ticket(one, 100, 0.0)
    one.others = Elsewhere(in_flight=3, queued_tokens=5_000)
    seen = one.snapshot(deployment(), 0.0)
    assert (seen.in_flight, seen.queued_tokens) == (4, 5_100)
    assert Ticket(one, 10, 0.0).ahead == 5_110

    for _ in range(2):
        one.condition.measured(Load(running=9, waiting=2), ours=5)
    assert one.snapshot(deployment(), 0.0).in_flight == 5 + 6
    one.condition.measured(Load(running=2, waiting=None), ours=5)
    assert one.snapshot(deployment(), 0.0).in_flight == 5


def test_whoever_waits_is_told_when_a_call_ends():
    """Once for each call."""
    told = []
    one = live(freed=lambda name: told.append((name, one.in_flight)))
    tickets = [Ticket(one, 1, 0.0) for _ in range(2)]
    for ticket in tickets * 2:
        ticket.close()

    assert told == [(one.name, 1), (one.name, 0)]


def test_a_ticket_knows_how_many_calls_it_shared_its_engine_with():
    """The mean of its beginning and its end, itself left out; by which its pace is judged."""
    one = live()
    for _ in range(4):
        Ticket(one, 1, 0.0)
    ticket = Ticket(one, 1, 0.0)
    for _ in range(4):
        Ticket(one, 1, 0.0)
    ticket.prefilled(1.0)
    before = ticket.beside
    ticket.close()

    assert (before, ticket.beside) == (8, 8)


def test_a_beginning_is_noted_for_the_others_too():
    """By the deployment's id."""
    one, begins = live(), Beginning((1, 2), 3 * BLOCK)
    Ticket(one, 100, 0.0, begins).prefilled(1.0)

    assert list(one.fresh) == [("gpu-a/m", (1, 2))]


def test_first_tokens_that_are_far_too_late_open_the_breaker():
    """A replica that crawls is worse than one that fails; what is usually next to nothing is no measure."""
    one, quick = live(), live()
    for call in range(100):
        one.first_token(call * 0.01, 0.2, 0)
        quick.first_token(call * 0.01, 0.001, 0)
    for _ in range(10):
        one.first_token(1.0, 10.0, 0)
        quick.first_token(1.0, 0.1, 0)

    assert one.snapshot(deployment(), 1.0).ejected
    assert not quick.snapshot(deployment(), 1.0).ejected


def test_a_limit_is_only_asked_of_those_that_have_one():
    """The view of all others costs nothing for it."""
    one, limited = live(), live(per_minute=40)
    assert one.snapshot(deployment(), 0.0).allowance_wait == 0.0
    limited.allowance.refused_alone(10_000_000, 0.0)
    assert limited.snapshot(replace(deployment(), kind="nvidia"), 0.0).allowance_wait == pytest.approx(10.0, abs=0.1)


def test_a_deployment_that_is_called_in_another_way_is_asked_again_whatever_it_said():
    """Its model may be gone for one account and there for another; what is known of its speed and load stays."""
    one = live()
    ticket = Ticket(one, 10, 0.0)
    one.failed(Failure(FailureKind.MODEL_GONE, "gone", 410), "chat", 0.0, probe=False)
    one.failed(Failure(FailureKind.RATE_LIMITED, "x", 429, 60.0), "chat", 0.0, probe=False)
    for _ in range(3):
        one.failed(Failure(FailureKind.RESET, "x"), "chat", 0.0, probe=False)
    one.recalled(1.0)
    after = one.snapshot(deployment(), 1.0)

    assert (after.off, after.retired, after.ejected, after.frozen_for, after.in_flight) == (None, False, False, 0.0, 1)
    assert Ticket(one, 10, 1.0).probe
    ticket.close()


def test_what_keeps_calls_away_is_told_with_its_seconds():
    """As calls have found it, whatever its backend's probes say; what is over is not told."""
    one, gone, busy, ill = live(), live(), live(), live()
    one.failed(Failure(FailureKind.CREDENTIALS, "the upstream answered 401", 401), "chat", 0.0, probe=False)
    gone.failed(Failure(FailureKind.MODEL_GONE, "the upstream answered 410", 410), "chat", 0.0, probe=False)
    busy.failed(Failure(FailureKind.RATE_LIMITED, "x", 429, retry_after=9.0), "chat", 0.0, probe=False)
    for _ in range(3):
        ill.failed(Failure(FailureKind.RESET, "x"), "chat", 0.0, probe=False)

    assert live().withheld(0.0) is None
    assert one.withheld(1.0) == Withheld("off: the upstream answered 401", OFF_SECONDS - 1.0)
    assert one.withheld(OFF_SECONDS) is None
    assert gone.withheld(1e9) == Withheld("off: the upstream answered 410", None)
    assert busy.withheld(1.0) == Withheld("asked to be left alone", 8.0)
    assert ill.withheld(1.0) == Withheld(EJECTED, None)
