import asyncio

from gateway import clock
from gateway.ledger import batches as module
from gateway.ledger import wire
from gateway.ledger.batches import MOST_BYTES, MOST_ORGANIZATIONS, Batches
from gateway.ledger.queues import MOST_OPERATIONS
from gateway.store.door import StoreDown
from tests.gateway.ledger.support import DOWN, FORGOTTEN, O, Watch, kept, submit


async def test_loading_gives_the_script_to_the_store(line, store):
    await line.load()

    assert store.loaded == 1


async def test_what_comes_in_one_loop_iteration_goes_in_one_call(line, store):
    store.now_us = 77
    operations = submit(line, "a", "b", "c")

    await line.drain(5)

    assert store.sent() == [{O: ["a", "b", "c"]}]
    assert [operation.now_us for operation in operations] == [77] * 3


async def test_what_comes_while_a_flush_is_in_flight_goes_together_in_the_next(line, store):
    store.held.clear()
    submit(line, "a")
    await line.drain(0.02)
    submit(line, "b")
    submit(line, "c", organization="p")
    store.held.set()

    await line.drain(5)

    assert store.sent() == [{O: ["a"]}, {O: ["b"], "sw:{p}": ["c"]}]


async def test_no_call_has_more_than_its_share_and_settlements_take_at_most_half_of_a_full_one(line, store):
    waiting = submit(line, *(f"w{i}" for i in range(40)))
    patient = submit(line, *(f"s{i}" for i in range(40)), urgent=False)

    await line.drain(5)

    flushes = [names for sent in store.sent() for names in sent.values()]
    assert [len(names) for names in flushes] == [MOST_OPERATIONS, MOST_OPERATIONS, 16]
    assert flushes[0] == [f"s{i}" for i in range(16)] + [f"w{i}" for i in range(16)]
    assert all(operation.outcome == [wire.DONE] for operation in (*waiting, *patient))


async def test_settlements_fill_a_flush_that_nobody_else_needs(line, store):
    submit(line, *(f"s{i}" for i in range(40)), urgent=False)

    await line.drain(5)

    assert [len(names) for sent in store.sent() for names in sent.values()] == [MOST_OPERATIONS, 8]


async def test_organizations_beyond_one_flush_take_turns(line, store):
    for i in range(MOST_ORGANIZATIONS + 6):
        submit(line, "a", organization=f"o{i}")

    await line.drain(5)

    assert [len(sent) for sent in store.sent()] == [MOST_ORGANIZATIONS, 6]


async def test_what_nobody_wants_any_more_is_not_sent(line, store):
    submit(line, "a")
    submit(line, "b", wanted=False)
    submit(line, "c", wanted=False, organization="p")

    await line.drain(5)

    assert store.sent() == [{O: ["a"]}]


async def test_a_call_longer_than_64_kib_is_cut_until_each_piece_is_shorter_or_one_operation(line, store):
    long, longest = "x" * (MOST_BYTES // 3), "x" * (2 * MOST_BYTES)
    operations = submit(line, "a", "b", "c", text=long) + submit(line, "d", text=longest) + submit(line, "e")

    await line.drain(5)

    (calls,) = store.flushes
    assert [[body[1] for body in bodies] for _, bodies in calls] == [["a", "b"], ["c"], ["d"], ["e"]]
    assert [len(command[5]) <= MOST_BYTES for command in store.commands[0]] == [True, True, False, True]
    assert [operation.outcome for operation in operations] == [[wire.DONE]] * 5


async def test_a_settlement_waits_for_company_and_an_admission_does_not(line, store):
    submit(line, "s", urgent=False)
    await asyncio.sleep(0)
    assert store.flushes == []

    submit(line, "a")
    await line.drain(1.0)
    assert store.sent() == [{O: ["s", "a"]}]


async def test_a_settlement_alone_goes_after_a_moment(line, store):
    (alone,) = submit(line, "s", urgent=False)
    for _ in range(100):
        if store.flushes:
            break
        await asyncio.sleep(0.01)

    await line.drain(1.0)

    assert store.sent() == [{O: ["s"]}]
    assert alone.outcome is not None


async def test_whoever_wants_to_know_hears_what_is_used_of_what_was_touched(store, contact):
    watch = Watch(store)
    line = Batches(store, "g1", contact, watch)
    store.touched, store.now_us = ["org", "tokens_per_day", 5], 9
    submit(line, "a")

    await line.drain(5)

    ((organization, reply),) = watch.told
    assert (organization, reply.touched, reply.now_us) == ("o", ["org", "tokens_per_day", 5], 9)
    assert [command[6] for command in store.commands[0]] == [1]


async def test_where_nobody_wants_to_know_the_script_is_not_asked_what_is_used(line, store):
    submit(line, "a")

    await line.drain(5)

    assert [command[6] for command in store.commands[0]] == [0]


async def test_a_forgotten_script_is_loaded_and_the_call_made_again(line, store):
    store.failures = [FORGOTTEN]
    (one,) = submit(line, "a")

    await line.drain(5)

    assert store.loaded == 1
    assert store.sent() == [{O: ["a"]}, {O: ["a"]}]
    assert one.outcome == [wire.DONE]


async def test_a_store_that_keeps_forgetting_is_down(line, store):
    store.failures = [FORGOTTEN, FORGOTTEN]
    (one,) = submit(line, "a")

    await line.drain(5)

    assert isinstance(one.outcome, StoreDown)


async def test_with_the_store_down_whoever_waits_is_told_and_what_must_be_done_is_sent_again(line, store, contact):
    began = clock.monotonic()
    contact.made(began)
    store.failures = [DOWN, DOWN]
    store.held.clear()
    first, other = submit(line, "a") + kept(line, "s")
    await line.drain(0.02)
    (behind,) = submit(line, "b")
    store.held.set()

    await line.drain(5)

    assert isinstance(first.outcome, StoreDown)
    assert isinstance(behind.outcome, StoreDown)
    assert (first.sent, behind.sent) == (True, False)
    assert store.sent() == [{O: ["s", "a"]}, {O: ["s"]}, {O: ["s"]}]
    assert other.outcome == [wire.DONE]
    assert contact.since(clock.monotonic()) > began


async def test_an_operation_that_fails_by_itself_does_not_hold_up_the_others(line, store):
    answers = {"s": [[wire.FAILED, "broken"], [wire.DONE]]}
    store.answer = lambda body: answers[body[1]].pop(0) if body[1] in answers else [wire.DONE]
    (broken,) = kept(line, "s")
    (fine,) = submit(line, "a")

    await line.drain(5)

    assert store.sent() == [{O: ["s", "a"]}, {O: ["s"]}]
    assert (broken.outcome, fine.outcome) == ([wire.DONE], [wire.DONE])


async def test_an_operation_that_cannot_be_written_is_given_up_and_those_beside_it_are_not(line, store):
    (broken,) = kept(line, "s", text=None)
    (settled,) = kept(line, "t")
    (fine,) = submit(line, "a")

    await line.drain(5)

    assert isinstance(broken.outcome, StoreDown)
    assert (settled.outcome, fine.outcome) == ([wire.DONE], [wire.DONE])


async def test_a_script_that_could_not_run_fails_its_whole_call_and_no_other(line, store, monkeypatch):
    spoiled = iter([wire.pack(["OOM"])])
    monkeypatch.setattr(module.wire, "read", lambda packed, read=wire.read: read(next(spoiled, packed)))
    broken, fine = submit(line, "a") + submit(line, "b", organization="p")

    await line.drain(5)

    assert isinstance(broken.outcome, StoreDown)
    assert "OOM" in str(broken.outcome)
    assert fine.outcome == [wire.DONE]


async def test_draining_ends_in_time_and_gives_up_what_is_left(line, store):
    store.failures = [DOWN] * 1000
    (lost,) = kept(line, "s")

    await line.drain(0.1)

    made = len(store.flushes)
    assert 1 < made < 20
    await line.drain(0.1)
    assert len(store.flushes) == made
    assert isinstance(lost.outcome, StoreDown)


async def test_an_answer_that_cannot_be_taken_keeps_nobody_else_from_theirs(line, store):
    (broken,) = submit(line, "a")
    (fine,) = submit(line, "b")
    broken.answered = lambda answer, now_us: answer["not a list"]

    await line.drain(5)

    assert fine.outcome == [wire.DONE]
