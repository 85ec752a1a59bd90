import pytest
from msgspec import msgpack

from gateway.ledger import wire
from policies.domain import Bill, Usage

USAGE = Usage(10, 20, estimated=True, cached_tokens=4, reasoning_tokens=5)


def test_an_argument_is_sent_once_however_often_it_is_named():
    arguments = wire.Arguments()

    assert [arguments.place(value) for value in (b"a", b"b", b"a")] == [5, 6, 5]
    assert arguments.values == [b"a", b"b"]


def test_a_call_names_the_organizations_slot_and_carries_its_arguments_last():
    command = wire.call("acme", "g1", b"bodies", [b"plan", b"counts"], touched=True, asked=7)

    assert command == ["EVALSHA", wire.SHA, 1, "sw:{acme}", "g1", b"bodies", 1, 7, b"plan", b"counts"]
    assert wire.call("acme", "g1", b"", [], touched=False)[6:] == [0, 0]


def test_the_script_finds_an_argument_by_the_index_that_it_was_given(redis, organization):
    arguments = wire.Arguments()
    plans = {f"{i}": wire.pack([["t", "k", model], []]) for i, model in enumerate("ab", 1)}
    bodies = wire.pack([(wire.ADMIT, id_, False, 0, 0, 0, 0, arguments.place(plan)) for id_, plan in plans.items()])
    words = wire.call(organization, "g1", bodies, arguments.values, touched=False)[3:]

    told = wire.read(redis.evalsha(wire.SHA, 1, *words))

    assert [answer[0] for answer in told.answers] == [wire.DONE, wire.DONE]
    kept = redis.hgetall(f"{wire.stem(organization)}:reservations:g1")
    assert {id_: kept[id_.encode()].endswith(plan) for id_, plan in plans.items()} == {"1": True, "2": True}


def test_a_settlement_tells_the_whole_bill():
    bill = Bill(USAGE, 7, "a/m", "left", "req_1", wasted=Usage(3, 4, estimated=True), wasted_money=9, replica="h:1")

    assert wire.settlement("1f", bill) == (
        *(wire.SETTLE, "1f", True, 10, 20, 4, 5, 7, True),
        *("a/m", ("left", "req_1", "h:1"), (3, 4, 9)),
    )


def test_a_settlement_without_failed_attempts_wastes_nothing():
    assert wire.settlement("1f", Bill(USAGE))[-2:] == (("ok", "", ""), False)


def test_a_release_books_nothing():
    assert wire.settlement("1f", None) == (wire.SETTLE, "1f", False, 0, 0, 0, 0, 0, False, "", ("", "", ""), False)


def test_a_heartbeat_tells_what_was_counted_or_that_there_is_nothing_to_tell():
    assert wire.heartbeat(5, 3, 15, {"g2": "7"}, must_look=True) == (wire.BEAT, 5, 3, 15, {"g2": "7"}, True)
    assert wire.heartbeat(None, 0, 15, {}, must_look=False) == (wire.BEAT, False, 0, 15, {}, False)


def test_counts_tell_the_bill_so_far_of_each_reservation():
    bills = {"1": Bill(USAGE, 7, "a/m", replica="h:1"), "2": Bill(Usage(1, 2, estimated=True))}

    assert msgpack.decode(wire.pack_counts(bills)) == {
        "1": [10, 20, 4, 5, 7, "a/m", "h:1"],
        "2": [1, 2, 0, 0, 0, "", ""],
    }


def test_a_reply_is_the_stores_clock_the_answers_and_what_was_touched():
    told = wire.read(msgpack.encode([5, [[1], [0]], ["org", "tokens_per_day", 9], 7]))

    assert (told.now_us, told.answers, told.touched) == (5, [[1], [0]], ["org", "tokens_per_day", 9])


def test_a_script_that_could_not_run_is_told_in_the_stores_words():
    with pytest.raises(wire.ScriptFailed, match="OOM"):
        wire.read(msgpack.encode(["OOM command not allowed"]))


@pytest.mark.parametrize(
    ("operation", "answer", "told"),
    [
        ((wire.ADMIT, "1", False, 1, 2, 3, 4, 4), [wire.DONE], [wire.ADMIT, "1", 99, 1, 2, 3, 4, 4]),
        ((wire.ADMIT, "1", 55, 1, 2, 3, 4, 4), [wire.DONE], [wire.ADMIT, "1", 55, 1, 2, 3, 4, 4]),
        ((wire.ADMIT, "1", False, 1, 2, 3, 4, 4), [wire.REFUSED], None),
        ((wire.ADMIT, "1", False, 1, 2, 3, 4, 4), [wire.STALE], None),
        ((wire.GROW, "1", 1, 2, 3), [wire.DONE], [wire.GROW, "1", 1, 2, 3]),
        ((wire.GROW, "1", 1, 2, 3), [wire.REFUSED], None),
        ((wire.SETTLE, "1", True), [wire.DONE], [wire.SETTLE, "1", True]),
        ((wire.SETTLE, "1", True), [wire.REFUSED], [wire.SETTLE, "1", True]),
        ((wire.SETTLE, "1", True), [wire.FAILED, "broken"], None),
        (wire.heartbeat(4, 1, 2, {}, must_look=False), [wire.DONE], None),
    ],
)
def test_told_again_is_what_was_granted_as_of_then_and_every_settlement(operation, answer, told):
    again = wire.again(wire.pack([operation]), wire.pack([99, [answer], [], 0]))

    assert again == (None if told is None else wire.pack([told]))
