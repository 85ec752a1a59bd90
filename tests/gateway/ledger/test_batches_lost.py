"""What becomes of what was lost: its order, its place before anything new, and who is told."""

import asyncio

import msgspec

from gateway.ledger import wire
from gateway.ledger.batches import MOST_BYTES, MOST_ORGANIZATIONS, Batches
from gateway.ledger.queues import MOST_OPERATIONS
from tests.gateway.ledger.support import DOWN, Noted, O, Watch, kept, submit


def calls(store):
    """Return the names in every call of the script, in order."""
    return [[body[1] for body in bodies] for flush in store.flushes for _, bodies in flush]


async def test_a_store_that_is_known_to_be_down_is_not_asked_and_keeps_what_must_be_done_for_its_return(line, store):
    store.down = "away"
    (told,) = submit(line, "a")
    settled = kept(line, "s", "t")
    assert str(told.outcome) == "away"
    assert told.sent is False

    await line.drain(0.05)
    assert store.flushes == []

    store.come_back()
    (new,) = submit(line, "b")
    await line.drain(5)
    assert store.sent() == [{O: ["s", "t"]}, {O: ["b"]}]
    assert [operation.outcome for operation in (*settled, new)] == [[wire.DONE]] * 3


async def test_what_was_lost_goes_in_order_before_anything_new_and_in_calls_of_no_more_than_their_share(line, store):
    store.down = "away"
    kept(line, *(f"s{i}" for i in range(MOST_OPERATIONS + 8)))
    store.down = None
    submit(line, "a")
    store.come_back()

    await line.drain(5)

    assert calls(store) == [[f"s{i}" for i in range(32)], [f"s{i}" for i in range(32, 40)], ["a"]]
    assert len(store.flushes) == 2


async def test_what_is_lost_once_more_keeps_its_place_before_what_was_lost_later(line, store):
    store.down = "away"
    kept(line, *(f"s{i}" for i in range(MOST_OPERATIONS + 8)))
    store.failures = [DOWN]

    store.come_back()
    await line.drain(5)

    assert calls(store) == 2 * [[f"s{i}" for i in range(32)], [f"s{i}" for i in range(32, 40)]]


async def test_what_is_lost_once_more_keeps_its_order_where_its_call_was_cut(line, store):
    store.down = "away"
    kept(line, *(f"s{i}" for i in range(4)), text="x" * (MOST_BYTES // 3))
    store.failures = [DOWN]

    store.come_back()
    await line.drain(5)

    sent = [[body[1] for _, bodies in calls for body in bodies] for calls in store.flushes]
    assert sent == [["s0", "s1", "s2", "s3"], ["s0", "s1", "s2", "s3"]]


async def test_what_was_lost_for_many_organizations_goes_in_flushes_of_no_more_than_their_share(line, store):
    store.down = "away"
    for i in range(MOST_ORGANIZATIONS + 6):
        kept(line, "s", organization=f"o{i}")

    store.come_back()
    await line.drain(5)

    assert [len(sent) for sent in store.sent()] == [MOST_ORGANIZATIONS, 6]


async def test_an_outage_while_something_is_lost_does_not_make_it_spin(line, store):
    """A new connection to a store that still does not serve is no reason to ask it without a pause."""
    store.down = "away"
    store.connects += 1
    kept(line, "s")

    await line.drain(0.2)

    assert store.looks < 20


async def test_what_was_admitted_without_the_store_is_told_before_what_is_submitted_later(line, store):
    store.down = "away"
    told = Noted("t", again=True)
    told.ordered = True
    line.tell(told)
    kept(line, "s")

    store.come_back()
    submit(line, "a")
    await line.drain(5)

    assert store.sent() == [{O: ["t", "s"]}, {O: ["a"]}]


async def test_what_has_to_be_told_goes_at_once_where_the_store_is_there(line, store):
    told = Noted("t", again=True)
    line.tell(told)

    await line.drain(5)

    assert told.outcome == [wire.DONE]


async def test_nobody_is_asked_for_while_what_was_admitted_without_the_store_could_not_be_told(line, store):
    told = Noted("t", again=True)
    told.ordered = True
    store.failures = [DOWN]
    line.tell(told)
    while not store.flushes:  # noqa: ASYNC110 - it is the flush that is waited for
        await asyncio.sleep(0)

    (early,) = submit(line, "a")
    await line.drain(5)

    assert "not told yet" in str(early.outcome)
    assert store.sent() == [{O: ["t"]}, {O: ["t"]}]
    assert told.outcome == [wire.DONE]


async def test_having_caught_up_is_told_when_nothing_is_left_to_be_sent_again(store, contact):
    watch = Watch(store)
    line = Batches(store, "g1", contact, watch)
    store.down = "away"
    kept(line, *(f"s{i}" for i in range(MOST_OPERATIONS + 8)))
    await asyncio.sleep(0.01)
    assert (watch.caught_up_after, len(watch.written)) == ([], MOST_OPERATIONS + 8)

    store.come_back()
    await line.drain(5)

    assert watch.caught_up_after == [1]
    assert len(watch.written) == MOST_OPERATIONS + 8


async def test_a_store_that_is_behind_is_told_again_and_then_what_it_would_not_do(line, store, monkeypatch):
    (first,) = submit(line, "a")
    await line.drain(5)
    answers = iter([msgspec.msgpack.encode(["BEHIND"])])
    send, told = store.send, []

    async def behind(*commands):
        told.append([command[0] for command in commands])
        answer = next(answers, None) if commands[0][0] == "EVALSHA" else None
        return await send(*commands) if answer is None else [answer]

    monkeypatch.setattr(store, "send", behind)
    (second,) = submit(line, "b")
    await line.drain(5)

    assert (first.outcome, second.outcome) == ([wire.DONE], [wire.DONE])
    assert line.ring.repeated == 1
    assert store.sent() == [{O: ["a"]}, {O: ["a"]}, {O: ["b"]}]
