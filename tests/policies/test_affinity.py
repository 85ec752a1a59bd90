import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.affinity import BLOCK, KEPT, LEAST, NONE, REMEMBERED, Beginning, Prefilled, beginning
from policies.request import read

TEXT = "the river and the garden, "


def chat(*said, **members):
    turns = [{"role": "user", "content": text} for text in said]
    return read("chat", msgspec.json.encode({"model": "m", "messages": turns, **members}))


def long(name, blocks=4):
    """Return a text of so many blocks that no other name has."""
    return (f"{name}: " + TEXT * (blocks * BLOCK))[: blocks * BLOCK]


def known(first, then, salt="acme"):
    seen = Prefilled()
    seen.note(beginning(first, "acme"), 0.0)
    return seen.known(beginning(then, salt), 1.0)


def test_a_conversation_that_goes_on_is_known_as_far_as_it_was():
    """Its next turn stands behind everything that was said."""
    begun = chat(long("a"), long("b"))
    gone_on = chat(long("a"), long("b"), long("c", 8))

    assert 0.4 < known(begun, gone_on) < 0.5
    assert known(begun, begun) > 0.85


@pytest.mark.parametrize(
    "other",
    [
        chat(long("x"), long("b")),
        chat(long("a"), long("b"), tools=[{"type": "function", "function": {"name": "f"}}]),
        chat("hi"),
    ],
)
def test_what_begins_otherwise_is_not_known(other):
    """A first turn that differs, or tools that the engine's template puts before it."""
    assert known(chat(long("a"), long("b")), other) == 0.0


def test_one_tenants_prompts_are_nothing_to_another():
    """Or timing would tell what others ask."""
    asked = chat(long("a"))

    assert known(asked, asked, salt="globex") == 0.0


@pytest.mark.parametrize(
    "request_",
    [chat("hi"), read("embeddings", msgspec.json.encode({"model": "m", "input": long("a")}))],
)
def test_what_is_small_or_makes_no_output_costs_nothing(request_):
    """Most calls of most houses."""
    assert beginning(request_, "acme") == NONE


def test_a_beginning_is_believed_for_a_while():
    """Engines give the room of what nobody asks for to others."""
    seen, asked = Prefilled(), beginning(chat(long("a")), "acme")
    seen.note(asked, 0.0)

    assert seen.known(asked, KEPT - 1) > 0
    assert seen.known(asked, KEPT + 1) == 0
    seen.note(asked, KEPT)
    assert seen.known(asked, KEPT + 1) > 0
    seen.forget()
    assert seen.known(asked, KEPT + 1) == 0


def test_memory_is_bounded_and_what_is_used_stays():
    """The blocks used longest ago go first."""
    seen, often = Prefilled(), Beginning((1, 2), LEAST)
    for number in range(3, 3 * REMEMBERED, 2):
        seen.note(Beginning((number, number + 1), LEAST), 0.0)
        seen.note(often, 0.0)

    assert len(seen._seen) == REMEMBERED
    assert seen.known(often, 1.0) == 1.0
    assert seen.known(Beginning((3, 4), LEAST), 1.0) == 0.0


@given(
    same=st.lists(st.integers(0, 9), max_size=40),
    more=st.lists(st.integers(10, 19)),
    other=st.lists(st.integers(20, 29)),
)
def test_two_prompts_are_known_to_agree_exactly_as_far_as_they_do(same, more, other):
    """By whole blocks, however long they are."""

    def prompt(blocks):
        text = "".join(f"{block:04}" * (BLOCK // 4) for block in blocks)
        raw = msgspec.Raw(text.encode() + b"z" * LEAST)
        return msgspec.structs.replace(chat(long("a")), members={"messages": raw}, size=len(bytes(raw)))

    seen, then = Prefilled(), beginning(prompt([*same, *other]), "acme")
    seen.note(beginning(prompt([*same, *more]), "acme"), 0.0)
    agreed = len(same) if more or other else len(same) + LEAST // BLOCK

    assert seen.known(then, 1.0) == pytest.approx(agreed * BLOCK / then.size)


def test_trust_falls_with_misses_and_rises_again_with_hits():
    """A restart that nobody noticed must not end affinity for good; an engine that tells nothing is trusted."""
    silent, telling = Prefilled(), Prefilled()
    for _ in range(50):
        silent.told(0.9, 0.0)
    assert silent.trust == 1.0
    telling.told(0.0, 0.5)
    for _ in range(50):
        telling.told(0.9 * telling.trust, 0.0)
    assert telling.trust < 0.15
    for _ in range(50):
        telling.told(0.9 * telling.trust, 0.9)
    assert telling.trust > 0.95


def test_what_was_noted_and_not_prefilled_is_forgotten_unless_another_call_has_it():
    """A call that failed on the way has left nothing."""
    begins, one = Beginning((1, 2, 3), 4 * BLOCK), Prefilled()
    one.note(begins, 1.0)
    one.unnote(begins, 1.0)
    assert one.known(begins, 2.0) == 0.0
    one.note(begins, 1.0)
    one.note(Beginning((1, 2), 2 * BLOCK), 1.5)
    one.unnote(begins, 1.0)
    assert one.known(begins, 2.0) == 0.5
