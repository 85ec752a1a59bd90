import math
from random import Random

import pytest
from msgspec.structs import replace

from policies.simulation.calls import BLOCK, Call
from policies.simulation.hardware import H100_X4, H200_X8, Hardware
from policies.simulation.replica import Cache, Replica
from policies.simulation.workloads import generate

PLAIN = Hardware(
    prefill_rate=1000.0, attention=0.0, step=0.01, per_sequence=0.001, per_context=1e-6, room=40 * BLOCK, chunk=1000
)
"""Round figures: a prompt of 1,000 tokens takes a second."""


def call(number, prompt=1000, output=10, blocks=None, bound=None):
    own = tuple(range(1000 * number, 1000 * number - (-prompt // BLOCK)))
    return Call(number, 0.0, "t", "s", own if blocks is None else blocks, prompt, output, bound=bound)


def drained(replica, until=math.inf):
    events = []
    while replica.next_at < math.inf and replica.next_at <= until:
        events += replica.advance(replica.next_at)
    return events


def at(events, number, kind):
    (found,) = (event.at for event in events if (event.number, event.kind) == (number, kind))
    return found


def played(replica, calls):
    """Serve calls as they come; return all events, and check that all is given back."""
    events = []
    for one in calls:
        events += drained(replica, until=one.at)
        assert replica.arrive(one, one.at) is None
    events += drained(replica)
    assert (replica.running, replica.waiting, replica.kv_use) == (0, 0, 0.0)
    assert (replica._cache.private, replica._context, replica._decoding) == (0, 0, 0)
    return events


class OneByOne(Replica):
    """The same replica, each of its steps planned and done alone."""

    def _begin(self, now):
        super()._begin(now)
        if self._run > 1:
            self._run = 1
            self.next_at = now + self._seconds(1)


def test_a_call_alone_takes_what_its_steps_take():
    """Prefill, then a step a token, each a little longer than the last: by hand."""
    events = played(Replica(PLAIN), [call(1, prompt=1000, output=3)])
    assert at(events, 1, "first") == pytest.approx(1.0)
    steps = 2 * (0.01 + 0.001) + (1000 + 1001) * 1e-6
    assert at(events, 1, "done") == pytest.approx(1.0 + steps)
    assert [(event.kind, event.tokens) for event in events] == [("first", 1), ("done", 3)]


def test_an_answer_of_one_token_ends_with_its_prefill():
    """Its first token is its last."""
    events = played(Replica(PLAIN), [call(1, output=1), call(2, output=50, bound=1)])
    assert [(event.number, event.kind) for event in events] == [(1, "first"), (1, "done"), (2, "first"), (2, "done")]


def test_a_small_prompt_still_takes_a_step():
    """The weights are read for one token as for a hundred."""
    events = played(Replica(PLAIN), [call(1, prompt=1, output=1)])
    assert at(events, 1, "first") == pytest.approx(PLAIN.step)


@pytest.mark.parametrize("hardware", [H200_X8, H100_X4])
@pytest.mark.parametrize("name", ["conversation", "agent", "code", "reasoning"])
def test_steps_done_at_once_are_those_done_one_by_one(name, hardware):
    """The whole speed rests on it: sums of steps in closed form must be the very steps, with preemption and all."""
    calls = generate(name, Random(7), 250, 2.5)
    events, again = (played(make(hardware), calls) for make in (Replica, OneByOne))
    key = [(event.number, event.kind, event.tokens, event.cached) for event in events]
    assert key == [(event.number, event.kind, event.tokens, event.cached) for event in again]
    assert [event.at for event in events] == pytest.approx([event.at for event in again])
    assert len(events) == 500


def test_prompts_are_prefilled_in_order_of_arrival():
    """First come, first served: a small prompt behind a large one waits for it, which is what routing is about."""
    replica = Replica(PLAIN)
    events = played(replica, [call(1, prompt=5000), call(2, prompt=100)])
    assert at(events, 2, "first") >= at(events, 1, "first")


def test_what_is_left_of_a_step_is_the_next_ones():
    """A step takes `chunk` tokens, whoever's they are: two prompts of 500 are prefilled in one."""
    replica = Replica(PLAIN)
    replica.arrive(call(1, prompt=1500, output=1), 0.0)
    replica.arrive(call(2, prompt=500, output=1), 0.0)
    events = drained(replica)
    assert at(events, 1, "first") == at(events, 2, "first") == pytest.approx(2.0)


def test_those_that_decode_go_on_through_a_prefill_and_are_slowed_by_it():
    """The delay that a prompt imposes on others: a token for each in a step that takes the prefill's time."""
    replica = Replica(PLAIN)
    replica.arrive(call(1, prompt=100, output=1000), 0.0)
    drained(replica, until=0.1)
    alone = Replica(PLAIN)
    alone.arrive(call(1, prompt=100, output=1000), 0.0)
    replica.arrive(call(2, prompt=3000, output=1), 1.0)
    late, usual = at(drained(replica), 1, "done"), at(drained(alone), 1, "done")
    assert late - usual == pytest.approx(3.0, abs=0.1)


def test_a_call_that_comes_during_a_step_begins_with_the_next():
    """A step cannot be stopped; and those planned after it give way to the prompt at once."""
    replica = Replica(PLAIN)
    replica.arrive(call(1, prompt=100, output=10_000), 0.0)
    drained(replica, until=0.5)
    assert replica.next_at > 10.0
    replica.arrive(call(2, prompt=100, output=1), 0.5)
    assert 0.5 <= replica.next_at < 0.5 + 0.012
    assert at(drained(replica, until=2.0), 2, "first") == pytest.approx(0.6, abs=0.02)


def test_a_beginning_that_is_cached_is_not_prefilled_again():
    """The next turn of a session: its first tokens come after the rest alone, and it says how much was cached."""
    replica = Replica(PLAIN)
    begins = tuple(range(100, 104))
    first = played(replica, [call(1, prompt=4 * BLOCK, blocks=begins)])
    assert first[0].cached == 0
    later = call(2, prompt=5 * BLOCK, blocks=(*begins, 200))
    assert replica.cached(later) == 4 * BLOCK
    replica.arrive(later, 100.0)
    events = drained(replica)
    assert {event.cached for event in events} == {4 * BLOCK}
    assert at(events, 2, "first") == pytest.approx(100.0 + BLOCK / 1000)


def test_the_last_token_of_a_prompt_is_always_computed():
    """A prompt that is cached whole has its last block computed again: there would be nothing to sample from."""
    replica = Replica(PLAIN)
    same = tuple(range(3))
    played(replica, [call(1, prompt=3 * BLOCK, blocks=same)])
    assert replica.cached(call(2, prompt=3 * BLOCK, blocks=same)) == 2 * BLOCK
    assert played(replica, [call(2, prompt=3 * BLOCK, blocks=same)])[0].cached == 2 * BLOCK


def test_a_partial_block_is_not_shared():
    """What follows in it differs from call to call."""
    replica = Replica(PLAIN)
    played(replica, [call(1, prompt=BLOCK + 10, blocks=(1, 2))])
    assert replica.cached(call(2, prompt=BLOCK + 20, blocks=(1, 2))) == BLOCK


def test_running_calls_share_what_they_have_in_common():
    """Two calls with the same beginning hold it once."""
    replica = Replica(PLAIN)
    begins = tuple(range(10))
    replica.arrive(call(1, prompt=10 * BLOCK, output=5000, blocks=begins), 0.0)
    drained(replica, until=6.0)
    alone = replica.kv_use
    replica.arrive(call(2, prompt=11 * BLOCK, output=5000, blocks=(*begins, 99)), 6.0)
    drained(replica, until=7.0)
    assert replica.running == 2
    assert replica.kv_use - alone < 3 * BLOCK / PLAIN.room


def test_the_longest_unused_goes_first_and_of_a_prompt_its_end():
    """LRU, as engines have it: a beginning outlives its end, and what was used again stays."""
    cache = Cache(4 * BLOCK)
    cache.use((1, 2))
    cache.release((1, 2))
    cache.use((3, 4))
    cache.release((3, 4))
    cache.use((1, 5))
    cache.evict()
    assert [cache.hit((block,)) for block in (1, 2, 3, 4, 5)] == [1, 0, 1, 1, 1]
    cache.use((6,))
    cache.evict()
    assert [cache.hit((block,)) for block in (1, 3, 4, 5, 6)] == [1, 1, 0, 1, 1]


def test_old_blocks_make_way_for_running_calls():
    """Cached blocks that nobody holds are no room that is used."""
    replica = Replica(PLAIN)
    events = played(replica, [call(number, prompt=19 * BLOCK) for number in range(5)])
    assert sum(event.kind == "done" for event in events) == 5
    assert replica.cached(call(4, prompt=19 * BLOCK)) > 0
    assert replica.cached(call(0, prompt=19 * BLOCK)) == 0


def test_a_call_waits_until_its_prompt_fits():
    """KV room is what 4xH100 lacks: whoever does not fit waits, and all behind it."""
    replica = Replica(PLAIN)
    replica.arrive(call(1, prompt=30 * BLOCK, output=100), 0.0)
    replica.arrive(call(2, prompt=20 * BLOCK, output=1), 0.1)
    replica.arrive(call(3, prompt=BLOCK, output=1), 0.2)
    drained(replica, until=15.5)
    assert (replica.running, replica.waiting) == (1, 2)
    assert replica.kv_use >= 0.75
    events = drained(replica)
    assert at(events, 1, "done") < at(events, 2, "first") <= at(events, 3, "first")


def test_a_batch_has_no_more_calls_than_its_hardware_takes():
    """VLLM's max_num_seqs."""
    small = Hardware(1000.0, 0.0, 0.01, 0.001, 0.0, room=100_000, sequences=2, chunk=1000)
    replica = Replica(small)
    for number in range(3):
        replica.arrive(call(number, prompt=100, output=100), 0.0)
    drained(replica, until=0.5)
    assert (replica.running, replica.waiting) == (2, 1)
    assert len(drained(replica)) == 3 + 1


def test_answers_that_outgrow_the_room_send_the_last_one_back():
    """VLLM's preemption: the call let in last is computed again, has one first token, and all its tokens at the end."""
    replica = Replica(PLAIN)
    calls = [call(number, prompt=BLOCK * 9, output=3000) for number in range(4)]
    for one in calls:
        replica.arrive(one, 0.0)
    waited = False
    events = []
    while replica.next_at < math.inf:
        events += replica.advance(replica.next_at)
        waited |= replica.waiting > 0 and len([event for event in events if event.kind == "first"]) == 4
        assert replica.kv_use <= 1.0
    assert waited
    assert sorted(event.kind for event in events) == ["done"] * 4 + ["first"] * 4
    assert {event.tokens for event in events if event.kind == "done"} == {3000}
    assert at(events, 0, "done") < at(events, 3, "done")


def test_a_call_that_could_never_fit_is_refused():
    """It would wait for ever, and all behind it."""
    replica = Replica(PLAIN)
    assert replica.arrive(call(1, prompt=PLAIN.room, output=1), 0.0) == 400
    assert replica.next_at == math.inf


def test_a_cancelled_call_gives_its_room_back():
    """Whether it waits, is prefilled or decodes; and no event of it follows."""
    replica = Replica(PLAIN)
    replica.arrive(call(1, prompt=1000, output=10_000), 0.0)
    drained(replica, until=2.0)
    replica.arrive(call(2, prompt=15 * BLOCK, output=10), 2.0)
    drained(replica, until=3.5)
    replica.arrive(call(3, prompt=30 * BLOCK, output=10), 3.5)
    assert (replica.running, replica.waiting) == (2, 1)
    for number in (3, 2, 1, 77):
        replica.cancel(number, 3.6)
    assert replica.waiting == 0
    assert drained(replica) == []
    assert (replica.running, replica.kv_use, replica._context) == (0, 0.0, 0)


def test_a_call_cancelled_in_its_last_step_says_nothing():
    """The step that is under way is done, but nobody is told of it."""
    replica = Replica(PLAIN)
    replica.arrive(call(1, prompt=1000, output=1), 0.0)
    replica.cancel(1, 0.5)
    assert drained(replica) == []


def test_a_call_behind_one_that_did_not_fit_goes_on_when_that_one_leaves():
    """The steps that were planned while the first of the queue was stuck give way."""
    replica = Replica(PLAIN)
    replica.arrive(call(1, prompt=1000, output=10_000), 0.0)
    replica.arrive(call(2, prompt=38 * BLOCK, output=1), 0.1)
    replica.arrive(call(3, prompt=100, output=1), 0.2)
    drained(replica, until=2.0)
    assert replica.waiting == 2
    replica.cancel(2, 2.0)
    assert at(drained(replica), 3, "first") == pytest.approx(2.1, abs=0.02)


def test_a_call_that_came_again_can_leave_again():
    """Its first try is still in the batch until the step ends; the second one must not outlive both."""
    replica = Replica(PLAIN)
    replica.arrive(call(1, prompt=1000, output=10), 0.0)
    replica.cancel(1, 0.1)
    replica.arrive(call(1, prompt=1000, output=10), 0.2)
    replica.cancel(1, 0.3)
    assert drained(replica) == []


def test_a_slow_replica_takes_longer():
    """At a quarter of its speed every step takes four times as long, from the next one on."""
    usual, slow = (Replica(PLAIN) for _ in range(2))
    slow.slow(0.25, 0.0)
    calls = [call(1, output=100)]
    assert played(slow, calls)[-1].at == pytest.approx(4 * played(usual, calls)[-1].at)


def test_a_replica_slows_down_in_the_middle_of_an_answer():
    """Steps that were planned at the old speed are planned anew."""
    replica = Replica(PLAIN)
    replica.arrive(call(1, prompt=1000, output=1001), 0.0)
    drained(replica, until=6.0)
    usual = replica.next_at
    replica.slow(0.5, 6.0)
    assert at(drained(replica), 1, "done") == pytest.approx(6.0 + 2 * (usual - 6.0), abs=0.05)


def test_a_stalled_replica_takes_calls_in_and_does_nothing():
    """SIGSTOP: sockets still accept; all goes on afterwards."""
    replica = Replica(PLAIN)
    replica.arrive(call(1, prompt=1000, output=101), 0.0)
    drained(replica, until=1.5)
    replica.stall(10.0, 1.5)
    replica.stall(5.0, 1.6)
    assert replica.ahead(2.0) == pytest.approx(8.0)
    assert replica.arrive(call(2, prompt=100, output=1), 3.0) is None
    assert drained(replica, until=9.99) == []
    assert replica.waiting == 1
    events = drained(replica)
    assert at(events, 2, "first") == pytest.approx(10.0 + 0.1, abs=0.01)
    assert at(events, 1, "done") > 10.0


def test_an_idle_replica_can_be_stalled():
    """Who comes meanwhile waits."""
    replica = Replica(PLAIN)
    replica.stall(5.0, 0.0)
    assert replica.next_at == math.inf
    replica.arrive(call(1, prompt=1000, output=1), 1.0)
    assert at(drained(replica), 1, "first") == pytest.approx(6.0)


def test_a_crash_fails_all_and_empties_the_cache():
    """Each failure tells the tokens that were made; what comes back is cold, as fast as before, and stalled no more."""
    replica = Replica(PLAIN)
    replica.slow(0.5, 0.0)
    same = tuple(range(5))
    replica.arrive(call(1, prompt=1000, output=1000), 0.0)
    drained(replica, until=3.0)
    replica.arrive(call(2, prompt=5 * BLOCK, blocks=same), 3.0)
    drained(replica, until=4.0)
    replica.arrive(call(3, prompt=38 * BLOCK), 4.0)
    replica.stall(100.0, 4.0)
    failed = replica.crash(5.0)
    assert [(event.at, event.number, event.kind) for event in failed] == [
        (5.0, number, "failed") for number in (1, 2, 3)
    ]
    assert failed[0].tokens > 30
    assert [event.tokens for event in failed[1:]] == [0, 0]
    assert (replica.next_at, replica.running, replica.waiting, replica.kv_use) == (math.inf, 0, 0, 0.0)
    assert replica.cached(call(2, prompt=5 * BLOCK, blocks=same)) == 0
    replica.arrive(call(4, prompt=1000, output=1), 6.0)
    assert at(drained(replica), 4, "first") == pytest.approx(8.0)


def test_a_crash_in_the_middle_of_many_steps_tells_those_that_were_done():
    """A caller that was streamed to has seen these tokens."""
    replica = Replica(PLAIN)
    replica.arrive(call(1, prompt=1000, output=1000), 0.0)
    drained(replica, until=1.5)
    (failed,) = replica.crash(1.0 + 100.5 * 0.01205)
    assert failed.tokens == pytest.approx(101, abs=1)


def test_a_cold_replica_has_lost_what_nobody_holds():
    """A restart of its cache: running calls keep theirs."""
    replica = Replica(PLAIN)
    over, there = tuple(range(5)), tuple(range(10, 15))
    played(replica, [call(1, prompt=5 * BLOCK, blocks=over)])
    replica.arrive(call(2, prompt=5 * BLOCK, output=1000, blocks=there), 50.0)
    drained(replica, until=53.0)
    replica.cold()
    assert replica.cached(call(3, prompt=6 * BLOCK, blocks=(*over, 99))) == 0
    assert replica.cached(call(4, prompt=6 * BLOCK, blocks=(*there, 98))) == 5 * BLOCK


def test_what_is_ahead_is_the_prefill_of_those_before():
    """The oracle's truth: a call that comes now has its first token that much later."""
    replica = Replica(PLAIN)
    assert replica.ahead(0.0) == 0.0
    replica.arrive(call(1, prompt=3000, output=1), 0.0)
    replica.arrive(call(2, prompt=2000, output=1), 0.0)
    assert replica.ahead(0.0) == pytest.approx(5.0)
    replica.arrive(call(3, prompt=1000, output=1), 0.0)
    events = drained(replica)
    assert at(events, 3, "first") == pytest.approx(6.0)


def harmed(replica, calls, dice):
    """Serve calls while one thing or another befalls the replica; return all events, and who was cancelled."""
    cancelled, events, now = set(), [], 0.0
    for one in calls:
        while replica.next_at <= one.at:
            assert replica.next_at >= now
            now = replica.next_at
            events += replica.advance(now)
        now = one.at
        assert replica.arrive(one, now) is None
        fate = dice.randrange(12)
        if fate == 0:
            replica.slow(dice.uniform(0.2, 1.0), now)
        elif fate == 1:
            replica.stall(now + dice.uniform(0.0, 5.0), now)
        elif fate == 2:
            events += replica.crash(now)
        elif fate == 3:
            replica.cold()
        elif fate < 8:
            number = dice.randrange(one.number + 1)
            if number not in {event.number for event in events if event.kind != "first"}:
                cancelled.add(number)
            replica.cancel(number, now)
    return events + drained(replica), cancelled


@pytest.mark.parametrize("seed", range(20))
def test_faults_and_cancellations_leak_nothing(seed):
    """Whatever befalls it: all is given back, each call ends once, time never goes back, steps are as one by one."""
    replica, again = Replica(PLAIN), OneByOne(PLAIN)
    small = [
        replace(one, blocks=one.blocks[:12], prompt=min(one.prompt, 12 * BLOCK))
        for one in generate("conversation", Random(seed), 60, 0.5)
    ]
    events, cancelled = harmed(replica, small, Random(seed))
    same, _ = harmed(again, small, Random(seed))
    assert [event.at for event in events] == pytest.approx([event.at for event in same])
    assert [replace(event, at=0.0) for event in events] == [replace(event, at=0.0) for event in same]
    ended = [event.number for event in events if event.kind != "first"]
    assert sorted([*ended, *cancelled]) == list(range(60))
    assert (replica.running, replica.waiting, replica.kv_use) == (0, 0, 0.0)
    assert (replica._cache.private, replica._context, replica._decoding) == (0, 0, 0)


def test_work_grows_with_changes_of_the_batch_not_with_tokens():
    """Answers a hundred times as long must not cost a hundred times the time to simulate."""
    changes = []
    for output in (100, 10_000):
        replica = Replica(H200_X8)
        for number in range(100):
            replica.arrive(call(number, prompt=800, output=output), 0.0)
        changes.append(0)
        while replica.next_at < math.inf:
            replica.advance(replica.next_at)
            changes[-1] += 1
    short, long = changes
    assert long <= short + 10
