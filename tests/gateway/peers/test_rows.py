import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from gateway.peers.rows import Rows, Value, changes, own
from policies.breaker import FIRST_PAUSE, THRESHOLD, Breaker
from policies.live import Elsewhere

VALUES = st.dictionaries(
    st.sampled_from("mnop"), st.builds(lambda *them: json.dumps(them), st.integers(1, 9), st.integers(0, 9))
)


def packed(values):
    return msgpack.encode(values) if values else b""


def test_choices_beyond_the_first_are_told():
    """Engines count them."""
    assert own({"m": (2, 30), "n": (1, 1)}, {"m": 5}, {}) == {"m": "[2,30,0,0,0,0,5]", "n": "[1,1]"}


def test_there_is_something_to_tell_of_load_and_of_breakers_that_have_opened():
    """Of a deployment without either there is nothing."""
    well, ill = Breaker(), Breaker()
    for _ in range(THRESHOLD):
        ill.failed(0.0, probe=False)
    assert own({"m": (2, 30)}, {}, {"m": well, "n": ill}) == {"m": "[2,30]", "n": "[0,0,0,1,0,0]"}
    ill.sent(FIRST_PAUSE)
    assert own({"n": (1, 5)}, {"n": 3}, {"n": ill}) == {"n": "[1,5,1,1,0,0,3]"}
    ill.failed(FIRST_PAUSE, probe=True)
    ill.sent(3 * FIRST_PAUSE)
    ill.succeeded(3 * FIRST_PAUSE)

    assert own({}, {}, {"n": ill}) == {"n": "[0,0,0,1,1,1]"}


@given(st.lists(VALUES, min_size=1, max_size=8))
def test_changes_are_enough_to_know_the_whole(states):
    """Whatever came and went: whoever has the first row and all changes has the last row."""
    rows = Rows()
    rows.take("a", packed(states[0]), whole=True)
    for before, after in pairwise(states):
        rows.take("a", packed(changes(before, after)), whole=False)
    wanted = {name: Elsewhere(*json.loads(value)) for name, value in states[-1].items()}

    assert rows.elsewhere() == wanted


def test_the_load_elsewhere_is_the_sum_of_all_that_live():
    """One that has gone takes its load with it."""
    rows = Rows()
    rows.take("a", packed({"m": "[1,10]"}), whole=True)
    rows.take("b", packed({"m": "[2,20,0,0,0,0,5]", "n": "[0,0,1,1,0,0]"}), whole=True)
    assert rows.elsewhere() == {"m": Elsewhere(3, 30, 5)}
    assert rows.probing() == {"n"}
    assert rows.drop("a")
    assert not rows.drop("a")
    assert rows.elsewhere() == {"m": Elsewhere(2, 20, 5)}
    rows.keep(())

    assert (len(rows), rows.elsewhere(), rows.probing()) == (0, {}, set())


def test_a_change_tells_what_was_and_what_is_of_a_row_that_was_known():
    """What happened before a gateway was known is no news; a part of an unknown row is nothing."""
    rows = Rows()
    assert rows.take("a", packed({"m": "[1,10]"}), whole=False) == []
    assert len(rows) == 0
    assert rows.take("a", packed({"m": "[1,10,0,1,0,0]"}), whole=True) == []

    assert rows.take("a", packed({"m": "[1,10,0,2,0,0]", "n": "[1,1]"}), whole=False) == [
        ("m", Value(1, 10, 0, 1), Value(1, 10, 0, 2)),
        ("n", Value(), Value(1, 1)),
    ]
    assert rows.take("a", packed({"m": "[0,0,0,2,0,1]"}), whole=True) == [
        ("m", Value(1, 10, 0, 2), Value(0, 0, 0, 2, 0, 1))
    ]


def test_what_cannot_be_read_is_not_there():
    """Another version may write otherwise; what it writes more is not looked at."""
    rows = Rows()
    rows.take("a", b"\xc1", whole=True)
    rows.take("b", packed({"m": "?", "n": "[1,2,0,0,0,0,0,7]"}), whole=True)

    assert len(rows) == 2
    assert rows.elsewhere() == {"n": Elsewhere(1, 2)}


@pytest.mark.parametrize(
    "garbage",
    ["[-1,0]", "[0,-9]", "[1.5,0]", f"[1{'0' * 400},0]", "[1e9999,0]", "[NaN,0]", "[true,0]", "{}", '["1",0]'],
)
def test_what_is_no_count_is_nothing(garbage):
    """It would be added to loads and compared with limits."""
    rows = Rows()
    rows.take("a", packed({"m": garbage, "n": "[1,2]"}), whole=True)

    assert rows.elsewhere() == {"n": Elsewhere(1, 2)}


@given(st.sets(st.text(min_size=1), min_size=1, max_size=8), st.text())
def test_all_gateways_have_the_same_order(names, deployment):
    """Each place in it is taken once."""
    ranks = []
    for name in names:
        rows = Rows()
        for other in names - {name}:
            rows.take(other, b"", whole=True)
        ranks.append(rows.rank(deployment, name))

    assert sorted(ranks) == list(range(len(names)))


def test_those_that_have_told_nothing_of_it_have_no_turn_where_that_is_asked():
    """Whoever keeps calls out has told so."""
    rows = Rows()
    for name in "bcdefgh":
        rows.take(name, packed({"gpu/m": "[0,0,0,1,0,0]"}) if name in "bc" else b"", whole=True)

    assert {rows.rank("gpu/m", me, told=True) for me in ("a", "x", "y", "z")} <= {0, 1, 2}
    assert max(rows.rank("gpu/m", me) for me in ("a", "x", "y", "z")) > 2
    assert rows.rank("gpu/n", "a", told=True) == 0


def test_each_deployment_has_an_order_of_its_own():
    """So that one gateway is not the first to probe everything."""
    rows = Rows()
    for name in "bcd":
        rows.take(name, b"", whole=True)
    firsts = sum(rows.rank(f"gpu-{number}/m", "a") == 0 for number in range(400))

    assert 60 < firsts < 140
