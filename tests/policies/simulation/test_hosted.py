import statistics
from random import Random

import pytest

from policies.simulation.calls import Call
from policies.simulation.hosted import Endpoint, Hosted

FREE = Endpoint(errors=0.0, per_minute=None)


def call(number, prompt=1000, output=100):
    return Call(number, 0.0, "t", "s", (), prompt, output)


def drained(engine, until=float("inf")):
    events = []
    while engine.next_at <= until and engine.next_at < float("inf"):
        events += engine.advance(engine.next_at)
    return events


def test_a_call_has_a_first_token_and_an_end():
    """Whoever drives an engine learns TTFT and time a token from these two alone."""
    engine = Hosted(FREE, Random(1))
    assert engine.arrive(call(7), 5.0) is None
    assert (engine.running, engine.waiting, engine.kv_use) == (1, 0, 0.0)
    first, done = drained(engine)
    assert (first.kind, first.number, first.tokens) == ("first", 7, 1)
    assert (done.kind, done.tokens) == ("done", 100)
    assert 5.0 < first.at < done.at
    assert engine.running == 0


def test_an_answer_of_one_token_ends_as_it_begins():
    """Two events of one moment keep their order, and do not upset the heap."""
    engine = Hosted(FREE, Random(1))
    engine.arrive(call(1, output=1), 0.0)
    first, done = drained(engine)
    assert (first.kind, done.kind) == ("first", "done")
    assert first.at == done.at


def test_it_is_as_fast_as_it_says():
    """The medians of what was drawn are those of the endpoint."""
    engine = Hosted(FREE, Random(2))
    for number in range(2000):
        engine.arrive(call(number), 0.0)
    events = drained(engine)
    firsts = {event.number: event.at for event in events if event.kind == "first"}
    paces = [(event.at - firsts[event.number]) / 99 for event in events if event.kind == "done"]
    assert statistics.median(firsts.values()) == pytest.approx(FREE.first(call(0)), rel=0.05)
    assert statistics.median(paces) == pytest.approx(FREE.token_time[0], rel=0.05)


def test_a_window_takes_forty_and_counts_the_refused():
    """NVCF's limiter counts a refused call: whoever goes on asking is refused until the window ends."""
    engine = Hosted(Endpoint(), Random(1))
    answers = [engine.arrive(call(number), number * 0.5) for number in range(120)]
    assert answers == [None] * 40 + [429] * 80
    assert engine.refused == 80
    assert engine.arrive(call(200), 60.0) is None


def test_a_window_begins_with_the_first_call_after_the_last_one():
    """Windows are anchored at calls, not at the clock: 40 calls at its end and 40 after it all pass."""
    engine = Hosted(Endpoint(), Random(1))
    assert engine.arrive(call(0), 100.0) is None
    assert all(engine.arrive(call(number), 159.0) is None for number in range(1, 40))
    assert engine.arrive(call(40), 159.5) == 429
    assert all(engine.arrive(call(number), 160.0) is None for number in range(41, 81))


def test_luck_belongs_to_the_call():
    """Policies are compared by the same luck: who else is there, and when, must not change it."""
    alone, busy = Hosted(Endpoint(), Random(3)), Hosted(Endpoint(), Random(3))
    alone.arrive(call(5), 0.0)
    for number in (9, 2, 5):
        busy.arrive(call(number), 0.0)
    mine = [(event.at, event.kind) for event in drained(busy) if event.number == 5]
    assert mine == [(event.at, event.kind) for event in drained(alone)]


def test_another_try_has_other_luck():
    """A call that failed once would fail for ever otherwise."""
    engine = Hosted(Endpoint(errors=0.5, per_minute=None), Random(1))
    kinds = set()
    for _ in range(20):
        engine.arrive(call(1), 0.0)
        kinds.add(drained(engine)[0].kind)
    assert kinds == {"first", "failed"}


def test_some_calls_fail():
    """The share of failures is the endpoint's, and none of them has a token."""
    engine = Hosted(Endpoint(errors=0.1, per_minute=None), Random(4))
    for number in range(2000):
        engine.arrive(call(number), 0.0)
    failed = [event for event in drained(engine) if event.kind == "failed"]
    assert 150 < len(failed) < 250
    assert {event.tokens for event in failed} == {0}


def test_a_cancelled_call_is_heard_of_no_more():
    """Neither before its first token nor after it, and nobody wakes for it."""
    engine = Hosted(FREE, Random(1))
    engine.arrive(call(1), 0.0)
    engine.arrive(call(2), 0.0)
    engine.cancel(1, 0.1)
    assert {event.number for event in drained(engine)} == {2}
    engine.arrive(call(3), 100.0)
    engine.advance(engine.next_at)
    engine.cancel(3, engine.next_at - 0.01)
    engine.cancel(99, engine.next_at)
    assert engine.next_at == float("inf")


def test_a_call_that_comes_again_is_not_ended_by_its_first_try():
    """A caller cancels and tries again: the events of the old try are void."""
    engine = Hosted(FREE, Random(1))
    engine.arrive(call(1), 0.0)
    engine.cancel(1, 0.1)
    engine.arrive(call(1), 50.0)
    assert [event.kind for event in drained(engine)] == ["first", "done"]


def test_a_slow_endpoint_takes_longer():
    """At half its pace all but the network takes twice as long."""
    ends = []
    for speed in (1.0, 0.5):
        engine = Hosted(FREE, Random(1))
        engine.slow(speed, 0.0)
        engine.arrive(call(1), 0.0)
        ends.append([event.at - FREE.network for event in drained(engine)])
    usual, slow = ends
    assert slow == pytest.approx([2 * at for at in usual])


def test_a_stall_puts_everything_off():
    """Nothing comes while it is stalled, and a call that comes meanwhile waits for its end; two stalls do not add."""
    engine = Hosted(FREE, Random(1))
    engine.arrive(call(1), 0.0)
    was = engine.next_at
    engine.stall(30.0, 0.0)
    engine.stall(20.0, 5.0)
    engine.arrive(call(2), 10.0)
    assert engine.next_at >= 30.0
    assert drained(engine)[0].at >= min(was + 30.0, 30.0)


def test_a_crash_fails_all_and_forgets():
    """Every open call fails at once, those that streamed with a token, and none is heard of again."""
    engine = Hosted(FREE, Random(1))
    engine.arrive(call(1), 0.0)
    engine.advance(engine.next_at)
    engine.arrive(call(2), engine.next_at - 0.01)
    failed = engine.crash(engine.next_at - 0.005)
    assert {(event.number, event.kind, event.tokens) for event in failed} == {(1, "failed", 1), (2, "failed", 0)}
    assert (engine.next_at, engine.running) == (float("inf"), 0)
    engine.cold()
