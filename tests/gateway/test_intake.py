import asyncio

import pytest

from gateway import intake as intake_module
from gateway.config.settings import Limits
from gateway.intake import CallerLeft, Intake
from policies.rejections import Reason

LIMITS = Limits(body=100, buffered_total=150, open_calls=2, body_deadline=0.05)


def receives(*parts, then=None):
    """Make an ASGI `receive` that hands out `parts`, then `then`, then nothing for ever."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages += [then] if then else []

    async def receive():
        if messages:
            return messages.pop(0)
        return await asyncio.Event().wait()

    return receive


END = {"type": "http.request", "body": b"", "more_body": False}


async def test_a_body_in_parts_is_one_body_and_counts_until_the_call_is_over():
    """Its bytes are given back by `leave`."""
    intake = Intake(LIMITS)
    assert intake.enter() is None

    assert await intake.body([], receives(b"ab", b"cd", then=END)) == b"abcd"
    assert (intake.buffered, intake.open_calls) == (4, 1)
    intake.leave(4)
    assert (intake.buffered, intake.open_calls) == (0, 0)


async def test_a_body_told_too_long_is_refused_before_it_is_read():
    """By its content-length alone."""
    refused = await Intake(LIMITS).body([(b"content-length", b"101")], receives())

    assert refused.reason is Reason.TOO_LARGE


async def test_a_body_that_grows_too_long_is_refused_and_forgotten():
    """Whatever its length was told to be."""
    intake = Intake(LIMITS)

    refused = await intake.body([(b"content-length", b"nonsense")], receives(b"x" * 60, b"x" * 60))

    assert refused.reason is Reason.TOO_LARGE
    assert intake.buffered == 0


async def test_all_bodies_together_are_bounded():
    """The gateway says that it is full, and when to come back."""
    intake = Intake(LIMITS)
    await intake.body([], receives(b"x" * 90, then=END))

    refused = await intake.body([(b"content-length", b"90")], receives())

    assert refused.reason is Reason.OVERLOADED
    assert refused.retry_after_us is not None
    assert intake.buffered == 90


async def test_a_slow_body_is_refused():
    """A slowloris holds nothing."""
    intake = Intake(LIMITS)

    assert (await intake.body([], receives(b"x"))).reason is Reason.BODY_TIMEOUT
    assert intake.buffered == 0


async def test_a_caller_who_leaves_while_sending_is_noticed():
    """And nothing is kept of it."""
    intake = Intake(LIMITS)
    with pytest.raises(CallerLeft):
        await intake.body([], receives(b"x", then={"type": "http.disconnect"}))

    assert intake.buffered == 0


def test_open_calls_are_bounded():
    """One too many is not counted in."""
    intake = Intake(LIMITS)

    assert [intake.enter() is None for _ in range(3)] == [True, True, False]
    assert intake.open_calls == 2


@pytest.mark.parametrize(("pace", "whole"), [(50, True), (100_000, False)])
async def test_what_came_of_a_body_buys_it_time(monkeypatch, pace, whole):
    """A large one over a slow link takes longer than a slowloris may."""
    monkeypatch.setattr(intake_module, "PACE", pace)
    parts, limits = [b"x" * 20] * 5, Limits(body=100, buffered_total=150, body_deadline=0.6)

    async def receive():
        await asyncio.sleep(0.15)  # of each part there is left what the loop may be late
        part = parts.pop() if parts else b""
        return {"type": "http.request", "body": part, "more_body": bool(part)}

    taken = await Intake(limits).body([], receive)

    assert (taken == b"x" * 100) is whole
    assert whole or taken.reason is Reason.BODY_TIMEOUT


async def test_a_body_that_is_here_already_is_held_to_the_same_bounds():
    """Only nobody waits for it."""
    intake = Intake(LIMITS)

    assert await intake.body([], receives(), bytearray(b"ab")) == b"ab"
    assert intake.buffered == 2
    assert (await intake.body([], receives(), bytearray(101))).reason is Reason.TOO_LARGE
    assert intake.buffered == 2
