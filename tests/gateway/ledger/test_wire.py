import msgspec
import pytest

from gateway.ledger import wire
from policies.domain import Level, Meter, MeterKind

METER = Meter(MeterKind.TOKENS_PER_MINUTE, 100, 50, 60_000_000)


def levels(id_="key:1"):
    return (Level("team", "team:t", ()), Level("key", id_, (METER,)))


def test_an_argument_is_sent_once_however_often_it_is_named():
    arguments = wire.Arguments()

    assert [arguments.place(value) for value in (b"a", b"b", b"a")] == [3, 4, 3]
    assert arguments.values == [b"a", b"b"]


def test_a_plan_names_every_level_so_that_places_in_it_are_places_in_the_claim():
    assert msgspec.msgpack.decode(wire.pack_levels(levels())) == [
        ["team:t", []],
        ["key:1", [["t", "tokens_per_minute", 100, 50, 60_000_000]]],
    ]


def test_plans_are_packed_once_for_the_same_levels_and_anew_for_others():
    plans = wire.Plans()
    one = levels()

    assert plans.pack(one) is plans.pack(one)
    assert plans.pack(levels("key:2")) == wire.pack_levels(levels("key:2"))


def test_the_memory_of_plans_is_bounded(monkeypatch):
    monkeypatch.setattr(wire, "_MOST_PLANS", 3)
    plans = wire.Plans()
    many = [levels(f"key:{i}") for i in range(10)]

    packed = [plans.pack(each) for each in many]

    assert packed == [wire.pack_levels(each) for each in many]
    assert len(plans._packed) <= 3


def test_a_call_names_the_organizations_slot_and_carries_its_arguments_last():
    arguments = wire.Arguments()
    arguments.place(b"plan")

    command = wire.call("acme", "g1", [(wire.GROW, "r", 1, 2)], arguments)

    assert command[:5] == ["EVALSHA", wire.SHA, 1, "sw:{acme}", "g1"]
    assert command[6:] == [b"plan"]


def test_a_script_that_could_not_run_is_told_in_the_stores_words():
    assert wire.answers(msgspec.msgpack.encode([5, [[1], [0]]])) == [[1], [0]]
    with pytest.raises(wire.ScriptFailed, match="OOM"):
        wire.answers(msgspec.msgpack.encode(["OOM command not allowed"]))
