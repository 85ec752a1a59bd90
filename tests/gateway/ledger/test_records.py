import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from gateway.ledger.records import Account, What, cell, end_of, records
from tests.gateway.ledger.written import account, entry

HEAD = ["g1-a", 0, 1_800_000_000_000_000, 1_800_000_001_000_000, 10, 20, 5, 3, 2_500_000_001, True]
BIG = 2**53 - 1


def test_a_record_is_read_as_it_was_written():
    (record,) = records(entry(HEAD, account("a|b", "k", "m"), "", "cut", "req"))
    head = record.head
    assert (head.id, head.what, head.estimated) == ("g1-a", What.SETTLED, True)
    assert (head.admitted_us, head.settled_us) == (1_800_000_000_000_000, 1_800_000_001_000_000)
    assert (head.input, head.output, head.cached, head.reasoning, head.money) == (10, 20, 5, 3, 2_500_000_001)
    assert record.account == Account("a|b", "k", "m")
    assert (record.deployment, record.outcome, record.request_id) == ("", "cut", "req")


def test_an_entry_holds_as_many_records_as_were_settled_in_one_call():
    heads = [
        ["x" * length, what, 0, 0, *[number] * 5, False]
        for length, what, number in zip((1, 40, 300), range(3), (0, -7, BIG), strict=True)
    ]
    found = records(b"".join(entry(head, account(), "d" * 70_000) for head in heads))
    assert [[len(one.head.id), one.head.what, one.head.money] for one in found] == [
        [1, 0, 0],
        [40, 1, -7],
        [300, 2, BIG],
    ]
    assert {len(one.deployment) for one in found} == {70_000}
    assert records(b"") == []


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()


@given(st.lists(st.recursive(scalars, st.lists, max_leaves=40)), st.binary())
def test_a_value_ends_where_the_next_begins(values, rest):
    packed, ends = b"", []
    for value in values:
        packed += msgpack.encode(value)
        ends.append(len(packed))
    at, found = 0, []
    for _ in values:
        at = end_of(packed + rest, at)
        found.append(at)
    assert found == ends


@pytest.mark.parametrize(
    "packed", [entry(HEAD, account())[:-1], entry(HEAD, account()) + b"\x90", b"\x81\x01\x01", b"\xc1"]
)
def test_what_is_no_record_is_an_error_and_no_endless_loop(packed):
    with pytest.raises(ValueError, match=r"books hold|truncated|Expected"):
        records(packed)


def test_a_field_of_a_roll_up_tells_who_and_where():
    told = cell(account("", "platform", "m") + msgpack.encode("vllm/m") + b"i")
    assert told.account.is_platform
    assert told.account.model == "m"
    assert told.deployment == "vllm/m"
    assert not cell(account("research", "platform", "m") + msgpack.encode("") + b"n").account.is_platform
