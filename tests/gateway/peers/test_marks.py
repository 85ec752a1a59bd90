from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from gateway.peers.marks import AGAIN, MOST, TOLD, Telling, unpack


def told(telling, *fresh, gateways=2, now=0.0):
    return unpack(telling.pack(deque(fresh), gateways, now))


def test_a_mark_is_told_again_only_when_it_would_soon_be_forgotten():
    """A session's next turn repeats all that came before it."""
    telling = Telling(str)
    assert told(telling, ("m", (1, 2))) == [("m", (1, 2))]
    assert told(telling, ("m", (1, 2)), now=1.0) == []
    assert told(telling, ("m", (1, 2, 3)), ("n", (1,)), now=1.0) == [("m", (3,)), ("n", (1,))]
    assert told(telling, ("m", (1, 2, 3)), now=AGAIN) == [("m", (1, 2))]


def test_all_is_told_anew_for_one_who_has_heard_nothing():
    """Within a beat of its coming."""
    telling = Telling(str)
    told(telling, ("m", (1, 2)))
    telling.forget()

    assert told(telling, ("m", (1, 2))) == [("m", (1, 2))]


def test_nothing_to_tell_is_no_bytes():
    """So that the beat carries none."""
    telling = Telling(str)

    assert telling.pack(deque(), 2, 0.0) == b""
    told(telling, ("m", (1,)))
    assert telling.pack(deque([("m", (1,))]), 2, 0.0) == b""


def test_what_another_version_has_packed_tells_nothing():
    """During an upgrade."""
    assert unpack(b"\xc1") == []


@given(st.lists(st.integers(1, 200), min_size=1, max_size=6), st.integers(50, 200))
def test_a_beat_tells_no_more_than_its_part_and_the_rest_later(sizes, gateways):
    """Each mark once, in its order, however long a prompt is."""
    fresh, first = deque(), 0
    for size in sizes:
        fresh.append(("m", tuple(range(first, first + size))))
        first += size
    telling, heard, beats = Telling(str), [], 0
    while fresh:
        marks = [mark for _, marks in unpack(telling.pack(fresh, gateways, 0.0)) for mark in marks]
        assert len(marks) <= MOST // gateways
        heard += marks
        beats += 1

    assert heard == list(range(first))
    assert beats == -(-first // (MOST // gateways))


def test_the_memory_of_what_was_told_is_bounded():
    """What was told longest ago is told again first."""
    telling = Telling(str)
    many = tuple(range(TOLD + 10))
    for begin in range(0, len(many), 1000):
        told(telling, ("m", many[begin : begin + 1000]))

    assert told(telling, ("m", (9, 10))) == [("m", (9,))]
